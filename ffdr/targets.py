"""What a batch is learned from: a few classes with their log-probabilities, and the label."""

from __future__ import annotations

from dataclasses import dataclass

import torch



@dataclass(frozen=True)
class SparseTargets:
    """Targets of a batch of B images, T entries each, best first.

    ids: (B, T) integer class ids, distinct within a row where their probability is not 0.
    log_probs: (B, T) float natural log-probabilities; an unused entry is -65504, the lowest finite float16.
    label: (B,) int64 class of the (first) image.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    label: torch.Tensor

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseTargets:
        """The same targets on another device."""
        parts = (self.ids, self.log_probs, self.label)
        return SparseTargets(*(part.to(device, non_blocking=non_blocking) for part in parts))
