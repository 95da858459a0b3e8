"""How a teacher's predictions are stored: as float16 log-probabilities that never sum to more than they should."""

from __future__ import annotations

import numpy as np

from ffdr.beton.header import UNUSED

EXCESS = 2.0**-10
"""Largest excess over 1 of the stored probabilities of a row, below the 0.001 that readers are promised."""


def to_float16(exact_BT: np.ndarray) -> np.ndarray:
    """Log-probabilities (B, T) float64, minus infinity allowed, as float16 of at least ``UNUSED``.

    Rounded to nearest, and down in rows that would exceed 1 by more than ``EXCESS``.
    """
    near_BT = np.clip(exact_BT, UNUSED, 0).astype(np.float16)
    over_B = np.exp(near_BT.astype(np.float64)).sum(1) > 1 + EXCESS
    # One step down where rounding went up: the result is then at most the exact value.
    up_BT = (near_BT > exact_BT) & over_B[:, None] & (near_BT > UNUSED)
    return np.where(up_BT, np.nextafter(near_BT, np.float16(UNUSED)), near_BT)
