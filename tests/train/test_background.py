"""Files are written beside the training: in order, with what was there when they were asked for, never in silence."""

import threading

import pytest
import torch
from fakes import trainer

from ffdr.train import checkpoint
from ffdr.train.background import BackgroundWriter, snapshot


def test_writes_in_another_thread_in_order_and_is_done_at_the_end():
    gate, done = threading.Event(), []
    with BackgroundWriter() as files:
        files.write(lambda: (gate.wait(5), done.append((1, threading.current_thread()))))
        assert done == []  # the caller goes on
        gate.set()
        files.write(lambda: done.append((2, threading.current_thread())))
    assert [number for number, _ in done] == [1, 2]
    assert threading.main_thread() not in [thread for _, thread in done]


def test_outside_its_context_it_writes_at_once():
    done = []
    BackgroundWriter().write(lambda: done.append(threading.current_thread()))
    assert done == [threading.main_thread()]


@pytest.mark.parametrize("meet", ["next", "wait", "end"])
def test_a_failure_is_met_by_the_next_call(meet):
    def fail():
        raise OSError("disk full")

    def use():
        with BackgroundWriter() as files:
            files.write(fail)
            if meet == "next":
                files.write(lambda: None)
            if meet == "wait":
                files.wait()

    with pytest.raises(OSError, match="disk full"):
        use()


def test_a_failure_does_not_hide_what_ended_the_run():
    def fail():
        raise OSError("disk full")

    def use():
        with BackgroundWriter() as files:
            files.write(fail)
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        use()


def test_a_snapshot_keeps_what_was_there():
    weight = torch.ones(3)
    copied = snapshot({"a": [weight, (weight, 5)], "b": "text", "c": None})
    weight.zero_()
    assert copied["a"][0].tolist() == copied["a"][1][0].tolist() == [1, 1, 1]
    assert copied["a"][1][1] == 5 and copied["b"] == "text" and copied["c"] is None


def test_a_checkpoint_that_can_not_be_written_ends_the_run(tmp_path, monkeypatch):
    def dies(state, file):
        file.write(b"half")
        raise OSError("disk full")

    run = trainer(tmp_path)
    monkeypatch.setattr(checkpoint.torch, "save", dies)
    with pytest.raises(OSError, match="disk full"):
        run.fit()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_checkpoint_holds_the_weights_of_its_epoch(tmp_path, monkeypatch):
    """Though it is written while the next epoch changes them."""
    run = trainer(tmp_path, epochs=2, keep=2)
    began, seen = threading.Event(), []
    real, save = torch.save, run.save

    def slow(state, partial):
        began.wait(5)  # until the next epoch is under way
        real(state, partial)

    def remember():
        seen.append({key: value.clone() for key, value in run.model.state_dict().items()})
        save()

    run.loader.after_batch = lambda epoch, batch: began.set() if (epoch, batch) == (1, 2) else None
    run.save = remember
    monkeypatch.setattr(checkpoint.torch, "save", slow)
    run.fit()
    for path, expected in zip(run.checkpoints.paths(), seen, strict=True):
        stored = torch.load(path, weights_only=True)["model"]
        assert all(torch.equal(stored[key], value) for key, value in expected.items())
