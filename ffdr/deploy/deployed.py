"""The model that is exported, how other tools must feed it, and whether they answer as it does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ffdr import __version__
from ffdr.evaluate.settings import INTERPOLATION
from ffdr.models.build import ModelInfo
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import readable, reason

Answer = Callable[[torch.Tensor], torch.Tensor]
"""From images to logits."""
TOLERANCE = 1e-4
"""Most that a logit may differ by, as a share of the largest one; absolute where all lie within ±1."""
_BATCHES = (1, 2, 5)
"""Sizes of batches that answers are compared for."""
_HASH = 2654435761
"""Knuth's multiplier: the golden ratio in 32 bits."""


class Normalising(nn.Module):
    """A model behind the normalisation of its images: (B, 3, H, W) uint8 → (B, C) logits."""

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        # Not called mean: earlier exporters to ONNX call a step of the graph so.
        self.pixel_mean: torch.Tensor
        self.pixel_std: torch.Tensor
        self.register_buffer("pixel_mean", 255 * torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("pixel_std", 255 * torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of pixels as they are."""
        return self.model((pixels.to(torch.float32) - self.pixel_mean) / self.pixel_std)


@dataclass(frozen=True)
class Deployed:
    """A trained model in evaluation mode, on the CPU in float32, nothing of which needs a gradient."""

    model: nn.Module
    info: ModelInfo
    pixels: bool = False
    """whether what is exported takes uint8 pixels, and normalises them itself"""

    @cached_property
    def graph(self) -> nn.Module:
        """What is exported: the model, or the same behind the normalisation."""
        if not self.pixels:
            return self.model
        return Normalising(self.model, self.info.mean, self.info.std).eval()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of class 0, 1, …; their numbers where nobody knows the names."""
        return tuple(map(readable, self.info.class_names)) or tuple(map(str, range(self.info.num_classes)))

    def metadata(self) -> dict[str, Any]:
        """What a user of the exported file must know, as values of JSON."""
        info = self.info
        return {
            "model": info.name,
            "class_names": self.class_names,
            "input": "uint8 pixels" if self.pixels else "float32, (pixels / 255 - mean) / std",
            "resolution": info.resolution,
            "mean": info.mean,
            "std": info.std,
            "crop": info.center,
            "interpolation": INTERPOLATION,
            "data_fingerprint": info.fingerprint,
            "exported_by": f"ffdr {__version__}",
        }

    def sample(self, count: int) -> torch.Tensor:
        """(count, 3, H, W) images to try it with, the same every time: noise, and noise that is smooth."""
        side = self.info.resolution
        numbers = torch.arange(count * 3 * side * side).reshape(count, 3, side, side)
        noise = (numbers * _HASH >> 13) % 256
        coarse = noise[1::2, :, ::8, ::8].to(torch.float32)
        noise[1::2] = F.interpolate(coarse, size=(side, side), mode="nearest").to(noise.dtype)
        pixels = noise.to(torch.uint8)
        if self.pixels:
            return pixels
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (self.info.mean, self.info.std))
        return (pixels / 255 - mean) / std

    def check(self, load: Callable[[], Answer], by: str) -> float:
        """The largest difference of another tool's logits, for batches of several sizes; as ``TOLERANCE`` has it.

        load: has the tool read what was written. by: the tool, for messages. Raises UserError where it can't, or where
        the difference is more than the tolerance.
        """
        name = self.info.name
        with torch.no_grad():
            ours = [self.graph(self.sample(count)) for count in _BATCHES]
        if not all(bool(logits.isfinite().all()) for logits in ours):
            raise UserError(f"{name}: gives logits that are not finite; nothing was written")
        try:
            answer = load()
            with torch.no_grad():
                theirs = [answer(self.sample(count)) for count in _BATCHES]
        except Exception as error:  # whatever the tools raise
            if is_out_of_memory(error) or isinstance(error, UserError):
                raise
            raise UserError(f"{name}: {by} can't use it again ({reason(error)}); nothing was written") from error
        worst = max(map(difference, ours, theirs))
        if worst > TOLERANCE:
            raise UserError(
                f"{name}: loaded again by {by}, its answers differ by {worst:.1e}, but {TOLERANCE:g} is allowed; "
                "nothing was written"
            )
        return worst


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of two batches of logits, as ``TOLERANCE`` has it; infinite for other shapes and NaN."""
    if ours.shape != theirs.shape:
        return math.inf
    found = ((ours - theirs).abs().max() / ours.abs().max().clamp(min=1)).item()
    return found if math.isfinite(found) else math.inf


def as_texts(metadata: dict[str, Any]) -> dict[str, str]:
    """Values of JSON as texts, for files that hold nothing else: a text stays as it is."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
