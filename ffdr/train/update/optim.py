"""Optimisers and the learning-rate schedule, by timm."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from ffdr.config.training import TrainOptions


def build_optimizer(options: TrainOptions, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """sgd (Nesterov; plain without momentum) or adamw; weights of fewer than two dimensions do not decay.

    What a timm model itself exempts (a ViT's position embedding) does not decay either. Updates run as one fused
    kernel where the device has it; the fit loop counts on that (``step.py``).
    """
    extra: dict[str, Any] = {"fused": has_fused(device)}
    if options.optimizer == "sgd":
        extra["nesterov"] = options.momentum > 0  # torch refuses Nesterov without momentum
    return create_optimizer_v2(
        model,
        opt=options.optimizer,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        **extra,
    )


def has_fused(device: torch.device) -> bool:
    """Whether torch has fused SGD and AdamW kernels for the device."""
    return device.type in ("cuda", "cpu")


def resolution_at(options: TrainOptions, epoch: int) -> int:
    """Side of the training views in an epoch, pixels: from ``min_resolution`` to ``resolution`` over ``ramp``.

    Linear in between, in multiples of 32 pixels (progressive resizing, as in ffcv-imagenet).
    """
    low, high = options.min_resolution or options.resolution, options.resolution
    begin, end = (share * options.epochs for share in options.ramp)
    if epoch <= begin or epoch >= end:
        return low if epoch <= begin else high
    return min(high, max(low, 32 * round((low + (high - low) * (epoch - begin) / (end - begin)) / 32)))


def resolutions(options: TrainOptions) -> list[int]:
    """Side of the training views of every epoch, pixels."""
    return [resolution_at(options, epoch) for epoch in range(options.epochs)]


def build_schedule(options: TrainOptions, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up from lr / warm-up steps to lr, then a cosine that would reach 0 one step after the last.

    ``schedule.step_update(step)`` sets the rate of that step, counted from 0; it depends on nothing else, so a resumed
    run needs no state of it.
    """
    total = options.epochs * steps_per_epoch
    warmup = round(options.warmup_epochs * steps_per_epoch)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(2, total - warmup),  # the one or no step that is left has the full rate either way
        warmup_t=warmup,
        warmup_lr_init=options.lr / max(1, warmup),
        warmup_prefix=True,
        t_in_epochs=False,
    )
