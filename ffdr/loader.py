"""``ReinforcedLoader`` for training and evaluation, ``ReinforcedDataset`` for a look at single views."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffdr.augment.policy import Policy
from ffdr.beton.decode import Replayer
from ffdr.beton.order import EpochOrder, rank_and_world_size
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.stream import Batch, BatchStream
from ffdr.beton.views import DrawnViews, FixedView, SomeStored, StoredViews, ViewSource
from ffdr.cores import thread_count
from ffdr.errors import UserError
from ffdr.targets import SparseTargets

Images = str | Path | ImageBeton
DeviceBatch = tuple[torch.Tensor, SparseTargets, torch.Tensor]
"""images (B, 3, H, W), targets, index (B,)"""


class ReinforcedLoader:
    """Batches of replayed views and their targets: a drop-in for any PyTorch training loop.

    What a batch shows depends on what is given besides the images:

    - ``reinforced``: stored views and the teacher's top-k (DR);
    - ``policy``: views drawn on the fly from (seed, epoch, image), and the label, or two when images are mixed (ERM);
    - neither: the evaluation view (resize, centre crop) and the label, in file order.

    Iterating yields ``(images, targets, index)``: images (B, 3, H, W) in channels_last memory format on ``device``;
    :class:`~ffdr.targets.SparseTargets` on ``device``; index (B,) int64 of the images in the beton, on the CPU. Same
    seed, same bytes, for any number of threads. Each pass is an epoch; ``set_epoch`` names the next one. One pass is
    read at a time: with the first batch of a newer one, the older raises RuntimeError.

    On several ranks, all of the same ``batch_size``, batch b of all ranks together is batch b of a single process with
    ``batch_size`` × ``world_size``. Training shows full batches only, the evaluation view every image once: the last
    batch is shared out, so a rank may have one batch less.

    Memory: (``batches_ahead`` + 2) × ``batch_size`` × (3 × ``resolution``² + 8 × T + 32) bytes of buffers, with T
    target entries an image, and scratch for each decoding thread; with ``os_cache=False`` also the file's pages for the
    images on their way, of which a random order has nearly all. ``memory_bytes`` is the sum.

    Args:
        images: image beton (path or opened).
        reinforced: reinforced beton of these images (path or opened); with a packed beton the same file once more.
        batch_size: images a batch, on this rank.
        resolution: side of the square views, in pixels.
        device: where batches go.
        dtype: torch.uint8 for the pixels as they are, 0..255; a floating dtype normalises them on the device.
        policy: what may be drawn, for training on labels.
        reinforced_share: share of samples that show stored views; the others are drawn from ``policy`` and learned by
            their label (Faghri et al. 2023 have 0.99).
        center: share of the resized short side that the evaluation view keeps.
        seed: of order, draws and choice of views.
        order: "random"; "sequential", as in the file; "quasi_random", which has at most 128 pages (1 GiB) of the file
            in use at a time, for files larger than memory: if these are sorted by class, a batch has no more classes
            than that. None: random, sequential for the evaluation view.
        drop_last: leave out an incomplete last batch; None: unless it is the evaluation view.
        workers: decoding threads; 0: one per core, but one for the thread that launches a GPU's work.
        mean, std: per channel, of pixels in [0, 1]; None: the manifest's.
        batches_ahead: batches decoded in advance.
        os_cache: read the images through the operating system's cache, which all processes share; False: into memory
            of this process, a page of the file at a time. Not for views that mix images.
        rank, world_size: of this process among those that share an epoch; None: as torch.distributed has it.
        reuse_buffers: with uint8 on the CPU, hand out the decoder's own buffer, valid until the next batch, instead
            of a copy.

    Raises:
        UserError: files that don't fit together, impossible options; while iterating, a page that can't be read.
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
        reinforced_share: float = 1.0,
        center: float = 0.875,
        seed: int = 0,
        order: str | None = None,
        drop_last: bool | None = None,
        workers: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batches_ahead: int = 3,
        os_cache: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        reuse_buffers: bool = False,
    ) -> None:
        self.images = _open_images(images)
        if reinforced is not None and (policy is not None) != (reinforced_share < 1):
            raise UserError(
                "reinforced, policy: a reinforced beton already holds drawn views; give one of both, or "
                "both with a reinforced_share below 1"
            )
        evaluation = reinforced is None and policy is None
        self.device = torch.device(device)
        self.dtype = dtype
        self.batch_size = batch_size
        self.seed = seed
        self.mean = tuple(mean or self.images.mean)
        self.std = tuple(std or self.images.std)
        self._copy = not reuse_buffers
        self._labels = self.images.labels
        rank, world_size = rank_and_world_size(rank, world_size)
        self._order = EpochOrder(
            order or ("sequential" if evaluation else "random"),
            self.images.data_ptr,
            seed,
            batch_size=batch_size,
            drop_last=not evaluation if drop_last is None else drop_last,
            rank=rank,
            world_size=world_size,
        )
        views = self._view_source(reinforced, policy, reinforced_share, center)
        if not os_cache and views.mixes:
            raise UserError("os_cache=False: a partner's page need not be in memory when images are mixed; use True")
        self._stream = BatchStream(
            self.images,
            views,
            self._order,
            resolution,
            threads=thread_count(workers, gpu=self.device.type == "cuda"),
            batches_ahead=batches_ahead,
            os_cache=os_cache,
            device=self.device,
        )
        self._scale = 1.0 / (255.0 * torch.tensor(self.std, device=self.device).view(1, 3, 1, 1))
        self._shift = 255.0 * torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1)
        # One for all passes: the caching allocator keeps the memory of each stream apart.
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._next = self._at = (0, 0)  # (epoch, batches handed out): of the coming pass, of the current one

    def _view_source(
        self, reinforced: str | Path | ReinforcedBeton | None, policy: Policy | None, share: float, center: float
    ) -> ViewSource:
        if reinforced is not None:
            reinforced = _open_reinforced(reinforced, self.images)
            self.num_classes = reinforced.header.num_classes
            stored = StoredViews(reinforced, self.seed)
            if policy is None:
                return stored
            return SomeStored(stored, DrawnViews(policy, self.seed, self.images), share, self.seed)
        self.num_classes = self.images.num_classes
        if policy is not None:
            return DrawnViews(policy, self.seed, self.images)
        return FixedView(self.images.labels, center)

    @property
    def num_images(self) -> int:
        """Images in the file, each shown once an epoch (less an incomplete last batch, if that is dropped)."""
        return self.images.num_images

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that this loader holds: buffers, scratch, pages of the current pass."""
        return self._stream.memory_bytes

    def __len__(self) -> int:
        """Batches in a full epoch, on this rank."""
        return len(self._stream)

    def __iter__(self) -> Iterator[DeviceBatch]:
        epoch, first = self._at = self._next
        self._next = (epoch + 1, 0)
        batches = self._stream.epoch(epoch, first)
        ahead = self._copied_ahead(batches) if self.device.type == "cuda" else map(self._to_device, batches)
        try:
            for number, batch in enumerate(ahead, first + 1):
                # Counted before it is handed out: a state taken in the loop's body includes the batch at hand.
                self._at = (epoch, number)
                yield batch
            if self._at == (epoch, len(self)):  # the last batch of all ranks may have no part for this one
                self._at = (epoch + 1, 0)
        finally:
            if isinstance(ahead, Generator):
                ahead.close()
            batches.close()

    def _copied_ahead(self, batches: Iterator[Batch]) -> Generator[DeviceBatch, None, None]:
        """One batch ahead of the consumer, on a stream of its own: copies and normalisation go on beside the step."""
        side = self._side
        ready: tuple[DeviceBatch, torch.cuda.Event] | None = None
        try:
            while True:
                # Asking for a batch gives the buffer of the one before back, once this stream has copied from it.
                with torch.cuda.stream(side):
                    batch = next(batches, None)
                    following = None if batch is None else (self._to_device(batch), side.record_event())
                if ready is not None:
                    yield _handed_over(*ready)
                if following is None:
                    return
                ready = following
        finally:
            side.synchronize()  # the buffers may be written again

    def _to_device(self, batch: Batch) -> DeviceBatch:
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
            images = torch.sub(images, self._shift).mul_(self._scale).to(self.dtype)
        elif self._copy and self.device.type == "cpu":
            images = images.clone(memory_format=torch.channels_last)
        return images, targets, index

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, from its first batch."""
        self._next = self._at = (epoch, 0)

    def set_resolution(self, resolution: int) -> None:
        """Views of the coming passes have this side, in pixels; nothing is compiled anew. Ends an unfinished pass.

        Raises:
            UserError: no pixel at all.
        """
        self._stream.set_resolution(resolution)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, equal on all ranks: seed, order, epoch, batches handed out in it, images of a batch
        over all ranks, and the images' fingerprint."""
        epoch, batch = self._at
        if batch >= self._order.global_batches:
            epoch, batch = epoch + 1, 0
        return {
            "seed": self.seed,
            "order": self._order.kind,
            "epoch": epoch,
            "batch": batch,
            "global_batch_size": self._order.global_batch_size,
            "fingerprint": self.images.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch of the state; the next pass yields the rest of that epoch.

        The number of ranks may have changed, if their batches together are as large as before.

        Raises:
            UserError: the state is of other images, another seed, order or global batch size; both values are named.
        """
        mine = self.state_dict()
        for key in ("fingerprint", "seed", "order", "global_batch_size"):
            if state.get(key) != mine[key]:
                raise UserError(f"loader state: {key} was {state.get(key)}, but this loader's is {mine[key]}")
        self._next = self._at = (int(state["epoch"]), int(state["batch"]))

    def close(self) -> None:
        """End the decoding thread of an unfinished pass."""
        self._stream.close()


class ReinforcedDataset:
    """Random access to the views of a reinforced beton, for notebooks, pictures and tests.

    Args:
        images: image beton (path or opened).
        reinforced: reinforced beton of these images (path or opened); None: the images are a packed beton's.
    """

    def __init__(self, images: Images, reinforced: str | Path | ReinforcedBeton | None = None) -> None:
        self.images = _open_images(images)
        path = self.images.path if reinforced is None else reinforced
        self.reinforced = reinforced = _open_reinforced(path, self.images)
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
        if resolution not in self._replayers:
            self._replayers[resolution] = Replayer(self.images, resolution, threads=1)
        replayer = self._replayers[resolution]
        pixels = np.empty((1, *replayer.shape), np.uint8)
        replayer(replayer.spans(np.array([image])), views, mixes, pixels)
        label = torch.from_numpy(self.images.labels[[image]])
        return pixels[0], SparseTargets(torch.from_numpy(ids).long(), torch.from_numpy(log_probs), label)


def _handed_over(batch: DeviceBatch, copied: torch.cuda.Event) -> DeviceBatch:
    """A batch made on another stream, for the current one: it waits, and memory is kept until it is done, too."""
    images, targets, index = batch
    stream = torch.cuda.current_stream(images.device)
    stream.wait_event(copied)
    for part in (images, targets.ids, targets.log_probs, targets.label):
        part.record_stream(stream)
    return images, targets, index


def _open_images(images: Images) -> ImageBeton:
    return images if isinstance(images, ImageBeton) else ImageBeton.open(images)


def _open_reinforced(reinforced: str | Path | ReinforcedBeton, images: ImageBeton) -> ReinforcedBeton:
    """The reinforced beton, which must be of these images, whoever opened it."""
    if not isinstance(reinforced, ReinforcedBeton):
        return ReinforcedBeton.open(reinforced, images)
    reinforced.header.check_images(reinforced.path, images)
    return reinforced
