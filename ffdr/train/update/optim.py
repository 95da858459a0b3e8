"""Optimisers, by timm, and the resolution by epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from ffdr.config.optimizers import chosen_options, optimizer_facts
from ffdr.config.training import TrainOptions
from ffdr.util.errors import UserError
from ffdr.util.text import reason

_FUSED = ("sgd", "nesterov", "momentum", "adam", "adamw")
"""torch's own, which have a fused kernel on CPUs and GPUs."""

_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What timm's optimisers raise for values that they can't take."""


def build_optimizer(options: TrainOptions, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """What ``train.optimizer`` names, for the parameters of the model that train.

    Weights of fewer than two dimensions do not decay unless ``train.decay_norms`` says so; what a timm model itself
    exempts (a ViT's position embedding) does not either way. Updates run as one fused kernel where torch has it for the
    optimiser and the device.

    Raises:
        UserError: what ``check_optimizer`` refuses; ``train.layer_decay`` for a model whose layers timm can't tell.
    """
    extra = _arguments(options)
    if options.optimizer in _FUSED:
        extra["fused"] = has_fused(device)
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=options.optimizer,
            lr=options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            filter_bias_and_bn=not options.decay_norms,
            layer_decay=options.layer_decay or None,
            **extra,
        )
    except _REFUSALS as error:
        raise UserError(_refusal(options, error)) from error
    scales = {group.get("lr_scale", 1.0) for group in optimizer.param_groups}
    if 0 < options.layer_decay < 1 and scales == {1.0}:
        raise UserError(
            "train.layer_decay: all that trains is one layer, as far as timm can tell (the model has no "
            "group_matcher, or only its head trains); leave it out"
        )
    return optimizer


def check_optimizer(options: TrainOptions) -> None:
    """See that the optimiser exists and can be made as the options say, and takes a step; needs no model.

    Raises:
        UserError: timm has no such optimiser; an option that it has not, or a value that it can't take.
    """
    if options.optimizer in ("sgd", "adamw") and not (options.betas or options.optimizer_options):
        _arguments(options)
        return
    toy = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 8))
    with torch.random.fork_rng([]), torch.compiler.set_stance("force_eager"):
        optimizer = build_optimizer(replace(options, layer_decay=0.0), toy, torch.device("cpu"))
        toy(torch.ones(2, 3, 3, 3)).sum().backward()
        try:
            optimizer.step()
        except _REFUSALS as error:
            raise UserError(_refusal(options, error)) from error


def _refusal(options: TrainOptions, error: Exception) -> str:
    return f"train.optimizer: {options.optimizer} can't work as its options say ({reason(error)})"


def _arguments(options: TrainOptions) -> dict[str, Any]:
    """Arguments of the optimiser besides those that all have.

    Raises:
        UserError: it has no such argument.
    """
    facts = optimizer_facts(options.optimizer)
    extra = chosen_options(facts, options.optimizer_options)
    if options.betas:
        if len(options.betas) != facts.num_betas:
            has = f"{facts.num_betas} betas" if facts.num_betas else "no betas"
            raise UserError(f"train.betas: {len(options.betas)} are given, but {facts.name} has {has}")
        extra["betas"] = options.betas
    if options.eps > 0:
        if not facts.has_eps:
            raise UserError(f"train.eps: {facts.name} has no epsilon; leave it out")
        extra["eps"] = options.eps
    if not options.nesterov and facts.nesterov is None:
        raise UserError(f"train.nesterov: {facts.name} has no such switch; leave it out")
    if facts.nesterov:  # without momentum there is none; torch refuses both
        extra["nesterov"] = options.nesterov and (options.momentum > 0 or not facts.has_momentum)
    if facts.deterministic:  # else it draws from torch's generator, which each rank seeds by its number
        extra["deterministic"] = True
    if isinstance(extra.get("fallback_list"), str):
        extra["fallback_list"] = [extra["fallback_list"]]
    return extra


def has_fused(device: torch.device) -> bool:
    """Whether torch has fused SGD, Adam and AdamW kernels for the device."""
    return device.type in ("cuda", "cpu")


def skips_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step leaves weights and state alone where ``found_inf``, a flag on the device, is up."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def resolution_at(options: TrainOptions, epoch: int) -> int:
    """Side of the training views in an epoch, pixels: from ``min_resolution`` to ``resolution`` over ``ramp``.

    Linear in between, in multiples of 32 pixels (progressive resizing, as in ffcv-imagenet).
    """
    low, high = options.min_resolution or options.resolution, options.resolution
    begin, end = (share * options.epochs for share in options.ramp)
    if epoch <= begin or epoch >= end:
        return low if epoch <= begin else high
    return min(high, max(low, 32 * round((low + (high - low) * (epoch - begin) / (end - begin)) / 32)))
