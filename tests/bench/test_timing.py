"""Timing in turn, on a given number of cores; reports."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch

from ffdr.bench.results import Report, Table, bench, check_report
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Workload, cores, single_threaded_libraries, time_in_turn
from ffdr.config.measuring import BenchOptions
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
    work = {name: Workload(lambda name=name: calls.append(name), units=10) for name in "abc"}
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


def test_a_thread_that_ends_meanwhile_is_left_out(monkeypatch, bystander):
    gone = threading.Thread(target=int)
    gone.start()
    gone.join()
    listed = [*map(int, os.listdir("/proc/self/task")), gone.native_id]
    monkeypatch.setattr("ffdr.bench.timing._threads", lambda: listed)
    with cores(1):
        assert all(len(where) == 1 for where in affinities())


def test_timed_work_runs_on_its_cores():
    seen = {1: [], 0: []}
    work = {str(n): Workload(lambda n=n: seen[n].append(len(os.sched_getaffinity(0))), 1, cores=n) for n in seen}
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


def test_a_report_is_printed_and_stored_as_json_and_markdown(tmp_path, capsys):
    table = Table("Fruit", ("", "number"), [("apples", "12"), ("figs", "3")], ["Fresh."])
    ratio = Estimate.of([2.0, 3.0, 4.0])
    folders = []

    @bench(then="ffdr eat")
    def market(options, folder):
        folders.append(folder.is_dir())
        pictures = {"_s.png": lambda file: file.write_text("a picture")}
        summary = {"apples : figs": ratio, "figs : pears": None, "seeds": Estimate.of([12345.6])}
        return Report("Market", ["on Monday"], [table], summary, {"apples": 12}, pictures)

    market(BenchOptions(json=str(tmp_path / "fruit.json")))
    stored, text = json.loads((tmp_path / "fruit.json").read_text()), (tmp_path / "fruit.md").read_text()
    assert folders == [True]
    assert stored["apples"] == 12
    assert stored["summary"]["apples : figs"] == json.loads(json.dumps(ratio.json()))
    assert stored["summary"]["figs : pears"] is None
    assert stored["setting"] == ["on Monday"]
    assert stored["environment"]["scikit-image"] in text
    assert "| figs   | 3      |\n\nFresh." in text
    assert "| 3.00 [2.00, 4.00] " in text and "| not measured " in text and "| 12,346 " in text
    assert (tmp_path / "fruit_s.png").read_text() == "a picture"
    tables, closing = capsys.readouterr().out.strip().rsplit("\n\n", 1)
    assert tables in text
    assert closing == f"{tmp_path / 'fruit.json'}, {tmp_path / 'fruit.md'}: figures and tables; next: ffdr eat"
    assert not list(tmp_path.glob("*.partial"))
    market(BenchOptions())
    assert capsys.readouterr().out.endswith("\n\nnothing was stored (--json=FILE.json does); next: ffdr eat\n")


def test_nothing_is_measured_for_a_report_that_cannot_be_written():
    @bench(then="")
    def measure(options, folder):
        raise AssertionError("measured")

    with pytest.raises(UserError, match="there is no folder /nowhere"):
        measure(BenchOptions(json="/nowhere/a.json"))


def test_reports_that_cannot_be_written_are_refused(tmp_path):
    check_report("")
    check_report(str(tmp_path / "a.json"))
    with pytest.raises(UserError, match=r"does not end in \.json"):
        check_report(str(tmp_path / "a.md"))
    with pytest.raises(UserError, match="there is no folder"):
        check_report(str(tmp_path / "nowhere" / "a.json"))
