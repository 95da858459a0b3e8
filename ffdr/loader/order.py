"""Which image comes when: traversal orders, and how the ranks of a distributed run share them.

Every rank derives the same order of all images from (seed, epoch) and takes its part of each global batch, so that the
ranks' batches together are the batch of one process that is as large. Random numbers come from a counter-based
generator: the same order on every machine and version of NumPy.

With several *views per image*, m, a batch has m views of each of its images, side by side. Then m epochs are a cycle,
and each of them shows 1/m of the images, m times as many views of each::

    m = 1    epoch 0     a b c d e f g h      their views of epoch 0, in an order of its own
             epoch 1     g c e a h b f d      their views of epoch 1, in another one
    m = 2    epoch 0     a a b b c c d d      a's views of epochs 0 and 1, b's, …
             epoch 1     e e f f g g h h

So a cycle shows what the same epochs show at m = 1, and every image is shown equally often at its end.

Shapes: N images, P pages of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ffdr.augment.random import ORDER, uniform
from ffdr.config.choices import ORDERS
from ffdr.jit.kernel import kernel
from ffdr.util.arguments import integer
from ffdr.util.errors import UserError, nearest

BUFFER_PAGES = 128
"""Pages that ``quasi_random`` mixes at any time: 1 GiB of the file at the usual 8 MiB per page."""

# Places of the stream ORDER: what a number is for.
_SHUFFLE, _PAGE, _WITHIN_PAGE, _JITTER, _SIDE = range(5)


class Place:
    """Which of how many processes that share an epoch this one is: as given, else as torch.distributed has it.

    torch.distributed is asked when the place is first needed, since a loader may be older than the process group. What
    was answered once stays, because batches were counted with it.

    Raises:
        UserError: one of both without the other; a rank that is not below the world size.
    """

    def __init__(self, rank: int | None = None, world_size: int | None = None) -> None:
        self._is_given = rank is not None or world_size is not None
        self._known = rank_and_world_size(rank, world_size) if self._is_given else None

    @property
    def so_far(self) -> tuple[int, int]:
        """Rank and world size, as they are if nobody needs them before they change."""
        return self._known or rank_and_world_size(None, None)

    @property
    def rank(self) -> int:
        """This process's number, below ``world_size``."""
        self._known = self.so_far
        return self._known[0]

    @property
    def world_size(self) -> int:
        """Processes that share an epoch."""
        self._known = self.so_far
        return self._known[1]

    def confirm(self) -> None:
        """Before a pass: batches were counted for the place that torch.distributed has now.

        Raises:
            RuntimeError: they were not.
        """
        rank, size, now = self.rank, self.world_size, rank_and_world_size(None, None)
        if not self._is_given and now != (rank, size):
            raise RuntimeError(
                f"this loader counted its batches (for a pass, len or state_dict) as rank {rank} of {size}, but "
                f"torch.distributed now has rank {now[0]} of {now[1]}; build a loader after init_process_group, or "
                "give it rank and world_size"
            )


@dataclass(frozen=True)
class OrderSettings:
    """In which order images come, and in what portions."""

    kind: str
    """one of ``ORDERS``"""
    batch_size: int
    """views per batch, on this rank"""
    drop_last: bool
    """leave out an incomplete last global batch"""
    seed: int = 0
    place: Place = field(default_factory=Place)
    """of this process among those that share an epoch"""
    views_per_image: int = 1
    """m, of which ``batch_size`` is a multiple; with more than one, ``drop_last`` is set"""


class EpochOrder:
    """One rank's images of an epoch, batch after batch.

    A global batch has ``batch_size`` × ``world_size`` views; rank r takes its contiguous part r. With ``drop_last``
    only full global batches are shown, and all ranks have equally many; without, the last one is shared out as evenly
    as it goes, nobody is shown twice, and a rank may have one batch less.

    Args:
        settings: what is asked for.
        data_ptr: (N,) uint64 where in the file each image lies.
        page_size: bytes of a page of the file.

    Raises:
        UserError: an order that does not exist, or too few images for one batch; the latter also later, by whatever
            asks for the place first, if it was not known before.
    """

    def __init__(self, settings: OrderSettings, data_ptr: np.ndarray, page_size: int) -> None:
        kind = settings.kind
        if kind not in ORDERS:
            raise UserError(f"order: {kind!r} is not one of {', '.join(ORDERS)}{nearest(str(kind), ORDERS)}")
        self.settings = settings
        self._count = len(data_ptr)
        self._page_N = page_numbers(data_ptr, page_size) if kind == "quasi_random" else np.zeros(0, np.int64)
        self._check_size(settings.batch_size * settings.place.so_far[1])

    def _check_size(self, images: int) -> None:
        """Raise UserError if there are fewer than ``images``, which make one batch."""
        size = self.settings.batch_size
        if self.settings.drop_last and self._count < images:
            ranks = f" ({size} on each of {images // size} ranks)" * (images > size)
            raise UserError(
                f"batch_size: {self._count} images do not fill one batch of {images}{ranks}; use a smaller batch"
            )

    @property
    def global_batch_size(self) -> int:
        """Images per batch over all ranks."""
        size = self.settings.batch_size * self.settings.place.world_size
        self._check_size(size)
        return size

    @property
    def global_batches(self) -> int:
        """Batches of an epoch over all ranks."""
        full, rest = divmod(self._count, self.global_batch_size)
        return full + (rest > 0 and not self.settings.drop_last)

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        start, stop = self._last_part()
        return self._count // self.global_batch_size + (stop > start)

    def sample_order(self, epoch: int) -> np.ndarray:
        """(n,) int64 images of this rank, each as often in a row as it is shown."""
        views = self.settings.views_per_image
        cycle, number = divmod(epoch, views)
        order_N = global_order(self.settings.kind, self._count, self.settings.seed, cycle, self._page_N)
        size, rank, mine = self.global_batch_size, self.settings.place.rank, self.settings.batch_size
        full, images = len(order_N) // size, size // views
        shown = order_N[number * full * images : (number + 1) * full * images].reshape(full, images)
        batches = shown[:, rank * mine // views : (rank + 1) * mine // views].ravel()
        start, stop = self._last_part()
        return np.concatenate([np.repeat(batches, views), order_N[start:stop]])

    def sides(self, choice: Sequence[int], epoch: int) -> list[int]:
        """Which of some sides the views of each global batch have: the same on all ranks."""
        if len(choice) == 1:
            return [choice[0]] * self.global_batches
        drawn = _keys(self.settings.seed, epoch, self.global_batches, _SIDE) * len(choice)
        return [choice[min(int(number), len(choice) - 1)] for number in drawn]

    def _last_part(self) -> tuple[int, int]:
        """Where this rank's part of the incomplete last batch starts and stops in the global order."""
        rest = 0 if self.settings.drop_last else self._count % self.global_batch_size
        mine = part_of(rest, self.settings.place.rank, self.settings.place.world_size)
        return self._count - rest + mine.start, self._count - rest + mine.stop


def view_epochs(epoch: int, rows: int, views_per_image: int) -> np.ndarray:
    """The epoch whose view each row of a batch of an epoch shows: (rows,) int64, those of its cycle in turn."""
    return epoch // views_per_image * views_per_image + np.arange(rows) % views_per_image


def part_of(rest: int, rank: int, ranks: int) -> slice:
    """A rank's part of a last batch of ``rest`` images, which is shared out as evenly as it goes."""
    return slice(rest * rank // ranks, rest * (rank + 1) // ranks)


def rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Which of how many processes this one is: as given, else torch.distributed's, else the only one.

    Raises:
        UserError: one of both without the other; a rank that is not below the world size.
    """
    if rank is None and world_size is None:
        has_group = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if has_group else (0, 1)
    if rank is None or world_size is None:
        raise UserError(f"rank {rank}, world_size {world_size}: give both or none")
    world_size = integer("world_size", world_size, 1)
    return integer("rank", rank, 0, world_size - 1, f" (world_size is {world_size})"), world_size


def page_numbers(data_ptr: np.ndarray, page_size: int) -> np.ndarray:
    """On which page of the file each image lies, counting only pages with images: (N,) int64 below P."""
    pages = data_ptr // np.uint64(page_size)
    return np.unique(pages, return_inverse=True)[1].astype(np.int64).reshape(-1)


def global_order(kind: str, count: int, seed: int, epoch: int, page_N: np.ndarray) -> np.ndarray:
    """All images of an epoch in order: (N,) int64. ``page_N`` is only needed for ``quasi_random``."""
    if kind == "sequential":
        return np.arange(count)
    if kind == "quasi_random" and page_N.max(initial=0) >= BUFFER_PAGES:
        return quasi_random(seed, epoch, page_N, BUFFER_PAGES)
    return np.argsort(_keys(seed, epoch, count, _SHUFFLE), kind="stable")


def quasi_random(seed: int, epoch: int, page_N: np.ndarray, buffer: int) -> np.ndarray:
    """All images, so ordered that at most ``buffer`` pages of the file are in use at any place: (N,) int64.

    Pages enter in random order, one every unit of time, and stay for ``buffer`` units, over which their shuffled
    images are spread evenly. A batch so takes about as many images from each page in use, which is as well as the
    buffer can spread classes if the file is sorted by class. What the first pages would show while the buffer fills
    is spread over half a buffer's time, and likewise what the last ones show while it empties.

    Args:
        seed: of the order.
        epoch: of the order.
        page_N: page of each image, all numbers below P in use.
        buffer: pages in use at a time, fewer than P.
    """
    count_P = np.bincount(page_N)
    pages = len(count_P)
    page_order = np.argsort(_keys(seed, epoch, pages, _PAGE), kind="stable")
    enters_P = np.empty(pages, np.int64)
    enters_P[page_order] = np.arange(pages)
    # Images by page, in the order of pages, shuffled within.
    shuffled = (_keys(seed, epoch, len(page_N), _WITHIN_PAGE) * 2.0**32).astype(np.int64)
    images = np.argsort(enters_P[page_N] << 32 | shuffled, kind="stable")
    counts = count_P[page_order]
    enters = np.repeat(np.arange(pages), counts)
    place = np.arange(len(page_N)) - np.repeat(np.cumsum(counts) - counts, counts)
    jitter = _keys(seed, epoch, len(page_N), _JITTER)
    time = enters + buffer * ((place + jitter) / counts[enters])
    filling, emptying = time < buffer, time >= pages
    half = buffer / 2
    early, late = enters[filling], enters[emptying]
    time[filling] = half + half * ((time[filling] - early) / (buffer - early))
    time[emptying] = pages + half * ((time[emptying] - pages) / (late + buffer - pages))
    return images[np.argsort(time, kind="stable")]


@kernel
def _keys(seed: int, epoch: int, count: int, place: int) -> np.ndarray:
    """(count,) float64 random numbers in [0, 1)."""
    keys = np.empty(count, np.float64)
    for item in range(count):
        keys[item] = uniform(seed, ORDER, epoch, item, place)
    return keys
