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


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """End what takes longer, of Python's work and of C code that looks for signals, with ``TooSlow``."""

    def stop(number: int, frame: object) -> NoReturn:
        raise TooSlow(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
