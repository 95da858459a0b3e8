"""What a model predicts for each image, kept small: 44 bytes per image, however many classes there are.

Shape suffixes: N images of the set, B of a batch, C classes, M labels per image, T most probable classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from ffdr.evaluate.metrics import NO_LABEL

_MOST_PROBABLE = 5


class Predicted(NamedTuple):
    """Of all images that were scored, in the order of their numbers."""

    numbers: np.ndarray
    """(N,) int64, numbers of the images"""
    classes: np.ndarray
    """(N, T) int32, the most probable classes, the most probable first; T is 5, or C where there are fewer"""
    probabilities: np.ndarray
    """(N, T) float32, of these classes"""

    def right(self, labels: np.ndarray) -> np.ndarray:
        """(N,) bool, whether the most probable class is a label. labels: (N,) or (N, M) of all images of the set."""
        labels_NM = labels[self.numbers].reshape(len(self.numbers), -1)
        return ((labels_NM == self.classes[:, :1]) & (labels_NM != NO_LABEL)).any(1)


class Mistake(NamedTuple):
    """An image that the model is wrong about."""

    pixels: np.ndarray
    """(H, W, 3) uint8, as the model is shown it"""
    where: str
    """what finds it: a path or a number"""
    labels: list[str]
    predicted: str
    confidence: float


class Predictions:
    """Collects them (a ``scoring.Watcher``), without a wait for the device until the end."""

    def __init__(self) -> None:
        self._batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def update(self, logits: torch.Tensor, index: torch.Tensor) -> None:
        """Keep a batch. logits: (B, C) of any floating dtype; index: (B,) int64 numbers of the images, on the CPU."""
        logits_BC = logits.float()
        classes_BT = logits_BC.topk(min(_MOST_PROBABLE, logits.shape[1]), 1).indices
        self._batches.append((index, classes_BT.int(), logits_BC.softmax(1).gather(1, classes_BT)))

    def gather(self) -> Predicted | None:
        """Those of all ranks, on the first one; None on the others. Every rank calls it."""
        # Without images on this rank there is no T to know; the others' parts have it.
        own = [torch.cat(parts).cpu().numpy() for parts in zip(*self._batches, strict=True)]
        gathered: list[list[np.ndarray]] = [own]
        if dist.is_available() and dist.is_initialized():
            first = dist.get_rank() == 0
            gathered = [own] * dist.get_world_size()
            dist.gather_object(own, gathered if first else None)
            if not first:
                return None
        index, classes, probabilities = map(np.concatenate, zip(*filter(None, gathered), strict=True))
        order = np.argsort(index, kind="stable")
        return Predicted(index[order], classes[order], probabilities[order])
