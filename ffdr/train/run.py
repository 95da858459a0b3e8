"""``ffdr train``: from a recipe to a trained model in the run's folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import torch

from ffdr.augment.policy import Policy
from ffdr.beton.partial import write_aside
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.errors import UserError
from ffdr.evaluate.evaluator import center_share
from ffdr.loader import ReinforcedLoader
from ffdr.models import autocast_dtype, check_name, class_digest
from ffdr.options import DataOptions, TrainRecipe
from ffdr.ranks import Ranks
from ffdr.reinforce import agreement
from ffdr.reinforce.labelling import Views
from ffdr.reinforce.teacher import Teacher
from ffdr.train.fit import DataInfo, Trainer
from ffdr.train.plan import dry_run

_VIEWS_ASKED = 64
"""Of the first epoch, about which a live teacher is asked before training: whether it agrees with the labels at all."""


def run(recipe: TrainRecipe, progress: bool | None = None) -> dict[str, Any]:
    """Train; returns the last epoch's log record. The recipe, as resolved, is kept as ``recipe.json``.

    Under torchrun every rank runs this; they train one model together.

    Raises:
        UserError: files or options that don't fit together, before training starts; a loss that is not finite.
        Stopped: a signal asked for it; a checkpoint is saved.
    """
    check_name(recipe.model.name)
    with Ranks.join(gpus=True) as ranks:
        if recipe.train.dry_run:
            if ranks.rank == 0:
                dry_run(recipe)
            return {}
        trainer = build_trainer(recipe, progress, ranks)
        if ranks.rank == 0:
            trainer.out.mkdir(parents=True, exist_ok=True)
            write_aside(trainer.out / "recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")
        return trainer.fit()


def build_trainer(recipe: TrainRecipe, progress: bool | None = None, ranks: Ranks | None = None) -> Trainer:
    """Open the data, load the teacher, build the model."""
    train, data, ranks = recipe.train, recipe.data, ranks or Ranks()
    if train.batch_size % ranks.size:
        raise UserError(f"train.batch_size: {train.batch_size} images can't be shared evenly by {ranks.size} ranks")
    device = ranks.device()
    images = ImageBeton.open(data.train)
    reinforced = _reinforced(data, images) if train.task == "dr" else None
    normalisation = {"mean": data.mean or images.mean, "std": data.std or images.std}
    draws = reinforced is None or train.reinforced_share < 1
    loader = ReinforcedLoader(
        images,
        reinforced,
        policy=recipe.policy if draws else None,
        reinforced_share=train.reinforced_share,
        batch_size=train.batch_size // ranks.size,
        resolution=train.resolution,
        seed=train.seed,
        device=device,
        dtype=torch.uint8 if device.type == "cuda" else torch.float32,  # a GPU's step normalises in its own graph
        workers=ranks.threads(data.workers),
        order=data.order,
        os_cache=data.os_cache,
        **normalisation,
    )
    teacher = _teacher(recipe, images, loader, device, ranks) if train.task == "kd" else None
    info = DataInfo(
        **normalisation,
        center=data.center,
        classes=class_digest(images.class_names),
        fingerprint=images.fingerprint,
        lessons=_lessons(recipe.policy if draws else None, reinforced, teacher),
    )
    val_loader = _val_loader(recipe, images, device, ranks, normalisation) if data.val else None
    return Trainer(train, recipe.model, info, loader, val_loader, teacher, device, progress, ranks)


def _teacher(
    recipe: TrainRecipe, images: ImageBeton, loader: ReinforcedLoader, device: torch.device, ranks: Ranks
) -> Teacher:
    """The live teacher, which is asked about a part of a batch at a time: compiled, it would fill up a smaller one."""
    train, options = recipe.train, recipe.teacher
    if device.type == "cuda":  # on a CPU earlier runs are told apart by the size that the recipe has
        part = -(-train.batch_size // (ranks.size * train.accumulate))
        options = replace(options, batch_size=min(options.batch_size, part))
    teacher = Teacher.from_options(options, images.num_classes, device, train.epochs * len(loader), images)
    if ranks.rank == 0 and train.teacher_weight > 0:
        threads = ranks.threads(recipe.data.workers)
        views = Views(images, recipe.policy, train.seed, (train.resolution,), threads)
        agreement.warn(views.answers(teacher, _VIEWS_ASKED))
    return teacher


def _reinforced(data: DataOptions, images: ImageBeton) -> ReinforcedBeton:
    """What task dr learns from: a file of its own, or the reinforcement packed with the images."""
    if not data.reinforced and "aug_params" not in images.field_names:
        raise UserError(
            f"data.reinforced: task dr learns from a reinforced beton; give its path, or pack it with {images.path}, "
            "which holds none"
        )
    return ReinforcedBeton.open(data.reinforced or images.path, images)


def _val_loader(
    recipe: TrainRecipe,
    images: ImageBeton,
    device: torch.device,
    ranks: Ranks,
    normalisation: dict[str, tuple[float, ...]],
) -> ReinforcedLoader:
    train, data = recipe.train, recipe.data
    val = ImageBeton.open(data.val)
    if val.class_names != images.class_names:
        raise UserError(
            f"data.val: the classes of {val.path} ({val.num_classes}) are not those of {images.path} "
            f"({images.num_classes})"
        )
    resolution = train.eval_resolution or train.resolution
    return ReinforcedLoader(
        val,
        batch_size=train.batch_size // ranks.size,
        resolution=resolution,
        center=center_share(resolution, data.center),
        device=device,
        dtype=(autocast_dtype(train.precision, device) if device.type == "cuda" else None) or torch.float32,
        workers=ranks.threads(data.workers),
        **normalisation,
    )


def _lessons(policy: Policy | None, reinforced: ReinforcedBeton | None, teacher: Teacher | None) -> str:
    """Stands for all that is learned beside the images' labels, in words as far as they help to tell two apart."""
    parts = []
    if reinforced is not None:
        header = reinforced.header
        parts.append(f"{header.views} views of top-{header.topk} ({_digest(header.pack().hex())})")
    if policy is not None:
        parts.append(f"policy {_digest(repr(policy))}")
    if teacher is not None:
        parts.append(f"teacher {_digest(teacher.identity())}")
    return ", ".join(parts)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
