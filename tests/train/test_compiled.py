"""Runs through PyTorch's real compiler: stopped and killed ones end with the same bits, a graph per size, and silence.

The model is as small as one can be that has statistics and draws random numbers; every graph costs seconds.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from betons import student_recipe
from fakes import FakeLoader, same, trainer, weights
from torch import nn

from ffdr.models import compiling
from ffdr.train import student
from ffdr.train.build import build_trainer
from ffdr.train.run import run
from ffdr.train.signals import Stopped

TIMES = ("seconds", "images_per_second", "data_wait")
GROWING = {"resolution": 96, "min_resolution": 32, "ramp": (0.0, 0.6), "epochs": 6, "warmup_epochs": 0.0}
"""Epochs of 32, 32, 64, 96, 96 and 96 px."""


def tiny(*_):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(4, 10),
    )  # fmt: skip


def plan(digits, out):
    growing = GROWING | {"resolution": 64, "epochs": 5}  # 32, 32, 64, 64 and 64 px
    more = {"compile": "default", "ema": 0.9, "eval_every": 2, "checkpoint_every": 2, **growing}
    return student_recipe("erm", digits, "", "", out, val=digits, **more)


CHILD = """
import sys
sys.path[:0] = {paths!r}
import test_compiled
from ffdr import cli
from ffdr.train import student
student.build_model = test_compiled.tiny
cli.parse = lambda verb, words: test_compiled.plan({images!r}, words[0])
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """The folder, exit status, standard output and error of two runs at once, which compile the same into one cache,
    empty before; PyTorch's own compiler, or a skip where there is none."""
    folder = tmp_path_factory.mktemp("compiled")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "OMP_NUM_THREADS": "1"}
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++"))):
        pytest.skip("no C++ compiler")
    command = [sys.executable, "-c", CHILD.format(paths=paths, images=str(digits))]
    outs = [folder / name for name in ("left", "right")]
    children = [
        subprocess.Popen([*command, str(out)], stdout=-1, stderr=-1, text=True, env=os.environ | cache) for out in outs
    ]
    told = [child.communicate() for child in children]
    return [(out, child.returncode, *texts) for out, child, texts in zip(outs, children, told, strict=True)]


class KilledError(BaseException):
    """What stands for SIGKILL."""


def broken_off(plan, step, how):
    """Train up to a step in which the run is stopped or killed; a later one is as a new process."""
    trainer = build_trainer(plan, progress=False)
    learn = trainer._train_batch

    def train_batch(images, targets):
        learn(images, targets)
        if trainer.step.count == step:
            how()

    trainer._train_batch = train_batch
    with pytest.raises((Stopped, KilledError)):
        trainer.fit()
    torch._dynamo.reset()


def outcome(out):
    """The weights' bytes, and what is logged but for times."""
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return (out / "model.safetensors").read_bytes(), [
        {key: value for key, value in record.items() if key not in TIMES} for record in log
    ]


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def kill():
    raise KilledError


def test_compiled_runs_are_silent_and_may_compile_at_once(whole):
    """PyTorch's compiler has warnings for its developers, and about machines."""
    for _, status, out, err in whole:
        assert (status, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()[:-1]] == ["epoch"] * 5
    assert outcome(whole[0][0]) == outcome(whole[1][0])


def test_broken_off_runs_end_with_the_same_bits(whole, monkeypatch, digits, tmp_path, capfd):
    """Stopped in the first step of a size, and within an epoch; killed between checkpoints."""
    monkeypatch.setattr(student, "build_model", tiny)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(whole[0][0].parent / "inductor"))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    for step, how, graphs in ((9, stop, 3), (15, kill, 4), (18, stop, 6)):  # of views and evaluation, in each process
        broken_off(plan(digits, tmp_path), step, how)
        assert counters["stats"]["unique_graphs"] == graphs
    run(plan(digits, tmp_path), progress=False)
    assert outcome(tmp_path) == outcome(whole[0][0])
    assert capfd.readouterr().err == ""


def test_nothing_else_has_a_graph(graphs, monkeypatch, digits, teacher, tmp_path):
    """Sizes of the views times two, for the parts of a batch are of 13 and 12; evaluation at its own size, mirrored
    too; the teacher's for the pixels before the run, and for normalised images of each size."""
    monkeypatch.setattr(student, "build_model", tiny)
    more = {"compile": "default", "ema": 0.9, "accumulate": 2, "eval_resolution": 48, "flip_average": True, **GROWING}
    plan = student_recipe("kd", digits, "", teacher, tmp_path / "run", val=digits, **more)
    plan = replace(plan, teacher=replace(plan.teacher, compile="on", batch_size=32))
    assert run(plan, progress=False)["epoch"] == 6
    assert graphs() == 3 * 2 + 1 + (1 + 3)


def test_without_a_compiler_the_run_is_the_plain_one_after_one_line(monkeypatch, tmp_path, capfd):
    from torch._dynamo.exc import TorchDynamoException

    def broken(function, **settings):
        def call(*arguments):
            raise TorchDynamoException("no compiler\n\nadvice")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    compiling._warn_once.cache_clear()
    runs = [
        trainer(tmp_path / mode, val_loader=FakeLoader(n=20), compile=mode, epochs=2) for mode in ("off", "default")
    ]
    for each in runs:
        each.fit()
    assert same(weights(runs[0]), weights(runs[1])) and runs[1].step.compiled == "off"
    assert capfd.readouterr().err == "train.compile: torch.compile can't run this (no compiler); going on without it\n"
