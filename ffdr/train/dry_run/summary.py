"""What a run will be: data, model, steps, operations, bytes, memory and time, printed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import DataOptions, ModelOptions
from ffdr.config.model_names import is_given
from ffdr.config.training import TrainOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.models.build import (
    architecture_of,
    autocast_dtype,
    best_device,
    build_model,
    check_model,
    fixed_size,
    forward_flops,
)
from ffdr.models.catalog import is_of_timm, library_of
from ffdr.models.compiling import train_mode
from ffdr.models.factory import device_of
from ffdr.models.given import check_given
from ffdr.models.timm_options import on_meta
from ffdr.reinforce.functions import FunctionTeacher
from ffdr.train.build import check_policy, check_views_per_image
from ffdr.train.dry_run.estimate import Costs, measure
from ffdr.train.plan import EpochPlan, all_sides, view_sides
from ffdr.train.run_folder import recipe_yaml
from ffdr.train.student import Trial, build_student
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks
from ffdr.util.text import duration, say

_OPTIMISER_COPIES = {"sgd": 1, "adamw": 2}
"""Numbers that an optimiser keeps for each weight; others are measured."""


@dataclass(frozen=True)
class KnownData:
    """What is known of the training data, from its files or from the recipe."""

    images: int
    classes: int
    source: str
    """where that comes from, for the reader"""
    image_bytes: int | None = None
    """of all stored images; None: there is no file yet"""
    reinforced: ReinforcedHeader | None = None
    """None: no stored views to learn from, or no file yet"""


@dataclass(frozen=True)
class TrainingWork:
    """How many steps a run has, and what they compute."""

    plan: EpochPlan
    flops: dict[int, int]
    """floating-point operations of one image's forward pass, by resolution; a multiply-add counts as two"""
    sides: Sequence[tuple[int, ...]]
    """of the training views, by epoch; of several, all are equally frequent"""

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.plan.steps * len(self.sides)

    @property
    def images(self) -> int:
        """Images that are learned from in the whole run."""
        return self.plan.shown * len(self.sides)

    @property
    def forward_flops(self) -> float:
        """Of all training images of the run."""
        return sum(fmean(self.flops[side] for side in sides) for sides in self.sides) * self.plan.shown


def dry_run(recipe: TrainRecipe, given: nn.Module | None = None, functions: Sequence[FunctionTeacher] = ()) -> None:
    """Print the resolved recipe, model size, steps, bytes and a time estimate; nothing is written.

    Where ``data.train`` is not there yet, ``data.images`` and ``data.classes`` stand in for it. The time is estimated
    from a few steps, reads and validated batches on this device (see ``estimate``).

    given: the module that a caller would have trained; it stays as it is. functions: teachers for which
    ``teacher.models`` has labels.

    Raises:
        UserError: neither files nor counts; files that don't fit together; a model that can't be built or can't take
            images of the recipe's sizes; images that do not fill one batch.
    """
    given = deepcopy(given)
    if given is None:
        check_model(recipe.model)
    data = find_data(recipe.train, recipe.data, recipe.policy)
    work = plan_work(recipe, data, given)
    device = best_device()
    student = build_student(recipe.train, recipe.model, data.classes, device, given)
    model = student.model
    trial = Trial(recipe.train, student, autocast_dtype(recipe.train.precision, device))
    trial.sizes()  # on the meta device torch 2.6 takes any
    trial.batch_norm(Ranks(), work.plan)
    say(recipe_yaml(recipe))
    costs = measure(recipe, model, data.classes, device, functions)
    for title, text in (
        ("data", f"{data.images:,} images, {data.classes:,} classes ({data.source})"),
        ("model", _describe_model(recipe, model, work)),
        ("steps", f"{work.plan.steps:,} per epoch × {len(work.sides):,} = {work.steps:,}; {work.images:,} images"),
        ("compute", f"{3 * work.forward_flops:.3g} FLOPs in all, three times the forward passes"),
        ("reads", _describe_reads(data, recipe.train.views_per_image)),
        ("updates", describe_updates(recipe.train, model)),
        ("memory", _describe_memory(recipe.train, model, costs.optimizer_bytes)),
        ("time", _describe_time(recipe, costs, work, device)),
    ):
        say(f"{title:9s}{text}")


def find_data(train: TrainOptions, data: DataOptions, policy: Policy) -> KnownData:
    """What the files say; without them the recipe's counts.

    Raises:
        UserError: there is neither; files that don't belong together; another policy than the stored views, if only
            these are shown, were drawn from.
    """
    if not Path(data.train).is_file():
        if not (data.images and data.classes):
            missing = f"{data.train}: no such file" if data.train else "data.train: no image beton is named"
            raise UserError(f"{missing}; for a dry run without it give data.images and data.classes")
        why = f"{data.train} is not there" if data.train else "no file is named"
        return KnownData(data.images, data.classes, f"by the recipe, {why}")
    images = ImageBeton.open(data.train)
    reinforced = None
    if train.task == "dr":
        path = data.reinforced or data.train
        if Path(path).is_file():
            opened = ReinforcedBeton.open(path, images)
            reinforced = opened.header
            check_views_per_image(train, opened)
            if train.reinforced_share == 1:
                check_policy(policy, opened)
    source = str(images.path) + ("; no reinforced beton yet" if train.task == "dr" and reinforced is None else "")
    return KnownData(images.num_images, images.num_classes, source, int(images.data_size.sum()), reinforced)


def plan_work(recipe: TrainRecipe, data: KnownData, given: nn.Module | None = None) -> TrainingWork:
    """Steps and operations of the run. given: see ``dry_run``.

    Raises:
        UserError: less than one batch; a model that can't be built, or can't take images of the recipe's sizes.
    """
    train = recipe.train
    plan, by_epoch = EpochPlan.of(train, data.images), view_sides(train)
    if plan.steps == 0:
        raise UserError(f"train.batch_size: {data.images} images do not fill one batch of {train.batch_size}")
    sizes = sorted({*all_sides(train), train.resolution, train.eval_resolution or train.resolution})
    architecture = architecture_of(recipe.model)
    if len(sizes) > 1 and fixed_size(architecture.name):
        listed = ", ".join(map(str, sizes))
        raise UserError(
            f"train.resolution: {recipe.model.name} takes images of one size, but the recipe has {listed} px"
        )
    if given is None:
        model = _untrained(architecture, data.classes, train.resolution)
    else:
        check_given(given, recipe.model.name, data.classes, train.resolution)
        model = given
    with torch.device(device_of(model) or "cpu"):  # what a forward pass makes lies where the model does
        flops = {size: forward_flops(model.eval(), recipe.model.name, size) for size in sizes}
    return TrainingWork(plan, flops, by_epoch)


def _untrained(model: ModelOptions, num_classes: int, resolution: int) -> nn.Module:
    """The model with shapes but no numbers, which takes no memory and no time; one that a user registered may be unfit
    for that, and has numbers."""
    untrained = replace(model, checkpoint="", pretrained=False)
    try:
        return on_meta(lambda: build_model(untrained, num_classes, resolution))
    except (RuntimeError, UserError):
        if is_of_timm(model.name):
            raise
        return build_model(untrained, num_classes, resolution)


def _describe_model(recipe: TrainRecipe, model: nn.Module, work: TrainingWork) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    sizes = ", ".join(f"{flops / 1e9:.3g} GFLOPs at {size} px" for size, flops in work.flops.items())
    other = f"{library_of(recipe.model.name)}'s pretrained weights" if recipe.model.pretrained else "random weights"
    if is_given(recipe.model.name):
        other = "the weights that it has"
    start = f"weights of {recipe.model.checkpoint}" if recipe.model.checkpoint else other
    return (
        f"{recipe.model.name}, {count / 1e6:.2f} M parameters, starts from {start}\n"
        f"         one image forward: {sizes} (half as many multiply-adds)"
    )


def _describe_reads(data: KnownData, views_per_image: int) -> str:
    """Bytes per epoch: images, every one or an epoch's share of them, and as many views with their teacher entries as
    there are images."""
    if data.image_bytes is None:
        return "unknown before the files are written"
    text = f"{data.image_bytes // views_per_image:,} bytes of images per epoch"
    if data.reinforced is None:
        return text
    header = data.reinforced
    view_bytes = (header.view_bytes + header.logit_bytes) // header.views
    text += f", {header.num_images * view_bytes:,} of views ({view_bytes} each, one of {header.views} per image)"
    return text + ("; mixed views read a second image" if header.mixes else "")


def describe_updates(train: TrainOptions, model: nn.Module) -> str:
    """Optimiser, schedule of the learning rate, and how many parameters train."""
    trained, count = (sum(part.numel() for part in parts) for parts in (_trained(model), model.parameters()))
    share = "all" if trained == count else f"{trained:,} of {count:,}"
    lowest = f" to {train.min_lr:g}" if train.min_lr else ""
    return (
        f"{train.optimizer}, learning rate {train.lr:g}{lowest} ({train.scheduler} after {train.warmup_epochs:g} "
        f"epochs of warm-up); {share} parameters train"
    )


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def memory_bytes(train: TrainOptions, model: nn.Module, measured: int = 0) -> dict[str, int]:
    """What a run keeps between steps, by part, in bytes; activations, which come on top, depend on the batch.

    measured: of the optimiser, for one of which it is not known beforehand.
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    trained = sum(parameter.nbytes for parameter in _trained(model))
    copies = 0 if train.optimizer == "sgd" and train.momentum == 0 else _OPTIMISER_COPIES.get(train.optimizer)
    held = measured if copies is None or train.optimizer_options else copies * trained
    parts = {"weights": weights + buffers, "gradients": trained, "optimiser": held}
    return parts | ({"average": weights + buffers} if train.ema > 0 else {})


def _describe_memory(train: TrainOptions, model: nn.Module, measured: int) -> str:
    parts = memory_bytes(train, model, measured)
    listed = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in parts.items())
    return f"{sum(parts.values()) / 2**20:,.1f} MiB ({listed}), and activations"


def _describe_time(recipe: TrainRecipe, costs: Costs, work: TrainingWork, device: torch.device) -> str:
    train = recipe.train
    training, validation = costs.training(train, work.plan), costs.validation(train)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rates = ", ".join(f"{1 / seconds:,.1f} images/s of {side} px" for side, seconds in sorted(costs.train.items()))
    reads = "" if costs.read is None else f", reading {1 / costs.read:,.0f} images/s"
    validated = f", and {duration(validation)} of it validation" if costs.val_images else ""
    left_out = [
        *(["reading"] if costs.read is None else []),
        *([] if costs.with_teacher else ["the teacher"]),
        *(["validation"] if recipe.data.val and not costs.val_images else []),
        "checkpoints",
    ]
    compiled = train_mode(train.compile, device, work.steps) != "off"
    return (
        f"{duration(training + validation)} on one {name}{validated}\n"
        f"         measured now: {rates} in batches of {costs.batch}{reads}\n"
        f"         {' and '.join(left_out)} come on top{'; compiled, as the run will be, it is faster' * compiled}"
    )
