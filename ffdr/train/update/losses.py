"""The loss on sparse targets. Shape suffixes: B images, T kept entries, C classes."""

from __future__ import annotations

import math

import torch
from torch import nn

from ffdr.beton.header import UNUSED
from ffdr.loader.targets import SparseTargets, check_residual, merge, spread


def check_settings(num_classes: int, residual: str, label_smoothing: float) -> None:
    """Raise ValueError for settings of a loss on sparse targets that are out of range."""
    if num_classes < 1:
        raise ValueError(f"num_classes: {num_classes} is less than 1")
    check_residual(residual)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: {label_smoothing} is not in [0, 1)")


def check_logits(logits: torch.Tensor, targets: SparseTargets, num_classes: int) -> torch.Tensor:
    """Logits (B, C) in the dtype that losses compute in: float64 stays, all others become float32.

    Raises ValueError for another number of classes or images.
    """
    if logits.shape != (len(targets), num_classes):
        raise ValueError(f"logits: shape {tuple(logits.shape)}, but {len(targets)} images and {num_classes} classes")
    return logits if logits.dtype == torch.float64 else logits.float()


class SparseTargetLoss(nn.Module):
    """Kullback-Leibler divergence of softmax(logits) from sparse targets, batch mean, without a dense (B, C) target.

    For one row, with p the densified target (see ``SparseTargets.dense``), eps the label smoothing, t the temperature:

        p'_c = (1 - eps) p_c + eps / C                  smoothing first
        q_c  = p'_c^(1/t) / sum_j p'_j^(1/t)            then the temperature, on the stored log-probabilities
        loss = t^2 * sum_c q_c (log q_c - log softmax(logits / t)_c)

    All classes that the targets don't name share one value u, so with S the m named classes, z = logits / t and
    L = logsumexp(z), everything is a sum over S and two sums over the classes:

        sum_j p'_j^(1/t)     = sum_S p'_c^(1/t) + (C - m) u^(1/t)
        loss / t^2           = sum_S q_c (log q_c - z_c + L) + q_u ((C - m)(log q_u + L) - (sum_j z_j - sum_S z_c))

    The divergence, as in the paper (Faghri et al., ICCV 2023), is the cross-entropy less the target's entropy: the same
    gradient, and 0 is a perfect student. For hard labels without smoothing both are equal. The factor t^2 keeps
    the gradient's size independent of t (Hinton et al., 2015).

    Computes in float32 (float64 for float64 logits), under autocast too. It never waits for the device and so does not
    look at the values: ids must be classes, which betons are checked for when they are opened.
    """

    def __init__(
        self,
        num_classes: int,
        temperature: float = 1.0,
        residual: str = "smooth",
        label_smoothing: float = 0.0,
    ) -> None:
        """Check the settings.

        Args:
            num_classes: C, at least 1.
            temperature: t, positive; softens teacher and student alike.
            residual: of the probability that the stored entries leave out, see ``SparseTargets.dense``.
            label_smoothing: share of a hard label that is spread over all classes, in [0, 1).

        Raises:
            ValueError: a setting out of range.
        """
        super().__init__()
        check_settings(num_classes, residual, label_smoothing)
        if not temperature > 0:
            raise ValueError(f"temperature: {temperature} is not positive")
        self.num_classes = num_classes
        self.temperature = temperature
        self.residual = residual
        self.label_smoothing = label_smoothing

    def extra_repr(self) -> str:
        """The settings, for ``print(loss)``."""
        return (
            f"num_classes={self.num_classes}, temperature={self.temperature:g}, "
            f"residual={self.residual!r}, label_smoothing={self.label_smoothing:g}"
        )

    def forward(self, logits: torch.Tensor, targets: SparseTargets) -> torch.Tensor:
        """Mean divergence over the batch.

        Args:
            logits: (B, C), of any floating dtype.
            targets: of the same B images.

        Returns:
            A scalar in float32, or float64 for float64 logits.

        Raises:
            ValueError: logits of another number of classes or images.
        """
        z_BC = check_logits(logits, targets, self.num_classes) / self.temperature
        ids_BT, used_BT, logq_BT, log_qu_B = self._target(targets)
        lse_B = z_BC.logsumexp(1)
        z_BT = z_BC.gather(1, ids_BT)

        # Unused slots have q = 0: their log q, which is only very negative and not infinite, adds exactly 0.
        named_B = (logq_BT.exp() * (logq_BT - z_BT + lse_B[:, None])).sum(1)
        left_B = self.num_classes - used_BT.sum(1)
        sum_z_others_B = z_BC.sum(1) - torch.where(used_BT, z_BT, 0.0).sum(1)
        others_B = log_qu_B.exp() * (left_B * (log_qu_B + lse_B) - sum_z_others_B)
        return (named_B + others_B).mean() * self.temperature**2

    @torch.no_grad()
    def _target(self, targets: SparseTargets) -> tuple[torch.Tensor, ...]:
        """ids (B, T), used (B, T), log q of the named classes (B, T), log q of each other class (B,)."""
        C, eps = self.num_classes, self.label_smoothing
        merged = merge(targets, C, self.residual)
        logp_BT, logu_B = spread(merged, C, self.residual)
        if eps > 0:
            share = logp_BT.new_full((), math.log(eps / C))  # a fill on the device: no copy from the host
            logp_BT = torch.where(merged.used, torch.logaddexp(logp_BT + math.log1p(-eps), share), UNUSED)
            logu_B = torch.logaddexp(logu_B + math.log1p(-eps), share)
        if self.temperature != 1:
            logp_BT, logu_B = self._tempered(logp_BT, logu_B, merged.used)
        return merged.ids.clamp_max(C - 1), merged.used, logp_BT, logu_B

    def _tempered(
        self, logp_BT: torch.Tensor, logu_B: torch.Tensor, used_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Raise the probabilities to the power 1/t and normalise, in logarithms."""
        # A class with probability 0 keeps it at any temperature, which UNUSED / t would not show at a high one.
        absent_B = (logu_B <= UNUSED) | (used_BT.sum(1) == self.num_classes)
        hot_BT = torch.where(used_BT, logp_BT / self.temperature, -torch.inf)
        hot_B = torch.where(absent_B, -torch.inf, logu_B / self.temperature)
        left_B = (self.num_classes - used_BT.sum(1)).clamp_min(1).to(logp_BT.dtype)
        norm_B = torch.logaddexp(hot_BT.logsumexp(1), hot_B + left_B.log())
        hot_BT = torch.where(used_BT, hot_BT - norm_B[:, None], UNUSED)
        return hot_BT, torch.where(absent_B, UNUSED, hot_B - norm_B)
