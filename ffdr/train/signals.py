"""Requests to stop: Ctrl-C and SIGTERM end a run after a step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn


class Stopped(KeyboardInterrupt):
    """A run that saved a checkpoint and ended because a signal asked for it; ``status`` is its exit status.

    128 + the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM, by which schedulers preempt.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}, a checkpoint is saved")
        self.status = 128 + number


class StopRequest:
    """Inside the context, the first Ctrl-C or SIGTERM only sets ``requested``, so that a step is never cut in two.

    A second one interrupts at once. Outside the main thread, where signals can't be caught, nothing changes.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._number: int = signal.SIGTERM  # stays so where another rank got the signal
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
        self.requested, self._number = True, number

    def end(self) -> NoReturn:
        """Raise ``Stopped``: the checkpoint is written."""
        raise Stopped(self._number)
