"""``ffdr train``: from a recipe to a trained model in the run's folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch

from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.errors import UserError
from ffdr.loader import ReinforcedLoader
from ffdr.models import best_device, check_name, class_digest
from ffdr.options import DataOptions, TrainRecipe
from ffdr.reinforce.teacher import Teacher
from ffdr.train.fit import DataInfo, Trainer


def run(recipe: TrainRecipe, progress: bool | None = None) -> dict[str, Any]:
    """Train; returns the last epoch's log record. The recipe, as resolved, is kept as ``recipe.json``.

    Raises:
        UserError: files or options that don't fit together, before training starts; a loss that is not finite.
    """
    check_name(recipe.model.name)
    trainer = build_trainer(recipe, progress)
    trainer.out.mkdir(parents=True, exist_ok=True)
    (trainer.out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    return trainer.fit()


def build_trainer(recipe: TrainRecipe, progress: bool | None = None) -> Trainer:
    """Open the data, load the teacher, build the model."""
    train, data = recipe.train, recipe.data
    device = best_device()
    images = ImageBeton.open(data.train)
    reinforced = _reinforced(data, images) if train.task == "dr" else None
    normalisation = {"mean": data.mean or images.mean, "std": data.std or images.std}
    loader = ReinforcedLoader(
        images,
        reinforced,
        policy=None if reinforced else recipe.policy,
        batch_size=train.batch_size,
        resolution=train.resolution,
        seed=train.seed,
        device=device,
        workers=data.workers,
        order=data.order,
        os_cache=data.os_cache,
        **normalisation,
    )
    teacher = Teacher.from_options(recipe.teacher, loader.num_classes, device) if train.task == "kd" else None
    info = DataInfo(
        **normalisation,
        center=data.center,
        classes=class_digest(images.class_names),
        fingerprint=_fingerprint(recipe, images, reinforced, teacher),
    )
    val_loader = _val_loader(recipe, images, device, normalisation) if data.val else None
    return Trainer(train, recipe.model, info, loader, val_loader, teacher, device, progress)


def _reinforced(data: DataOptions, images: ImageBeton) -> ReinforcedBeton:
    """What task dr learns from: a file of its own, or the reinforcement packed with the images."""
    if not data.reinforced and "aug_params" not in images.field_names:
        raise UserError(
            f"data.reinforced: task dr learns from a reinforced beton; give its path, or pack it with {images.path}, "
            "which holds none"
        )
    return ReinforcedBeton.open(data.reinforced or images.path, images)


def _val_loader(
    recipe: TrainRecipe, images: ImageBeton, device: torch.device, normalisation: dict[str, tuple[float, ...]]
) -> ReinforcedLoader:
    train, data = recipe.train, recipe.data
    val = ImageBeton.open(data.val)
    if val.class_names != images.class_names:
        raise UserError(
            f"data.val: the classes of {val.path} ({val.num_classes}) are not those of {images.path} "
            f"({images.num_classes})"
        )
    return ReinforcedLoader(
        val,
        batch_size=train.batch_size,
        resolution=train.eval_resolution or train.resolution,
        center=data.center,
        device=device,
        workers=data.workers,
        **normalisation,
    )


def _fingerprint(
    recipe: TrainRecipe, images: ImageBeton, reinforced: ReinforcedBeton | None, teacher: Teacher | None
) -> str:
    """Stands for all that is learned from: the images and the reinforcement, or the policy and the live teacher."""
    parts = [images.fingerprint, reinforced.header.pack().hex() if reinforced else repr(recipe.policy)]
    if teacher is not None:
        parts.append(teacher.identity())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
