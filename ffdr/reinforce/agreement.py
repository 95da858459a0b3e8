"""Whether teachers agree with the labels: on a sample of views, each by itself and all together.

A teacher whose classes stand in another order than the data's is as sure of itself as any other; only labels show it.

Shapes: M members, B views, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ffdr.reinforce.teacher import averaged
from ffdr.util import text
from ffdr.util.text import printable

_FEWEST_VIEWS = 32
"""Fewer show nothing about a teacher."""
_ERRORS = 3.0
"""Standard errors by which a difference must stand out of what the choice of the sample explains."""
_LITTLE = 0.02
"""Agreement above chance that is little, however large the sample."""
_NEARLY_SURE = 0.75
"""Chance above which nearly all images are of one class, and nothing can be shown."""
_FAR_BELOW = 0.75
"""Share of the best other teacher's agreement below which one lies far below it."""


@dataclass(frozen=True)
class Predictions:
    """What each member of a teacher predicts for a sample of views."""

    sources: tuple[str, ...]
    """M names, as the teachers were given"""
    log_probs: torch.Tensor
    """(M, B, C) float32, natural log-probabilities, on any device"""
    labels: np.ndarray
    """(B,) int64; of a mixed view that of the image that has the larger share"""

    @property
    def ensemble(self) -> torch.Tensor:
        """(B, C) log-probabilities of all members, averaged."""
        return averaged(self.log_probs)

    @cached_property
    def guesses(self) -> np.ndarray:
        """(M, B) the class that each member finds likeliest."""
        return self.log_probs.argmax(2).cpu().numpy()

    @cached_property
    def right(self) -> np.ndarray:
        """(M, B) bool: where that is the label."""
        return self.guesses == self.labels

    def ensemble_right(self, without: int | None = None) -> np.ndarray:
        """(B,) bool: where all members together, or all but one, predict the label."""
        kept = [number for number in range(len(self.sources)) if number != without]
        return averaged(self.log_probs[kept]).argmax(1).cpu().numpy() == self.labels


def table(predictions: Predictions) -> str:
    """A line for each member and one for all of them: agreement with the labels and mean entropy."""
    names = list(map(printable, predictions.sources))
    names += ["together"] if len(names) > 1 else []
    logs = [*predictions.log_probs, predictions.ensemble]
    right = [*predictions.right, predictions.ensemble_right()]
    width = max(map(len, names))
    title = f"teacher, {len(predictions.labels)} views"
    lines = [f"{title:{width + 2}s}   agrees with the label   entropy, nats"]
    for name, log_probs, agrees in zip(names, logs, right, strict=False):
        lines.append(f"  {name:{max(width, len(title) - 2)}s}   {agrees.mean():21.1%}   {_entropy(log_probs):13.3f}")
    return "\n".join(lines)


def warn(predictions: Predictions) -> None:
    """A line on standard error for each member that is hardly better than chance, or that drags the ensemble."""
    for number in range(len(predictions.sources)):
        doubt = _doubt(predictions, number)
        if doubt:
            text.warn(f"teacher.models: {doubt}")


def _doubt(predictions: Predictions, number: int) -> str:
    """What is wrong with a member; empty: nothing that the sample shows."""
    views, source, own = len(predictions.labels), printable(predictions.sources[number]), predictions.right[number]
    if views < _FEWEST_VIEWS:
        return ""
    chance = _chance(predictions.guesses[number], predictions.labels)
    above = max(_LITTLE, _ERRORS * math.sqrt(chance * (1 - chance) / views))
    if own.mean() <= chance + above and chance < _NEARLY_SURE:
        return (
            f"{source} agrees with the labels on {own.mean():.1%} of {views} views, where chance gives {chance:.1%}: "
            "are its classes the data's, in the same order?"
        )
    others = [right for other, right in enumerate(predictions.right) if other != number]
    if not others:
        return ""
    best, together, without = max(others, key=np.mean), predictions.ensemble_right(), predictions.ensemble_right(number)
    far_below = own.mean() < _FAR_BELOW * best.mean() and _surely_better(best, own)
    if far_below or _surely_better(without, together):
        return (
            f"{source} drags the ensemble: it agrees with the labels on {own.mean():.1%} of {views} views, all "
            f"together on {together.mean():.1%}, the others without it on {without.mean():.1%}"
        )
    return ""


def _chance(guesses: np.ndarray, labels: np.ndarray) -> float:
    """Expected agreement of guesses (B,) and labels (B,) that are independent, each class as frequent as in these."""
    classes = int(max(guesses.max(), labels.max())) + 1
    guessed, given = (np.bincount(numbers, minlength=classes) / len(labels) for numbers in (guesses, labels))
    return float(guessed @ given)


def _surely_better(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether ``one`` (B,) bool is right more often than ``other`` beyond the sample's chance: McNemar's test."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return gained - lost > _ERRORS * math.sqrt(gained + lost)


def _entropy(log_probs: torch.Tensor) -> float:
    """Mean over the views of (B, C) log-probabilities, nats."""
    return float(torch.special.entr(log_probs.double().exp()).sum(1).mean())
