"""Accuracy of a model on corrupted images (``corruptions.py``; not ImageNet-C)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from ffdr.errors import UserError
from ffdr.evaluate.corruptions import CorruptedImages


def evaluate_corruptions(
    model: nn.Module,
    images: np.ndarray | CorruptedImages,
    labels: np.ndarray | torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Top-1 a corruption and severity: {name: [severity 1, …, 5], "mean": over all of them}.

    images: (N, H, W, 3) uint8, or a ``CorruptedImages`` of them, which several models can share. labels: (N,) class
    ids. mean, std: the model's normalisation, of pixels in [0, 1]. dtype: autocast to it; None: float32. The model,
    which must be on the device, is evaluated in evaluation mode and left in the mode it had.
    """
    if isinstance(images, np.ndarray):
        images = CorruptedImages(images)
    if len(images.images) != len(labels) or len(labels) == 0:
        raise UserError(f"corruptions: {len(images.images)} images, but {len(labels)} labels; give one each")
    device = torch.device(device)
    labels = torch.as_tensor(labels).to(device)
    scale, shift = (torch.tensor(tuple(v), device=device).view(1, 3, 1, 1) * 255 for v in (std, mean))
    was_training = model.training
    model.eval()
    report: dict[str, Any] = {}
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
            for name, _, corrupted in images:
                hits = torch.zeros((), dtype=torch.int64, device=device)
                for part, answer in zip(_batches(corrupted, batch_size), labels.split(batch_size), strict=True):
                    pixels = part.to(device).permute(0, 3, 1, 2)  # channels_last without a copy
                    hits += (model((pixels - shift) / scale).argmax(1) == answer).sum()
                report.setdefault(name, []).append(hits.item() / len(labels))
    finally:
        model.train(was_training)
    report["mean"] = float(np.mean(list(report.values())))
    return report


def _batches(images: np.ndarray, batch_size: int) -> tuple[torch.Tensor, ...]:
    return torch.from_numpy(images).split(batch_size)
