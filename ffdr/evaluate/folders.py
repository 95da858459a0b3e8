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

import numpy as np
import torch

from ffdr.augment.replay import render
from ffdr.augment.view import center_view
from ffdr.data.source import ReadError, Source
from ffdr.loader.order import Place
from ffdr.loader.protocol import Batch
from ffdr.loader.targets import SparseTargets
from ffdr.models.build import ModelInfo
from ffdr.util.cores import thread_count
from ffdr.util.text import reason

_AHEAD = 3
"""Batches that are decoded in advance."""


class FolderLoader:
    """The evaluation view of every image of a source, once and in order: a ``BatchLoader`` that only evaluates.

    Of several ranks each takes every ``world_size``-th batch. Yields images (B, 3, H, W) in channels_last format on the
    device, normalised in a floating ``dtype`` or as they are in torch.uint8; targets with the label; index (B,) int64.
    Raises ReadError, naming the file, for one that can't be read or has no such view.
    """

    def __init__(
        self,
        source: Source,
        info: ModelInfo,
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        center: float = 0.875,
        border: int = 0,
        workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """info: resolution, mean and std. center: share of the resized short side that the view keeps. border: pixels
        that are cut off each side of the file's image first. workers: decoding threads; 0: one a core. rank,
        world_size: of this process among those that share the images; None: as torch.distributed has it when it is
        first needed."""
        self.source = source
        self._shape = (info.resolution, info.resolution, 3)
        self.num_images, self.num_classes = len(source), len(source.class_names)
        self.device, self.border = torch.device(device), border
        self._finish = _Finish(info, self.device, dtype)
        self._pinned = self.device.type == "cuda"
        self._view = center_view(center)
        self._workers = thread_count(workers, gpu=self.device.type == "cuda")
        self._batch_size, self._place = batch_size, Place(rank, world_size)

    def __len__(self) -> int:
        """Batches of a pass, on this rank."""
        return len(self._starts())

    def __iter__(self) -> Iterator[Batch]:
        self._place.confirm()
        pool = ThreadPoolExecutor(self._workers)
        ahead: deque[tuple[np.ndarray, torch.Tensor, list[Future]]] = deque()
        try:
            for start in self._starts():
                index = np.arange(start, min(start + self._batch_size, self.num_images))
                pixels = torch.empty(len(index), *self._shape, dtype=torch.uint8, pin_memory=self._pinned)
                parts = [pool.submit(self._fill, i, row) for i, row in zip(index, pixels.numpy(), strict=True)]
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
        image = self.source.read(int(number))
        try:
            out[:] = render(self._inner(np.asarray(image)), self._view, self._shape[0])
        except ValueError as error:
            origin = self.source.origin(int(number))
            raise ReadError(origin, reason(error), self.source.place(origin)) from error

    def _inner(self, pixels: np.ndarray) -> np.ndarray:
        """An image (height, width, 3) without its border."""
        height, width, _ = pixels.shape
        if min(height, width) <= 2 * self.border:
            raise ValueError(f"{width}×{height} pixels leave nothing within a border of {self.border}")
        return pixels[self.border : height - self.border, self.border : width - self.border]

    def _finished(self, index: np.ndarray, pixels: torch.Tensor, parts: list[Future]) -> Batch:
        for part in parts:
            part.result()
        return self._finish(pixels, self.source.labels, index)

    def set_epoch(self, epoch: int) -> None:
        """Every pass is the same."""


class PixelLoader:
    """Views that lie in memory, once and in order, as a ``FolderLoader`` hands them out; not shared by ranks."""

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        info: ModelInfo,
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """pixels: (N, H, W, 3) uint8; labels: (N,) int64."""
        self.pixels, self.labels = pixels, labels
        self.num_images, self.num_classes = len(pixels), info.num_classes
        self._finish = _Finish(info, torch.device(device), dtype)
        self._batches = np.split(np.arange(len(pixels)), range(batch_size, len(pixels), batch_size))

    def __len__(self) -> int:
        """Batches of a pass."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for index in self._batches:
            yield self._finish(torch.from_numpy(self.pixels[index]), self.labels, index)

    def set_epoch(self, epoch: int) -> None:
        """Every pass is the same."""


class _Finish:
    """Makes pixels a batch on the device."""

    def __init__(self, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> None:
        """dtype: of the batches, normalised where it is floating."""
        self.device, self.dtype = device, dtype
        scale, shift = (255 * torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (info.std, info.mean))
        self._scale, self._shift = 1 / scale, shift

    def __call__(self, pixels: torch.Tensor, labels: np.ndarray, index: np.ndarray) -> Batch:
        """pixels: (B, H, W, 3) uint8 on the CPU; labels: (N,) of all images; index: (B,) numbers of these."""
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # channels_last without a copy
        if self.dtype is not torch.uint8:
            images = torch.sub(images, self._shift).mul_(self._scale).to(self.dtype)
        label = torch.from_numpy(labels[index]).to(self.device, non_blocking=True)
        targets = SparseTargets(label[:, None], torch.zeros(len(index), 1, device=self.device), label)
        return images, targets, torch.from_numpy(index)
