"""Options of a training run that were set and do nothing in it: none is ignored in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ffdr.augment.policy import Policy
from ffdr.config.optimizers import has_momentum
from ffdr.config.training import TrainOptions
from ffdr.config.verbs import TrainRecipe

_OF_SCHEDULERS = {
    "decay_epochs": ("step",),
    "decay_milestones": ("multistep",),
    "decay_rate": ("step", "multistep", "plateau"),
    "patience_epochs": ("plateau",),
    "power": ("poly",),
    "min_lr": ("cosine", "linear", "poly", "tanh", "plateau"),
}
"""Options of the learning rate, and the schedulers that heed them."""
Idle = Iterator[tuple[str, Any, tuple[str, ...], str]]
"""section, its options, the names of those that do nothing, why"""


def idle_options(recipe: TrainRecipe) -> list[str]:
    """A line for each option that differs from its default and does nothing in this run."""
    return _lines(_of_training(recipe))


def idle_policy(policy: Policy) -> list[str]:
    """The same of a policy that views are drawn from."""
    return _lines(_of_policy(policy))


def _lines(found: Idle) -> list[str]:
    return [
        f"{section}.{name} does nothing here: {why}"
        for section, options, names, why in found
        for name in names
        if is_set(options, name)
    ]


def is_set(options: Any, name: str) -> bool:
    """Whether an option is another than its default."""
    return getattr(options, name) != next(field.default for field in fields(options) if field.name == name)


def _of_training(recipe: TrainRecipe) -> Idle:
    train, task, weight = recipe.train, recipe.train.task, recipe.train.teacher_weight
    yield from _of_rates(train)
    if train.min_resolution in (0, train.resolution):
        yield (
            "train",
            train,
            ("ramp",),
            "views grow from a train.min_resolution below train.resolution, which is not given",
        )
    if not {"wandb", "trackio"} & {*train.trackers}:
        yield "train", train, ("project",), "wandb and trackio file runs under it, and train.trackers has neither"
    if task != "dr":
        yield "train", train, ("residual",), f"task {task} learns from no stored top-k"
    if task != "kd":
        names = ("resolution", "batch_size", "precision", "compile", "classes", "module", "options")
        yield "teacher", recipe.teacher, names, f"task {task} asks no live teacher"
    if task == "kd" and weight == 1:
        yield "train", train, ("label_smoothing",), "train.teacher_weight=1 gives labels no part in the loss"
    if task != "erm" and weight == 0:
        why = "train.teacher_weight=0 gives the teacher no part in the loss"
        yield "train", train, ("temperature", *(["residual"] if task == "dr" else [])), why
        yield "teacher", recipe.teacher, ("models",), why
    if not train.bce_loss:
        yield "train", train, ("bce_sum", "bce_target_thresh"), "train.bce_loss is off"
    if task == "dr" and train.reinforced_share == 0:
        yield "data", recipe.data, ("reinforced",), "train.reinforced_share=0 shows no stored view"
    if task != "dr" or train.reinforced_share < 1:
        yield from _of_policy(recipe.policy)


def _of_rates(train: TrainOptions) -> Idle:
    if not has_momentum(train.optimizer):
        yield "train", train, ("momentum",), f"it is sgd's and others', and {train.optimizer} has none"
    if train.weight_decay == 0:
        yield "train", train, ("decay_norms",), "train.weight_decay is 0"
    if train.layer_decay == 1:
        yield "train", train, ("layer_decay",), "a factor of 1 leaves every layer the same rate"
    if train.warmup_epochs == 0:
        yield "train", train, ("warmup_lr",), "train.warmup_epochs is 0"
    for name, schedulers in _OF_SCHEDULERS.items():
        if train.scheduler not in schedulers:
            why = f"it is for {' and '.join(schedulers)}, and train.scheduler is {train.scheduler}"
            yield "train", train, (name,), why
    if train.linear_probe:
        yield "train", train, ("grad_checkpointing",), "a linear probe keeps no activations below the head"


def _of_policy(policy: Policy) -> Idle:
    for crop, names in (("resized", ("scale", "ratio")), ("padded", ("padding",))):
        if policy.crop != crop:
            yield "policy", policy, names, f"it is of crop {crop}, and policy.crop is {policy.crop}"
    if policy.randaugment == 0:
        yield "policy", policy, ("augment", "ops", "magnitude", "bins"), "policy.randaugment is 0"
    elif policy.ops == 0:
        yield "policy", policy, ("magnitude", "bins"), "policy.ops is 0"
    if policy.erase == 0:
        yield "policy", policy, ("erase_scale", "erase_ratio"), "policy.erase is 0"
    if not any(policy.color_jitter):
        yield "policy", policy, ("color_jitter_prob",), "policy.color_jitter, its strengths, is 0"
    elif policy.color_jitter_prob == 0:
        yield "policy", policy, ("color_jitter",), "policy.color_jitter_prob is 0"
    has_three = policy.augment == "three_augment" and policy.randaugment > 0
    for effect, name in (("blur", "blur_sigma"), ("solarize", "solarize_threshold")):
        if getattr(policy, effect) == 0 and not has_three:
            yield "policy", policy, (name,), f"policy.{effect}, its probability, is 0"
    for mix in ("mixup", "cutmix"):
        if getattr(policy, mix) == 0:
            yield "policy", policy, (f"{mix}_alpha",), f"policy.{mix}, its probability, is 0"
        elif getattr(policy, f"{mix}_alpha") == 0:
            yield "policy", policy, (mix,), f"policy.{mix}_alpha is 0"
