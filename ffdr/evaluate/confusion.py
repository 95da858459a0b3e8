"""Which classes a model takes for which others: counted sparsely, since 65,536 classes have 4 billion pairs.

Shape suffixes: B images, C classes, P pairs that occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from ffdr.models.build import best_device


class PairCounts(NamedTuple):
    """The entries of a confusion matrix that are not 0, by true class and then by predicted class."""

    true: np.ndarray
    """(P,) int64"""
    predicted: np.ndarray
    """(P,) int64"""
    images: np.ndarray
    """(P,) int64, how many images of the one class were predicted as the other"""

    @classmethod
    def of(cls, true: np.ndarray, predicted: np.ndarray, images: np.ndarray | None = None) -> PairCounts:
        """Count integers (N,) below 2^31 that belong together. images: how often each pair counts; None: once."""
        codes = (true.astype(np.int64) << 32) | predicted.astype(np.int64)
        unique, place = np.unique(codes, return_inverse=True)
        counts = np.zeros(len(unique), np.int64)
        np.add.at(counts, place.reshape(-1), 1 if images is None else images)
        return cls(unique >> 32, unique & 0xFFFFFFFF, counts)

    def dense(self, num_classes: int) -> np.ndarray:
        """The matrix (C, C) int64: rows are true classes, columns predicted ones."""
        matrix = np.zeros((num_classes, num_classes), np.int64)
        matrix[self.true, self.predicted] = self.images
        return matrix


class Confusion:
    """Counts predictions by true and predicted class; exact over batches of any size, no wait for the device until the
    end. Eight bytes per image are kept, whatever the number of classes."""

    def __init__(self, num_classes: int, device: torch.device | str | None = None) -> None:
        """device: where the logits are; None: the GPU, if there is one. ``update`` follows them in any case."""
        self.num_classes = num_classes
        self._batches = [torch.empty(2, 0, dtype=torch.int32, device=device or best_device())]

    @torch.no_grad()
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch. logits: (B, C) of any floating dtype; labels: (B,) integers."""
        # As ``metrics.Scores`` finds it, which may differ from argmax where two classes are equally probable.
        predicted_B = logits.float().topk(min(5, logits.shape[1]), 1).indices[:, 0]
        self._batches.append(torch.stack([labels.to(logits.device), predicted_B]).int())

    def counts(self) -> PairCounts:
        """All that was counted, over all ranks; every rank calls it."""
        where = self._batches[-1].device
        own = PairCounts.of(*torch.cat([batch.to(where) for batch in self._batches], 1).cpu().numpy())
        if not (dist.is_available() and dist.is_initialized()):
            return own
        parts: list[PairCounts] = [own] * dist.get_world_size()
        dist.all_gather_object(parts, own)
        return PairCounts.of(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def result(self) -> np.ndarray:
        """The matrix (C, C) int64 over all ranks: rows are true classes, columns predicted ones. Every rank calls it.

        It takes 8 C^2 bytes; ``counts`` has the same for any number of classes.
        """
        return self.counts().dense(self.num_classes)


class ConfusedPair(NamedTuple):
    """Images of one class that were predicted as another."""

    true: str
    predicted: str
    images: int
    share: float
    """of the true class's images"""


def worst_pairs(matrix: np.ndarray | PairCounts, names: Sequence[str], count: int = 10) -> list[ConfusedPair]:
    """The pairs of different classes with most images, at most ``count``; the larger share of the true class first
    where they have as many, then the lower class numbers.

    matrix: (C, C) as ``Confusion.result`` has it, or its entries. names: of the classes; one without is its number.
    """
    if isinstance(matrix, np.ndarray):
        true, predicted = np.nonzero(matrix)
        matrix = PairCounts(true, predicted, matrix[true, predicted])
    worst, shares = _worst(matrix, count)
    found = zip(*(column.tolist() for column in (*worst, shares)), strict=True)
    return [ConfusedPair(_name(names, i), _name(names, j), images, share) for i, j, images, share in found]


def worst_classes(counts: PairCounts, count: int) -> list[int]:
    """Numbers of the classes of the worst pairs, at most ``count``, those of a pair side by side as far as can be."""
    worst, _ = _worst(counts, count * count)
    return list(dict.fromkeys(np.stack([worst.true, worst.predicted], 1).ravel().tolist()))[:count]


def _worst(counts: PairCounts, count: int) -> tuple[PairCounts, np.ndarray]:
    """See ``worst_pairs``: the pairs, the worst first, and their shares of the true class."""
    totals = np.zeros(int(counts.true.max(initial=-1)) + 1, np.int64)
    np.add.at(totals, counts.true, counts.images)
    shares = counts.images / totals[counts.true]
    wrong = np.flatnonzero(counts.true != counts.predicted)
    keys = (counts.predicted, counts.true, -shares, -counts.images)
    chosen = wrong[np.lexsort([key[wrong] for key in keys])[:count]]
    return PairCounts(*(column[chosen] for column in counts)), shares[chosen]


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else str(number)
