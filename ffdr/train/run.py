"""``ffdr train``: from a recipe to a trained model in the run's folder."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.errors import UserError
from ffdr.loader import ReinforcedLoader
from ffdr.models import check_name, class_digest
from ffdr.options import TrainRecipe
from ffdr.reinforce.teacher import Teacher
from ffdr.train.fit import DataInfo, Trainer


def run(recipe: TrainRecipe, progress: bool | None = None) -> dict[str, Any]:
    """Train; returns the last epoch's log record.

    Raises:
        UserError: files or options that don't fit together, before training starts; a loss that is not finite.
    """
    check_name(recipe.model.name)
    return build_trainer(recipe, progress).fit()


def build_trainer(recipe: TrainRecipe, progress: bool | None = None) -> Trainer:
    """Open the data, load the teacher, build the model."""
    train, data = recipe.train, recipe.data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = ImageBeton.open(data.train)
    reinforced = ReinforcedBeton.open(data.reinforced, images) if data.reinforced else None
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
        fingerprint=_fingerprint(images, reinforced),
    )
    val_loader = _val_loader(recipe, images, device, normalisation) if data.val else None
    return Trainer(train, recipe.model, info, loader, val_loader, teacher, device, progress)


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


def _fingerprint(images: ImageBeton, reinforced: ReinforcedBeton | None) -> str:
    """Stands for all that is trained on: the images and, if there is one, the reinforcement's header."""
    if reinforced is None:
        return images.fingerprint
    return hashlib.sha256(images.fingerprint.encode() + reinforced.header.pack()).hexdigest()[:32]
