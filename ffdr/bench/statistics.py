"""Medians with intervals, for figures from noisy machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats


def median_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Median and a distribution-free interval for it from order statistics (binomial; the range for few values)."""
    ordered = np.sort(values)
    rank = int(stats.binom.ppf((1 - confidence) / 2, len(ordered), 0.5))
    low = max(rank - 1, 0)
    return float(np.median(ordered)), (float(ordered[low]), float(ordered[len(ordered) - 1 - low]))


@dataclass(frozen=True)
class Estimate:
    """A measured figure: its median over the repeats, a 95 % interval for that, and the single values."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Estimate:
        """From one value per repeat."""
        median, (low, high) = median_interval(np.asarray(values, np.float64))
        return cls(median, low, high, tuple(map(float, values)))

    @classmethod
    def from_json(cls, figure: Mapping[str, Any]) -> Estimate:
        """The reverse of ``json``."""
        return cls(figure["median"], figure["low"], figure["high"], tuple(figure["values"]))

    def over(self, base: Estimate) -> Estimate:
        """How many times ``base`` this is, repeat by repeat: what was measured side by side is compared, so that a
        machine that slows down for a while slows both down."""
        return Estimate.of(np.divide(self.values, base.values))

    def beside(self, base: Estimate) -> Estimate:
        """How many times ``base`` this is where the two were measured one after the other: the ratio of the medians,
        with the widest interval that theirs allow."""
        ratio = self.median / base.median
        return Estimate(ratio, self.low / base.high, self.high / base.low, (ratio, ratio))

    def times(self, factor: float) -> Estimate:
        """The same in another unit."""
        return Estimate.of([factor * value for value in self.values])

    def json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def text(self, digits: int = 2) -> str:
        """``1.23 [1.20, 1.27]``, or ``1.23`` of a single value."""
        median, low, high = (f"{number:,.{digits}f}" for number in (self.median, self.low, self.high))
        return f"{median} [{low}, {high}]" if len(self.values) > 1 else median
