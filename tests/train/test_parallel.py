"""Two processes train one model: as one process does, exactly scored, stopped together, resumed by any number."""

import json
import signal
import time

import pytest
from ranked import finish, launch
from safetensors.numpy import load_file

from ffdr.config.evaluation import EvalOptions
from ffdr.config.learning import ModelOptions
from ffdr.evaluate.run import run as evaluate_run

MODEL = "test_vit"  # batch statistics would differ between ranks; this model has none
FLAGS = [
    "--train.task=dr", "--train.epochs=6", "--train.batch_size=20", "--train.resolution=32", "--train.lr=0.05",
    "--train.warmup_epochs=1", f"--model.name={MODEL}", "--data.center=1", "--data.workers=1",
]  # fmt: skip


def start(ranks, *flags):
    """The processes of a run."""
    chosen = {flag.split("=")[0]: flag for flag in (*FLAGS, *flags)}  # a later one wins
    return launch(ranks, ["-m", "ffdr", "train", *chosen.values()])


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one(digits, reinforced_digits, tmp_path_factory):
    """What a single process makes of the run, and the run's flags."""
    out = tmp_path_factory.mktemp("one") / "run"
    flags = [f"--data.train={digits}", f"--data.reinforced={reinforced_digits}", f"--data.val={digits}"]
    status, errors = finish(start(1, *flags, f"--train.out={out}"))
    assert status == [0], errors
    return out, flags


def assert_same_run(out, one):
    """Losses and weights agree but for the order of sums; scores are over each validation image once."""
    for mine, theirs in zip(log(out), log(one), strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert mine["val_nll"] == pytest.approx(theirs["val_nll"], rel=1e-3)
        assert mine["val_top1"] == pytest.approx(theirs["val_top1"], abs=0.011)  # one image of 100 may tip over
    weights = [load_file(folder / "model.safetensors") for folder in (out, one)]
    for name, value in weights[0].items():
        assert abs(value - weights[1][name]).max() < 1e-3, name


def test_two_ranks_train_as_one_does(one, tmp_path):
    status, errors = finish(start(2, *one[1], f"--train.out={tmp_path / 'run'}"))
    assert status == [0, 0], errors
    assert_same_run(tmp_path / "run", one[0])
    options = json.loads((tmp_path / "run" / "options.json").read_text())
    assert options["resolved"]["ranks"] == 2


def test_ranks_stop_together_and_one_goes_on(one, tmp_path):
    out = tmp_path / "run"
    processes = start(2, *one[1], f"--train.out={out}")
    while not (out / "log.jsonl").exists() or len(log(out)) < 1:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)  # only one of them is told
    status, errors = finish(processes)
    assert status == [143, 143], errors
    assert "stopped by SIGTERM" in errors[0]
    assert 1 <= len(log(out)) < 6
    status, errors = finish(start(1, *one[1], f"--train.out={out}"))
    assert status == [0], errors
    assert_same_run(out, one[0])


def test_batch_statistics_are_shared_before_they_are_scored(one, digits, tmp_path):
    """What is exported is what was scored: each rank has seen other images, and its statistics differ until then."""
    flags = [*one[1], "--model.name=test_resnet", "--train.epochs=1", "--train.ema=0.5"]
    status, errors = finish(start(2, *flags, f"--train.out={tmp_path / 'run'}"))
    assert status == [0, 0], errors
    assert not any("deprecated" in text for text in errors)
    options = EvalOptions(checkpoint=str(tmp_path / "run" / "model.safetensors"), data=str(digits))
    report = evaluate_run(options, ModelOptions())
    assert report["nll"] == pytest.approx(log(tmp_path / "run")[-1]["val_nll"], rel=1e-4)


def test_a_batch_that_can_not_be_shared_is_refused(one, tmp_path):
    flags = [*one[1], f"--train.out={tmp_path / 'run'}", "--train.keep=1"]
    status, errors = finish(start(3, *flags))
    assert set(status) == {2}
    assert "20 images can't be shared evenly by 3 ranks" in errors[0]
