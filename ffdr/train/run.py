"""``ffdr train``: from a recipe to a trained model in the run's folder."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ffdr.augment.policy import Policy
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.idle import idle_options
from ffdr.config.verbs import TrainRecipe
from ffdr.models.build import check_name, class_digest
from ffdr.reinforce.teacher import Teacher
from ffdr.train.fit import DataInfo, Trainer
from ffdr.train.loaders import draws, normalisation, stored_views, training_loader, validation_loader
from ffdr.train.plan import dry_run
from ffdr.train.teaching import live_teacher
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks
from ffdr.util.text import command, say, warn


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
                warn(line)
        if recipe.train.dry_run:
            if ranks.rank == 0:
                dry_run(recipe)
            return {}
        trainer = build_trainer(recipe, progress, ranks)
        record = trainer.fit(asdict(recipe))
        if ranks.rank == 0 and progress is not False:
            say(closing_line(recipe, record, trainer.finished))
        return record


def closing_line(recipe: TrainRecipe, record: dict[str, Any], finished: bool) -> str:
    """What a run has made, where, how good it is, and what comes next. finished: it had been made before."""
    train = recipe.train
    model = str(Path(train.out) / "model.safetensors")
    score = f", top-1 {100 * record['val_top1']:.1f} %" if "val_top1" in record else ""
    flags = [f"--eval.checkpoint={model}", f"--eval.data={recipe.data.val or 'IMAGES.beton'}"]
    if train.flip_average:
        flags.append("--eval.flip_average=1")
    made = f"{model}: {recipe.model.name}, {_epochs(record['epoch'])}{score}; next: {command('eval', *flags)}"
    return f"{train.out}: already trained to epoch {record['epoch']}; {made}" if finished else made


def _epochs(count: int) -> str:
    return f"{count} epoch" + "s" * (count != 1)


def build_trainer(recipe: TrainRecipe, progress: bool | None = None, ranks: Ranks | None = None) -> Trainer:
    """Open the data, load the teacher, build the model."""
    train, data, ranks = recipe.train, recipe.data, ranks or Ranks()
    if train.batch_size % ranks.size:
        raise UserError(f"train.batch_size: {train.batch_size} images can't be shared evenly by {ranks.size} ranks")
    device = ranks.device()
    images = ImageBeton.open(data.train)
    reinforced = stored_views(recipe, images)
    loader = training_loader(recipe, images, reinforced, device, ranks)
    val_loader = validation_loader(recipe, images, device, ranks) if data.val else None
    teacher = live_teacher(recipe, images, len(loader), device, ranks)
    info = DataInfo(
        **normalisation(recipe, images),
        center=data.center,
        classes=class_digest(images.class_names),
        fingerprint=images.fingerprint,
        lessons=supervision_id(recipe.policy if draws(recipe) else None, reinforced, teacher),
    )
    return Trainer(train, recipe.model, info, loader, val_loader, teacher, device, progress, ranks)


def supervision_id(policy: Policy | None, reinforced: ReinforcedBeton | None, teacher: Teacher | None) -> str:
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
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
