"""``ffdr train --dry-run``: what a run will be, and what it will take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import yaml
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import DataOptions, TrainOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.models.build import (
    autocast_dtype,
    best_device,
    build_model,
    check_name,
    fixed_size,
    forward_flops,
)
from ffdr.models.compiling import train_mode
from ffdr.train.estimate import Costs, measure
from ffdr.train.identity import check_policy
from ffdr.train.optim import resolution_at
from ffdr.train.student import Trial, build_student
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks
from ffdr.util.text import duration, say

_OPTIMISER_COPIES = {"sgd": 1, "adamw": 2}
"""Numbers that the optimiser keeps for each weight."""


@dataclass(frozen=True)
class Data:
    """What is known of the training data, from its files or from the recipe."""

    images: int
    classes: int
    source: str
    """where that comes from, in words"""
    image_bytes: int | None = None
    """of all stored images; None: there is no file yet"""
    reinforced: ReinforcedHeader | None = None
    """None: nothing stored to learn from, or no file yet"""


@dataclass(frozen=True)
class Work:
    """How many steps a run has, and what they compute."""

    steps: int
    """an epoch; what does not fill a batch is left out"""
    epochs: int
    batch_size: int
    flops: dict[int, int]
    """floating-point operations of one image's forward pass, by resolution; a multiply-add counts as two"""
    resolutions: tuple[int, ...]
    """of the training views, by epoch"""

    @property
    def images(self) -> int:
        """Images that are learned from in the whole run."""
        return self.steps * self.batch_size * self.epochs

    @property
    def forward_flops(self) -> int:
        """Of all training images of the run."""
        return sum(self.flops[resolution] for resolution in self.resolutions) * self.steps * self.batch_size


def dry_run(recipe: TrainRecipe) -> None:
    """Print the resolved recipe, model size, steps, bytes and a time estimate; nothing is written.

    Where ``data.train`` is not there yet, ``data.images`` and ``data.classes`` stand in for it. The time is estimated
    from a few steps, reads and validated batches on this device (see ``estimate``).

    Raises:
        UserError: neither files nor counts; files that don't fit together; a model that can't be built or can't take
            images of the recipe's sizes; images that do not fill one batch.
    """
    check_name(recipe.model.name)
    data = find_data(recipe.train, recipe.data, recipe.policy)
    work = plan_work(recipe, data)
    device = best_device()
    model = build_student(recipe.train, recipe.model, data.classes, device)
    trial = Trial(recipe.train, model, recipe.model.name, device, autocast_dtype(recipe.train.precision, device))
    trial.sizes()  # on the meta device torch 2.6 takes any
    trial.batch_norm(Ranks())
    say(resolved(recipe))
    for title, text in (
        ("data", f"{data.images:,} images, {data.classes:,} classes ({data.source})"),
        ("model", _describe_model(recipe, model, work)),
        ("steps", f"{work.steps:,} an epoch × {work.epochs:,} = {work.steps * work.epochs:,}; {work.images:,} images"),
        ("compute", f"{3 * work.forward_flops:.3g} FLOPs in all, three times the forward passes"),
        ("reads", _describe_reads(data)),
        ("memory", _describe_memory(recipe.train, model)),
        ("time", _describe_time(recipe, measure(recipe, model, data.classes, device), work, device)),
    ):
        say(f"{title:9s}{text}")


def resolved(recipe: TrainRecipe) -> str:
    """Every option that is not empty, as YAML that is a recipe itself, and not of a dry run."""
    sections = {
        section: {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()
            if value not in ("", ()) and (section, name) != ("train", "dry_run")
        }
        for section, options in asdict(recipe).items()
    }
    return yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def find_data(train: TrainOptions, data: DataOptions, policy: Policy) -> Data:
    """What the files say; without them the recipe's counts.

    Raises UserError where there is neither, and for a policy that is not what the only shown views were drawn from.
    """
    if not Path(data.train).is_file():
        if not (data.images and data.classes):
            missing = f"{data.train}: no such file" if data.train else "data.train: no image beton is named"
            raise UserError(f"{missing}; for a dry run without it give data.images and data.classes")
        why = f"{data.train} is not there" if data.train else "no file is named"
        return Data(data.images, data.classes, f"by the recipe, {why}")
    images = ImageBeton.open(data.train)
    reinforced = None
    if train.task == "dr":
        path = data.reinforced or data.train
        if Path(path).is_file():
            opened = ReinforcedBeton.open(path, images)
            reinforced = opened.header
            if train.reinforced_share == 1:
                check_policy(policy, opened)
    source = str(images.path) + ("; no reinforced beton yet" if train.task == "dr" and reinforced is None else "")
    return Data(images.num_images, images.num_classes, source, int(images.data_size.sum()), reinforced)


def plan_work(recipe: TrainRecipe, data: Data) -> Work:
    """Steps and operations of the run.

    Raises:
        UserError: less than one batch; a model that can't be built, or can't take images of the recipe's sizes.
    """
    train = recipe.train
    steps = data.images // train.batch_size
    if steps == 0:
        raise UserError(f"train.batch_size: {data.images} images do not fill one batch of {train.batch_size}")
    resolutions = tuple(resolution_at(train, epoch) for epoch in range(train.epochs))
    sizes = sorted({*resolutions, train.resolution, train.eval_resolution or train.resolution})
    if len(sizes) > 1 and fixed_size(recipe.model.name):
        listed = ", ".join(map(str, sizes))
        raise UserError(
            f"train.resolution: {recipe.model.name} takes images of one size, but the recipe has {listed} px"
        )
    with torch.device("meta"):  # shapes without numbers: no memory, no time
        model = build_model(
            replace(recipe.model, checkpoint="", pretrained=False), data.classes, train.resolution
        ).eval()
        flops = {size: forward_flops(model, recipe.model.name, size) for size in sizes}
    return Work(steps, train.epochs, train.batch_size, flops, resolutions)


def _describe_model(recipe: TrainRecipe, model: nn.Module, work: Work) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    sizes = ", ".join(f"{flops / 1e9:.3g} GFLOPs at {size} px" for size, flops in work.flops.items())
    other = "timm's pretrained weights" if recipe.model.pretrained else "random weights"
    start = f"weights of {recipe.model.checkpoint}" if recipe.model.checkpoint else other
    return (
        f"{recipe.model.name}, {count / 1e6:.2f} M parameters, starts from {start}\n"
        f"         one image forward: {sizes} (half as many multiply-adds)"
    )


def _describe_reads(data: Data) -> str:
    """Bytes an epoch: every image once, and one view of each with its teacher entries."""
    if data.image_bytes is None:
        return "unknown before the files are written"
    text = f"{data.image_bytes:,} bytes of images an epoch"
    if data.reinforced is None:
        return text
    header = data.reinforced
    a_view = (header.view_bytes + header.logit_bytes) // header.views
    text += f", {header.num_images * a_view:,} of views ({a_view} each, one of {header.views} an image)"
    return text + ("; mixed views read a second image" if header.mixes else "")


def memory_bytes(train: TrainOptions, model: nn.Module) -> dict[str, int]:
    """What a run keeps between steps, by part, in bytes; activations, which come on top, depend on the batch."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    copies = 0 if train.optimizer == "sgd" and train.momentum == 0 else _OPTIMISER_COPIES[train.optimizer]
    parts = {"weights": weights + buffers, "gradients": weights, "optimiser": copies * weights}
    return parts | ({"average": weights + buffers} if train.ema > 0 else {})


def _describe_memory(train: TrainOptions, model: nn.Module) -> str:
    parts = memory_bytes(train, model)
    listed = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in parts.items())
    return f"{sum(parts.values()) / 2**20:,.1f} MiB ({listed}), and activations"


def _describe_time(recipe: TrainRecipe, costs: Costs, work: Work, device: torch.device) -> str:
    train = recipe.train
    training, validation = costs.training(train, work.steps), costs.validation(train)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rates = ", ".join(f"{1 / seconds:,.1f} images/s of {side} px" for side, seconds in sorted(costs.image.items()))
    reads = "" if costs.read is None else f", reading {1 / costs.read:,.0f} images/s"
    validated = f", and {duration(validation)} of it validation" if costs.validated else ""
    left_out = [
        *(["reading"] if costs.read is None else []),
        *([] if costs.taught else ["the teacher"]),
        *(["validation"] if recipe.data.val and not costs.validated else []),
        "checkpoints",
    ]
    compiled = train_mode(train.compile, device, work.steps * work.epochs) != "off"
    return (
        f"{duration(training + validation)} on one {name}{validated}\n"
        f"         measured now: {rates} in batches of {costs.batch}{reads}\n"
        f"         {' and '.join(left_out)} come on top{'; compiled, as the run will be, it is faster' * compiled}"
    )
