"""``train.resolutions``: each batch has one of several sizes, one graph for each, all tried first."""

import os
import signal

import pytest
import torch
from betons import student_recipe
from fakes import options
from torch import nn

from ffdr.config import recipe
from ffdr.config.learning import ModelOptions
from ffdr.config.training import TrainOptions
from ffdr.train import student
from ffdr.train.build import build_loader, build_trainer, open_data
from ffdr.train.dry_run.summary import KnownData, plan_work
from ffdr.train.run import run
from ffdr.train.signals import Stopped
from ffdr.train.student import Trial, build_student
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

SIDES = (48, 32, 64)
CPU = torch.device("cpu")


def plan(images, out, **changes):
    """Two epochs of ten batches."""
    return student_recipe("erm", images, "", "", out, **{"batch_size": 10, "resolutions": SIDES, **changes})


def tiny(*_):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )


def sizes_of(built):
    """The shapes of the batches that are learned from, by step."""
    seen, learn = [], built._train_batch

    def train_batch(batch, targets):
        seen.append(tuple(batch.shape))
        learn(batch, targets)

    built._train_batch = train_batch
    built.fit()
    return seen


def test_a_run_sees_the_sizes_of_the_loader_and_is_evaluated_at_one(digits, tmp_path):
    made = plan(digits, tmp_path / "run", name="test_resnet", val=str(digits))
    seen = sizes_of(build_trainer(made, progress=False))
    loader = build_loader(made, open_data(made), CPU, Ranks())
    assert seen == [tuple(images.shape) for _ in range(2) for images, _, _ in loader]
    assert {shape[-1] for shape in seen} == {*SIDES}
    assert "images_per_second" in (tmp_path / "run" / "log.jsonl").read_text()


def test_each_size_has_one_graph(graphs, monkeypatch, digits, tmp_path):
    """And the tail none, at whatever size."""
    monkeypatch.setattr(student, "build_model", tiny)
    for count, more in ((3, {}), (3 + 3, {"batch_size": 30, "drop_last": False, "epochs": 6})):
        built = build_trainer(plan(digits, tmp_path / str(count), compile="default", **more), progress=False)
        assert {*sizes_of(built)} >= {(built.options.batch_size, 3, side, side) for side in SIDES}
        assert graphs() == count  # of both runs


def test_the_live_teacher_takes_every_size(digits, teacher, tmp_path):
    made = student_recipe("kd", digits, "", teacher, tmp_path / "run", resolutions=SIDES, epochs=1)
    assert run(made, progress=False)["step"] == 4


@pytest.mark.parametrize("at", [4, 13])
def test_a_stopped_run_ends_with_the_same_weights(digits, tmp_path, at):
    run(plan(digits, tmp_path / "whole"), progress=False)
    stopped = build_trainer(plan(digits, tmp_path / "run"), progress=False)
    learn = stopped._train_batch

    def train_batch(*batch):
        learn(*batch)
        if stopped.step.count == at:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped._train_batch = train_batch
    with pytest.raises(Stopped):
        stopped.fit()
    run(plan(digits, tmp_path / "run"), progress=False)
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert ends[0] == ends[1]


def test_every_size_is_tried_before_the_start(digits, tmp_path, monkeypatch):
    shown = []
    real = Trial._show
    monkeypatch.setattr(Trial, "_show", lambda trial, size, *rest: (shown.append(size), real(trial, size, *rest)))
    build_trainer(plan(digits, tmp_path / "run", name="test_convnext"), progress=False)
    assert shown == [48, 64]  # 32: build_model has shown that
    with pytest.raises(UserError, match=r"^train\.resolutions: test_convnext can't take images of 8 px"):
        build_trainer(plan(digits, tmp_path / "run", name="test_convnext", resolutions=(32, 8)), progress=False)
    with pytest.raises(UserError, match=r"^train\.resolutions: test_vit takes images of one size only, so 48 must be"):
        build_trainer(plan(digits, tmp_path / "run", name="test_vit"), progress=False)
    build_trainer(plan(digits, tmp_path / "run", name="test_vit", resolutions=(32,)), progress=False)


def test_batch_norm_is_looked_at_at_the_smallest(capfd):
    """test_resnet's last maps have one value of a 32 px image, four of a 64 px one."""
    given = options("run", batch_size=1, resolution=64, resolutions=(64, 32))
    trial = Trial(given, build_student(given, ModelOptions("test_resnet"), 4, CPU), None)
    with pytest.raises(UserError, match="needs 2"):
        trial.batch_norm(Ranks())


def test_a_dry_run_expects_each_size_equally_often(digits):
    work = plan_work(plan(digits, "run"), KnownData(100, 10, ""))
    assert {*work.flops} == {*SIDES}
    assert work.forward_flops == pytest.approx(200 * sum(work.flops.values()) / 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"resolutions": (32, 64), "min_resolution": 32},
            r"^train\.min_resolution: views grow or, by train\.resolutions,",
        ),
        ({"resolutions": (32, 64, 32)}, r"^train\.resolutions: 32,64,32 has a size twice$"),
        ({"resolutions": (32, 5000)}, r"^train\.resolutions: 5000 .* 4096"),
    ],
)
def test_what_contradicts_itself_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        TrainOptions(out="x", **given)


def test_they_are_a_list_on_the_command_line(digits):
    flags = [
        "--train.out=x",
        f"--data.train={digits}",
        "--train.resolutions=128,160,192,224",
        "--model.name=resnet50",
    ]
    train = recipe.parse("train", flags).train
    assert train.resolutions == (128, 160, 192, 224)
