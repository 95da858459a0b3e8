"""One update of the weights: forward, backward, optimiser, averaging; and losses that are no number.

``Learner`` is all that is differentiated, as one module: it is compiled as one graph, and made parallel as one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ffdr.config.training import TrainOptions
from ffdr.loader.targets import SparseTargets
from ffdr.models.compiling import CUDA_GRAPHS, Compiled, train_mode
from ffdr.train.identity import Normalisation
from ffdr.train.update.freezing import kept_buffers
from ffdr.train.update.optim import build_optimizer, skips_by_itself
from ffdr.train.update.schedule import PlateauSchedule, build_schedule, peak_rate
from ffdr.train.update.tasks import Task
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks
from ffdr.util.text import warn


class Learner(nn.Module):
    """From a batch to its loss: normalisation of uint8 pixels, forward pass, loss."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        normalisation: Normalisation,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        """dtype: autocast to it; None: the model's own."""
        super().__init__()
        self.model, self.task, self.dtype = model, task, dtype
        std, mean = normalisation.std, normalisation.mean
        scale, shift = (255 * torch.tensor(tuple(values), device=device).view(1, -1, 1, 1) for values in (std, mean))
        self.register_buffer("scale", 1 / scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.run: Any = self.loss

    def compile_by(self, mode: str, alone: bool) -> None:
        """Run as one graph from now on. alone: on one rank; several share what happens in a forward pass, so none of
        them may do one more than the others."""
        self.run = Compiled(self.loss, mode, self if alone else None)

    def forward(self, *batch: torch.Tensor | None) -> torch.Tensor:
        """The mean loss, a scalar, of images (B, 3, H, W), uint8 or normalised, with the live teacher's
        log-probabilities for them or None, and the parts of their ``SparseTargets``."""
        return self.run(*batch)

    def loss(self, images: torch.Tensor, teacher_logp: torch.Tensor | None, *parts: Any) -> torch.Tensor:
        """The same, never compiled."""
        targets = SparseTargets(*parts)
        if images.dtype == torch.uint8:
            images = ((images - self.shift) * self.scale).to(self.dtype or torch.float32)
        with torch.autocast(images.device.type, self.dtype) if self.dtype else nullcontext():
            return self.task(self.model, images, targets, teacher_logp)


class Step:
    """Updates a model by batches. Nothing here waits for a GPU.

    ``count`` is the number of updates so far, by this run and the ones it resumes.
    """

    def __init__(
        self,
        options: TrainOptions,
        model: nn.Module,
        task: Task,
        steps_per_epoch: int,
        normalisation: Normalisation,
        dtype: torch.dtype | None,
        ranks: Ranks,
    ) -> None:
        """model: on its device. dtype: autocast to it; None: the model's own."""
        device = next(model.parameters()).device
        self.options, self.model, self.task = options, model, task
        self.device, self.ranks = device, ranks
        self.optimizer = build_optimizer(options, model, device)
        self.schedule = build_schedule(options, self.optimizer, steps_per_epoch)
        self.ema = AveragedWeights(model, options.ema) if options.ema > 0 else None
        scaled = dtype is torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        if scaled and not skips_by_itself(self.optimizer) and ranks.rank == 0:
            warn(f"train.precision: with float16 {options.optimizer} waits for the GPU in each step; bfloat16 does not")
        lazy = device.type != "cpu"  # flags gain nothing where reading a loss is free
        self.guard = FiniteGuard(self.optimizer, device, scaled, lazy, task.teachers)
        self._kept = kept_buffers(options, model)
        self.count = 0
        self._learner = Learner(model, task, normalisation, device, dtype)
        mode = train_mode(options.compile, device, options.epochs * steps_per_epoch)
        if mode != "off":
            self._learner.compile_by(mode, alone=ranks.size == 1)
        self._parallel = _parallel(self._learner, device) if ranks.size > 1 else None
        # A replayed CUDA graph writes the gradients of a part where those of the part before lie. Gradients of our own,
        # to which each part is added, are out of its way (pytorch#169545).
        self._own_gradients = mode in CUDA_GRAPHS and options.accumulate > 1
        if self._own_gradients:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)

    @property
    def compiled(self) -> str:
        """The mode of torch.compile that is at work; off: none, or it failed."""
        run = self._learner.run
        return run.mode if isinstance(run, Compiled) else "off"

    def __call__(self, images: torch.Tensor, targets: SparseTargets, tail: int = 0) -> torch.Tensor:
        """Learn from this rank's part of a batch; the mean loss over the whole batch, a scalar on the device.

        tail: images over all ranks of a batch that is smaller than the others, of which a rank may have fewer than
        another one, or none; 0: it is full. A tail is not compiled: one step per epoch does not repay the minute that
        its graph, or one for each size of the views, would take.
        """
        self.schedule.step_update(self.count)
        self.optimizer.zero_grad(set_to_none=not self._own_gradients)
        loss = self._backward(images, targets, tail)
        self.guard.watch(loss, self.count + 1)
        if self.options.clip_grad > 0:
            self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.count += 1
        if self.ema:
            self.ema.update(self.model, self.count)
        return loss

    @property
    def rate(self) -> float:
        """The learning rate of the last step, without ``train.layer_decay``'s factors."""
        return peak_rate(self.optimizer)

    def observe(self, epoch: int, top1: float) -> None:
        """Take in the validation after an epoch, counted from 1; the same on all ranks."""
        if isinstance(self.schedule, PlateauSchedule):
            self.schedule.observe(epoch, top1)

    def _backward(self, images: torch.Tensor, targets: SparseTargets, tail: int) -> torch.Tensor:
        """Gradients of the batch, part by part; its mean loss over all ranks."""
        total = torch.zeros((), device=self.device)
        learner = self._learner.loss if tail else self._parallel or self._learner
        # The ranks' losses and gradients are averaged: each image counts as if all ranks had equally many.
        share = tail / self.ranks.size if tail else len(images)
        slices = parts(len(images), self.options.accumulate)
        for part in slices:
            x, y = images[part], targets[part]
            teacher_logp = self.task.query_teacher(x)
            if teacher_logp is not None:
                self.guard.watch_teacher(teacher_logp)
            # Ranks average their gradients once per batch: with its last part.
            last = part is slices[-1]
            with self._parallel.no_sync() if self._parallel is not None and not last else nullcontext():
                loss = learner(x, teacher_logp, *y.parts()) * (len(x) / share)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if tail and self.ranks.size > 1:
            self._average_gradients()
        return self.ranks.mean(total)

    def _average_gradients(self) -> None:
        """Over the ranks, in step with each other whatever each of them has computed. The parallel model can't: a rank
        without an image has no backward pass, in which it would take part."""
        self.scaler.scale(torch.zeros((), device=self.device))  # has it begin, where this is a run's first step
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                # All ranks in one layout: what is averaged is memory.
                mine = torch.zeros(parameter.shape, dtype=parameter.dtype, device=self.device)
                if parameter.grad is not None:
                    mine.copy_(parameter.grad)
                parameter.grad = torch.empty_like(parameter).copy_(self.ranks.mean(mine))

    def _clip(self) -> None:
        """Scale the gradients so that their norm is at most ``train.clip_grad``."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_grad)
        if not self.scaler.is_enabled():  # a scaler looks for its scale by overflowing now and then
            self.guard.watch(norm, self.count + 1)

    def share_buffers(self) -> None:
        """Average batch statistics over the ranks, so that all have the model that is scored, stored and exported."""
        if self.ranks.size == 1:
            return
        for model in (self.model, *([self.ema.module] if self.ema else [])):
            for name, buffer in model.named_buffers():
                if buffer.is_floating_point() and name not in self._kept:
                    buffer.copy_(self.ranks.mean(buffer.clone()))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: count, weights, averaged weights, optimiser, scaler; of a schedule, what does not
        follow from the count."""
        stateful = isinstance(self.schedule, PlateauSchedule)
        return {
            "step": self.count,
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **({"schedule": self.schedule.state_dict()} if stateful else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.count = state["step"]
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if isinstance(self.schedule, PlateauSchedule):
            self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def parts(count: int, accumulate: int) -> list[slice]:
    """The parts in which ``count`` images go through the model, of which the last may be smaller; none of none."""
    size = max(1, -(-count // accumulate))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


class AveragedWeights(ModelEmaV3):
    """timm's averaged weights with their tensors listed once: looking them up in each step takes the host as long as
    a small model's step takes the GPU."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """model: on its device; its tensors stay the same ones. The decay is ramped up (timm's use_warmup), so that a
        short run forgets its random start."""
        super().__init__(model, decay=decay, use_warmup=True)
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self._pairs = [[pair for pair in pairs if pair[0].is_floating_point() is kind] for kind in (True, False)]

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Move the averages towards the model's weights and statistics; copy its counters."""
        averaged, counted = self._pairs
        torch._foreach_lerp_([ours for ours, _ in averaged], [theirs for _, theirs in averaged], weight=1 - decay)
        if counted:
            torch._foreach_copy_([ours for ours, _ in counted], [theirs for _, theirs in counted])


def _parallel(learner: Learner, device: torch.device) -> DistributedDataParallel:
    """The learner with gradients averaged over the ranks; buffers stay each rank's own until ``share_buffers``."""
    devices = [device] if device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    # Up to torch 2.14 it is called broadcast_buffers.
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    switched_off: dict[str, Any] = {sync: False}
    return DistributedDataParallel(learner, devices, gradient_as_bucket_view=True, **switched_off)


class FiniteGuard:
    """Keeps a loss that is not finite away from the weights, without a wait for the device in each step.

    On a CPU reading the loss costs nothing, so ``watch`` raises at once. On a GPU it would stall the queue; there the
    guard keeps a flag on the device, raised by the first bad loss and never lowered, and hands it to the fused
    optimiser as its ``found_inf``: the kernel itself then leaves weights and state as they are, in this step and in all
    that follow, until ``check`` reads the flag and raises. An optimiser without such a kernel takes its step; the guard
    has copied the weights before, and puts the copy back, on the device, where the flag is up. With a gradient scaler
    (float16) the scaler sets ``found_inf`` from the gradients, which a bad loss makes bad too; the flag then only ends
    the run.

    On several ranks ``watch`` must see what all of them see (the mean loss), so that all stop at the same step.

    A live teacher whose outputs are not finite makes every loss so; ``watch_teacher`` keeps a flag for that, which only
    decides what the message names as the cause.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        scaled: bool,
        lazy: bool,
        teachers: Sequence[str] = (),
    ) -> None:
        """scaled: a gradient scaler is at work; lazy: only flag, for ``check`` to raise. teachers: for messages."""
        self._optimizer, self._lazy = optimizer, lazy
        self._skips = skips_by_itself(optimizer) and not scaled
        self._teachers = tuple(teachers)
        self._bad = torch.zeros((), device=device)
        self._bad_teacher = torch.zeros((), dtype=torch.bool, device=device)
        if lazy and not scaled and not self._skips:
            self._weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            self._before = [torch.empty_like(weight) for weight in self._weights]
            optimizer.register_step_pre_hook(self._keep)
            optimizer.register_step_post_hook(self._put_back)

    @torch.no_grad()
    def _keep(self, *_: object) -> None:
        torch._foreach_copy_(self._before, self._weights)

    @torch.no_grad()
    def _put_back(self, *_: object) -> None:
        """A choice for each number, since no product with 0 is rid of what is not finite."""
        bad = self._bad > 0
        for before, weight in zip(self._before, self._weights, strict=True):
            torch.where(bad, before, weight, out=weight)

    def watch_teacher(self, log_probs: torch.Tensor) -> None:
        """Look at a live teacher's outputs; waits for nothing."""
        self._bad_teacher = self._bad_teacher | ~log_probs.isfinite().all()

    def watch(self, value: torch.Tensor, step: int) -> None:
        """Look at a loss or a gradient norm, a scalar, before the update of this step."""
        if not self._lazy:
            if not math.isfinite(value.item()):
                self._raise(step)
            return
        bad = (~value.detach().isfinite()).to(self._bad.dtype)
        self._bad = torch.maximum(self._bad, bad)
        if self._skips:  # some of the others refuse to see a flag
            self._optimizer.found_inf = self._bad  # type: ignore[attr-defined]

    def check(self, step: int) -> None:
        """Read the flag (a wait for the device); raise UserError when it is up."""
        if self._lazy and bool(self._bad):
            self._raise(step)

    def _raise(self, step: int) -> NoReturn:
        if bool(self._bad_teacher):
            raise UserError(
                bad_teacher(self._teachers, f"by step {step}, and the run stops before the weights learn it")
            )
        raise UserError(
            f"train: the loss is not finite by step {step}, and the run stops before that reaches the weights; "
            "try a smaller train.lr, a longer train.warmup_epochs, train.clip_grad=1 or train.precision=float32"
        )


def bad_teacher(names: Sequence[str], when: str) -> str:
    """The message about a live teacher whose outputs are not finite."""
    named = f" ({', '.join(names)})" if names else ""
    return (
        f"teacher.models: the teacher's outputs{named} are not finite {when}; try teacher.precision=float32, and look "
        "at its weights and normalisation"
    )
