"""Where the time of an epoch goes: training, or waiting for data."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

AHEAD = 2
"""Steps that the host may be ahead of the GPU: enough to keep it busy, few enough for a stop to come soon and for no
batch to wait in memory."""

T = TypeVar("T")


def stopwatch(device: torch.device) -> Stopwatch:
    """The stopwatch that suits the device."""
    return GpuStopwatch(device) if device.type == "cuda" else Stopwatch()


class Stopwatch:
    """Seconds since it was made, and those spent on waiting for data."""

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

    The host is ahead of the GPU, so its own waits say little. Events on the stream of the steps show when one step
    ended and when the next one's batch was there. For the first batch, before which nothing ran, the host's clock
    serves. No more than ``AHEAD`` steps are left to be done.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._stream = torch.cuda.current_stream(device)
        self._gaps: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; at most ``AHEAD`` steps are in the GPU's queue."""
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


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
