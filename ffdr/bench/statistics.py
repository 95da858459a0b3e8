"""Medians with intervals, for figures from noisy machines."""

from __future__ import annotations

import numpy as np
from scipy import stats


def median_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Median and a distribution-free interval for it from order statistics (binomial; the range for few values)."""
    ordered = np.sort(values)
    rank = int(stats.binom.ppf((1 - confidence) / 2, len(ordered), 0.5))
    low = max(rank - 1, 0)
    return float(np.median(ordered)), (float(ordered[low]), float(ordered[len(ordered) - 1 - low]))
