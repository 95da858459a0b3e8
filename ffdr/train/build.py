"""From a recipe to a trainer: open the data, build the loaders, the teacher and the model, and put them together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.training import TrainOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.evaluate.evaluator import center_share
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import autocast_dtype, class_digest
from ffdr.reinforce import agreement
from ffdr.reinforce.function_members import function_members
from ffdr.reinforce.functions import FunctionTeacher
from ffdr.reinforce.sampling import ViewSampler
from ffdr.reinforce.teacher import Teacher
from ffdr.train.fit import Trainer
from ffdr.train.identity import DataInfo, Normalisation
from ffdr.train.student import build_student
from ffdr.train.update.step import bad_teacher
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.ranks import Ranks
from ffdr.util.text import reason

_AGREEMENT_VIEWS = 64
"""Views of the first epoch on which a live teacher is compared with the labels before training."""


@dataclass(frozen=True)
class TrainingData:
    """What is trained on, opened."""

    images: ImageBeton
    reinforced: ReinforcedBeton | None
    """None: no task dr"""
    policy: Policy | None
    """what views are drawn from; None: all views are stored ones"""
    normalisation: Normalisation
    """of the loaders"""


def build_trainer(
    recipe: TrainRecipe,
    progress: bool | None = None,
    ranks: Ranks | None = None,
    model: nn.Module | None = None,
    functions: Sequence[FunctionTeacher] = (),
    callbacks: Sequence[Any] = (),
) -> Trainer:
    """Everything that a recipe describes, ready for ``Trainer.fit``; writes nothing.

    model: to be trained as it is, in place of one that is built; all ranks begin with the weights of the first.
    functions: teachers for which ``teacher.models`` has labels.
    callbacks: see ``ffdr.train.tracking.callbacks``.

    Raises:
        UserError: files or options that don't fit together.
    """
    train, ranks = recipe.train, ranks or Ranks()
    if train.batch_size % ranks.size:
        raise UserError(f"train.batch_size: {train.batch_size} images can't be shared evenly by {ranks.size} ranks")
    if train.batch_size // ranks.size % train.views_per_image:
        raise UserError(
            f"train.batch_size: {train.batch_size // ranks.size} on each of {ranks.size} ranks is no multiple of "
            f"train.views_per_image={train.views_per_image}"
        )
    device = ranks.device()
    data = open_data(recipe)
    loader = build_loader(recipe, data, device, ranks)
    val_loader = build_val_loader(recipe, data, device, ranks) if recipe.data.val else None
    teacher = build_teacher(recipe, data.images, len(loader), device, ranks, functions)
    if model is not None:
        check_apart(model, functions)
    student = build_student(train, recipe.model, loader.num_classes, device, model)
    if model is not None:
        ranks.share_first(student.model.state_dict().values())
    described = describe(recipe, data, teacher)
    return Trainer(train, student, described, loader, val_loader, teacher, progress, ranks, callbacks)


def open_data(recipe: TrainRecipe) -> TrainingData:
    """Open the training images and, for task dr, their reinforcement: a file of its own, or merged with the images.

    Raises:
        UserError: files that can't be opened or don't belong together; task dr without a reinforcement; a policy that
            was set but is not what the stored views, which alone are shown, were drawn from.
    """
    train, data = recipe.train, recipe.data
    images = ImageBeton.open(data.train)
    reinforced = None
    if train.task == "dr":
        if not data.reinforced and "aug_params" not in images.field_names:
            raise UserError(
                f"data.reinforced: task dr learns from a reinforced beton; give its path, or pack it with "
                f"{images.path}, which holds none"
            )
        reinforced = ReinforcedBeton.open(data.reinforced or images.path, images)
        check_views_per_image(train, reinforced)
    only_stored = train.task == "dr" and train.reinforced_share == 1
    if only_stored and reinforced is not None:
        check_policy(recipe.policy, reinforced)
    normalisation = Normalisation(data.mean or images.mean, data.std or images.std)
    return TrainingData(images, reinforced, None if only_stored else recipe.policy, normalisation)


def check_views_per_image(train: TrainOptions, reinforced: ReinforcedBeton) -> None:
    """Raise UserError where a batch would show a stored view twice."""
    asked, stored = train.views_per_image, reinforced.header.views
    if asked > stored:
        raise UserError(
            f"train.views_per_image: {asked}, but {reinforced.path} has {stored} views per image, and a batch should "
            f"show none twice; at most {stored}"
        )


def check_policy(policy: Policy, reinforced: ReinforcedBeton) -> None:
    """Raise UserError for a policy that was set and is not what the stored views, which alone are shown, are of."""
    stored, given, drawn = reinforced.header.policy, [], []
    for field in fields(policy):
        mine, theirs = getattr(policy, field.name), stored.get(field.name, field.default)
        theirs = tuple(theirs) if isinstance(theirs, list) else theirs
        if mine not in (field.default, theirs):
            given.append(f"policy.{field.name}={_as_flag(mine)}")
            drawn.append(f"--policy.{field.name}={_as_flag(theirs)}")
    if given:
        raise UserError(
            f"{', '.join(given)}: task dr shows the stored views, and those of {reinforced.path} were drawn with "
            f"{' '.join(drawn)}; write that or leave it out, or draw some anew with train.reinforced_share below 1"
        )


def _as_flag(value: Any) -> str:
    """As a flag has it, to the last digit."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def build_loader(recipe: TrainRecipe, data: TrainingData, device: torch.device, ranks: Ranks) -> ReinforcedLoader:
    """Views to learn from. On a GPU their pixels are uint8: the step normalises them in its own graph."""
    train = recipe.train
    return ReinforcedLoader(
        data.images,
        data.reinforced,
        policy=data.policy,
        reinforced_share=train.reinforced_share,
        batch_size=train.batch_size // ranks.size,
        resolution=train.resolution,
        resolutions=train.resolutions,
        views_per_image=train.views_per_image,
        mean=data.normalisation.mean,
        std=data.normalisation.std,
        seed=train.seed,
        device=device,
        dtype=torch.uint8 if device.type == "cuda" else torch.float32,
        workers=ranks.threads(recipe.data.workers),
        rank=ranks.rank,
        world_size=ranks.size,
        order=recipe.data.order,
        drop_last=train.drop_last,
        os_cache=recipe.data.os_cache,
    )


def build_val_loader(recipe: TrainRecipe, data: TrainingData, device: torch.device, ranks: Ranks) -> ReinforcedLoader:
    """The evaluation views of ``data.val``.

    Raises:
        UserError: its classes are not those of the training images.
    """
    train, images = recipe.train, data.images
    val = ImageBeton.open(recipe.data.val)
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
        center=center_share(resolution, recipe.data.center),
        mean=data.normalisation.mean,
        std=data.normalisation.std,
        device=device,
        dtype=(autocast_dtype(train.precision, device) if device.type == "cuda" else None) or torch.float32,
        workers=ranks.threads(recipe.data.workers),
        rank=ranks.rank,
        world_size=ranks.size,
    )


def build_teacher(
    recipe: TrainRecipe,
    images: ImageBeton,
    batches: int,
    device: torch.device,
    ranks: Ranks,
    functions: Sequence[FunctionTeacher] = (),
) -> Teacher | None:
    """The live teacher, loaded and tried; None for tasks without one. batches: per epoch.

    It labels as many views at a time as go through the student: compiled, it would fill up a smaller batch. One that
    hardly agrees with the labels is warned about.

    Raises:
        UserError: weights that can't be had or give no finite outputs, other classes, images that it can't take.
    """
    train, options = recipe.train, recipe.teacher
    if train.task != "kd":
        return None
    if device.type == "cuda":  # on a CPU the recipe's batch size is part of what identifies earlier runs
        part = -(-train.batch_size // (ranks.size * train.accumulate))
        options = replace(options, batch_size=min(options.batch_size, part))
    sides = train.resolutions or (train.resolution,)
    members = function_members(functions, options, images, device, max(sides))
    teacher = Teacher.from_options(options, images.num_classes, device, train.epochs * batches, images, members)
    for side in sides:
        _try_teacher(teacher, side)
    if ranks.rank == 0 and train.teacher_weight > 0:
        threads = ranks.threads(recipe.data.workers)
        sampler = ViewSampler(images, recipe.policy, train.seed, (max(sides),), threads)
        agreement.warn(sampler.predictions(teacher, _AGREEMENT_VIEWS))
    return teacher


def check_apart(model: nn.Module, functions: Sequence[FunctionTeacher]) -> None:
    """Raise UserError for a teacher that would learn along with the student, whose parameters are its own."""
    learned = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for function in functions:
        if isinstance(function.predict, nn.Module) and learned & set(map(id, function.predict.parameters())):
            raise UserError(
                f"teacher: {function.name} has parameters of the model that is trained, and would change with it; give "
                "a copy (copy.deepcopy)"
            )


def _try_teacher(teacher: Teacher, resolution: int) -> None:
    """Raise UserError now, not at the first batch, if the teacher can't take the images or gives no finite outputs."""
    try:
        outputs = teacher.log_probs(torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8))
    except UserError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        cause = reason(error)
        sizes = ", ".join(sorted({str(member.resolution or resolution) for member in teacher.members}))
        names = ", ".join(teacher.names)
        raise UserError(f"teacher.resolution: {names} can't take images of {sizes} px ({cause})") from error
    if not bool(outputs.isfinite().all()):
        raise UserError(bad_teacher(teacher.names, "on a black image"))


def describe(recipe: TrainRecipe, data: TrainingData, teacher: Teacher | None) -> DataInfo:
    """What the trainer must know of the data beyond its batches."""
    return DataInfo(
        *data.normalisation,
        center=recipe.data.center,
        classes=class_digest(data.images.class_names),
        fingerprint=data.images.fingerprint,
        supervision=supervision_id(data.policy, data.reinforced, teacher),
        class_names=data.images.class_names if data.images.manifest else (),
    )


def supervision_id(policy: Policy | None, reinforced: ReinforcedBeton | None, teacher: Teacher | None) -> str:
    """Identifies all that is learned beside the images' labels, readable as far as that helps to find a difference."""
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
