"""Log, checkpoint file and stopwatch, each alone."""

import os
import signal
import threading
import time

import pytest
import torch

from ffdr.train import checkpoint
from ffdr.train.checkpoint import Checkpoints
from ffdr.train.run_folder import JsonLog, sole_run
from ffdr.train.signals import Stopped, StopRequest
from ffdr.train.stopwatch import AHEAD, Stopwatch, stopwatch
from ffdr.util.errors import UserError

STATE = {key: {} for key in ("model", "ema", "optimizer", "scaler", "loader", "totals", "record")}
STATE |= {"best": 0.5, "rng": []}


def state(epoch, step, **identity):
    return {"identity": identity or {"a": 1}, "epoch": epoch, "step": step, **STATE}


def test_log_keeps_whole_records_of_the_first_epochs(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl")
    assert log.records() == []
    for epoch in (1, 2, 3):
        log.append({"epoch": epoch, "loss": 0.5})
    with open(log.path, "a") as file:
        file.write('{"epoch": 4, "lo')
    assert [r["epoch"] for r in log.records()] == [1, 2, 3]
    log.keep(2)
    log.append({"epoch": 3, "loss": 0.25})
    assert log.records() == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.5}, {"epoch": 3, "loss": 0.25}]
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_a_checkpoint_that_fails_to_write_leaves_the_old_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state(1, 2))

    def dies(_state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.torch, "save", dies)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(4, state(2, 4))
    assert checkpoints.newest({"a": 1})["epoch"] == 1
    assert os.listdir(tmp_path) == ["000000002.pt"]


def test_the_newest_few_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest({}) is None
    for step in (9, 10, 100):
        checkpoints.save(step, state(step, step))
    assert [path.name for path in checkpoints.paths()] == ["000000010.pt", "000000100.pt"]
    assert checkpoints.newest({"a": 1})["step"] == 100
    checkpoints.clear()
    assert os.listdir(tmp_path) == []


def test_a_damaged_newest_checkpoint_leads_to_the_one_before(tmp_path, capfd):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, state(step, step))
    path = checkpoints.paths()[-1]
    path.write_bytes(path.read_bytes()[:-100])
    assert checkpoints.newest({"a": 1})["step"] == 1
    assert "000000002.pt: no checkpoint could be read" in capfd.readouterr().err
    with pytest.raises(UserError, match="a=1, but this run has a=2"):
        checkpoints.newest({"a": 2})


def test_a_resumed_run_replaces_what_was_damaged(tmp_path):
    for keep, left in ((1, ["000000060.pt"]), (2, ["000000050.pt", "000000060.pt"])):
        checkpoints = Checkpoints(tmp_path / str(keep), keep=3)
        for step in (40, 50, 100):
            checkpoints.save(step, state(step, step))
        checkpoints.paths()[-1].write_bytes(b"damaged")
        checkpoints = Checkpoints(tmp_path / str(keep), keep)
        assert checkpoints.newest({"a": 1})["step"] == 50
        checkpoints.save(60, state(60, 60))
        assert [path.name for path in checkpoints.paths()] == left
        assert checkpoints.newest({"a": 1})["step"] == 60


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with (
        sole_run(tmp_path / "run"),
        pytest.raises(UserError, match="another run is at work in"),
        sole_run(tmp_path / "run"),
    ):
        pass
    with sole_run(tmp_path / "run"):
        pass


def test_a_checkpoint_lacks_nothing(tmp_path):
    with pytest.raises(ValueError, match="keys"):
        Checkpoints(tmp_path).save(1, {"epoch": 1})


def test_generators_go_on_where_they_were():
    device = torch.device("cpu")
    rng = checkpoint.get_rng(device)
    first = torch.rand(3)
    checkpoint.set_rng(rng, device)
    assert torch.equal(torch.rand(3), first)


def test_stopwatch_tells_waiting_from_work():
    def slow():
        for number in range(3):
            time.sleep(0.03)
            yield number

    watch = Stopwatch()
    for _ in watch.timed(slow()):
        time.sleep(0.01)
    assert 0.09 <= watch.waited <= watch.seconds
    assert watch.seconds >= 0.12 and watch.data_wait < 1


class Events:
    """CUDA events of a GPU whose steps take ``step`` seconds and which is handed a batch every ``batch`` seconds."""

    def __init__(self, step, batch):
        self.step, self.batch, self.made = step, batch, []

    def __call__(self, enable_timing):
        events, number = self, len(self.made)  # even: a batch has come; odd: its step has ended
        period = max(self.step, self.batch)

        class Event:
            time = number // 2 * period + (self.step if number % 2 else 0.0)
            waited = False

            def record(self, stream):
                pass

            def query(self):
                return True

            def elapsed_time(self, other):
                return 1000 * (other.time - self.time)

            def synchronize(self):
                Event.waited = True

        events.made.append(Event())
        return events.made[-1]


@pytest.mark.parametrize(("step", "batch", "waited"), [(0.01, 0.1, 9 * 0.09), (0.1, 0.01, 0.0)])
def test_waiting_is_the_time_between_a_step_and_the_next_batch(monkeypatch, step, batch, waited):
    events = Events(step, batch)
    monkeypatch.setattr(torch.cuda, "Event", events)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    watch = stopwatch(torch.device("cuda"))
    assert list(watch.timed(range(10))) == list(range(10))
    _ = watch.data_wait
    assert watch.waited == pytest.approx(waited, abs=0.02)


def test_the_host_is_no_more_than_two_steps_ahead(monkeypatch):
    events = Events(1.0, 0.1)
    monkeypatch.setattr(torch.cuda, "Event", events)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    for number in stopwatch(torch.device("cuda")).timed(range(10)):
        ends = events.made[1::2]  # of the steps so far; the host has waited for all but the newest
        assert [end.waited for end in ends] == [True] * (number - AHEAD) + [False] * min(number, AHEAD)


def test_a_second_signal_interrupts_at_once():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_knows_its_exit_status(number, status):
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped, match=number.name) as caught:
            stop.end()
    assert caught.value.status == status


def test_training_in_another_thread_catches_no_signals():
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
