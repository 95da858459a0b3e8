"""What the report shows of the model's outputs on the validation images, kept during the last pass over them.

Shape suffixes: B images of a batch, K images kept, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ffdr.evaluate.confusion import Confusion, PairCounts
from ffdr.util.ranks import Ranks

MOST_LOGITS = 50_000_000
"""Numbers that are kept at most, 200 MB: all logits of 50,000 images of 1000 classes."""


@dataclass(frozen=True)
class Findings:
    """Of one pass over the validation images, over all ranks."""

    images: int
    """of the validation data"""
    logits: np.ndarray
    """(K, C) float32, in the order of the images: of all of them, or of evenly spaced ones above ``MOST_LOGITS``"""
    labels: np.ndarray
    """(K,) int64"""
    confusion: PairCounts
    """of all images"""
    names: tuple[str, ...] = ()
    """of the classes; empty: unknown"""


class Outputs:
    """Is handed the batches of one pass, of this rank's share; then all ranks together make the findings of them."""

    def __init__(self, num_images: int, num_classes: int, ranks: Ranks, names: tuple[str, ...] = ()) -> None:
        """num_images: of the validation data, over all ranks. names: of the classes."""
        self.num_images, self.num_classes, self.names, self._ranks = num_images, num_classes, names, ranks
        self.kept = max(1, min(num_images, MOST_LOGITS // num_classes))
        """Images whose logits are kept; which ones depends on nothing but their number."""
        self._confusion = Confusion(num_classes)
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, index_B: torch.Tensor) -> None:
        """Keep a batch. index_B: int64 numbers of the images, on the CPU. Waits for the device."""
        self._confusion.update(logits_BC, labels_B)
        index = index_B.numpy()
        place = index * self.kept // self.num_images
        # The first image of each place; so they are evenly spaced.
        chosen = np.flatnonzero(-(-place * self.num_images // self.kept) == index)
        rows = torch.from_numpy(chosen).to(logits_BC.device)
        self._parts.append((place[chosen], labels_B[rows].cpu().numpy(), logits_BC[rows].float().cpu().numpy()))

    def gather(self) -> Findings | None:
        """What all ranks have kept, in the order of the images; None in all ranks but the first. All ranks call it."""
        confusion = self._confusion.counts()
        empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, self.num_classes), np.float32)
        own = tuple(map(np.concatenate, zip(empty, *self._parts, strict=True)))
        self._parts.clear()
        shares = self._ranks.gather_first(own)
        if shares is None:
            return None
        logits, labels = np.empty((self.kept, self.num_classes), np.float32), np.full(self.kept, -1)
        for places, some_labels, some_logits in shares:
            labels[places], logits[places] = some_labels, some_logits
        seen = labels >= 0
        if not seen.all():
            logits, labels = logits[seen], labels[seen]
        return Findings(self.num_images, logits, labels, confusion, self.names)
