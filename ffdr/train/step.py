"""What surrounds an optimiser step: losses that are no number, requests to stop, and where the time goes."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch

from ffdr.errors import UserError

T = TypeVar("T")


class FiniteGuard:
    """Keeps a loss that is not finite away from the weights, without a wait for the device in each step.

    On a CPU reading the loss costs nothing, so ``watch`` raises at once. On a GPU it would stall the queue; there the
    guard keeps a flag on the device, raised by the first bad loss and never lowered, and hands it to the fused
    optimiser as its ``found_inf``: the kernel itself then leaves weights and state as they are, in this step and in all
    that follow, until ``check`` reads the flag and raises. With a gradient scaler (float16) the scaler sets
    ``found_inf`` from the gradients, which a bad loss makes bad too; the flag then only ends the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, scaled: bool, lazy: bool) -> None:
        """scaled: a gradient scaler is at work; lazy: only flag, for ``check`` to raise."""
        self._optimizer, self._scaled, self._lazy = optimizer, scaled, lazy
        self._bad = torch.zeros((), device=device)

    def watch(self, value: torch.Tensor, step: int) -> None:
        """Look at a loss or a gradient norm, a scalar, before the update of this step."""
        if not self._lazy:
            if not math.isfinite(value.item()):
                self._raise(step)
            return
        bad = (~value.detach().isfinite()).to(self._bad.dtype)
        self._bad = torch.maximum(self._bad, bad)
        if not self._scaled:
            self._optimizer.found_inf = self._bad

    def check(self, step: int) -> None:
        """Read the flag (a wait for the device); raise UserError when it is up."""
        if self._lazy and bool(self._bad):
            self._raise(step)

    @staticmethod
    def _raise(step: int) -> None:
        raise UserError(
            f"train: the loss is not finite by step {step}, and the run stops before that reaches the weights; "
            "try a smaller train.lr, a longer train.warmup_epochs, train.clip_grad=1 or train.precision=float32"
        )


class StopRequest:
    """Inside the context, the first Ctrl-C or SIGTERM only sets ``requested``, so that a step is never cut in two.

    A second one interrupts at once. Outside the main thread, where signals can't be caught, nothing changes.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._catch) for number in self._SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Stopwatch:
    """Seconds since it was made, and those spent waiting for data."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.waited = 0.0

    @property
    def seconds(self) -> float:
        """Wall seconds so far."""
        return time.perf_counter() - self._start

    @property
    def data_wait(self) -> float:
        """Share of the time that went into waiting for the next batch."""
        return self.waited / self.seconds

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time that each takes to come counts as waiting."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - asked
            yield batch
