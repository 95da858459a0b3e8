"""What makes a run this run and no other, and which options go together, both known before it starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import timm
import torch

from ffdr.augment.policy import Policy
from ffdr.beton.read import ReinforcedBeton
from ffdr.config.learning import ModelOptions, TrainOptions
from ffdr.loader.protocol import BatchLoader
from ffdr.models.build import fixed_size
from ffdr.util.errors import UserError

_FREE = ("out", "resume", "eval_every", "checkpoint_every", "keep", "tensorboard", "compile", "dry_run")
"""Options that a resumed run may change, because they leave the weights alone (``compile``: but for rounding)."""


@dataclass(frozen=True)
class DataInfo:
    """What the trainer must know of the data beyond its batches."""

    mean: tuple[float, ...]
    """per-channel mean in [0, 1] that the loaders subtract"""
    std: tuple[float, ...]
    """per-channel standard deviation in [0, 1] that they divide by"""
    center: float = 0.875
    """share of the resized short side that the evaluation view keeps"""
    classes: str = ""
    """digest of the class names (``ffdr.models.build.class_digest``)"""
    fingerprint: str = ""
    """of the images"""
    lessons: str = ""
    """what is learned of them: the reinforcement, the policy, the live teacher"""


def identity(options: TrainOptions, model: ModelOptions, data: DataInfo, loader: BatchLoader) -> dict[str, Any]:
    """By option name; a checkpoint with anything else is refused."""
    found = {f"train.{key}": value for key, value in asdict(options).items() if key not in _FREE}
    found |= {f"model.{key}": value for key, value in asdict(model).items()}
    found |= {f"data.{key}": value for key, value in asdict(data).items()}
    return found | {"data.num_classes": loader.num_classes, "data.batches": len(loader)}


def check(
    options: TrainOptions,
    model: ModelOptions,
    loader: BatchLoader,
    val_loader: BatchLoader | None,
    device: torch.device,
) -> None:
    """Raise UserError before any slow work for what can't go together."""
    if val_loader is not None and val_loader.num_classes != loader.num_classes:
        raise UserError(f"data.val: {val_loader.num_classes} classes, but data.train has {loader.num_classes}")
    if options.sync_batchnorm and device.type != "cuda":
        raise UserError("train.sync_batchnorm: needs GPUs; leave it out on a CPU")
    for key in ("eval_resolution", "min_resolution"):
        size = getattr(options, key)
        if size not in (0, options.resolution) and timm.is_model(model.name) and fixed_size(model.name):
            raise UserError(
                f"train.{key}: {model.name} takes images of one size only, so {size} must be "
                f"train.resolution={options.resolution}"
            )


def check_policy(policy: Policy, reinforced: ReinforcedBeton) -> None:
    """Raise UserError for a policy that was set and is not what the stored views, which alone are shown, are of."""
    stored, given, drawn = reinforced.header.policy, [], []
    for field in fields(policy):
        mine, theirs = getattr(policy, field.name), stored.get(field.name, field.default)
        theirs = tuple(theirs) if isinstance(theirs, list) else theirs
        if mine not in (field.default, theirs):
            given.append(f"policy.{field.name}={_spelled(mine)}")
            drawn.append(f"--policy.{field.name}={_spelled(theirs)}")
    if given:
        raise UserError(
            f"{', '.join(given)}: task dr shows the stored views, and those of {reinforced.path} were drawn with "
            f"{' '.join(drawn)}; write that or leave it out, or draw some anew with train.reinforced_share below 1"
        )


def _spelled(value: Any) -> str:
    """As a flag has it, to the last digit."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
