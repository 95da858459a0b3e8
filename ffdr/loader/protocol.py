"""What the fit loop and the evaluation ask of a loader, so that neither knows the one that ffdr ships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch

from ffdr.loader.targets import SparseTargets

Batch = tuple[torch.Tensor, SparseTargets, torch.Tensor]
"""images (B, 3, H, W) channels_last on the device, normalised, or uint8 for a step that normalises them itself; targets
on the device; index (B,) int64."""


class BatchLoader(Protocol):
    """Batches of one dataset, epoch by epoch, in an order that (seed, epoch) decides."""

    @property
    def num_images(self) -> int:
        """Images in the dataset."""
        ...

    num_classes: int

    def __len__(self) -> int:
        """Batches in a full epoch."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the coming epoch, from where the state says."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, from its first batch."""
        ...

    def set_resolution(self, resolution: int) -> None:
        """Images of the coming passes have this side, in pixels."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-able place in the data: seed, epoch, batch (those handed out) and fingerprint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch of the state. Raises UserError when it is of other data."""
        ...
