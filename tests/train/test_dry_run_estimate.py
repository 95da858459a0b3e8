"""The estimate of a dry run: what it adds up, and that it measures the run's own batches, steps and files."""

import math
from dataclasses import replace

import pytest
import torch
from betons import student_recipe

from ffdr.config.learning import ModelOptions, TeacherOptions
from ffdr.config.training import TrainOptions
from ffdr.train.build import build_trainer
from ffdr.train.dry_run import estimate
from ffdr.train.dry_run.estimate import Costs, measure
from ffdr.train.plan import EpochPlan
from ffdr.train.student import build_student

CPU = torch.device("cpu")


def costs(recipe, classes=10):
    return measure(recipe, build_student(recipe.train, recipe.model, classes, CPU).model, classes, CPU)


@pytest.fixture
def hasty(monkeypatch):
    """One call of everything that is timed, and as long a batch as it takes."""
    monkeypatch.setattr(estimate, "_CALLS", 1)
    monkeypatch.setattr(estimate, "_SECONDS", 0.2)


def test_a_run_is_its_epochs_updates_and_validations():
    train = TrainOptions(
        out="x", epochs=10, batch_size=5, resolution=96, min_resolution=64, ramp=(0.5, 0.8), eval_every=3,
        flip_average=True,
    )  # fmt: skip
    plan = EpochPlan(images=12, batch_size=5)
    parts = Costs({64: 1.0, 96: 2.0}, update=0.5, batch=5, val=0.25, val_images=100)
    # Seven epochs of 64 px and three of 96 px, two steps each; validation after epochs 3, 6, 9 and 10, both ways.
    assert parts.training(train, plan) == 2 * (7 * (5 * 1.0 + 0.5) + 3 * (5 * 2.0 + 0.5))
    assert parts.validation(train) == 4 * 100 * 2 * 0.25
    read = replace(parts, read=0.1)
    assert read.training(train, plan) == pytest.approx(parts.training(train, plan) + 2 * 50 * 0.1)
    assert read.validation(train) == pytest.approx(4 * 100 * (0.5 + 0.1))
    overlapped = replace(parts, read=1.5, overlapped=True)  # a GPU waits where reading takes longer
    assert overlapped.training(train, plan) == 2 * (7 * (5 * 1.5 + 0.5) + 3 * (5 * 2.0 + 0.5))
    tail = replace(plan, drop_last=False)  # two images, and a third update
    assert parts.training(train, tail) == parts.training(train, plan) + 2 * (7 * 1.0 + 3 * 2.0) + 10 * 0.5
    several = replace(train, resolutions=(64, 96), min_resolution=0)
    assert parts.training(several, plan) == 10 * (10 * 1.5 + 2 * 0.5)


def test_it_measures_the_parts_that_the_run_has(digits, hasty):
    plan = student_recipe("erm", digits, "", "", "run", batch_size=50, accumulate=2, eval_resolution=48, ema=0.9)
    found = costs(replace(plan, data=replace(plan.data, val=str(digits))))
    assert found.batch == 25 and found.val_images == 100 and found.with_teacher
    assert list(found.train) == [32]
    assert all(0 < seconds < math.inf for seconds in (found.train[32], found.update, found.val, found.read))


def test_every_size_is_measured(hasty):
    plan = student_recipe("erm", "", "", "", "run", dry_run=True, resolution=96, min_resolution=32, epochs=10)
    assert sorted(costs(plan).train) == [32, 64, 96] and costs(plan).read is None


@pytest.mark.parametrize("bound", [("machine_memory", lambda: 1), ("_SECONDS", 0)], ids=lambda bound: bound[0])
def test_a_batch_is_no_larger_than_memory_and_patience_allow(monkeypatch, hasty, bound):
    monkeypatch.setattr(estimate, *bound)
    assert costs(student_recipe("erm", "", "", "", "run", dry_run=True, batch_size=256)).batch == 4


def test_a_live_teacher_is_asked_if_it_is_there(digits, teacher, hasty):
    plan = student_recipe("kd", digits, "", teacher, "run")
    assert costs(plan).with_teacher
    for models in ("resnet50", "resnet50:nowhere.safetensors"):
        assert not costs(replace(plan, teacher=TeacherOptions(models=models))).with_teacher


def test_measuring_leaves_the_weights_alone(digits, reinforced_digits, hasty):
    plan = student_recipe("dr", digits, reinforced_digits, "", "run", lr=100.0)
    model = build_student(plan.train, ModelOptions("test_vit"), 10, CPU).model
    before = {name: value.clone() for name, value in model.named_parameters()}
    measure(plan, model, 10, CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_the_estimate_is_of_the_size_of_the_run(digits, tmp_path):
    """Within a factor of 1.5 on an idle machine; this one may be busy. Batches of 4 were off by 3.7."""
    plan = student_recipe("erm", digits, "", "", tmp_path / "run", batch_size=100, epochs=12)
    found = costs(plan)
    trainer = build_trainer(plan, progress=False)
    trainer.fit()
    seconds = sum(record["seconds"] for record in trainer.log.records()[2:])
    assert 1 / 3 < found.training(plan.train, EpochPlan.of(plan.train, 100)) * 10 / 12 / seconds < 3
