"""What a reinforced beton stores of an archive's entries, whatever the archive's format.

Shapes: n images, K views per image, R rows, T teacher entries per view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffdr.beton.header import UNUSED
from ffdr.beton.rounding import to_float16

_MOST = 1.001
"""The largest sum of a view's probabilities: 1, and what rounding may add."""


@dataclass(frozen=True)
class StoredEntries:
    """What a reinforced beton stores of n images."""

    index: np.ndarray
    """(n,) int64"""
    views: np.ndarray
    """(n, K) ``MIXED_DTYPE`` if the archive mixes, else ``VIEW_DTYPE``"""
    ids: np.ndarray
    """(n, K, T) uint16"""
    log_probs: np.ndarray
    """(n, K, T) float16"""


def are_probabilities(probs_RT: np.ndarray) -> np.ndarray:
    """(R,) bool: whether none is negative or no number, and their sum is at most 1 but for rounding."""
    return (probs_RT >= 0).all(axis=1) & (probs_RT.sum(axis=1) <= _MOST)


def best_first(probs_RT: np.ndarray, ids_RT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids (R, T) uint16 and log-probabilities (R, T) float16, best first; ties stay in their order.

    probs_RT: float64 that are probabilities; one that is 0, or too small for float16, is an unused entry of class 0.
    """
    order = np.argsort(-probs_RT, axis=1, kind="stable")
    with np.errstate(divide="ignore"):
        logs = to_float16(np.log(np.take_along_axis(probs_RT, order, axis=1)))
    ids = np.take_along_axis(ids_RT, order, axis=1).astype(np.uint16)
    ids[logs <= UNUSED] = 0
    return ids, logs
