"""Shards are made here: draw views, replay them at the teacher's resolution, ask the teacher.

View k of an image is drawn from the key (seed, k, image), so it depends on nothing else. The views of a shard, image
after image, reach the teacher in batches of its batch size, however many views an image has.

Shapes: n images in a shard, K views an image, B views in a batch, T = top-k entries, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.policy import Policy
from ffdr.augment.view import MIX_DTYPE, MIXED_DTYPE, VIEW_DTYPE, share_of_first
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton
from ffdr.loader.decode import Replayer, blank_views
from ffdr.reinforce.agreement import Answers
from ffdr.reinforce.shards import Labelled
from ffdr.reinforce.teacher import Teacher, TopK
from ffdr.util.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Batch:
    """Some views of a shard, replayed."""

    shard: range
    records: np.ndarray
    """(n, K), of the whole shard"""
    pixels: dict[int, torch.Tensor]
    """for each resolution R that a member of the teacher asks for: (B, R, R, 3) uint8, on the CPU"""
    is_last: bool
    """of its shard"""


class Views:
    """Draws views and replays them."""

    def __init__(self, images: ImageBeton, policy: Policy, seed: int, sides: Iterable[int], threads: int) -> None:
        """sides: the resolutions to replay at; threads: of the replay."""
        self.images, self.seed = images, seed
        self._policy = pack_policy(policy)
        self._replayers = {side: Replayer(images, side, threads) for side in sides}

    def draw(self, index: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first ``count`` views of each image, image after image: views (n·count, 2), mixes (n·count,)."""
        views, mixes = np.empty((len(index), count, 2), VIEW_DTYPE), np.empty((len(index), count), MIX_DTYPE)
        for k in range(count):
            drawn, mixed = blank_views(len(index))
            draw_batch(self._policy, self.seed, k, index, self.images.original_sizes, drawn, mixed)
            views[:, k], mixes[:, k] = drawn, mixed
        return views.reshape(-1, 2), mixes.ravel()

    def replay(
        self, index: np.ndarray, views: np.ndarray, mixes: np.ndarray, pinned: bool = False
    ) -> dict[int, torch.Tensor]:
        """(B, R, R, 3) uint8 on the CPU for each resolution R. pinned: in memory that can travel to a GPU while the
        CPU goes on; torch keeps and reuses it."""
        pixels = {}
        for side, replayer in self._replayers.items():
            pixels[side] = torch.empty((len(index), *replayer.shape), dtype=torch.uint8, pin_memory=pinned)
            replayer(replayer.spans(index), views, mixes, pixels[side].numpy())
        return pixels

    def labels(self, index: np.ndarray, mixes: np.ndarray) -> np.ndarray:
        """(B,) int64; of a mixed view that of the image that has the larger share."""
        labels = self.images.labels
        return np.where(share_of_first(mixes) >= 0.5, labels[index], labels[mixes["partner"]])

    def answers(self, teacher: Teacher, count: int) -> Answers:
        """What each member of a teacher says of view 0 of ``count`` images, at most all, evenly from first to last.

        A member takes its own resolution, where there is one such, else the first one. Raises UserError for answers
        that are no numbers.
        """
        last = len(self.images) - 1
        index = np.linspace(0, last, min(count, last + 1)).astype(np.int64)
        sources = tuple(member.source or member.name for member in teacher.members)
        views, mixes = self.draw(index, 1)
        parts = [slice(at, at + teacher.batch_size) for at in range(0, len(index), teacher.batch_size)]
        logs = []
        for part in parts:
            pixels = self.replay(index[part], views[part], mixes[part])
            logs.append(teacher.each_log_probs_at({0: next(iter(pixels.values())), **pixels}))
        answers = Answers(sources, torch.cat(logs, dim=1), self.labels(index, mixes))
        for source, bad in zip(sources, answers.log_probs.isnan().any(2).sum(1).tolist(), strict=True):
            if bad:
                raise UserError(
                    f"teacher.models: {source} answers {bad} of {len(index)} views with what is no number; its weights "
                    "are damaged, or too large for teacher.precision: try float32"
                )
        return answers


class Labeller:
    """Draws, replays and labels; what one rank does all day."""

    def __init__(
        self, images: ImageBeton, policy: Policy, header: ReinforcedHeader, teacher: Teacher, threads: int
    ) -> None:
        """threads: of the replay, which runs while the teacher works."""
        self.header, self.teacher = header, teacher
        # Members that agree on a resolution share one replay.
        sides = sorted({member.resolution for member in teacher.members})
        self.views = Views(images, policy, header.seed, sides, threads)

    def label(self, shards: Iterable[range]) -> Iterator[Labelled]:
        """Make shards, one after the other."""
        answers = []
        for batch, answer in self.answers(shards):
            answers.append(answer)
            if batch.is_last:
                shape = (*batch.records.shape, self.header.topk)
                ids, log_probs = (np.concatenate(parts).reshape(shape) for parts in zip(*answers, strict=True))
                yield Labelled(batch.shard.start, batch.records, ids, log_probs)
                answers = []

    def answers(self, shards: Iterable[range]) -> Iterator[tuple[_Batch, tuple[np.ndarray, np.ndarray]]]:
        """Every batch of the shards with its ids (B, T) uint16 and log-probabilities (B, T) float16."""
        before: tuple[_Batch, TopK] | None = None
        for batch in _ahead(self._batches(shards), self.teacher.device):
            asked = batch, TopK(self._ask(batch.pixels), self.header.topk)
            if before is not None:  # read once the device has the next one to do
                yield before[0], before[1].result()
            before = asked
        if before is not None:
            yield before[0], before[1].result()

    def _batches(self, shards: Iterable[range]) -> Iterator[_Batch]:
        pinned = self.teacher.device.type == "cuda"
        for shard in shards:
            index = np.repeat(np.arange(shard.start, shard.stop), self.header.views)
            views, mixes = self.views.draw(np.arange(shard.start, shard.stop), self.header.views)
            records = self._records(views, mixes).reshape(len(shard), self.header.views)
            for at in range(0, len(index), self.teacher.batch_size):
                part = slice(at, at + self.teacher.batch_size)
                pixels = self.views.replay(index[part], views[part], mixes[part], pinned)
                yield _Batch(shard, records, pixels, part.stop >= len(index))

    def _ask(self, pixels: dict[int, torch.Tensor]) -> torch.Tensor:
        device = self.teacher.device
        return self.teacher.log_probs_at({side: x.to(device, non_blocking=True) for side, x in pixels.items()})

    def _records(self, views: np.ndarray, mixes: np.ndarray) -> np.ndarray:
        if not self.header.mixes:
            return np.ascontiguousarray(views[:, 0])
        records = np.empty(len(mixes), MIXED_DTYPE)
        records["first"], records["mix"], records["second"] = views[:, 0], mixes, views[:, 1]
        return records


def _ahead(items: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """The same items, each made in a thread while the one before it is used.

    device: the thread's own; a new thread's is GPU 0, on which every rank would open a context to pin memory.
    """
    begin = partial(torch.cuda.set_device, device) if device.index is not None else None
    with ThreadPoolExecutor(max_workers=1, initializer=begin) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
