"""A model, how it is fed, and one pass of it over images of a beton or a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ffdr.augment.replay import render
from ffdr.augment.view import center_view
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.data.folder import open_folder
from ffdr.data.source import FileSource
from ffdr.evaluate.folders import BatchFormat, FolderLoader, PixelLoader
from ffdr.evaluate.metrics import EvaluationLoader, predict
from ffdr.loader.loader import ReinforcedLoader
from ffdr.loader.order import rank_and_world_size
from ffdr.loader.targets import SparseTargets
from ffdr.models.build import ModelInfo
from ffdr.models.compiling import FixedBatch
from ffdr.util.errors import UserError

Images = ImageBeton | FileSource
"""Both have ``class_names`` and ``labels``."""


def open_images(path: str | Path, key: str) -> Images:
    """A folder with a subfolder for each class, or an image beton. key: the option that named it, for messages.

    Raises:
        UserError: there is no such path, or it is neither.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{key}: there is no {path}")
    return open_folder(path, key) if path.is_dir() else ImageBeton.open(path)


def center_share(resolution: int, crop_pct: float) -> float:
    """The share of the resized short side with which the evaluation view is timm's and torchvision's.

    They resize to floor(resolution / crop_pct) pixels, where a view record's share alone would be rounded to nearest:
    224 / 0.95 is 235 pixels, not 236.
    """
    return resolution / math.floor(resolution / crop_pct)


class BatchScorer(Protocol):
    """What is handed the outputs, such as a ``scoring.Scorer``."""

    def update(self, logits: torch.Tensor, index: torch.Tensor) -> None:
        """Count a batch. logits: (B, C) on any device; index: (B,) int64 numbers of the images, on the CPU."""


@dataclass(frozen=True)
class Evaluator:
    """A model in its place on the device, and how it is fed."""

    model: nn.Module
    info: ModelInfo
    device: torch.device
    batch_size: int = 256
    dtype: torch.dtype | None = None
    """autocast to it; None: float32"""
    flip: bool = False
    """average the outputs for an image and its mirror image"""
    workers: int = 0
    """decoding threads; 0: one per core"""
    shared: bool = True
    """share the images with the other ranks of torch.distributed, where there are some"""
    progress: bool = False
    compile: bool = False

    @cached_property
    def forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """How the model is called, for all passes."""
        return FixedBatch(self.model, "eval.compile") if self.compile else self.model

    def loader(
        self, images: Images, center: float | None = None, border: int = 0, dtype: torch.dtype | None = None
    ) -> EvaluationLoader:
        """Batches of the evaluation view, of this rank's share.

        center: crop_pct, if not the model's. border: pixels to cut off first (folders only). dtype: of the batches;
        None: what the model's first layer would make of them.
        """
        rank, ranks = rank_and_world_size(None, None) if self.shared else (0, 1)
        share = center_share(self.info.resolution, self.info.center if center is None else center)
        batches = self._batches(math.ceil(len(images.labels) / ranks), dtype)
        if isinstance(images, FileSource):
            return FolderLoader(
                images,
                self.info,
                batches,
                center=share,
                border=border,
                workers=self.workers,
                rank=rank,
                world_size=ranks,
            )
        return ReinforcedLoader(
            images,
            batch_size=batches.size,
            resolution=self.info.resolution,
            center=share,
            mean=self.info.mean,
            std=self.info.std,
            device=batches.device,
            dtype=batches.dtype,
            workers=self.workers,
            rank=rank,
            world_size=ranks,
        )

    def view(self, images: Images, number: int, border: int = 0) -> np.ndarray:
        """One image as a pass shows it, (H, W, 3) uint8, not normalised. border: as in ``loader``.

        Raises:
            UserError: it can't be read.
        """
        pixels = decode_image(images, number) if isinstance(images, ImageBeton) else np.asarray(images.read(number))
        inner = pixels[border : len(pixels) - border, border : pixels.shape[1] - border]
        share = center_share(self.info.resolution, self.info.center)
        return render(np.ascontiguousarray(inner), center_view(share), self.info.resolution)

    def pixel_loader(self, pixels: np.ndarray, labels: np.ndarray) -> EvaluationLoader:
        """Batches of views that are made already, not shared by ranks. pixels: (N, H, W, 3) uint8; labels: (N,)."""
        return PixelLoader(pixels, labels, self.info, self._batches(len(pixels)))

    def _batches(self, images: int, dtype: torch.dtype | None = None) -> BatchFormat:
        """images: of this rank."""
        dtype = dtype or (self.dtype if self.device.type == "cuda" else None) or torch.float32
        return BatchFormat(max(1, min(self.batch_size, images)), self.device, dtype)

    def score(self, loader: EvaluationLoader, scorers: Mapping[str, BatchScorer], title: str = "") -> None:
        """One pass over the images, whose outputs all scorers are handed."""
        with tqdm(total=len(loader), desc=title, unit="batch", disable=None if self.progress else True) as bar:

            def receive(logits: torch.Tensor, _: SparseTargets, index: torch.Tensor) -> None:
                for scorer in scorers.values():
                    scorer.update(logits, index)
                bar.update()

            predict(self.model, loader, receive, self.dtype, self.flip, self.forward)
