"""Where the time of a replay goes: laps that kernels take for a bench, and that cost next to nothing where nobody asks.

A lap without a place for laps is no more than a comparison, so production runs the very code that is timed. Laps
follow each other: each stage is charged with the time since the lap before.
"""

from __future__ import annotations

import time

import numpy as np
from numba import types
from numba.core.typing import signature

from ffdr.jit.kernel import kernel, uint64_at

STAGES = ("decode", "resize", "operations", "erase", "mix")
"""In the order of a replay."""
# As int64, because Numba would compile a version of ``lap`` for every literal.
DECODE, RESIZE, OPERATIONS, ERASE, MIX, OTHER = map(np.int64, range(len(STAGES) + 1))

_LAST, _CLOCK = len(STAGES) + 1, len(STAGES) + 2
"""Places in laps: when the last lap was taken; what the clock writes to."""
_MONOTONIC = int(time.CLOCK_MONOTONIC)
_clock_gettime = types.ExternalFunction("clock_gettime", signature(types.int32, types.int32, types.uintp))


def new_laps() -> np.ndarray:
    """Laps of nothing yet, for ``lap``: int64, the nanoseconds of ``STAGES``, of all else, and working memory."""
    return np.zeros(_CLOCK + 2, np.int64)


@kernel
def lap(laps: np.uint64, stage: int) -> None:
    """The time since the last lap goes to ``stage``: one of ``DECODE`` to ``MIX``, or ``OTHER``.

    laps: address of ``new_laps``; 0: there is nobody to ask.
    """
    if laps != 0:
        times = uint64_at(laps, _CLOCK + 2)
        _clock_gettime(np.int32(_MONOTONIC), laps + np.uint64(8 * _CLOCK))  # to Numba, C's function
        now = times[_CLOCK] * np.uint64(1_000_000_000) + times[_CLOCK + 1]
        times[stage] += now - times[_LAST]
        times[_LAST] = now
