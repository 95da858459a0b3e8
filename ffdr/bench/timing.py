"""Timing several workloads against each other on a noisy machine: in turn, again and again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from tqdm import tqdm

from ffdr.bench.statistics import Estimate
from ffdr.train.stopwatch import wait

Name = TypeVar("Name", str, "tuple[str, str]")


@dataclass(frozen=True)
class Workload:
    """Something to time."""

    run: Callable[[], object]
    """does it once"""
    units: int
    """how many images that is (or bytes, or operations)"""
    cores: int = 0
    """processor cores that all threads of this process together may use meanwhile; 0: as it is"""


@dataclass(frozen=True)
class Timing:
    """How long a workload took each time; the n-th values of all that ran in turn are neighbours in time."""

    seconds: tuple[float, ...]
    units: int

    @property
    def time(self) -> Estimate:
        """Seconds per image."""
        return Estimate.of(np.divide(self.seconds, self.units))

    @property
    def rate(self) -> Estimate:
        """Images/s."""
        return Estimate.of(np.divide(self.units, self.seconds))

    def json(self) -> dict[str, Any]:
        """Plain data."""
        return {"images_per_second": self.rate.json(), "seconds": self.seconds, "images": self.units}


def time_in_turn(work: Mapping[Name, Workload], repeats: int) -> dict[Name, Timing]:
    """Time each workload ``repeats`` times, after one uncounted run of each (which compiles and fills caches).

    Every other round goes backwards, so that drift favours nobody.
    """
    for workload in work.values():
        workload.run()
    seconds: dict[Name, list[float]] = {name: [] for name in work}
    order = list(work)
    for _ in tqdm(range(repeats), desc="measure", unit="round", leave=False):
        for name in order:
            with cores(work[name].cores):
                start = time.perf_counter()
                work[name].run()
                seconds[name].append(time.perf_counter() - start)
        order.reverse()
    return {name: Timing(tuple(seconds[name]), workload.units) for name, workload in work.items()}


def read_all(loader: Iterable[tuple[torch.Tensor, Any, Any]]) -> None:
    """One pass over a loader, to the end of the last copy to the device."""
    for images, _, _ in loader:
        device = images.device
    wait(device)


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Hold all threads of this process on the first ``count`` cores it may use; 0: leave them alone.

    One thread that decodes is not yet one core: those that copy, queue and collect would run on another one.
    """
    if not count:
        yield
        return
    allowed = os.sched_getaffinity(0)
    before = _places()
    try:
        few = set(sorted(allowed)[:count])
        _hold(dict.fromkeys(before, few))
        yield
    finally:
        # Threads begun meanwhile inherited the few cores.
        _hold({thread: before.get(thread, allowed) for thread in _threads()})


def _threads() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/task").iterdir()]


def _places() -> dict[int, set[int]]:
    """The cores of each thread."""
    places = {}
    for thread in _threads():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            places[thread] = os.sched_getaffinity(thread)
    return places


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
