"""What an epoch consists of: its steps, how many images each of them has, and the sides of their views."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch

from ffdr.config.training import TrainOptions
from ffdr.loader.order import part_of
from ffdr.loader.protocol import Batch, BatchLoader
from ffdr.loader.targets import SparseTargets
from ffdr.train.update.optim import resolution_at
from ffdr.util.ranks import Ranks


@dataclass(frozen=True)
class EpochPlan:
    """Steps of an epoch. All but the last have a full batch; what fills none is left out, or is the tail."""

    images: int
    """in the training data"""
    batch_size: int
    """over all ranks"""
    drop_last: bool = True

    @classmethod
    def of(cls, options: TrainOptions, images: int) -> EpochPlan:
        """By the options of a run."""
        return cls(images, options.batch_size, options.drop_last)

    @property
    def tail(self) -> int:
        """Images of the last batch where it is smaller than the others; 0: none is."""
        return 0 if self.drop_last else self.images % self.batch_size

    @property
    def steps(self) -> int:
        """Per epoch."""
        return self.images // self.batch_size + (self.tail > 0)

    @property
    def shown(self) -> int:
        """Images that an epoch learns from."""
        return self.images // self.batch_size * self.batch_size + self.tail

    def tail_parts(self, ranks: int) -> list[int]:
        """Images of the tail that each rank has, as the loader shares them out; some may have none."""
        return [len(range(self.tail)[part_of(self.tail, rank, ranks)]) for rank in range(ranks)]

    def tail_at(self, step: int) -> int:
        """Images of batch number ``step`` of a run, if it is a tail; 0: it is full."""
        return self.tail if self.tail and (step + 1) % self.steps == 0 else 0

    def batches(self, loader: BatchLoader, ranks: Ranks) -> Iterable[Batch]:
        """A rank's batches of the coming epoch; of a tail in which it has no part an empty one, so that it takes part
        in the step."""
        if not self.tail or self.tail_parts(ranks.size)[ranks.rank]:
            return loader
        none = torch.zeros(0, dtype=torch.int64)
        return chain(loader, [(torch.zeros(0, 3, 1, 1), SparseTargets(none[:, None], torch.zeros(0, 1), none), none)])


def view_sides(options: TrainOptions) -> list[tuple[int, ...]]:
    """Sides of the training views in every epoch, pixels; of several, each batch has one, all equally often."""
    return [options.resolutions or (resolution_at(options, epoch),) for epoch in range(options.epochs)]


def all_sides(options: TrainOptions) -> list[int]:
    """Every side of the training views, pixels, ascending."""
    return sorted({side for sides in view_sides(options) for side in sides})
