"""Accuracy and calibration of a model on a loader. Shape suffixes: B images, C classes."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from ffdr.errors import UserError
from ffdr.models import best_device
from ffdr.protocol import BatchLoader

ECE_BINS = 15


class Scores:
    """Running scores of a classifier; exact over batches of any size, no wait for the device until ``compute``.

    - top1, top5: share of images whose class is among the 1 (5; fewer with fewer classes) most probable
    - nll: mean negative log-likelihood of the class, nats
    - brier: mean over images of the squared distance of probabilities and one-hot label, in [0, 2] (Brier, 1950)
    - ece: expected calibration error, 15 bins of equal width, L1, of the largest probability (Guo et al., 2017)
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        accuracy = {"num_classes": num_classes, "average": "micro", "validate_args": False}
        self._metrics = MetricCollection(
            {
                "top1": MulticlassAccuracy(top_k=1, **accuracy),
                "top5": MulticlassAccuracy(top_k=min(5, num_classes), **accuracy),
                "ece": MulticlassCalibrationError(num_classes, n_bins=ECE_BINS, norm="l1", validate_args=False),
            },
            compute_groups=False,
        ).to(device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # nll, brier
        self._images = 0

    @torch.no_grad()
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch. logits: (B, C) of any floating dtype; labels: (B,) int64."""
        logp_BC = logits.float().log_softmax(1)
        p_BC = logp_BC.exp()
        p_label_B = p_BC.gather(1, labels[:, None])[:, 0]
        self._metrics.update(p_BC, labels)
        self._sums[0] -= logp_BC.gather(1, labels[:, None]).double().sum()
        # sum_c (p_c - y_c)^2 = sum_c p_c^2 - 2 p_label + 1
        self._sums[1] += (p_BC.double().square().sum(1) - 2 * p_label_B.double() + 1).sum()
        self._images += len(labels)

    def compute(self) -> dict[str, float]:
        """The scores over all ranks, and ``images``, their number.

        Raises UserError without images or for answers not finite.
        """
        totals = torch.cat([self._sums, self._sums.new_tensor([self._images])])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
        images = round(totals[2].item())
        if images == 0:
            raise UserError("evaluate: there are no images")
        nll, brier = (totals[:2] / images).tolist()
        if not math.isfinite(nll):
            raise UserError("evaluate: the model's answers are not finite; its weights or its precision are at fault")
        ece = self._metrics["ece"]
        if not ece.confidences:  # a rank without images has to give the others something
            ece.confidences.append(self._sums.new_empty(0, dtype=torch.float32))
            ece.accuracies.append(self._sums.new_empty(0, dtype=torch.float32))
        values = {key: float(value) for key, value in self._metrics.compute().items()}
        return {
            # torchmetrics divides in float32; the count that it divided is a whole number.
            "top1": round(values["top1"] * images) / images,
            "top5": round(values["top5"] * images) / images,
            "nll": nll,
            "brier": brier,
            "ece": values["ece"],
            "images": images,
        }


def evaluate(
    model: nn.Module,
    loader: BatchLoader,
    num_classes: int | None = None,
    dtype: torch.dtype | None = None,
    flip: bool = False,
) -> dict[str, float]:
    """Scores of a model on one pass of a loader (see ``Scores``), by the targets' ``label``.

    num_classes: columns of the model's output, if not the loader's. dtype: autocast to it; None: float32. flip: average
    the model's outputs for an image and its mirror image. On several ranks (torch.distributed) the scores are those of
    all images of all ranks, in each of them. The model is evaluated in evaluation mode and left in the mode it had.
    Raises UserError as ``Scores.compute`` does.
    """
    was_training = model.training
    model.eval()
    scores = None
    loader.set_epoch(0)
    try:
        with torch.inference_mode():
            for images, targets, _ in loader:
                scores = scores or Scores(num_classes or loader.num_classes, images.device)
                with torch.autocast(images.device.type, dtype) if dtype else nullcontext():
                    logits = (model(images) + model(images.flip(3))) / 2 if flip else model(images)
                scores.update(logits, targets.label)
            return (scores or Scores(num_classes or loader.num_classes, best_device())).compute()
    finally:
        model.train(was_training)
