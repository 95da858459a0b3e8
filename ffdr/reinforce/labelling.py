"""Shards are made here: draw views, replay them at the teacher's resolution, let the teacher label them.

The views of a shard, image after image, reach the teacher in batches of its batch size, however many views an image
has. Three things go on at once::

    thread          replays batch i + 1
    device          labels batch i
    this process    waits for the labels of batch i - 1 and hands them on

Shapes: n images in a shard, K views per image, B views in a batch, T = top-k entries, C classes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from ffdr.augment.policy import Policy
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import stored_records
from ffdr.reinforce.sampling import ViewSampler
from ffdr.reinforce.shards import LabelledShard
from ffdr.reinforce.teacher import Teacher
from ffdr.reinforce.topk import TopK

Item = TypeVar("Item")


@dataclass(frozen=True)
class _ReplayedBatch:
    """Some views of a shard, replayed."""

    shard: range
    views: np.ndarray
    """(n, K) records, of the whole shard"""
    pixels: dict[int, torch.Tensor]
    """for each resolution R that a member of the teacher asks for: (B, R, R, 3) uint8, on the CPU"""
    is_last: bool
    """of its shard"""


class Labeller:
    """Draws, replays and labels, on one rank."""

    def __init__(
        self, images: ImageBeton, policy: Policy, header: ReinforcedHeader, teacher: Teacher, threads: int
    ) -> None:
        """threads: of the replay, which runs while the teacher works."""
        self.header, self.teacher = header, teacher
        # Members that agree on a resolution share one replay.
        sides = sorted({member.resolution for member in teacher.members})
        self.sampler = ViewSampler(images, policy, header.seed, sides, threads)

    def label(self, shards: Iterable[range]) -> Iterator[LabelledShard]:
        """Make shards, one after the other."""
        parts = []
        for batch, entries in self.labelled_batches(shards):
            parts.append(entries)
            if batch.is_last:
                shape = (*batch.views.shape, self.header.topk)
                ids, log_probs = (np.concatenate(part).reshape(shape) for part in zip(*parts, strict=True))
                yield LabelledShard(batch.shard.start, batch.views, ids, log_probs)
                parts = []

    def labelled_batches(
        self, shards: Iterable[range]
    ) -> Generator[tuple[_ReplayedBatch, tuple[np.ndarray, np.ndarray]], None, None]:
        """Every batch of the shards with its ids (B, T) uint16 and log-probabilities (B, T) float16."""
        before: tuple[_ReplayedBatch, TopK] | None = None
        for batch in _ahead(self._replayed_batches(shards), self.teacher.device):
            device = self.teacher.device
            pixels = {side: x.to(device, non_blocking=True) for side, x in batch.pixels.items()}
            started = batch, TopK(self.teacher.log_probs_at(pixels), self.header.topk)
            del pixels  # else they stay on the device while the next ones come
            if before is not None:  # read once the device has the next one to do
                yield before[0], before[1].result()
            before = started
        if before is not None:
            yield before[0], before[1].result()

    def _replayed_batches(self, shards: Iterable[range]) -> Iterator[_ReplayedBatch]:
        pinned = self.teacher.device.type == "cuda"
        for shard in shards:
            images = np.arange(shard.start, shard.stop)
            index = np.repeat(images, self.header.views)
            records = self.sampler.draw(images, self.header.views)
            stored = stored_records(records, self.header.record_dtype).reshape(len(shard), self.header.views)
            for at in range(0, len(index), self.teacher.batch_size):
                part = slice(at, at + self.teacher.batch_size)
                pixels = self.sampler.replay(index[part], records.rows(part), pinned)
                yield _ReplayedBatch(shard, stored, pixels, part.stop >= len(index))


def _ahead(items: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """The same items, each made in a thread while the one before it is used.

    device: the thread's own; a new thread's is GPU 0, on which every rank would open a context to pin memory.
    """
    has_index = device.index is not None
    begin = partial(torch.cuda.set_device, device) if has_index else None
    with ThreadPoolExecutor(max_workers=1, initializer=begin) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
