"""Batches of evaluation views straight from image files, for data sets that are read once and not worth a beton; and of
views that lie in memory.

Files are decoded by Pillow, as those who publish accuracies do it, and the view is made by the same kernels that replay
a beton's (``augment.replay.render``): Resize and CenterCrop, bilinear with antialiasing. Decoding, resizing and reading
all run without the interpreter's lock, so threads are enough: no processes that start slowly and copy pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from ffdr.augment.replay import render
from ffdr.augment.view import center_view
from ffdr.data.source import ReadError, Source
from ffdr.loader.order import Place
from ffdr.loader.protocol import Batch
from ffdr.loader.targets import SparseTargets
from ffdr.models.build import ModelInfo
from ffdr.util.machine import thread_count
from ffdr.util.text import reason

_AHEAD = 3
"""Batches that are decoded in advance."""


class BatchFormat(NamedTuple):
    """What the batches of a pass are."""

    size: int
    """images per batch"""
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    """normalised where it is floating; torch.uint8: pixels as they are"""


class FolderLoader:
    """The evaluation view of every image of a source, once and in order (a ``metrics.EvaluationLoader``).

    Of several ranks each takes every ``world_size``-th batch. Yields images (B, 3, H, W) in channels_last format on the
    device, normalised in a floating ``dtype`` or as they are in torch.uint8; targets with the label; index (B,) int64.
    Raises ReadError, naming the file, for one that can't be read or has no such view.
    """

    def __init__(
        self,
        source: Source,
        info: ModelInfo,
        batches: BatchFormat,
        *,
        center: float = 0.875,
        border: int = 0,
        workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """info: resolution, mean and std. center: share of the resized short side that the view keeps. border: pixels
        that are cut off each side of the file's image first. workers: decoding threads; 0: one per core. rank,
        world_size: of this process among those that share the images; None: as torch.distributed has it when it is
        first needed."""
        self.source = source
        self._shape = (info.resolution, info.resolution, 3)
        self.num_images, self.num_classes = len(source), len(source.class_names)
        self.device, self.border = batches.device, border
        self._to_batch = _ToBatch(info, batches)
        self._pinned = self.device.type == "cuda"
        self._view = center_view(center)
        self._workers = thread_count(workers, gpu=self.device.type == "cuda")
        self._batch_size, self._place = batches.size, Place(rank, world_size)

    def __len__(self) -> int:
        """Batches per pass, on this rank."""
        return len(self._starts())

    def __iter__(self) -> Iterator[Batch]:
        self._place.confirm()
        pool = ThreadPoolExecutor(self._workers)
        ahead: deque[tuple[np.ndarray, torch.Tensor, list[Future]]] = deque()
        try:
            for start in self._starts():
                index = np.arange(start, min(start + self._batch_size, self.num_images))
                pixels = torch.empty(len(index), *self._shape, dtype=torch.uint8, pin_memory=self._pinned)
                parts = [pool.submit(self._fill, int(i), row) for i, row in zip(index, pixels.numpy(), strict=True)]
                ahead.append((index, pixels, parts))
                if len(ahead) > _AHEAD:
                    yield self._finished(*ahead.popleft())
            while ahead:
                yield self._finished(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _starts(self) -> range:
        """The first images of this rank's batches."""
        step = self._batch_size
        return range(self._place.rank * step, self.num_images, self._place.world_size * step)

    def _fill(self, number: int, out: np.ndarray) -> None:
        """Read one image and make its view in ``out`` (H, W, 3)."""
        pixels, border = np.asarray(self.source.read(number)), self.border
        height, width, _ = pixels.shape
        try:
            if min(height, width) <= 2 * border:
                raise ValueError(f"{width}×{height} pixels leave nothing within a border of {border}")
            inner = pixels[border : height - border, border : width - border]
            out[:] = render(inner, self._view, self._shape[0])
        except ValueError as error:
            origin = self.source.origin(number)
            raise ReadError(origin, reason(error), self.source.place(origin)) from error

    def _finished(self, index: np.ndarray, pixels: torch.Tensor, parts: list[Future]) -> Batch:
        for part in parts:
            part.result()
        return self._to_batch(pixels, self.source.labels, index)

    def set_epoch(self, epoch: int) -> None:
        """Every pass is the same."""


class PixelLoader:
    """Views that lie in memory, once and in order, as a ``FolderLoader`` hands them out; not shared by ranks."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, info: ModelInfo, batches: BatchFormat) -> None:
        """pixels: (N, H, W, 3) uint8; labels: (N,) int64."""
        self.pixels, self.labels = pixels, labels
        self.num_images, self.num_classes = len(pixels), info.num_classes
        self._to_batch = _ToBatch(info, batches)
        self._batches = np.split(np.arange(len(pixels)), range(batches.size, len(pixels), batches.size))

    def __len__(self) -> int:
        """Batches per pass."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for index in self._batches:
            yield self._to_batch(torch.from_numpy(self.pixels[index]), self.labels, index)

    def set_epoch(self, epoch: int) -> None:
        """Every pass is the same."""


class _ToBatch:
    """From pixels to a batch on the device, normalised where it is floating."""

    def __init__(self, info: ModelInfo, batches: BatchFormat) -> None:
        self.device, self.dtype = batches.device, batches.dtype
        scale, shift = (255 * torch.tensor(x, device=self.device).view(1, 3, 1, 1) for x in (info.std, info.mean))
        self._scale, self._shift = 1 / scale, shift

    def __call__(self, pixels: torch.Tensor, labels: np.ndarray, index: np.ndarray) -> Batch:
        """pixels: (B, H, W, 3) uint8 on the CPU; labels: (N,) of all images; index: (B,) numbers of these."""
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # channels_last without a copy
        if self.dtype is not torch.uint8:
            images = torch.sub(images, self._shift).mul_(self._scale).to(self.dtype)
        label = torch.from_numpy(labels[index]).to(self.device, non_blocking=True)
        targets = SparseTargets(label[:, None], torch.zeros(len(index), 1, device=self.device), label)
        return images, targets, torch.from_numpy(index)
