"""``ReinforcedLoader``: batches of views for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ffdr.augment.policy import Policy
from ffdr.loader.device import Transfer
from ffdr.loader.order import EpochOrder, OrderSettings, Place
from ffdr.loader.protocol import Batch
from ffdr.loader.settings import (
    DeviceSettings,
    StreamSettings,
    channels,
    checked_device,
    checked_dtype,
    checked_sides,
    checked_views_per_image,
)
from ffdr.loader.sources import Images, Reinforced, open_images, open_views
from ffdr.loader.stream import BatchStream, Pass
from ffdr.util.arguments import integer, switch
from ffdr.util.errors import UserError
from ffdr.util.machine import thread_count
from ffdr.util.process import OneProcess


class ReinforcedLoader(OneProcess):
    """Batches of replayed views and their targets: a drop-in for any PyTorch training loop.

    What a batch shows depends on what is given besides the images:

    - ``reinforced``: stored views and the teacher's top-k (DR);
    - ``policy``: views drawn on the fly from (seed, epoch, image), and the label, or two when images are mixed (ERM);
    - neither: the evaluation view (resize, centre crop) and the label, in file order.

    Iterating yields ``(images, targets, index)``: images (B, 3, H, W) in channels_last memory format on ``device``;
    :class:`~ffdr.loader.targets.SparseTargets` on ``device``; index (B,) int64 of the images in the beton, on the CPU.
    Same seed, same bytes, for any number of threads. Each pass is an epoch; ``set_epoch`` names the next one. One
    pass is read at a time: with the first batch of a newer one, in whatever thread, the older raises RuntimeError.
    A loader belongs to its process: it can't be pickled, and a fork of the process can't use it.

    On several ranks, all of the same ``batch_size``, batch b of all ranks together is batch b of a single process with
    ``batch_size`` × ``world_size``. Training shows full batches only, the evaluation view every image once: the last
    batch is shared out, so a rank may have one batch less.

    Memory: (``batches_ahead`` + 2) × ``batch_size`` × (3 × ``resolution``² + 8 × T + 20) bytes of buffers, with T
    target entries per image, and scratch for each decoding thread; with ``os_cache=False`` also the file's pages for
    the images on their way, of which a random order has nearly all. ``memory_bytes`` is the sum.

    Args:
        images: image beton (path or opened).
        reinforced: reinforced beton of these images (path or opened); with a merged beton the same file once more.
        batch_size: views per batch, on this rank.
        resolution: side of the square views, in pixels.
        resolutions: several sides in its place, of which each batch has one (multi-scale training), all equally often;
            which, is a function of (seed, epoch, batch). Buffers and scratch are of the largest, and serve them all.
        views_per_image: m, how many views of an image a batch holds, side by side, of ``batch_size`` / m images. An
            image is decoded once for all of them. m epochs then show what they show with one view per image, in another
            order: epoch e has the images of part e mod m of a cycle's order, with the views of all epochs of the cycle.
        device: where batches go; of "cuda" the GPU that is current at the first pass.
        dtype: torch.uint8 for the pixels as they are, 0..255; a floating dtype normalises them on the device.
        policy: what may be drawn, for training on labels.
        reinforced_share: share of samples that show stored views; the others are drawn from ``policy`` and learned from
            their label (Faghri et al. 2023 have 0.99).
        center: share of the resized short side that the evaluation view keeps.
        seed: of order, draws and choice of views.
        order: "random"; "sequential", as in the file; "quasi_random", which has at most 128 pages (1 GiB) of the file
            in use at a time, for files larger than memory: if these are sorted by class, a batch has no more classes
            than that. None: random, sequential for the evaluation view.
        drop_last: leave out an incomplete last batch; None: unless it is the evaluation view.
        workers: decoding threads; 0: one per core, but one for the thread that launches a GPU's work.
        mean, std: per channel, of pixels in [0, 1], as a sequence, array or tensor; None: the manifest's.
        batches_ahead: batches decoded in advance.
        os_cache: read the images through the operating system's cache, which all processes share; False: into memory
            of this process, a page of the file at a time. Not for views that mix images.
        rank, world_size: of this process among those that share an epoch; None: as torch.distributed has it at the
            first pass, or when ``len`` or ``state_dict`` first asks.
        reuse_buffers: with uint8 on the CPU, hand out the decoder's own buffer, valid until the next batch, instead
            of a copy.

    Raises:
        UserError: files that don't fit together, impossible options; while iterating, a page that can't be read.
        ReplayError: while iterating, a sample that can't be decoded, by its number.
        RuntimeError: while iterating, a pass that a newer one has ended; other ranks than batches were counted for.
    """

    noun, instead = "loader", "build a loader in each process; the state_dict of one tells another where to go on"

    def __init__(
        self,
        images: Images,
        reinforced: Reinforced | None = None,
        *,
        batch_size: int,
        resolution: int = 224,
        resolutions: Sequence[int] = (),
        views_per_image: int = 1,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        policy: Policy | None = None,
        reinforced_share: float = 1.0,
        center: float = 0.875,
        seed: int = 0,
        order: str | None = None,
        drop_last: bool | None = None,
        workers: int = 0,
        mean: Sequence[float] | np.ndarray | torch.Tensor | None = None,
        std: Sequence[float] | np.ndarray | torch.Tensor | None = None,
        batches_ahead: int = 3,
        os_cache: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        reuse_buffers: bool = False,
    ) -> None:
        super().__init__()
        self.images = open_images(images)
        self.seed, self.batch_size = integer("seed", seed, 0, 2**63 - 1), integer("batch_size", batch_size, 1)
        delivery = DeviceSettings(
            device=checked_device(device),
            dtype=checked_dtype(dtype),
            mean=channels("mean", mean, self.images.mean),
            std=channels("std", std, self.images.std),
            reuse_buffers=switch("reuse_buffers", reuse_buffers),
        )
        self.dtype, self.mean, self.std = delivery.dtype, delivery.mean, delivery.std
        views, self.num_classes = open_views(self.images, reinforced, policy, reinforced_share, center, self.seed)
        is_evaluation = reinforced is None and policy is None
        drop_last = not is_evaluation if drop_last is None else switch("drop_last", drop_last)
        ordering = OrderSettings(
            kind=("sequential" if is_evaluation else "random") if order is None else order,
            batch_size=self.batch_size,
            drop_last=drop_last,
            seed=self.seed,
            place=Place(rank, world_size),
            views_per_image=checked_views_per_image(views_per_image, self.batch_size, drop_last, views.num_views),
        )
        self._order = EpochOrder(ordering, self.images.data_ptr, self.images.page_size)
        decoding = StreamSettings(
            order=ordering,
            sides=checked_sides(resolution, resolutions),
            threads=thread_count(integer("workers", workers, 0), gpu=delivery.device.type == "cuda"),
            batches_ahead=integer("batches_ahead", batches_ahead, 1),
            os_cache=switch("os_cache", os_cache),
        )
        if views.has_mixes and not decoding.os_cache:
            raise UserError("os_cache=False: a partner's page need not be in memory when images are mixed; use True")
        self._stream = BatchStream(self.images, views, self._order, decoding)
        self._transfer = Transfer(delivery, self.images.labels, views.has_mixes)
        self._next = self._at = (0, 0)  # (epoch, batches handed out): of the coming pass, of the current one
        self._current: Pass | None = None

    @property
    def device(self) -> torch.device:
        """Where batches go; of "cuda" the GPU, once it is known."""
        return self._transfer.device

    @property
    def class_names(self) -> tuple[str, ...]:
        """The images' classes by number; a reinforcement may know of more (``num_classes``)."""
        return self.images.class_names

    @property
    def num_images(self) -> int:
        """Images in the file. An epoch has as many views, less an incomplete last batch, if that is dropped."""
        return self.images.num_images

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that this loader holds: buffers, scratch, pages of the current pass."""
        return self._stream.memory_bytes

    def __len__(self) -> int:
        """Batches in a full epoch, on this rank."""
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        current, at = self._begin()
        batches = self._transfer.batches(current)
        try:
            for batch in batches:
                # Counted before it is handed out: a state taken in the loop's body includes the batch at hand.
                at = (at[0], at[1] + 1)
                self._count(current, at)
                yield batch
            if at[1] == len(self):  # the last batch of all ranks may have no part for this one
                self._count(current, (at[0] + 1, 0))
        finally:
            batches.close()
            current.close()

    def _begin(self) -> tuple[Pass, tuple[int, int]]:
        """The coming pass, and where it begins, at once for all threads: what another thread reads ends."""
        self.check_process()
        with self._stream.lock:
            self._order.settings.place.confirm()
            self._transfer.settle()
            at = self._next
            self._current = self._stream.begin(*at, self.device)
            self._at, self._next = at, (at[0] + 1, 0)
            return self._current, at

    def _count(self, current: Pass, at: tuple[int, int]) -> None:
        """Where the loader stands, unless a newer pass has begun."""
        with self._stream.lock:
            if self._current is current:
                self._at = at

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, from its first batch."""
        at = (integer("epoch", epoch, 0), 0)
        with self._stream.lock:  # after the pass that another thread is just beginning
            self._next = self._at = at

    def set_resolution(self, resolution: int) -> None:
        """Views of the coming passes all have this side, in pixels; nothing is compiled anew. Ends an unfinished pass.

        Raises:
            UserError: no pixel at all, or too many.
        """
        self._stream.set_resolution(resolution)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, equal on all ranks: seed, order, epoch, batches handed out in it, views of a batch
        over all ranks and per image, and the images' fingerprint."""
        epoch, batch = self._at
        if batch >= self._order.global_batches:
            epoch, batch = epoch + 1, 0
        return {
            "seed": self.seed,
            "order": self._order.settings.kind,
            "epoch": epoch,
            "batch": batch,
            "global_batch_size": self._order.global_batch_size,
            "views_per_image": self._order.settings.views_per_image,
            "fingerprint": self.images.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch of the state; the next pass yields the rest of that epoch.

        The number of ranks may have changed, if their batches together are as large as before.

        Raises:
            UserError: the state is of other images, another seed, order, global batch size or number of views per
                image; both values are named.
        """
        mine, was = self.state_dict(), {"views_per_image": 1, **state}  # states of earlier versions have fewer keys
        for key in ("fingerprint", "seed", "order", "global_batch_size", "views_per_image"):
            if was.get(key) != mine[key]:
                raise UserError(f"loader state: {key} was {was.get(key)}, but this loader's is {mine[key]}")
        with self._stream.lock:
            self._next = self._at = (int(state["epoch"]), int(state["batch"]))

    def close(self) -> None:
        """End the decoding thread of an unfinished pass."""
        self._stream.end()
