"""Make a reinforced beton: draw views, replay them at the teacher's resolution, label them, store both.

Everything that decides a byte depends on the image alone: view k of an image is drawn from the key (seed, k, image),
and images reach the teacher in chunks that do not depend on where a killed run stopped.

Shapes: n images in a chunk, K views an image, T = top-k entries, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.policy import Policy
from ffdr.augment.view import MIXED_DTYPE
from ffdr.beton.decode import Replayer, blank_views
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton
from ffdr.beton.reinforced import ReinforcedWriter
from ffdr.beton.stream import thread_count
from ffdr.models import best_device
from ffdr.options import ReinforceOptions, TeacherOptions
from ffdr.reinforce.teacher import Teacher, topk

Chunk = tuple[np.ndarray, dict[int, torch.Tensor]]
"""Records (n, K) and, for each resolution R that a member asks for, pixels (n·K, R, R, 3)."""


def generate(options: ReinforceOptions, policy: Policy, teacher_options: TeacherOptions, progress: bool = True) -> Path:
    """Write the reinforced beton that the options ask for; a killed run goes on where it stopped.

    Returns its path.

    Raises:
        UserError: unreadable images, an impossible teacher, options that don't fit together.
    """
    images = ImageBeton.open(options.images)
    if options.resolution:
        teacher_options = replace(teacher_options, resolution=options.resolution)
    teacher = Teacher.from_options(teacher_options, images.num_classes, best_device())
    sides = {member.resolution for member in teacher.members}
    entries = min(options.topk, images.num_classes)
    header = ReinforcedHeader(
        num_images=images.num_images,
        views=options.views,
        topk=entries,
        num_classes=images.num_classes,
        mixes=policy.mixes,
        policy=asdict(policy),
        teachers=teacher.signatures(),
        resolution=sides.pop() if len(sides) == 1 else 0,
        seed=options.seed,
        fingerprint=images.fingerprint,
    )
    with (
        ReinforcedWriter(options.out, header, images, teacher.identity()) as writer,
        tqdm(total=images.num_images, unit="img", desc="reinforce", disable=not progress, initial=writer.done) as bar,
    ):
        producer = _ChunkProducer(images, policy, options, teacher)
        for first, (records, pixels) in producer.chunks(writer.done):
            log_probs = teacher.log_probs_at(pixels)
            ids_T, log_probs_T = topk(log_probs, entries)
            shape = (*records.shape, entries)
            index = np.arange(first, first + len(records))
            writer.put(index, records, ids_T.reshape(shape), log_probs_T.reshape(shape))
            bar.update(len(index))
        writer.finish()
    return Path(options.out)


class _ChunkProducer:
    """Draws and replays the next chunk in a thread while the teacher labels the current one."""

    def __init__(self, images: ImageBeton, policy: Policy, options: ReinforceOptions, teacher: Teacher) -> None:
        self.images, self.views, self.seed = images, options.views, options.seed
        self.mixes = policy.mixes
        self.policy = pack_policy(policy)
        threads = thread_count(options.workers)
        wanted = sorted({member.resolution for member in teacher.members})
        self.replayers = {side: Replayer(images, side, threads) for side in wanted}
        self.chunk = max(1, teacher.batch_size // options.views)

    def chunks(self, done: int) -> Iterator[tuple[int, Chunk]]:
        """(first image, chunk) from the chunk that holds image ``done`` on."""
        starts = range(done - done % self.chunk, self.images.num_images, self.chunk)
        with ThreadPoolExecutor(max_workers=1) as thread:
            pending = None
            for first in starts:
                following = thread.submit(self._make, first)
                if pending is not None:
                    yield pending[0], pending[1].result()
                pending = first, following
            if pending is not None:
                yield pending[0], pending[1].result()

    def _make(self, first: int) -> Chunk:
        index = np.arange(first, min(first + self.chunk, self.images.num_images))
        views_nK2, mixes_nK = (
            np.stack(parts, axis=1) for parts in zip(*(self._draw(index, k) for k in range(self.views)), strict=True)
        )
        pixels = {}
        for side, replayer in self.replayers.items():
            out = np.empty((mixes_nK.size, *replayer.shape), np.uint8)
            replayer(replayer.spans(np.repeat(index, self.views)), views_nK2.reshape(-1, 2), mixes_nK.ravel(), out)
            pixels[side] = torch.from_numpy(out)
        return self._records(views_nK2, mixes_nK), pixels

    def _draw(self, index: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """View k of each image: views (n, 2), mixes (n,)."""
        views, mixes = blank_views(len(index))
        draw_batch(self.policy, self.seed, k, index, self.images.original_sizes, views, mixes)
        return views, mixes

    def _records(self, views_nK2: np.ndarray, mixes_nK: np.ndarray) -> np.ndarray:
        if not self.mixes:
            return np.ascontiguousarray(views_nK2[..., 0])
        records = np.empty(mixes_nK.shape, MIXED_DTYPE)
        records["first"], records["mix"], records["second"] = views_nK2[..., 0], mixes_nK, views_nK2[..., 1]
        return records
