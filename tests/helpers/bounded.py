"""A time within which crafted inputs must be refused."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


class TooSlow(BaseException):
    """Not an Exception, so that no code under test takes it for a mistake in its input."""


_PATIENCE = 20
"""How much longer than it computes something may take, on a machine however busy. What waits for ever is ended, too."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """End what takes more of the processors' time, of Python's work and of C code that looks for signals, with
    ``TooSlow``."""

    def stop(number: int, frame: object) -> NoReturn:
        raise TooSlow(f"took more than {seconds:g} s")

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, _PATIENCE * seconds))
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, after in timers:
        signal.setitimer(timer, after)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


@contextmanager
def bounded_memory(megabytes: int) -> Iterator[None]:
    """Fail an allocation beyond so much more address space than the process has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
