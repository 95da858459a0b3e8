"""Objects that belong to the process that made them, because they hold threads or addresses of its memory."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


class OneProcess:
    """Base of such objects: copying or pickling one is refused, and so is using one in a fork of its process.

    A copy would read memory that is freed or isn't there; a fork would wait for threads that it doesn't have.
    """

    noun, instead = "object", "make one in each process"
    """What it is, and what to do instead, for the messages."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_at_home(self) -> bool:
        """Whether this is the process that made the object."""
        return os.getpid() == self._process

    def check_process(self) -> None:
        """Raise RuntimeError unless this is the process that made the object."""
        if not self.is_at_home:
            raise RuntimeError(f"this process is a fork of the one that made the {self.noun}; {self.instead}")

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {self.noun} can't be copied or pickled; {self.instead}")


_pool_is_lost = False
"""Whether this process is a fork of one that had OpenMP's threads."""


def check_pool() -> None:
    """Before a parallel kernel: GNU's OpenMP would end this process with a signal if its threads are a parent's.

    Raises:
        RuntimeError: they are.
    """
    if _pool_is_lost:
        raise RuntimeError(
            "Numba's OpenMP threads don't survive a fork, and this process was forked after they had been used; start "
            "it by spawn or forkserver, or install tbb"
        )


def _look_at_pool() -> None:
    global _pool_is_lost
    numba = sys.modules.get("numba")
    try:
        _pool_is_lost = numba is not None and numba.threading_layer() == "omp"
    except ValueError:  # no parallel kernel has run
        _pool_is_lost = False


os.register_at_fork(after_in_child=_look_at_pool)
