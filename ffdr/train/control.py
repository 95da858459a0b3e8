"""What surrounds the steps: requests to stop, and where the time goes."""

from __future__ import annotations

import fcntl
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

import torch

from ffdr.util.errors import UserError
from ffdr.util.opening import open_kept

AHEAD = 2
"""Steps that the host may be ahead of the GPU: enough to keep it busy, few enough for a stop to come soon and for no
batch to wait in memory."""

T = TypeVar("T")


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
        self._number = signal.SIGTERM  # where another rank was asked
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


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is created if need be, against a second run.

    Raises:
        UserError: one is at work in it; its lock is no file of ffdr's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_kept(folder / ".lock", shared=True) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"train.out: another run is at work in {folder}; give another folder") from None
        yield


def stopwatch(device: torch.device) -> Stopwatch:
    """Of what the device's steps wait for."""
    return GpuStopwatch(device) if device.type == "cuda" else Stopwatch()


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


class GpuStopwatch(Stopwatch):
    """What counts as waiting is the time in which the GPU had nothing to do between two steps.

    The host is ahead of the GPU, so its own waits say little. Events on the stream of the steps tell when one step
    ended and when the next one's batch was there. For the first batch, before which nothing ran, the host's clock
    serves. No more than ``AHEAD`` steps are left to be done.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._stream = torch.cuda.current_stream(device)
        self._gaps: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches."""
        ended: deque[torch.cuda.Event] = deque()
        asked = time.perf_counter()
        for batch in batches:
            begun = self._event()
            if ended:
                self._gaps.append((ended[-1], begun))
            else:
                self.waited += time.perf_counter() - asked
            yield batch
            ended.append(self._event())
            if len(ended) > AHEAD:
                ended.popleft().synchronize()
            self._read()

    @property
    def data_wait(self) -> float:
        """Share of the time in which the GPU waited for the next batch."""
        self._read()
        return super().data_wait

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def _read(self) -> None:
        """Add up the gaps that are over."""
        while self._gaps and self._gaps[0][1].query():
            ended, begun = self._gaps.popleft()
            self.waited += ended.elapsed_time(begun) / 1000
