"""A time within which crafted inputs must be refused."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
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
