"""``ffdr train``: from a recipe to a trained model in the run's folder."""

from __future__ import annotations

import hashlib
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ffdr.augment.policy import Policy
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.errors import UserError
from ffdr.evaluate.evaluator import center_share
from ffdr.loader import ReinforcedLoader
from ffdr.models import autocast_dtype, check_name, class_digest
from ffdr.options import DataOptions, TrainRecipe
from ffdr.options.idle import idle_options
from ffdr.ranks import Ranks
from ffdr.reinforce.teacher import Teacher
from ffdr.train.fit import DataInfo, Trainer
from ffdr.train.identity import check_policy
from ffdr.train.plan import dry_run
from ffdr.train.step import bad_teacher


def run(recipe: TrainRecipe, progress: bool | None = None) -> dict[str, Any]:
    """Train; returns the last epoch's log record. The recipe, as resolved, is kept as ``recipe.json``.

    Under torchrun every rank runs this; they train one model together.

    Raises:
        UserError: files or options that don't fit together, before training starts; a loss that is not finite.
        Stopped: a signal asked for it; a checkpoint is saved.
    """
    check_name(recipe.model.name)
    with Ranks.join(gpus=True) as ranks:
        if ranks.rank == 0:
            for line in idle_options(recipe):
                print(line, file=sys.stderr)
        if recipe.train.dry_run:
            if ranks.rank == 0:
                dry_run(recipe)
            return {}
        trainer = build_trainer(recipe, progress, ranks)
        record = trainer.fit(asdict(recipe))
        if ranks.rank == 0 and progress is not False:
            print(closing_line(recipe, record, trainer.finished))
        return record


def closing_line(recipe: TrainRecipe, record: dict[str, Any], finished: bool) -> str:
    """What a run has made, where, how good it is, and what comes next. finished: it had been made before."""
    train = recipe.train
    model = str(Path(train.out) / "model.safetensors")
    score = f", top-1 {100 * record['val_top1']:.1f} %" if "val_top1" in record else ""
    command = ["ffdr", "eval", f"--eval.checkpoint={model}", f"--eval.data={recipe.data.val or 'IMAGES.beton'}"]
    if train.flip_average:
        command.append("--eval.flip_average=1")
    made = f"{model}: {recipe.model.name}, {record['epoch']} epochs{score}; next: {shlex.join(command)}"
    return f"{train.out}: already trained to epoch {record['epoch']}; {made}" if finished else made


def build_trainer(recipe: TrainRecipe, progress: bool | None = None, ranks: Ranks | None = None) -> Trainer:
    """Open the data, load the teacher, build the model."""
    train, data, ranks = recipe.train, recipe.data, ranks or Ranks()
    if train.batch_size % ranks.size:
        raise UserError(f"train.batch_size: {train.batch_size} images can't be shared evenly by {ranks.size} ranks")
    device = ranks.device()
    images = ImageBeton.open(data.train)
    reinforced = _reinforced(data, images) if train.task == "dr" else None
    if reinforced is not None and train.reinforced_share == 1:
        check_policy(recipe.policy, reinforced)
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
    teacher = _teacher(recipe, loader, device, ranks) if train.task == "kd" else None
    info = DataInfo(
        **normalisation,
        center=data.center,
        classes=class_digest(images.class_names),
        fingerprint=images.fingerprint,
        lessons=_lessons(recipe.policy if draws else None, reinforced, teacher),
    )
    val_loader = _val_loader(recipe, images, device, ranks, normalisation) if data.val else None
    return Trainer(train, recipe.model, info, loader, val_loader, teacher, device, progress, ranks)


def _teacher(recipe: TrainRecipe, loader: ReinforcedLoader, device: torch.device, ranks: Ranks) -> Teacher:
    """The live teacher, which is asked about a part of a batch at a time: compiled, it would fill up a smaller one."""
    train, options = recipe.train, recipe.teacher
    if device.type == "cuda":  # on a CPU earlier runs are told apart by the size that the recipe has
        part = -(-train.batch_size // (ranks.size * train.accumulate))
        options = replace(options, batch_size=min(options.batch_size, part))
    teacher = Teacher.from_options(options, loader.num_classes, device, batches=train.epochs * len(loader))
    _try(teacher, train.resolution)
    return teacher


def _try(teacher: Teacher, resolution: int) -> None:
    """Raise UserError now, not at the first batch, if the teacher can't answer, or not in numbers."""
    names = ", ".join(teacher.names)
    try:
        answer = teacher.log_probs(torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8))
    except UserError:
        raise
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        sizes = ", ".join(sorted({str(member.resolution or resolution) for member in teacher.members}))
        raise UserError(f"teacher.resolution: {names} can't take images of {sizes} px ({cause})") from error
    if not bool(answer.isfinite().all()):
        raise UserError(bad_teacher(teacher.names, "on a black image"))


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
