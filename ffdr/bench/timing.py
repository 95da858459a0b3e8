"""Timing several pieces of work against each other on a noisy machine: in turn, again and again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from ffdr.bench.statistics import Estimate


@dataclass(frozen=True)
class Work:
    """Something to time."""

    run: Callable[[], object]
    """Does it once."""
    units: int
    """How many images that is."""
    cores: int = 0
    """Processor cores that all threads of this process together may use meanwhile; 0: as it is."""


@dataclass(frozen=True)
class Timing:
    """How long a piece of work took each time; the n-th values of all that ran in turn are neighbours in time."""

    seconds: tuple[float, ...]
    units: int

    @property
    def time(self) -> Estimate:
        """Seconds an image."""
        return Estimate.of(np.divide(self.seconds, self.units))

    @property
    def rate(self) -> Estimate:
        """Images a second."""
        return Estimate.of(np.divide(self.units, self.seconds))


def time_in_turn(work: Mapping[str, Work], repeats: int) -> dict[str, Timing]:
    """Time each piece ``repeats`` times, after one uncounted run of each (which compiles and fills caches).

    Every other round goes backwards, so that drift favours nobody.
    """
    for piece in work.values():
        piece.run()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repeat in tqdm(range(repeats), desc="measure", unit="round", leave=False):
        for name in work if repeat % 2 == 0 else reversed(work):
            with cores(work[name].cores):
                start = time.perf_counter()
                work[name].run()
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(seconds[name]), piece.units) for name, piece in work.items()}


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Hold all threads of this process on the first ``count`` cores it may use; 0: leave them alone.

    One thread that decodes is not yet one core: those that copy, queue and collect would run on another one.
    """
    allowed = os.sched_getaffinity(0)
    before = {thread: os.sched_getaffinity(thread) for thread in _threads()} if count else {}
    try:
        if count:
            few = set(sorted(allowed)[:count])
            _hold(dict.fromkeys(before, few))
        yield
    finally:
        if count:
            # Threads begun meanwhile inherited the few cores.
            _hold({thread: before.get(thread, allowed) for thread in _threads()})


def _threads() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/task").iterdir()]


def _hold(places: Mapping[int, set[int]]) -> None:
    for thread, place in places.items():
        with suppress(ProcessLookupError):  # it ended just now
            os.sched_setaffinity(thread, place)


@contextmanager
def single_threaded_libraries() -> Iterator[None]:
    """torch and OpenCV compute in one thread."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
