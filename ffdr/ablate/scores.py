"""Scores over seeds: means with intervals, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ffdr.util.foreign import read_json, read_json_lines


@dataclass(frozen=True)
class Metric:
    """How a score of a run is shown."""

    heading: str
    scale: float
    """factor from the stored to the printed number"""
    digits: int
    more: bool
    """whether more is better"""


METRICS = {
    "top1": Metric("top-1, %", 100, 1, True),
    "nll": Metric("NLL", 1, 3, False),
    "ece": Metric("ECE, %", 100, 1, False),
    "corruption_top1": Metric("corruption top-1, %", 100, 1, True),
    "images_per_second": Metric("images/s", 1, 0, True),
    "seconds": Metric("training, s", 1, 1, False),
}
"""By key of a run's scores."""
JUDGED = ("top1", "nll", "ece", "corruption_top1")


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % t-interval; None for a single value."""
    return float(np.mean(values)), half_width(values) if len(values) > 1 else None


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % t-interval of the mean."""
    return float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def as_text(values: Sequence[float], metric: Metric) -> str:
    """``80.4 ± 3.0`` as printed; without interval for a single value."""
    mean, half = mean_and_half_width(values)
    text = f"{metric.scale * mean:,.{metric.digits}f}"
    return text if half is None else f"{text} ± {metric.scale * half:,.{metric.digits}f}"


@dataclass(frozen=True)
class Difference:
    """What one kind of run has over another in one score, as printed: mean of the pairs and its interval."""

    mean: float
    half: float | None
    """None: a single pair"""
    more: bool
    """whether more is better"""

    @classmethod
    def of(cls, ours: Sequence[float], others: Sequence[float], metric: Metric) -> Difference:
        """Paired: the two sequences have the same seeds in the same order."""
        gains = [metric.scale * (a - b) for a, b in zip(ours, others, strict=True)]
        return cls(*mean_and_half_width(gains), metric.more)

    @property
    def verdict(self) -> str:
        """better, worse, or no clear difference; one pair alone shows none."""
        if self.half is None or abs(self.mean) <= self.half:
            return "no clear difference"
        return "better" if (self.mean > 0) == self.more else "worse"

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.half:.2f}" if self.half is not None else f"{self.mean:+.2f} (one pair)"


def sentence(heading: str, ours: str, differences: Mapping[str, Difference]) -> str:
    """Who wins in one score, saying so where ``ours`` does not. differences: by the name of the other."""
    parts = []
    for name, difference in differences.items():
        word = "from" if difference.verdict == "no clear difference" else "than"
        parts.append(f"{difference.verdict} {word} {name} ({difference})")
    return f"{heading}: {ours} is {' and '.join(parts)}."


def training_time(folder: str | Path) -> dict[str, Any]:
    """Images/s and seconds of a finished run, by its log.

    The first epoch, in which kernels may be compiled, counts at the rate of the others. Seconds are images over rate,
    so that a run that was stopped and resumed shows what it would have taken in one go.
    """
    folder = Path(folder)
    log = folder / "log.jsonl"
    lines = read_json_lines(log)
    rates = [line["images_per_second"] for line in lines[1:] or lines]
    rate = len(rates) / sum(1 / r for r in rates)  # epochs have equally many images
    images = lines[-1]["step"] * read_json(folder / "options.json")["train"]["batch_size"]
    return {"images_per_second": rate, "seconds": images / rate}
