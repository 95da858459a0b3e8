"""What a batch is learned from: a few classes with their log-probabilities, and the label.

Shape suffixes: B images, T kept entries, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ffdr.beton.header import UNUSED
from ffdr.config.choices import RESIDUALS

RESIDUAL_TOLERANCE = 2.0**-7
"""How far the kept probabilities may exceed 1 and still be rounding.

A log-probability l rounded to float16 is off by at most |l|·2^-11, which moves its probability p by p·|l|·2^-11. Over a
row that sums to at most 2^-11 times the entropy, which is at most ln T: 0.0011 for ten entries, 0.0054 for 65,535. The
next power of two covers every row that a file can hold; an excess beyond it is damage, not rounding.
"""


_BEST_ONLY, _SCALED = ("top1", "hard"), ("renormalise", "hard")
"""Residuals for which only the best entry counts; those that leave nothing to classes without an entry."""


@dataclass(frozen=True)
class MergedTargets:
    """The entries of a batch with every class named once.

    ids: (B, T) int64; an unused slot holds the number of classes, so that it points past the last one.
    logp: (B, T) float log-probabilities; an unused slot holds ``UNUSED``.
    used: (B, T) bool, False for an unused slot.
    """

    ids: torch.Tensor
    logp: torch.Tensor
    used: torch.Tensor


@dataclass(frozen=True)
class SparseTargets:
    """Targets of a batch of B images, T entries each, best first.

    ids: (B, T) integer class ids; a class named twice (two mixed images of one class) has the sum of both.
    log_probs: (B, T) float natural log-probabilities; an unused entry is -65504, the lowest finite float16.
    label: (B,) int64 class of the (first) image.
    partner: (B,) int64 class of the image that is mixed in, its own class where none is; None: views are not mixed.
    share: (B,) float32 in [0, 1], the first image's share of the view, which is its label's weight; None with partner.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    label: torch.Tensor
    partner: torch.Tensor | None = None
    share: torch.Tensor | None = None

    @classmethod
    def from_batch(cls, batch: Mapping[str, torch.Tensor]) -> SparseTargets:
        """Of items of ``ReinforcedDataset`` that were stacked, by a DataLoader or any other collator.

        Raises:
            KeyError: it is no such batch.
        """
        ids, log_probs, label = (batch[key] for key in ("target_ids", "target_log_probs", "labels"))
        return cls(ids, log_probs, label, batch.get("partner_labels"), batch.get("shares"))

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, part: slice) -> SparseTargets:
        """The targets of some of the images."""
        return self._each(lambda x: x[part])

    def parts(self) -> tuple[torch.Tensor | None, ...]:
        """The fields in order."""
        return self.ids, self.log_probs, self.label, self.partner, self.share

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseTargets:
        """The same targets on another device."""
        return self._each(lambda x: x.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> SparseTargets:
        mixing = (None if part is None else change(part) for part in (self.partner, self.share))
        return SparseTargets(change(self.ids), change(self.log_probs), change(self.label), *mixing)

    def dense(self, num_classes: int, residual: str = "smooth") -> torch.Tensor:
        """(B, C) probabilities that sum to 1 per row, float32 (float64 where the log-probabilities are).

        residual: with s the sum of a row's T entries p, and m the best of them,

        - "smooth": an entry keeps p, each of the C - T other classes gets (1 - s) / (C - T);
        - "renormalise": an entry gets p / s, the others nothing;
        - "top1": the best entry keeps m, each of the C - 1 other classes gets (1 - m) / (C - 1);
        - "hard": the best entry's class gets 1, the others nothing.

        They are the marginal smoothing, marginal re-norm, smoothing and hard label of FKD (Shen & Xing, ECCV 2022). Of
        equal entries the one of the lowest class is the best.

        Probabilities that exceed 1 by no more than ``RESIDUAL_TOLERANCE`` are rounding and are scaled to sum to 1; a
        row whose entries name every class is scaled likewise, having no other class.

        Raises ValueError for ids that are no class, log-probabilities that are no number, a larger excess, or a row
        without entries to renormalise. It looks at the values, so it waits for the device: a training step should use
        ``SparseTargetLoss``, which neither waits nor builds this array.
        """
        self._check(num_classes, residual)
        merged = merge(self, num_classes, residual)
        logp_BT, log_rest_B = spread(merged, num_classes, residual)
        # One column more than classes: unused slots point there.
        dense_BC = log_rest_B.exp()[:, None].repeat(1, num_classes + 1)
        dense_BC.scatter_(1, merged.ids, logp_BT.exp())
        return dense_BC[:, :num_classes]

    def _check(self, num_classes: int, residual: str) -> None:
        """Raise ValueError for values that no distribution over ``num_classes`` classes has."""
        check_residual(residual)
        if self.ids.numel() == 0:
            return
        low, high = int(self.ids.min()), int(self.ids.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"targets: class {low if low < 0 else high} is not one of {num_classes} classes")
        if bool(self.log_probs.isnan().any()):
            raise ValueError("targets: a log-probability is not a number")
        total_B = self.log_probs.to(_float_type(self.log_probs)).exp().sum(1)
        if float(total_B.max()) - 1 > RESIDUAL_TOLERANCE:
            raise ValueError(
                f"targets: row {int(total_B.argmax())} sums to {float(total_B.max()):.4f}; "
                f"rounding explains at most {1 + RESIDUAL_TOLERANCE:.4f}"
            )
        if residual in _SCALED and float(total_B.min()) == 0:
            raise ValueError(f"targets: row {int(total_B.argmin())} has no entry to renormalise")


def _float_type(values: torch.Tensor) -> torch.dtype:
    """float64 stays, everything narrower is computed in float32."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def check_residual(residual: str) -> None:
    """Raise ValueError for a residual that there is not."""
    if residual not in RESIDUALS:
        raise ValueError(f"residual: {residual!r} is not one of {', '.join(RESIDUALS)}")


def merge(targets: SparseTargets, num_classes: int, residual: str = "smooth") -> MergedTargets:
    """Name every class of a row once; a class named twice gets the sum of its probabilities.

    residual: "top1" and "hard" keep the best of these classes only, so that T is 1.

    Sorting by class puts equal ids side by side; each run is then one segment, summed by log-sum-exp so that tiny
    probabilities keep their precision for a later temperature. O(T log T) per row, no wait for the device.
    """
    ids_BT = targets.ids.long()
    logp_BT = targets.log_probs.to(_float_type(targets.log_probs)).clamp_min(UNUSED)
    used_BT = logp_BT > UNUSED
    ids_BT = torch.where(used_BT, ids_BT, num_classes)
    if ids_BT.shape[1] < 2:
        return MergedTargets(ids_BT, logp_BT, used_BT)

    ids_BT, order_BT = ids_BT.sort(dim=1)
    logp_BT = logp_BT.gather(1, order_BT)
    starts_BT = torch.ones_like(ids_BT)
    starts_BT[:, 1:] = ids_BT[:, 1:] != ids_BT[:, :-1]
    segment_BT = starts_BT.cumsum(1) - 1

    merged_ids_BT = torch.full_like(ids_BT, num_classes).scatter_(1, segment_BT, ids_BT)
    peak_BT = torch.full_like(logp_BT, UNUSED).scatter_reduce_(1, segment_BT, logp_BT, "amax")
    scaled_BT = (logp_BT - peak_BT.gather(1, segment_BT)).exp()
    sum_BT = torch.zeros_like(logp_BT).scatter_add_(1, segment_BT, scaled_BT)
    used_BT = merged_ids_BT < num_classes
    logp_BT = torch.where(used_BT, peak_BT + sum_BT.log(), UNUSED)
    merged = MergedTargets(merged_ids_BT, logp_BT, used_BT)
    return _best(merged) if residual in _BEST_ONLY else merged


def _best(merged: MergedTargets) -> MergedTargets:
    """The entry of the highest probability of each row; an unused one where a row has none."""
    at_B1 = merged.logp.argmax(1, keepdim=True)
    return MergedTargets(*(part.gather(1, at_B1) for part in (merged.ids, merged.logp, merged.used)))


def spread(merged: MergedTargets, num_classes: int, residual: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The distribution that the entries stand for: (B, T) log-probabilities and (B,) that of each class not named.

    With s the sum of the entries and m their number: smooth leaves an entry as it is and gives each of the C - m other
    classes (1 - s) / (C - m); where nothing is left over (s >= 1 but for this dtype's rounding, which a temperature
    would otherwise blow up into mass) or nobody to give it to (m = C), and always in renormalise, an entry is divided
    by s and the others get nothing (``UNUSED``). Of entries that ``merge`` has cut down to the best one, top1 is the
    same as smooth, and hard as renormalise.
    """
    logp_BT = merged.logp
    left_B = (num_classes - merged.used.sum(1)).to(logp_BT.dtype)
    log_sum_B = torch.where(merged.used, logp_BT, -torch.inf).logsumexp(1)
    if residual in _SCALED:
        scaled_B = torch.ones_like(left_B, dtype=torch.bool)
    else:
        scaled_B = (left_B == 0) | (log_sum_B >= -logp_BT.shape[1] * torch.finfo(logp_BT.dtype).eps)
    # log(1 - s) through expm1: exact where s is close to 1. The inner where keeps the unused branch finite.
    rest_B = -torch.expm1(torch.where(scaled_B, -1.0, log_sum_B))
    log_rest_B = torch.where(scaled_B, UNUSED, (rest_B / left_B.clamp_min(1)).log())
    logp_BT = torch.where(scaled_B[:, None], logp_BT - log_sum_B[:, None], logp_BT)
    return torch.where(merged.used, logp_BT, UNUSED), log_rest_B
