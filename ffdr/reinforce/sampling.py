"""Views are drawn from a policy and replayed as the teacher sees them.

View k of an image is drawn from the key (seed, k, image), so it depends on nothing else.

Shapes: n images, B views.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.policy import Policy
from ffdr.augment.view import share_of_first
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import Records
from ffdr.loader.replay.replayer import Replayer
from ffdr.reinforce.agreement import Predictions
from ffdr.reinforce.teacher import Teacher
from ffdr.util.errors import UserError


class ViewSampler:
    """Draws views and replays them."""

    def __init__(self, images: ImageBeton, policy: Policy, seed: int, sides: Iterable[int], threads: int) -> None:
        """sides: the resolutions to replay at; threads: of the replay."""
        self.images, self.seed = images, seed
        self._policy = pack_policy(policy)
        self._replayers = {side: Replayer(images, side, threads) for side in sides}

    def draw(self, index: np.ndarray, count: int) -> Records:
        """The first ``count`` views of each image, image after image: n·count records."""
        found = Records.blank(len(index) * count)
        for k in range(count):
            drawn = Records.blank(len(index))
            draw_batch(self._policy, self.seed, np.full_like(index, k), index, self.images.original_sizes, *drawn)
            for whole, some in zip(found, drawn, strict=True):
                whole[k::count] = some
        return found

    def replay(self, index: np.ndarray, records: Records, pinned: bool = False) -> dict[int, torch.Tensor]:
        """(B, R, R, 3) uint8 on the CPU for each resolution R. pinned: in memory that can travel to a GPU while the
        CPU goes on; torch keeps and reuses it."""
        pixels = {}
        for side, replayer in self._replayers.items():
            pixels[side] = torch.empty((len(index), *replayer.shape), dtype=torch.uint8, pin_memory=pinned)
            replayer(replayer.spans(index), records, pixels[side].numpy())
        return pixels

    def labels(self, index: np.ndarray, mixes: np.ndarray) -> np.ndarray:
        """(B,) int64; of a mixed view that of the image that has the larger share."""
        labels = self.images.labels
        return np.where(share_of_first(mixes) >= 0.5, labels[index], labels[mixes["partner"]])

    def predictions(self, teacher: Teacher, count: int) -> Predictions:
        """What each member of a teacher predicts for view 0 of ``count`` evenly spaced images, at most all.

        A member takes its own resolution, where there is one such, else the first one. Raises UserError for
        predictions that are not numbers.
        """
        last = len(self.images) - 1
        index = np.linspace(0, last, min(count, last + 1)).astype(np.int64)
        records = self.draw(index, 1)
        logs = []
        for at in range(0, len(index), teacher.batch_size):
            part = slice(at, at + teacher.batch_size)
            pixels = self.replay(index[part], records.rows(part))
            logs.append(teacher.member_log_probs_at({0: next(iter(pixels.values())), **pixels}))
        sources = tuple(member.source or member.name for member in teacher.members)
        predictions = Predictions(sources, torch.cat(logs, dim=1), self.labels(index, records.mixes))
        for source, bad in zip(sources, predictions.log_probs.isnan().any(2).sum(1).tolist(), strict=True):
            if bad:
                raise UserError(
                    f"teacher.models: {source} predicts what is not a number for {bad} of {len(index)} views; its "
                    "weights are damaged, or too large for teacher.precision: try float32"
                )
        return predictions
