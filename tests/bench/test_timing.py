"""Timing in turn, on a given number of cores; reports."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch

from ffdr.bench.report import Table, Target, check_report, report, target_table
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Work, cores, single_threaded_libraries, time_in_turn
from ffdr.util.errors import UserError


def affinities():
    return [os.sched_getaffinity(int(path.name)) for path in Path("/proc/self/task").iterdir()]


@pytest.fixture
def bystander():
    """A thread that lives through the test."""
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    yield thread
    event.set()
    thread.join()


def test_work_is_done_once_uncounted_then_in_turn_forth_and_back():
    calls = []
    work = {name: Work(lambda name=name: calls.append(name), units=10) for name in "abc"}
    timings = time_in_turn(work, 3)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    for timing in timings.values():
        assert len(timing.seconds) == 3
        assert timing.rate.values == tuple(10 / s for s in timing.seconds)
        assert timing.time.values == tuple(s / 10 for s in timing.seconds)


def test_all_threads_are_held_on_one_core_and_let_go_again(bystander):
    before, seen, late = os.sched_getaffinity(0), [], []
    event = threading.Event()
    with pytest.raises(ZeroDivisionError), cores(1):
        thread = threading.Thread(target=lambda: (event.wait(), late.append(os.sched_getaffinity(0))))
        thread.start()
        seen = affinities()
        raise ZeroDivisionError
    assert all(len(where) == 1 for where in seen)
    assert len({frozenset(where) for where in seen}) == 1
    event.set()
    thread.join()
    assert late == [before]
    assert all(where == before for where in affinities())
    with cores(0):
        assert os.sched_getaffinity(0) == before


def test_timed_work_runs_on_its_cores():
    seen = {1: [], 0: []}
    work = {str(n): Work(lambda n=n: seen[n].append(len(os.sched_getaffinity(0))), 1, cores=n) for n in seen}
    time_in_turn(work, 3)
    everywhere = len(os.sched_getaffinity(0))
    assert seen == {1: [everywhere, 1, 1, 1], 0: [everywhere] * 4}  # the first run is not timed


def test_libraries_compute_in_one_thread_for_a_while():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with single_threaded_libraries():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_targets_say_what_they_are():
    figure = Estimate.of([2.0, 3.0, 4.0])
    verdicts = [
        Target("", figure, 3).verdict,
        Target("", figure, 3.1).verdict,
        Target("", figure, 3, at_most=True).verdict,
        Target("", figure, 2.9, at_most=True).verdict,
        Target("", None, 1).verdict,
    ]
    assert verdicts == ["met", "missed", "met", "missed", "not measured"]
    assert target_table([Target("speed", figure, 3.1)]).rows == [("speed", "≥ 3.1", "3.00 [2.00, 4.00]", "missed")]


def test_a_report_is_printed_and_stored_as_json_and_markdown(tmp_path, capsys):
    table = Table("Fruit", ("", "number"), [("apples", "12"), ("figs", "3")], ["Fresh."])
    report(str(tmp_path / "fruit.json"), "Market", ["on Monday"], [table], {"apples": 12})
    stored, text = json.loads((tmp_path / "fruit.json").read_text()), (tmp_path / "fruit.md").read_text()
    assert stored["apples"] == 12
    assert stored["setting"] == ["on Monday"]
    assert stored["environment"]["scikit-image"] in text
    assert "| figs   | 3      |\n\nFresh." in text
    tables, closing = capsys.readouterr().out.strip().rsplit("\n\n", 1)
    assert tables in text
    assert closing.startswith(f"{tmp_path / 'fruit.json'}, {tmp_path / 'fruit.md'}: figures and tables; next: ")
    assert not list(tmp_path.glob("*.partial"))


def test_reports_that_cannot_be_written_are_refused(tmp_path):
    check_report("")
    check_report(str(tmp_path / "a.json"))
    with pytest.raises(UserError, match=r"does not end in \.json"):
        check_report(str(tmp_path / "a.md"))
    with pytest.raises(UserError, match="there is no folder"):
        check_report(str(tmp_path / "nowhere" / "a.json"))
