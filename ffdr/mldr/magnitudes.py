"""RandAugment's magnitudes, which archives store, and levels, which view records store."""

from __future__ import annotations

from functools import cache

import numpy as np

from ffdr.augment.ops.magnitude import SHARPNESS, SHEAR_X, OpStep, magnitude
from ffdr.augment.view import OP_NUMBER, OPS

_TOLERANCE = 1e-6
"""Relative. torchvision's float32 magnitudes differ by a unit in the last place between processors; bins are far
apart."""


@cache
def magnitudes(bins: int, resolution: int) -> np.ndarray:
    """(operations, bins) float64 magnitude of each level on an output of resolution × resolution; read-only."""
    table = np.array(
        [
            [magnitude(OpStep(op, level, bins, False), resolution, resolution) for level in range(bins)]
            for op in range(len(OPS))
        ]
    )
    table.flags.writeable = False
    return table


def is_signed(ops: np.ndarray) -> np.ndarray:
    """Whether the magnitude of operations (...) may be negative."""
    return (ops >= SHEAR_X) & (ops <= SHARPNESS)


def levels_of(ops: np.ndarray, stored: np.ndarray, table: np.ndarray, usual: int) -> tuple[np.ndarray, np.ndarray]:
    """Signed levels of operations with these magnitudes, and where there is none.

    Where several levels have the same magnitude it is the ``usual`` one, which the archive's config names, or else the
    lowest; Identity has level 0.

    Args:
        ops: (n,) int64 below the number of operations.
        stored: (n,) float64.
        table: ``magnitudes``.
        usual: a level.

    Returns: levels (n,) int8 and a mask (n,) of those that are no level's magnitude.
    """
    size = np.abs(stored)
    near = np.abs(table[ops] - size[:, None]) <= _TOLERANCE * size[:, None]
    levels = np.where(near[:, usual], usual, near.argmax(axis=1))
    levels[ops == OP_NUMBER["Identity"]] = 0
    bad = ~near.any(axis=1) | ~np.isfinite(stored) | ((stored < 0) & ~is_signed(ops))
    return np.where(stored < 0, -levels, levels).astype(np.int8), bad
