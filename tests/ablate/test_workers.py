"""The queue: order, failures, processes that die, stops from outside, and a parent that is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import tasks

from ffdr.ablate import workers as workers_module
from ffdr.ablate.workers import Workers
from ffdr.train.signals import Stopped


class Listener:
    def __init__(self):
        self.heard = []

    def started(self, number):
        self.heard.append(("started", number))

    def ended(self, number, outcome):
        self.heard.append(("ended", number))

    def tick(self):
        pass


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def runs(process):
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_failure_does_not_stop_the_others():
    queue = [
        tasks.process,
        partial(tasks.double, 21),
        tasks.mistake,
        tasks.process,
        tasks.crash,
        tasks.process,
        tasks.die,
        tasks.process,
    ]
    listener = Listener()
    outcomes = Workers(1, 1).run(queue, listener)
    first, doubled, mistake, second, crash, third, dead, fourth = outcomes
    assert doubled.value == 42
    assert (mistake.error, mistake.trace) == ("train.lr: too high", "")
    assert crash.error.startswith("ZeroDivisionError") and "in crash" in crash.trace
    assert "status -9" in dead.error
    # A mistake leaves the process as it was; after a crash and a death there is a new one.
    assert first.value == second.value != os.getpid()
    assert len({second.value, third.value, fourth.value}) == 3
    assert listener.heard == [(what, number) for number in range(8) for what in ("started", "ended")]


def test_two_at_once_share_cores_and_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(workers_module, "_devices", lambda: ["3", "5"])
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    workers = Workers(0, 1)
    assert workers.jobs == 2
    meeting = [partial(tasks.meet, str(tmp_path), me, other) for me, other in (("a", "b"), ("b", "a"))]
    outcomes = workers.run([*meeting, tasks.threads, tasks.threads], Listener())
    assert {outcome.value for outcome in outcomes[:2]} == {"3", "5"}
    assert {outcome.value for outcome in outcomes[2:]} == {("1", "1")}
    assert os.environ["OMP_NUM_THREADS"] == "17"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_lets_them_save(tmp_path, number):
    files = [tmp_path / "a", tmp_path / "b"]

    def send():
        wait_for(lambda: all(file.with_suffix(".begun").exists() for file in files))
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Stopped) as stopped:
        Workers(2, 1).run([partial(tasks.until_stopped, str(file)) for file in files], Listener())
    sender.join()
    assert stopped.value.status == 128 + number
    assert [file.read_text() for file in files] == ["saved", "saved"]


def test_workers_of_a_killed_parent_save_and_end(tmp_path):
    code = (
        "import sys; from functools import partial; import tasks; from ffdr.ablate.workers import Workers\n"
        "from test_workers import Listener\n"
        "if __name__ == '__main__': Workers(1, 1).run([partial(tasks.until_stopped, sys.argv[1])], Listener())"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    with subprocess.Popen([sys.executable, script, tmp_path / "a"], env=environment) as parent:
        wait_for((tmp_path / "a.begun").exists)
        worker = int((tmp_path / "a.begun").read_text())
        parent.kill()
    wait_for(lambda: not runs(worker))
    assert (tmp_path / "a").read_text() == "saved"
