"""Pixels as a model takes them: the same bits from a batch on a GPU, from one on a CPU and from a single view."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ffdr.util.arguments import PerChannel


class Normalisation(NamedTuple):
    """Subtracts a mean per channel, and divides by a standard deviation."""

    mean: torch.Tensor
    """(3, 1, 1) float32, of pixels in 0..255"""
    scale: torch.Tensor
    """(3, 1, 1) float32, one over the standard deviation of such pixels"""

    @classmethod
    def on(cls, device: torch.device | str, mean: PerChannel, std: PerChannel) -> Normalisation:
        """mean, std: of pixels in [0, 1]."""
        subtracted, divisor = (255.0 * torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
        return cls(subtracted, 1.0 / divisor)

    def __call__(self, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """pixels: (..., 3, H, W) uint8 on the device. Returns as many of a floating dtype, in the same memory format;
        computed in float32."""
        return torch.sub(pixels, self.mean).mul_(self.scale).to(dtype)
