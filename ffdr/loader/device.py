"""From a decoded batch in host memory to a batch on the device."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch

from ffdr.loader.ffcv_loader import HostBatch
from ffdr.loader.normalise import Normalisation
from ffdr.loader.protocol import Batch
from ffdr.loader.settings import DeviceSettings
from ffdr.loader.stream import Pass
from ffdr.loader.targets import SparseTargets


class Transfer:
    """Copies batches to a device and normalises them there.

    On a GPU it works one batch ahead of the consumer, on a CUDA stream of its own, so that copies and normalisation go
    on beside the training step::

        side stream       copy batch n+1, normalise      ┊ copy batch n+2, normalise      ┊
        current stream    wait for n ┊ step on n         ┊ wait for n+1 ┊ step on n+1     ┊

    Args:
        settings: device, dtype and normalisation.
        labels: (N,) int64 class of every image.
        has_mixes: whether images are mixed, so that targets name a partner.
    """

    def __init__(self, settings: DeviceSettings, labels: np.ndarray, has_mixes: bool) -> None:
        self.device = settings.device
        """"cuda" becomes the GPU that is current when ``settle`` is first called"""
        self._settings, self._labels, self._has_mixes = settings, labels, has_mixes
        self._normalisation: Normalisation | None = None
        self._side: torch.cuda.Stream | None = None

    def settle(self) -> None:
        """With the first pass: a process may choose its GPU after it has built the loader."""
        if self._normalisation is not None:
            return
        if self.device.type == "cuda":
            if self.device.index is None:
                self.device = torch.device("cuda", torch.cuda.current_device())
            # One for all passes: the caching allocator keeps the memory of each stream apart.
            self._side = torch.cuda.Stream(self.device)
        self._normalisation = Normalisation.on(self.device, self._settings.mean, self._settings.std)
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(self.device))  # which has these made

    def batches(self, current: Pass) -> Generator[Batch, None, None]:
        """The batches of a pass, on the device; ``settle`` comes first."""
        if self._side is not None:
            yield from self._ahead(current, self._side)
        else:
            while (batch := current.take(self.convert)) is not None:
                yield batch

    def _ahead(self, current: Pass, side: torch.cuda.Stream) -> Generator[Batch, None, None]:
        ready: tuple[Batch, torch.cuda.Event] | None = None
        try:
            while True:
                with torch.cuda.stream(side):
                    batch = current.take(self.convert)
                    following = None if batch is None else (batch, side.record_event())
                if ready is not None:
                    yield _handed_over(*ready)
                if following is None:
                    return
                ready = following
        finally:
            side.synchronize()  # nothing of this pass is under way when its memory is freed

    def convert(self, batch: HostBatch) -> Batch:
        """One batch on the device, of which nothing lies in the buffers any more (but see ``reuse_buffers``)."""
        pixels, ids, log_probs, image, partner, share = map(torch.from_numpy, batch)
        index = image.clone()
        # The buffers are pinned for a GPU, so they travel as they are and are converted there. The copies
        # matter on a CPU too: the next batch overwrites the buffers.
        targets = SparseTargets(
            ids.to(self.device, non_blocking=True).long(),
            log_probs.to(self.device, non_blocking=True, copy=True),
            self._labels_of(index),
            self._labels_of(partner) if self._has_mixes else None,
            share.to(self.device, non_blocking=True, copy=True) if self._has_mixes else None,
        )
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        dtype = self._settings.dtype
        if dtype is not torch.uint8:
            assert self._normalisation is not None  # settled
            images = self._normalisation(images, dtype)
        elif not self._settings.reuse_buffers and self.device.type == "cpu":
            images = images.clone(memory_format=torch.channels_last)
        return images, targets, index

    def _labels_of(self, index: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self._labels[index.numpy()]).to(self.device, non_blocking=True)


def _handed_over(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """A batch made on another stream, for the current one: it waits, and memory is kept until it is done, too."""
    images, targets, index = batch
    stream = torch.cuda.current_stream(images.device)
    stream.wait_event(copied)
    for part in (images, *targets.parts()):
        if part is not None:
            part.record_stream(stream)
    return images, targets, index
