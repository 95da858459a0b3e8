"""Validation that fails, or is stopped, takes no training with it; the next run begins with that validation."""

import errno
import os
import signal

import pytest
import torch
from fakes import FakeLoader, same, trainer, weights
from ranked import finish, launch

from ffdr.config.learning import ModelOptions
from ffdr.train import fit
from ffdr.train.signals import Stopped
from ffdr.train.validate import on_all_ranks, with_epoch_kept
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

KEPT = r"epoch 2 is trained and saved; the next run repeats its validation only, .*--data\.val="
CLOCK = ("images_per_second", "data_wait", "seconds")


class ValLoader(FakeLoader):
    """Fails (or does as told) in the passes that are named, counted from 1."""

    def __init__(self, act=None, at=()):
        super().__init__(n=50, shuffle=False)
        self.act, self.at, self.passes = act, at, 0

    def __iter__(self):
        self.passes += 1
        for number, batch in enumerate(super().__iter__()):
            if number == 1 and self.passes in self.at:
                self.act()
            yield batch


class Counted(FakeLoader):
    """Knows which epochs were trained."""

    def __init__(self):
        super().__init__()
        self.trained = []

    def __iter__(self):
        self.trained.append(self.epoch)
        yield from super().__iter__()


def raising(error):
    def act():
        raise error

    return act


def records(run):
    """The log without what the clock says."""
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in run.log.records()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in which nothing happens."""
    run = trainer(tmp_path_factory.mktemp("whole"), val_loader=ValLoader(), ema=0.9)
    run.fit()
    return run


def assert_goes_on(out, whole, trained, **changes):
    """The next run trains these epochs only, and ends as the undisturbed one."""
    loader = Counted()
    run = trainer(out, loader, val_loader=ValLoader(), ema=0.9, **changes)
    run.fit()
    assert loader.trained == trained
    assert records(run) == records(whole)
    assert same(weights(run), weights(whole)) and run.best == whole.best
    for name in ("best.safetensors", "model.safetensors"):
        assert (out / name).read_bytes() == (whole.out / name).read_bytes()


FAILURES = [
    (UserError("val.beton: sample 3: damaged"), UserError, rf"validation: val.beton: sample 3: damaged; {KEPT}"),
    (OSError(errno.EIO, "Input/output error", "val.beton"), OSError, rf"Input/output error \({KEPT}"),
    (MemoryError("no 5 GiB"), MemoryError, rf"{KEPT}.*; validation: no 5 GiB"),
    (torch.OutOfMemoryError("CUDA"), torch.OutOfMemoryError, rf"{KEPT}.*; validation: CUDA"),
    (RuntimeError("a bug"), RuntimeError, r"^a bug$"),
]


@pytest.mark.parametrize("every", [1, 9])
@pytest.mark.parametrize(("error", "kind", "message"), FAILURES, ids=lambda value: type(value).__name__)
def test_an_epoch_that_can_not_be_validated_is_not_trained_again(tmp_path, whole, error, kind, message, every):
    changes = {"ema": 0.9, "checkpoint_every": every}
    for _ in range(2):  # a restart that meets the same fault loses nothing either
        run = trainer(tmp_path, Counted(), val_loader=ValLoader(raising(error), at=(1, 2)), **changes)
        if not (tmp_path / "log.jsonl").exists():
            run.validation.loader.at = (2,)
        with pytest.raises(kind, match=message):
            run.fit()
        assert [line["epoch"] for line in run.log.records()] == [1]
    assert run.loader.trained == []
    assert_goes_on(tmp_path, whole, [2], checkpoint_every=every)


def test_only_the_last_validation_is_left(tmp_path, whole):
    broken = ValLoader(raising(UserError("damaged")), at=(3,))
    with pytest.raises(UserError, match="epoch 3 is trained and saved"):
        trainer(tmp_path, val_loader=broken, ema=0.9).fit()
    assert not (tmp_path / "model.safetensors").exists()
    assert_goes_on(tmp_path, whole, [])


def test_a_run_may_go_on_without_its_validation(tmp_path, whole):
    with pytest.raises(UserError):
        trainer(tmp_path, val_loader=ValLoader(raising(UserError("damaged")), at=(2,)), ema=0.9).fit()
    run = trainer(tmp_path, ema=0.9)
    run.fit()
    assert ["val_top1" in line for line in run.log.records()] == [True, False, False]
    assert same(weights(run), weights(whole))


def test_best_weights_that_can_not_be_written_are_written_by_the_next_run(tmp_path, whole, monkeypatch):
    real, asked = fit.save_weights, []

    def full(path, state, info):
        asked.append(path.name)
        if len(asked) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, state, info)

    monkeypatch.setattr(fit, "save_weights", full)
    with pytest.raises(OSError, match=r"No space left on device \(epoch 1 is trained and saved; .*best\.safetensors"):
        trainer(tmp_path, val_loader=ValLoader(), ema=0.9).fit()
    assert asked == ["best.safetensors"] and not (tmp_path / asked[0]).exists()
    monkeypatch.undo()
    assert_goes_on(tmp_path, whole, [1, 2])


@pytest.mark.parametrize("every", [1, 9])
@pytest.mark.parametrize("at", [2, 3])
def test_a_stop_during_validation_repeats_only_that(tmp_path, whole, at, every):
    stop = ValLoader(lambda: os.kill(os.getpid(), signal.SIGTERM), at=(at,))
    with pytest.raises(Stopped, match="SIGTERM"):
        trainer(tmp_path, val_loader=stop, ema=0.9, checkpoint_every=every).fit()
    assert_goes_on(tmp_path, whole, [0, 1, 2][at:], checkpoint_every=every)


def test_a_stop_after_the_validation_has_nothing_to_repeat(tmp_path, whole):
    """The last batch of a validation is under way when the signal comes."""
    val = ValLoader()
    val.after_batch = lambda epoch, batch: os.kill(os.getpid(), signal.SIGINT) if (val.passes, batch) == (2, 3) else 0
    with pytest.raises(Stopped, match="SIGINT"):
        trainer(tmp_path, val_loader=val, ema=0.9).fit()
    again = trainer(tmp_path, val_loader=ValLoader(), ema=0.9)
    again.begin()
    assert again._record == {} and again.epoch == 2 and len(again.log.records()) == 2
    assert_goes_on(tmp_path, whole, [2])


def test_a_run_killed_after_its_log_line_has_no_line_twice(tmp_path, whole):
    class KilledError(Exception):
        pass

    run = trainer(tmp_path, val_loader=ValLoader(), ema=0.9)
    close = run._close_epoch

    def log_only(record):
        run._log_epoch(record) if run.epoch == 2 else close(record)
        if run.epoch == 2:
            raise KilledError

    run._close_epoch = log_only
    with pytest.raises(KilledError):
        run.fit()
    assert len(run.log.records()) == 2
    assert_goes_on(tmp_path, whole, [2])


def test_the_checkpoint_comes_before_the_validation(tmp_path):
    """And holds what the log will say of the epoch."""
    run = trainer(tmp_path, val_loader=ValLoader(), epochs=1)
    seen = []
    run.validation.loader.act = lambda: (run.files.wait(), seen.extend(run.checkpoints.paths()))
    run.validation.loader.at = (1,)
    run.fit()
    state = torch.load(seen[0], weights_only=True)
    assert (state["epoch"], state["best"]) == (1, -1.0)
    assert state["record"].items() <= run.log.records()[0].items()
    assert state["record"]["train_loss"] == run.log.records()[0]["train_loss"]


def test_a_checkpoint_of_an_earlier_ffdr_goes_on(tmp_path, whole):
    """It was written when the epoch had been validated and logged, and says nothing of it."""
    val = ValLoader(raising(UserError("damaged")), at=(3,))
    with pytest.raises(UserError):
        trainer(tmp_path, val_loader=val, ema=0.9).fit()
    run = trainer(tmp_path, val_loader=ValLoader(), ema=0.9)
    newest = run.checkpoints.paths()[-1]
    newest.unlink()
    path = run.checkpoints.paths()[-1]
    state = torch.load(path, weights_only=True)
    del state["record"]
    state["best"] = run.log.records()[1]["val_top1"]
    torch.save(state, path)
    assert_goes_on(tmp_path, whole, [2])


def test_ranks_fail_together():
    class Second(Ranks):
        def gather(self, value):
            return [None, "no such file"] if value is None else ["no such file", value]

    with pytest.raises(UserError, match=r"^rank 1: no such file$"):
        on_all_ranks(Second(), lambda: 5)
    with pytest.raises(ValueError, match=r"^mine$"):
        on_all_ranks(Second(), raising(ValueError("mine")))
    assert on_all_ranks(Ranks(), lambda: 5) == 5


def test_a_failure_keeps_its_kind_and_file():
    error = with_epoch_kept(OSError(errno.ENOSPC, "No space left on device", "/disk/best"), 4)
    assert (error.errno, error.filename) == (errno.ENOSPC, "/disk/best")
    assert "epoch 4" in error.strerror and "\n" not in str(error)


def test_a_log_line_that_can_not_be_written_leaves_the_epoch(tmp_path, whole, monkeypatch):
    run = trainer(tmp_path, val_loader=ValLoader(), ema=0.9, checkpoint_every=9)
    append = run.log.append

    def full(record):
        append(record)
        if record["epoch"] == 2:
            with open(run.log.path, "r+") as file:
                file.truncate(run.log.path.stat().st_size - 20)
            raise OSError(errno.ENOSPC, "No space left on device", str(run.log.path))

    run.log.append = full
    with pytest.raises(OSError, match=rf"No space left on device \({KEPT}.*log\.jsonl"):
        run.fit()
    assert_goes_on(tmp_path, whole, [2])


RANK = """
import sys
from fakes import FakeLoader, trainer
from ffdr.util.errors import UserError
from ffdr.config.learning import ModelOptions
from ffdr.util.ranks import Ranks

class Damaged(FakeLoader):
    def __iter__(self):
        self.passes = getattr(self, "passes", 0) + 1
        if self.passes == 2 and ranks.rank == 1:
            raise UserError("sample 3: damaged")
        yield from super().__iter__()

with Ranks.join() as ranks:
    val = Damaged(n=50, shuffle=False)
    run = trainer(sys.argv[1], None, val, model=ModelOptions("test_vit"), ranks=ranks, checkpoint_every=9)
    try:
        run.fit()
    except UserError as error:
        sys.exit(f"{ranks.rank} saved at {run._saved}: {error}")
"""


def start_two(out):
    """Two processes that train one model; their exit statuses and what they said."""
    return finish(launch(2, ["-c", RANK, out]))


def test_all_ranks_save_what_one_could_not_validate(tmp_path):
    status, said = start_two(tmp_path)
    assert status == [1, 1], said
    assert "0 saved at 8: validation: rank 1: sample 3: damaged; epoch 2 is trained and saved" in said[0]
    assert "1 saved at 8: validation: sample 3: damaged; epoch 2 is trained and saved" in said[1]
    loader = Counted()  # one process goes on
    run = trainer(tmp_path, loader, val_loader=ValLoader(), model=ModelOptions("test_vit"), checkpoint_every=9)
    run.fit()
    assert loader.trained == [2]
    assert [(line["epoch"], "val_top1" in line) for line in run.log.records()] == [(1, True), (2, True), (3, True)]
