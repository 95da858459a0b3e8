"""Callbacks: told of every new epoch once, free to stop a run, never able to change it; what fails says whose it is."""

import os
import signal

import pytest
import torch
from fakes import FakeLoader, same, trainer, weights
from ranked import finish, launch

import ffdr
from ffdr.config.learning import ModelOptions
from ffdr.models.build import load_model
from ffdr.train import Callback, StopTraining
from ffdr.train.signals import Stopped
from ffdr.train.tracking.callbacks import CallbackError
from ffdr.util.errors import UserError


def run_with(out, *callbacks, loader=None, **changes):
    run = trainer(out, loader, val_loader=FakeLoader(n=20, shuffle=False), callbacks=callbacks, **changes)
    return run, run.fit()


class Diary(Callback):
    """Keeps what it is told, and spoils the records."""

    def __init__(self):
        self.calls, self.records = [], []

    def on_start(self, run):
        self.run = run
        self.calls.append(("start", [record["epoch"] for record in run.records]))

    def on_epoch_end(self, record):
        self.records.append(dict(record))
        self.calls.append(("epoch", record["epoch"]))
        record.clear()

    def on_end(self, record):
        self.calls.append(("end", record["epoch"]))

    def close(self):
        self.calls.append(("close",))


def test_callbacks_are_told_of_a_run_in_order_and_get_copies(tmp_path):
    diary, epochs = Diary(), []
    run, record = run_with(tmp_path, diary, lambda record: epochs.append(record["epoch"]))
    assert diary.calls == [("start", []), ("epoch", 1), ("epoch", 2), ("epoch", 3), ("end", 3), ("close",)]
    assert diary.records == run.log.records() and diary.records[-1] == record
    assert epochs == [1, 2, 3]
    assert diary.run.out == tmp_path and diary.run.epochs == 3 and not diary.run.resumed
    assert diary.run.config["train"]["lr"] == 0.05 and diary.run.config["resolved"]["device"] == "cpu"
    again = Diary()
    assert run_with(tmp_path, again)[1] == record
    assert again.calls == []  # a finished run


def test_a_resumed_run_tells_of_new_epochs_only(tmp_path):
    loader, first, second = FakeLoader(), Diary(), Diary()
    loader.after_batch = lambda epoch, batch: os.kill(os.getpid(), signal.SIGTERM) if (epoch, batch) == (2, 1) else 0
    with pytest.raises(Stopped):
        run_with(tmp_path, first, loader=loader)
    assert first.calls == [("start", []), ("epoch", 1), ("epoch", 2), ("close",)]
    run_with(tmp_path, second)
    assert second.run.resumed
    assert second.calls == [("start", [1, 2]), ("epoch", 3), ("end", 3), ("close",)]


class Patience:
    """Stops in an epoch; has no other methods, and is no Callback."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, record):
        if record["epoch"] == self.epoch:
            raise StopTraining("no better\nfor long")


def test_a_callback_ends_a_run_which_is_finished_then(tmp_path):
    diary = Diary()
    run, record = run_with(tmp_path, Patience(2), diary, epochs=5)
    assert diary.calls[-3:] == [("epoch", 2), ("end", 2), ("close",)] and record["epoch"] == 2
    assert same(load_model(tmp_path / "model.safetensors")[0].state_dict(), weights(run))
    assert "2 epochs" in (tmp_path / "report.md").read_text()
    state = torch.load(run.checkpoints.paths()[-1], weights_only=True)
    assert (state["epoch"], state["ended"], state["record"]) == (2, True, {})
    again = Diary()
    loader = FakeLoader()
    loader.__class__ = type("Untouchable", (FakeLoader,), {"__iter__": lambda self: pytest.fail("trained again")})
    run, found = run_with(tmp_path, again, loader=loader, epochs=5)
    assert found == record and run.finished and again.calls == []
    (tmp_path / "model.safetensors").unlink()  # what is missing is made again
    run_with(tmp_path, again, loader=loader, epochs=5)
    assert again.calls == [("start", [1, 2]), ("end", 2), ("close",)] and (tmp_path / "model.safetensors").exists()


def test_runs_that_no_callback_ended_have_the_checkpoints_of_before(tmp_path):
    run, _ = run_with(tmp_path, Diary())
    assert "ended" not in torch.load(run.checkpoints.paths()[-1], weights_only=True)


def test_who_ended_a_run_is_said(tmp_path, capsys):
    run = trainer(tmp_path, callbacks=[Patience(2)], epochs=4)
    said = []
    run._display.say = said.append
    run.fit()
    assert said == ["epoch 2/4: ended by Patience: no better for long"]


class Failing:
    def __init__(self, hook):
        setattr(self, hook, self.fail)

    def on_epoch_end(self, record):
        """Fails only where it is the hook."""

    def fail(self, record=None):
        if not isinstance(record, dict) or record["epoch"] != 1:
            raise ZeroDivisionError("not\ntoday")


def test_a_callback_that_fails_takes_no_training_with_it(tmp_path):
    diary = Diary()
    with pytest.raises(CallbackError) as caught:
        run_with(tmp_path, diary, Failing("on_epoch_end"), checkpoint_every=9)
    kept = "epoch 2 is trained and saved; the next run goes on with what comes after it"
    assert str(caught.value) == f"callback Failing.on_epoch_end: ZeroDivisionError: not today; {kept}"
    assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)
    assert diary.calls[-1] == ("close",)
    loader, trained, again = FakeLoader(), [], Diary()
    loader.after_batch = lambda epoch, batch: trained.append(epoch)
    run, _ = run_with(tmp_path, again, loader=loader, checkpoint_every=9)
    assert set(trained) == {2}
    assert again.calls == [("start", [1]), ("epoch", 2), ("epoch", 3), ("end", 3), ("close",)]
    assert [record["epoch"] for record in run.log.records()] == [1, 2, 3]


@pytest.mark.parametrize("hook", ["on_start", "on_end", "close"])
def test_failures_elsewhere_are_told_too(tmp_path, hook):
    diary = Diary()
    with pytest.raises(CallbackError, match=rf"^callback Failing\.{hook}: ZeroDivisionError: not today$"):
        run_with(tmp_path, diary, Failing(hook))
    assert diary.calls[-1] == ("close",)
    assert (tmp_path / "model.safetensors").exists() == (hook != "on_start")


def test_a_callback_draws_no_random_numbers_of_the_run(tmp_path):
    model = ModelOptions("test_vit", drop_path=0.2)
    runs = [
        run_with(tmp_path / str(len(callbacks)), *callbacks, model=model)[0]
        for callbacks in ((), (lambda record: torch.rand(5),))
    ]
    assert same(*map(weights, runs))


class Lonely:
    def on_end(self):
        """Takes too little."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Diary, "is no list; give a list of callbacks"),
        ([Diary], r"callbacks: Diary is a class; give an object, such as Diary\(\)"),
        ([5], "callbacks: 5 has none of on_start, on_epoch_end, on_end, and is no function"),
        ([lambda: None], r"callbacks: <lambda> must take one argument, the epoch's log record"),
        ([Lonely()], r"callbacks: Lonely\.on_end must take one argument, the last epoch's log record"),
        ([type("Odd", (), {"on_end": 3})()], r"callbacks: Odd\.on_end is 3, no function"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_opened(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        data = {"train": str(tmp_path / "none.beton")}
        ffdr.train(data=data, model={"name": "test_resnet"}, out=str(tmp_path / "run"), callbacks=given)


def test_callbacks_of_a_call_from_python(digits, tmp_path):
    small = {"resolution": 32, "batch_size": 50, "epochs": 2, "warmup_epochs": 0}
    options = {"data": {"train": str(digits), "workers": 1}, "model": {"name": "test_resnet"}, **small}
    seen = []
    record = ffdr.train(out=str(tmp_path), callbacks=[seen.append], progress=False, **options)
    assert [line["epoch"] for line in seen] == [1, 2] and seen[-1] == record


RANK = """
import sys
from fakes import trainer
from ffdr.train import StopTraining
from ffdr.train.tracking.callbacks import CallbackError
from ffdr.config.learning import ModelOptions
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

def tell(kind, record):
    assert ranks.rank == 0
    if record["epoch"] == 2:
        raise kind("why")

def fit(name, kind):
    tells = [lambda record: tell(kind, record)]
    return trainer(f"{sys.argv[1]}/{name}", model=ModelOptions("test_vit"), ranks=ranks, callbacks=tells).fit()

with Ranks.join() as ranks:
    print(fit("stop", StopTraining)["epoch"], file=sys.stderr)
    try:
        fit("fail", ArithmeticError)
    except (UserError, CallbackError) as error:
        sys.exit(f"{ranks.rank}: {error}")
"""


def test_all_ranks_do_what_the_callbacks_of_the_first_ask(tmp_path):
    status, said = finish(launch(2, ["-c", RANK, tmp_path]))
    assert status == [1, 1] and [text.splitlines()[-2] for text in said] == ["2", "2"], said
    assert "0: callback <lambda>: ArithmeticError: why; epoch 2 is trained and saved" in said[0]
    assert "1: a callback: rank 0: callback <lambda>: ArithmeticError: why; epoch 2 is trained" in said[1]
