"""Accuracy and calibration of a model on a loader.

Shape suffixes: B images, C classes, T most probable classes, M labels per image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ffdr.loader.protocol import Batch
from ffdr.loader.targets import SparseTargets
from ffdr.models.build import best_device
from ffdr.util.errors import UserError

ECE_BINS = 15
NO_LABEL = -1
"""Fills up the labels of an image that has fewer than others."""


@dataclass(frozen=True)
class Result:
    """What ``Scores`` has counted, over all ranks."""

    scores: dict[str, float]
    """top1, top5, nll, brier, ece and images; see ``Scores``"""
    bins: np.ndarray
    """(15, 3) float64, a row for each bin of confidence: images, sum of their confidences, correct predictions"""
    classes: np.ndarray
    """(C, 2) float64, a row for each class: images, correct predictions"""

    def reliability(self) -> list[dict[str, Any]]:
        """The bins as plain data: of each its images, their mean confidence and accuracy (None without images)."""
        return [
            {"images": int(n), "confidence": sure / n if n else None, "accuracy": right / n if n else None}
            for n, sure, right in self.bins.tolist()
        ]


class EvaluationLoader(Protocol):
    """What evaluation needs of a loader: batches of one dataset. Every ``BatchLoader`` is one."""

    num_classes: int

    def __len__(self) -> int:
        """Batches per pass."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches of a pass."""

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, from its first batch."""


class Scores:
    """Running scores of a classifier; exact over batches of any size, no wait for the device until ``result``.

    - top1, top5: share of images whose class is among the 1 (5; fewer with fewer classes) most probable
    - nll: mean negative log-likelihood of the class, nats
    - brier: mean over images of the squared distance of probabilities and one-hot label, in [0, 2] (Brier, 1950)
    - ece: expected calibration error, 15 bins of equal width, L1, of the largest probability (Guo et al., 2017); a
      confidence on the edge of two bins is the upper one's, 1 the last one's
    """

    def __init__(self, num_classes: int, device: torch.device | str | None = None) -> None:
        """device: where the logits are; None: the GPU, if there is one. ``update`` follows them in any case."""
        device = device or best_device()
        self._sums = torch.zeros(5, dtype=torch.float64, device=device)  # images, top1, top5, nll, brier
        self._bins = torch.zeros(ECE_BINS, 3, dtype=torch.float64, device=device)
        self._classes = torch.zeros(num_classes, 2, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch.

        logits: (B, C) of any floating dtype. labels: (B,) int64, or (B, M) of which each counts as right in top1, top5
        and ece (``NO_LABEL`` fills up) and the first is the class of nll and brier.
        """
        labels_BM = labels.reshape(len(labels), -1)
        labels_B = labels_BM[:, 0]
        if self._sums.device != logits.device:
            self._sums, self._bins, self._classes = (x.to(logits.device) for x in self._parts())
        logits_BC = logits.float()
        logp_BC = logits_BC.log_softmax(1)
        p_BC = logp_BC.exp()
        top_BT = logits_BC.topk(min(5, logits.shape[1]), 1).indices
        right_BT = (top_BT[:, :, None] == labels_BM[:, None, :]).any(2)
        confidence_B = p_BC.amax(1).double()
        right_B = right_BT[:, 0].double()
        one_B = torch.ones_like(right_B)
        logp_B = logp_BC.gather(1, labels_B[:, None])[:, 0].double()
        # sum_c (p_c - y_c)^2 = sum_c p_c^2 - 2 p_label + 1
        brier_B = p_BC.double().square().sum(1) - 2 * logp_B.exp() + 1
        self._sums += torch.stack([one_B, right_B, right_BT.any(1).double(), -logp_B, brier_B], 1).sum(0)
        bin_B = (confidence_B * ECE_BINS).nan_to_num(0).long().clamp(0, ECE_BINS - 1)
        self._bins.index_add_(0, bin_B, torch.stack([one_B, confidence_B, right_B], 1))
        self._classes.index_add_(0, labels_B, torch.stack([one_B, right_B], 1))

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self._sums, self._bins, self._classes

    def result(self, alone: bool = False) -> Result:
        """All that was counted, over all ranks. alone: by this rank only, which asks no other.

        Raises UserError without images or for outputs that are not finite.
        """
        total = torch.cat([part.flatten() for part in self._parts()])
        if not alone and dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        sums, bins, classes = np.split(total.cpu().numpy(), np.cumsum([self._sums.numel(), self._bins.numel()]))
        images, bins = round(sums[0]), bins.reshape(-1, 3)
        if images == 0:
            raise UserError("evaluate: there are no images")
        top1, top5, nll, brier = (sums[1:] / images).tolist()
        if not math.isfinite(nll):
            raise UserError("evaluate: the model's outputs are not finite; its weights or its precision are at fault")
        ece = float(np.abs(bins[:, 2] - bins[:, 1]).sum() / images)
        scores = {"top1": top1, "top5": top5, "nll": nll, "brier": brier, "ece": ece, "images": images}
        return Result(scores, bins, classes.reshape(-1, 2))

    def compute(self) -> dict[str, float]:
        """The scores over all ranks, and ``images``, their number. Raises UserError as ``result`` does."""
        return self.result().scores


def predict(
    model: nn.Module,
    loader: EvaluationLoader,
    receive: Callable[[torch.Tensor, SparseTargets, torch.Tensor], None],
    dtype: torch.dtype | None = None,
    flip: bool = False,
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """One pass of a loader: hands logits (B, C), targets and index (B,) of every batch to ``receive``.

    dtype: autocast to it; None: float32. flip: average the model's outputs for an image and its mirror image. forward:
    how the model is called, such as through ``compiling.FixedBatch``; None: plainly. The model is evaluated in
    evaluation mode and left in the mode it had.
    """
    forward = model if forward is None else forward  # its length may say that it is empty, or raise
    was_training = model.training
    # By way of training mode, in which models let go what they keep of their weights while they evaluate (earlier
    # timm's LeViT only there): averaged weights change in evaluation mode.
    model.train()
    model.eval()
    loader.set_epoch(0)
    try:
        with torch.inference_mode():
            for images, targets, index in loader:
                with torch.autocast(images.device.type, dtype) if dtype else nullcontext():
                    logits = (forward(images) + forward(images.flip(3))) / 2 if flip else forward(images)
                receive(logits, targets, index)
    finally:
        model.train(was_training)
