"""The dry run: sizes, steps and bytes known beforehand, with files and without; and what is refused."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
import yaml
from betons import MIXING, TOPK, VIEWS, student_recipe

from ffdr.beton.read import ReinforcedBeton
from ffdr.config import recipe
from ffdr.config.learning import DataOptions, ModelOptions
from ffdr.train.dry_run import summary as module
from ffdr.train.dry_run.estimate import Costs
from ffdr.train.dry_run.summary import KnownData, TrainingWork, dry_run, plan_work
from ffdr.train.plan import EpochPlan
from ffdr.train.student import build_student
from ffdr.train.update.optim import build_optimizer
from ffdr.train.update.step import AveragedWeights
from ffdr.util.errors import UserError


def nominal(images=1000, classes=10, name="test_resnet", data="", **train):
    """A recipe without files."""
    made = student_recipe("erm", data, "", "", "", name=name, **{"dry_run": True, **train})
    return replace(made, data=DataOptions(train=str(data), images=images, classes=classes))


@pytest.fixture
def told(monkeypatch, capsys):
    """Function recipe → what its dry run says, with a made-up speed of 10 images/s of any size."""
    monkeypatch.setattr(module, "measure", lambda *_: Costs(defaultdict(lambda: 0.1, {32: 0.1}), 0.0, 4))

    def tell(options):
        dry_run(options)
        out = capsys.readouterr().out
        resolved, _, rest = out.partition("\n\n")
        return yaml.safe_load(resolved), " ".join(rest.split())

    return tell


def test_resnet50_has_its_published_size_and_operations():
    """25,557,032 parameters and 4.09 G multiply-adds at 224 px, as torchvision's documentation says."""
    with torch.device("meta"):
        model = build_student(nominal().train, ModelOptions(name="resnet50"), 1000, torch.device("meta")).model
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    options = nominal(classes=1000, name="resnet50", resolution=224)
    assert plan_work(options, KnownData(1000, 1000, "")).flops == {224: pytest.approx(2 * 4.09e9, rel=0.002)}


def test_without_files_the_recipe_says_how_much_data_there_is(told):
    _, text = told(nominal(images=1010, batch_size=100, epochs=7, optimizer="sgd"))
    assert "1,010 images, 10 classes (by the recipe, no file is named)" in text
    assert "10 per epoch × 7 = 70; 7,000 images" in text
    assert "reads unknown before the files are written" in text
    assert "test_resnet, 0.37 M parameters, starts from random weights" in text
    assert "12 min on one CPU measured now: 10.0 images/s of 32 px in batches of 4 reading and checkpoints" in text


def test_the_resolved_recipe_is_a_recipe(told, tmp_path):
    options = nominal(lr=0.25, ema=0.9, weight_decay=0.0, resume=False)
    resolved, _ = told(options)
    assert resolved["train"]["momentum"] == 0.9  # a default
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(resolved))
    assert recipe.load("train", tmp_path / "x.yaml", train__dry_run=True) == options


@pytest.mark.parametrize("mixes", [False, True])
def test_files_say_what_an_epoch_reads(digits, reinforce, reinforced_digits, told, mixes):
    """A digit takes 32 × 32 × 3 bytes; a view 24 bytes, or 64 when it may mix, and its teacher entries 4 each."""
    file = reinforce(digits, MIXING) if mixes else reinforced_digits
    _, text = told(student_recipe("dr", digits, file, "", "", dry_run=True))
    assert f"100 images, 10 classes ({digits})" in text
    assert f"{100 * 3072:,} bytes of images per epoch" in text
    view = ReinforcedBeton.open(file).record_dtype.itemsize + 4 * TOPK
    assert f"{100 * view:,} of views ({view} each, one of {VIEWS} per image)" in text
    assert ("read a second image" in text) == mixes
    _, text = told(student_recipe("dr", digits, f"{file}.not", "", "", dry_run=True))
    assert "no reinforced beton yet" in text and "of views" not in text


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.0}, {"optimizer": "adamw", "ema": 0.9}],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_memory_is_what_model_optimiser_and_average_hold_after_a_step(options):
    train = nominal(**options).train
    model = build_student(train, ModelOptions(name="test_resnet"), 10, torch.device("cpu")).model
    optimizer = build_optimizer(train, model, torch.device("cpu"))
    ema = AveragedWeights(model, train.ema) if train.ema else None
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    held = {
        "weights": sum(value.nbytes for value in model.state_dict().values()),
        "gradients": sum(parameter.grad.nbytes for parameter in model.parameters()),
        "optimiser": sum(value.nbytes for value in states if value.dim()),
    }
    if ema:
        held["average"] = sum(value.nbytes for value in ema.module.state_dict().values())
    assert module.memory_bytes(train, model) == held


def test_operations_count_every_epochs_own_resolution():
    work = TrainingWork(EpochPlan(12, 5), {160: 100, 192: 144, 256: 256}, [(160,), (160,), (192,)])
    assert (work.steps, work.images) == (6, 30)
    assert work.forward_flops == 10 * (100 + 100 + 144)
    work = TrainingWork(EpochPlan(12, 5, drop_last=False), work.flops, [(160, 256), (192,)])
    assert (work.steps, work.images) == (6, 24)
    assert work.forward_flops == 12 * (178 + 144)
    options = nominal(resolution=96, min_resolution=64, eval_resolution=128, epochs=10, ramp=(0.5, 0.8))
    planned = plan_work(options, KnownData(1000, 10, ""))
    assert planned.sides == [(64,)] * 7 + [(96,)] * 3  # 64 until epoch 5, 75 in epoch 6, 85 in epoch 7, 96 from 8
    small, medium, large = (planned.flops[size] for size in (64, 96, 128))
    assert small < medium < large == pytest.approx(4 * small, rel=0.01)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (nominal(images=0), ["data.train", "data.images and data.classes"]),
        (nominal(classes=0, data="no.beton"), ["no.beton: no such file", "data.images and data.classes"]),
        (nominal(images=99, batch_size=100), ["train.batch_size", "99 images", "one batch of 100"]),
        (nominal(name="test_resnett"), ["model.name", "did you mean test_resnet"]),
        (nominal(name="test_vit", resolution=160, eval_resolution=192), ["test_vit", "one size", "160, 192 px"]),
        (nominal(name="test_convnext", min_resolution=8), ["test_convnext", "8 px"]),
    ],
    ids=["nothing", "no file", "no batch", "no model", "fixed size", "too small"],
)
def test_what_can_not_be_planned_is_refused_in_one_line(options, parts):
    with pytest.raises(UserError) as caught:
        dry_run(options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_images_of_another_reinforcement_are_refused(photos, reinforced_digits):
    with pytest.raises(UserError, match="fingerprint"):
        dry_run(student_recipe("dr", photos, reinforced_digits, "", "", batch_size=8, dry_run=True))
