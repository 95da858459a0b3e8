"""Log, checkpoint file and stopwatch, each alone."""

import os
import signal
import threading
import time

import pytest
import torch

from ffdr.train import checkpoint
from ffdr.train.log import JsonLog
from ffdr.train.step import StopRequest, Stopwatch

STATE = {key: {} for key in ("model", "ema", "optimizer", "scaler", "rng", "loader", "totals")}


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
    path = tmp_path / "last.pt"
    checkpoint.save_checkpoint(path, {"identity": {"a": 1}, "epoch": 1, "step": 2, **STATE})

    def dies(_state, partial):
        partial.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.torch, "save", dies)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_checkpoint(path, {"identity": {"a": 1}, "epoch": 2, "step": 4, **STATE})
    assert checkpoint.load_checkpoint(path, {"a": 1})["epoch"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_checkpoint_lacks_nothing(tmp_path):
    with pytest.raises(ValueError, match="keys"):
        checkpoint.save_checkpoint(tmp_path / "last.pt", {"epoch": 1})


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


def test_a_second_signal_interrupts_at_once():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_training_in_another_thread_catches_no_signals():
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
