"""Accuracy of a model on corrupted images (``corruptions.py``; not ImageNet-C)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ffdr.evaluate.corruptions import CorruptedImages
from ffdr.evaluate.evaluator import Evaluator
from ffdr.util.errors import UserError


def evaluate_corruptions(
    evaluator: Evaluator, images: np.ndarray | CorruptedImages, labels: np.ndarray
) -> dict[str, Any]:
    """Top-1 per corruption and severity, with the evaluator's settings.

    images: (N, H, W, 3) uint8, or a ``CorruptedImages`` of them, which several models can share. labels: (N,) class
    ids.

    Returns:
        corruptions: {name: [severity 1, …, 5]}; corruption_top1: the mean over all of them.
    """
    if isinstance(images, np.ndarray):
        images = CorruptedImages(images)
    if len(images.images) != len(labels) or len(labels) == 0:
        raise UserError(f"corruptions: {len(images.images)} images, but {len(labels)} labels; give one each")
    by_name: dict[str, list[float]] = {}
    for name, severity, corrupted in images:
        hits = _Hits(labels)
        evaluator.score(evaluator.pixel_loader(corrupted, labels), {"": hits}, f"corruptions: {name} {severity}")
        by_name.setdefault(name, []).append(int(hits.count) / len(labels))
    return {"corruption_top1": float(np.mean(list(by_name.values()))), "corruptions": by_name}


class _Hits:
    """How many predictions are correct, on this rank alone."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = torch.from_numpy(np.asarray(labels))
        self.count: int | torch.Tensor = 0

    def update(self, logits: torch.Tensor, index: torch.Tensor) -> None:
        self.count = self.count + (logits.argmax(1) == self.labels[index].to(logits.device)).sum()
