"""The live teacher of a run (task kd)."""

from __future__ import annotations

from dataclasses import replace

import torch

from ffdr.beton.read import ImageBeton
from ffdr.config.verbs import TrainRecipe
from ffdr.reinforce import agreement
from ffdr.reinforce.labelling import Views
from ffdr.reinforce.teacher import Teacher
from ffdr.train.step import bad_teacher
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.ranks import Ranks
from ffdr.util.text import reason

_VIEWS_ASKED = 64
"""Of the first epoch, about which a live teacher is asked before training: whether it agrees with the labels at all."""


def live_teacher(
    recipe: TrainRecipe, images: ImageBeton, batches: int, device: torch.device, ranks: Ranks
) -> Teacher | None:
    """Loaded and tried, or None for a task without one. batches: of an epoch.

    It is asked about a part of a batch at a time: compiled, it would fill up a smaller one.
    One that hardly agrees with the labels is warned of.
    Raises UserError for weights that can't be had or don't answer in numbers, other classes, and images that it can't
    take.
    """
    train, options = recipe.train, recipe.teacher
    if train.task != "kd":
        return None
    if device.type == "cuda":  # on a CPU earlier runs are told apart by the size that the recipe has
        part = -(-train.batch_size // (ranks.size * train.accumulate))
        options = replace(options, batch_size=min(options.batch_size, part))
    teacher = Teacher.from_options(options, images.num_classes, device, train.epochs * batches, images)
    _try(teacher, train.resolution)
    if ranks.rank == 0 and train.teacher_weight > 0:
        views = Views(images, recipe.policy, train.seed, (train.resolution,), ranks.threads(recipe.data.workers))
        agreement.warn(views.answers(teacher, _VIEWS_ASKED))
    return teacher


def _try(teacher: Teacher, resolution: int) -> None:
    """Raise UserError now, not at the first batch, if the teacher can't answer, or not in numbers."""
    try:
        answer = teacher.log_probs(torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8))
    except UserError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        cause = reason(error)
        sizes = ", ".join(sorted({str(member.resolution or resolution) for member in teacher.members}))
        names = ", ".join(teacher.names)
        raise UserError(f"teacher.resolution: {names} can't take images of {sizes} px ({cause})") from error
    if not bool(answer.isfinite().all()):
        raise UserError(bad_teacher(teacher.names, "on a black image"))
