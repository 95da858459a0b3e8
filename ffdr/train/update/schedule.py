"""The learning rate by step: a linear warm-up, then a schedule of timm's; or one that watches the validation."""

from __future__ import annotations

from typing import Any

import torch
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ffdr.config.training import TrainOptions

_BY_EPOCH = ("step", "multistep")
"""Schedules whose decays stand at epochs of the run, so that the warm-up lies over them instead of before."""


def build_schedule(options: TrainOptions, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Scheduler:
    """Linear warm-up from ``train.warmup_lr``, or lr / warm-up steps, to lr; then as ``train.scheduler`` says.

    The schedules that end in ``train.min_lr`` would reach it one step after the last. ``schedule.step_update(step)``
    sets the rate of that step, counted from 0; but for plateau it depends on nothing else, so a resumed run needs no
    state of it.
    """
    warmup = round(options.warmup_epochs * steps_per_epoch)
    warmup_lr = options.warmup_lr or options.lr / max(1, warmup)
    if options.scheduler == "plateau":
        return PlateauSchedule(options, optimizer, warmup, warmup_lr)
    behind = options.scheduler not in _BY_EPOCH
    rest = options.epochs * steps_per_epoch - warmup
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="poly" if options.scheduler == "linear" else options.scheduler,
        num_epochs=max(2, rest),  # the one or no step that is left has the full rate either way
        decay_epochs=max(1, round(options.decay_epochs * steps_per_epoch)),
        decay_milestones=[round(mark * steps_per_epoch) for mark in options.decay_milestones],
        decay_rate={"linear": 1.0, "poly": options.power}.get(options.scheduler, options.decay_rate),  # or the exponent
        min_lr=options.min_lr,
        warmup_lr=warmup_lr,
        warmup_epochs=warmup,
        warmup_prefix=behind,
        step_on_epochs=False,
        updates_per_epoch=1,  # all of the above in steps
    )
    return schedule


def peak_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate without ``train.layer_decay``'s factors, though all that train may have one."""
    scale, rate = max((group.get("lr_scale", 1.0), group["lr"]) for group in optimizer.param_groups)
    return rate / scale


class PlateauSchedule(Scheduler):
    """The rate falls by ``train.decay_rate`` when validations bring nothing better for ``train.patience_epochs``.

    torch's ``ReduceLROnPlateau`` behind a warm-up by step; timm's scheduler of that name, which wraps the same, keeps
    too little for a run to go on with the same bits. As there, validations within the warm-up don't count.
    """

    def __init__(self, options: TrainOptions, optimizer: torch.optim.Optimizer, warmup: int, warmup_lr: float) -> None:
        """warmup: steps, from the rate ``warmup_lr`` on."""
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self._warmup, self._warmup_lr, self._warmup_epochs = warmup, warmup_lr, options.warmup_epochs
        self._plateau = ReduceLROnPlateau(
            optimizer,
            mode="max",
            factor=options.decay_rate,
            patience=options.patience_epochs // options.eval_every,  # it counts validations
            min_lr=[options.min_lr * group.get("lr_scale", 1.0) for group in optimizer.param_groups],
        )
        self._seen = 0

    def _get_lr(self, t: int) -> list[float]:
        return [self._warmup_lr + t * ((value - self._warmup_lr) / self._warmup) for value in self.base_values]

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """Set the rate of a step of the warm-up, or of the first one behind it; later it stays as ``observe`` left it,
        in the optimiser's state."""
        if num_updates < self._warmup:
            self.update_groups(self._get_lr(num_updates))
        elif num_updates == self._warmup:
            self.update_groups(self.base_values)

    def observe(self, epoch: int, top1: float) -> None:
        """Take in the validation after an epoch, counted from 1; one that was seen before changes nothing."""
        if epoch > self._seen:
            self._seen = epoch
            if epoch > self._warmup_epochs:
                self._plateau.step(top1)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the optimiser's state."""
        return {"seen": self._seen, "best": float(self._plateau.best), "bad": self._plateau.num_bad_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state. Raises LookupError, TypeError or ValueError for what is none."""
        self._seen, self._plateau.num_bad_epochs = int(state_dict["seen"]), int(state_dict["bad"])
        self._plateau.best = float(state_dict["best"])
