"""Binary cross-entropy on sparse targets. Shape suffixes: B images, T kept entries, C classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ffdr.beton.header import UNUSED
from ffdr.loader.targets import SparseTargets, merge, spread
from ffdr.train.update.losses import check_logits, check_settings


class SparseBceLoss(nn.Module):
    """Binary cross-entropy of sigmoid(logits) from sparse targets, batch mean, without a dense (B, C) target.

    Each class is a question of its own (Wightman et al., "ResNet strikes back", 2021). For one row, with p the
    densified target (see ``SparseTargets.dense``), eps the label smoothing and z the logits:

        y_c  = (1 - eps) p_c + eps / C                  smoothing first
        y_c  = 1 if y_c > threshold else 0              then the threshold, if there is one
        loss = sum_c (softplus(z_c) - y_c z_c)          divided by C, unless classes are summed

    All classes that the targets don't name share one value u, so with S the named classes everything is a sum over S
    and two sums over the classes:

        loss = sum_j softplus(z_j) - sum_S y_c z_c - u (sum_j z_j - sum_S z_c)

    It equals timm's ``timm.loss.BinaryCrossEntropy`` on the dense targets y before the threshold. It is no divergence:
    soft targets leave their own entropy, which no student gets below.

    Computes in float32 (float64 for float64 logits), under autocast too. It never waits for the device and so does not
    look at the values: ids must be classes, which betons are checked for when they are opened.
    """

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float = 0.0,
        target_thresh: float | None = None,
        sum_classes: bool = False,
        residual: str = "smooth",
    ) -> None:
        """Check the settings.

        Args:
            num_classes: C, at least 1.
            label_smoothing: eps, the share of a target that is spread over all classes, in [0, 1).
            target_thresh: targets above it become 1 and all others 0, in [0, 1); None: they stay as they are.
            sum_classes: sum over the classes, which makes the loss C times as large, instead of their mean.
            residual: of the probability that the stored entries leave out, as for ``SparseTargetLoss``.

        Raises:
            ValueError: a setting out of range.
        """
        super().__init__()
        check_settings(num_classes, residual, label_smoothing)
        if target_thresh is not None and not 0 <= target_thresh < 1:
            raise ValueError(f"target_thresh: {target_thresh} is not in [0, 1)")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.target_thresh = target_thresh
        self.sum_classes = sum_classes
        self.residual = residual

    def extra_repr(self) -> str:
        """The settings, for ``print(loss)``."""
        return (
            f"num_classes={self.num_classes}, label_smoothing={self.label_smoothing:g}, "
            f"target_thresh={self.target_thresh}, sum_classes={self.sum_classes}, residual={self.residual!r}"
        )

    def forward(self, logits: torch.Tensor, targets: SparseTargets) -> torch.Tensor:
        """Mean over the batch.

        Args:
            logits: (B, C), of any floating dtype.
            targets: of the same B images.

        Returns:
            A scalar in float32, or float64 for float64 logits.

        Raises:
            ValueError: logits of another number of classes or images.
        """
        z_BC = check_logits(logits, targets, self.num_classes)
        ids_BT, used_BT, y_BT, u_B = self._target(targets)
        z_BT = torch.where(used_BT, z_BC.gather(1, ids_BT), 0.0)
        named_B = (y_BT * z_BT).sum(1)
        others_B = u_B * (z_BC.sum(1) - z_BT.sum(1))
        return self._mean(F.softplus(z_BC).sum(1) - named_B - others_B)

    def dense(self, logits: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
        """The same with dense targets, such as a live teacher's probabilities; they are not smoothed.

        Args:
            logits: (B, C), of any floating dtype.
            probs: (B, C) floating, in [0, 1].

        Returns:
            A scalar in float32, or float64 for float64 logits.
        """
        z_BC = logits if logits.dtype == torch.float64 else logits.float()
        y_BC = self._thresholded(probs).to(z_BC.dtype)
        return self._mean(F.binary_cross_entropy_with_logits(z_BC, y_BC, reduction="none").sum(1))

    def _mean(self, loss_B: torch.Tensor) -> torch.Tensor:
        """Over the batch, of losses that are summed over the classes."""
        return loss_B.mean() if self.sum_classes else loss_B.mean() / self.num_classes

    def _thresholded(self, y: torch.Tensor) -> torch.Tensor:
        return y if self.target_thresh is None else y.gt(self.target_thresh).to(y.dtype)

    @torch.no_grad()
    def _target(self, targets: SparseTargets) -> tuple[torch.Tensor, ...]:
        """ids (B, T), used (B, T), y of the named classes (B, T), y of each other class (B,)."""
        C, eps = self.num_classes, self.label_smoothing
        merged = merge(targets, C, self.residual)
        logp_BT, logu_B = spread(merged, C, self.residual)
        y_BT, u_B = ((1 - eps) * logp.exp() + eps / C for logp in (logp_BT, logu_B))
        return merged.ids.clamp_max(C - 1), merged.used, self._thresholded(y_BT), self._thresholded(u_B)


def label_targets(targets: SparseTargets) -> SparseTargets:
    """The labels alone as targets, in place of what a teacher said: one, or two by their shares where views are mixed.

    targets: of B images. Returns those of the same images with one entry or two.
    """
    label = targets.label
    if targets.partner is None or targets.share is None:
        ids, share = label[:, None], torch.ones_like(label, dtype=torch.float32)[:, None]
    else:
        ids = torch.stack([label, targets.partner], 1)
        share = torch.stack([targets.share, 1 - targets.share], 1)
    return SparseTargets(ids, share.log().clamp_min(UNUSED), label, targets.partner, targets.share)
