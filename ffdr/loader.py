"""``ReinforcedLoader`` for training and evaluation, ``ReinforcedDataset`` for a look at single views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffdr.augment.policy import Policy
from ffdr.beton.decode import Replayer
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.stream import Batch, BatchStream
from ffdr.beton.views import DrawnViews, FixedView, StoredViews, ViewSource
from ffdr.errors import UserError
from ffdr.targets import SparseTargets

Images = str | Path | ImageBeton


class ReinforcedLoader:
    """Batches of replayed views and their targets: a drop-in for any PyTorch training loop.

    What a batch shows depends on what is given besides the images:

    - ``reinforced``: stored views and the teacher's top-k (DR);
    - ``policy``: views drawn on the fly from (seed, epoch, image), and the label, or two when images are mixed (ERM);
    - neither: the evaluation view (resize, centre crop) and the label, in file order.

    Iterating yields ``(images, targets, index)``: images (B, 3, H, W) in channels_last memory format on ``device``;
    :class:`~ffdr.targets.SparseTargets` on ``device``; index (B,) int64 of the images in the beton, on the CPU. Same
    seed, same bytes, for any number of threads. Each pass is an epoch; ``set_epoch`` names the next one.

    Args:
        images: image beton (path or opened).
        reinforced: reinforced beton of these images (path or opened).
        batch_size: images a batch.
        resolution: side of the square views, in pixels.
        device: where batches go.
        dtype: torch.uint8 for the pixels as they are, 0..255; a floating dtype normalises them on the device.
        policy: what may be drawn, for training on labels.
        center: share of the resized short side that the evaluation view keeps.
        seed: of order, draws and choice of views.
        shuffle: random order; None: unless it is the evaluation view.
        drop_last: leave out an incomplete last batch; None: unless it is the evaluation view.
        workers: decoding threads; 0: one a core.
        mean, std: per channel, of pixels in [0, 1]; None: the manifest's.
        batches_ahead: batches decoded in advance.
        reuse_buffers: with uint8 on the CPU, hand out the decoder's own buffer, valid until the next batch, instead
            of a copy.

    Raises:
        UserError: files that don't fit together, impossible options.
        ReplayError: while iterating, a sample that can't be decoded, by its number.
    """

    def __init__(
        self,
        images: Images,
        reinforced: str | Path | ReinforcedBeton | None = None,
        *,
        batch_size: int,
        resolution: int = 224,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        policy: Policy | None = None,
        center: float = 0.875,
        seed: int = 0,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        workers: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batches_ahead: int = 3,
        reuse_buffers: bool = False,
    ) -> None:
        self.images = _open_images(images)
        if reinforced is not None and policy is not None:
            raise UserError("reinforced, policy: give one of both; a reinforced beton already holds drawn views")
        evaluation = reinforced is None and policy is None
        self.device = torch.device(device)
        self.dtype = dtype
        self.batch_size = batch_size
        self.seed = seed
        self.mean = tuple(mean or self.images.mean)
        self.std = tuple(std or self.images.std)
        self._copy = not reuse_buffers
        self._labels = self.images.labels
        drop_last = not evaluation if drop_last is None else drop_last
        if drop_last and self.images.num_images < batch_size:
            raise UserError(
                f"{self.images.path}: {self.images.num_images} images do not fill one batch of {batch_size}; "
                "use a smaller batch"
            )
        self._stream = BatchStream(
            self.images,
            self._view_source(reinforced, policy, center),
            batch_size,
            resolution,
            threads=workers,
            seed=seed,
            shuffle=not evaluation if shuffle is None else shuffle,
            drop_last=drop_last,
            batches_ahead=batches_ahead,
        )
        self._scale = 1.0 / (255.0 * torch.tensor(self.std, device=self.device).view(1, 3, 1, 1))
        self._shift = 255.0 * torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1)
        self._next = self._at = (0, 0)  # (epoch, batches handed out): of the coming pass, of the current one

    def _view_source(
        self, reinforced: str | Path | ReinforcedBeton | None, policy: Policy | None, center: float
    ) -> ViewSource:
        if reinforced is not None:
            if not isinstance(reinforced, ReinforcedBeton):
                reinforced = ReinforcedBeton.open(reinforced, self.images)
            self.num_classes = reinforced.header.num_classes
            return StoredViews(reinforced, self.seed)
        self.num_classes = self.images.num_classes
        if policy is not None:
            return DrawnViews(policy, self.seed, self.images)
        return FixedView(self.images.labels, center)

    @property
    def num_images(self) -> int:
        """Images in the file, each shown once an epoch (less an incomplete last batch, if that is dropped)."""
        return self.images.num_images

    def __len__(self) -> int:
        """Batches in a full epoch."""
        return len(self._stream)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, SparseTargets, torch.Tensor]]:
        epoch, first = self._at = self._next
        self._next = (epoch + 1, 0)
        batches = self._stream.epoch(epoch, first)
        try:
            for number, batch in enumerate(batches, first + 1):
                # Counted before it is handed out: a state taken in the loop's body includes the batch at hand.
                self._at = (epoch, number)
                yield self._to_device(batch)
        finally:
            batches.close()

    def _to_device(self, batch: Batch) -> tuple[torch.Tensor, SparseTargets, torch.Tensor]:
        pixels, ids, log_probs, index = (torch.from_numpy(part) for part in batch)
        index = index.clone()
        # FFCV's buffers are pinned on a GPU machine, so they travel as they are and are converted there. The copies
        # matter on a CPU too: the next batch overwrites the buffers.
        targets = SparseTargets(
            ids.to(self.device, non_blocking=True).long(),
            log_probs.to(self.device, non_blocking=True, copy=True),
            torch.from_numpy(self._labels[index.numpy()]).to(self.device, non_blocking=True),
        )
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        if self.dtype is not torch.uint8:
            images = images.to(torch.float32).sub_(self._shift).mul_(self._scale).to(self.dtype)
        elif self._copy and self.device.type == "cpu":
            images = images.clone(memory_format=torch.channels_last)
        return images, targets, index

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, from its first batch."""
        self._next = self._at = (epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: seed, epoch, batches handed out in it, and the images' fingerprint."""
        epoch, batch = self._at
        if batch >= len(self):
            epoch, batch = epoch + 1, 0
        return {
            "seed": self.seed,
            "epoch": epoch,
            "batch": batch,
            "batch_size": self.batch_size,
            "fingerprint": self.images.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch of the state; the next pass yields the rest of that epoch.

        Raises:
            UserError: the state is of other images, another seed or batch size; both values are named.
        """
        mine = self.state_dict()
        for key in ("fingerprint", "seed", "batch_size"):
            if state[key] != mine[key]:
                raise UserError(f"loader state: {key} was {state[key]}, but this loader's is {mine[key]}")
        self._next = self._at = (int(state["epoch"]), int(state["batch"]))

    def close(self) -> None:
        """End the decoding thread of an unfinished pass."""
        self._stream.close()


class ReinforcedDataset:
    """Random access to the views of a reinforced beton, for notebooks, pictures and tests.

    Args:
        images: image beton (path or opened).
        reinforced: reinforced beton of these images (path or opened).
    """

    def __init__(self, images: Images, reinforced: str | Path | ReinforcedBeton) -> None:
        self.images = _open_images(images)
        if not isinstance(reinforced, ReinforcedBeton):
            reinforced = ReinforcedBeton.open(reinforced, self.images)
        self.reinforced = reinforced
        self._source = StoredViews(reinforced, seed=0)
        self._replayers: dict[int, Replayer] = {}

    def __len__(self) -> int:
        return self.images.num_images

    @property
    def num_views(self) -> int:
        """K, the views an image."""
        return self.reinforced.header.views

    def view(self, image: int, view: int, resolution: int = 224) -> tuple[np.ndarray, SparseTargets]:
        """One view: pixels (resolution, resolution, 3) uint8 and its targets, a batch of one.

        Raises:
            IndexError: there is no such image or view.
        """
        if not 0 <= image < len(self) or not 0 <= view < self.num_views:
            raise IndexError(f"image {image}, view {view}: there are {len(self)} images of {self.num_views} views")
        views, mixes, ids, log_probs = self._source.read(image, view)
        replayer = self._replayers.setdefault(resolution, Replayer(self.images, resolution, threads=1))
        pixels = np.empty((1, *replayer.shape), np.uint8)
        replayer(replayer.spans(np.array([image])), views, mixes, pixels)
        label = torch.from_numpy(self.images.labels[[image]])
        return pixels[0], SparseTargets(torch.from_numpy(ids).long(), torch.from_numpy(log_probs), label)


def _open_images(images: Images) -> ImageBeton:
    return images if isinstance(images, ImageBeton) else ImageBeton.open(images)
