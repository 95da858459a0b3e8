"""``ReinforcedDataset``: a look at single views; and how images and reinforcements are opened together."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffdr.augment.view import share_of_first
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_same_images
from ffdr.loader.decode import Replayer, view_side
from ffdr.loader.targets import SparseTargets
from ffdr.loader.views import StoredViews
from ffdr.util.arguments import shown
from ffdr.util.errors import UserError

Images = str | Path | ImageBeton


class ReinforcedDataset:
    """Random access to the views of a reinforced beton, for notebooks, pictures and tests.

    Threads may share one, a fork of the process may use it, and it may be pickled: it opens its files anew where it is
    unpickled, and raises UserError if they are no longer the same.

    Args:
        images: image beton (path or opened).
        reinforced: reinforced beton of these images (path or opened); None: the images are a merged beton's.
    """

    def __init__(self, images: Images, reinforced: str | Path | ReinforcedBeton | None = None) -> None:
        self.images = open_images(images)
        path = self.images.path if reinforced is None else reinforced
        self.reinforced = reinforced = open_reinforced(path, self.images)
        self._source = StoredViews(reinforced, seed=0)
        self._idle: dict[int, list[Replayer]] = {}
        """by resolution; each serves one thread at a time"""

    def __len__(self) -> int:
        return self.images.num_images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": {}}

    @property
    def num_views(self) -> int:
        """K, the views per image."""
        return self.reinforced.header.views

    def view(self, image: int, view: int, resolution: int = 224) -> tuple[np.ndarray, SparseTargets]:
        """One view: pixels (resolution, resolution, 3) uint8 and its targets, a batch of one.

        Raises:
            IndexError: there is no such image or view.
            UserError: a resolution that is none.
        """
        image, view = operator.index(image), operator.index(view)
        if not 0 <= image < len(self) or not 0 <= view < self.num_views:
            raise IndexError(f"image {image}, view {view}: there are {len(self)} images of {self.num_views} views")
        resolution = view_side(resolution)
        record = self._source.read(image, view)
        with self._replayer(resolution) as replayer:
            pixels = replayer.one(image, record.views, record.mixes)
        labels = self.images.labels
        parts = [record.ids.astype(np.int64), record.log_probs, labels[[image]]]
        if self._source.has_mixes:
            parts += [labels[record.mixes["partner"]], share_of_first(record.mixes).astype(np.float32)]
        return pixels, SparseTargets(*map(torch.from_numpy, parts))

    @contextmanager
    def _replayer(self, resolution: int) -> Iterator[Replayer]:
        """One that no other thread has meanwhile; as many are made as are used at a time."""
        try:
            replayer = self._idle[resolution].pop()
        except (KeyError, IndexError):
            replayer = Replayer(self.images, resolution, threads=1)
        yield replayer
        self._idle.setdefault(resolution, []).append(replayer)  # not after an error: it goes


def open_images(images: Images) -> ImageBeton:
    """An image beton, which may be open already.

    Raises:
        UserError: it can't be opened, or is none.
    """
    return images if isinstance(images, ImageBeton) else ImageBeton.open(_path("images", images))


def open_reinforced(reinforced: str | Path | ReinforcedBeton, images: ImageBeton) -> ReinforcedBeton:
    """The reinforced beton, which must be of these images, whoever opened it.

    Raises:
        UserError: it can't be opened, is none, or is one of other images.
    """
    if not isinstance(reinforced, ReinforcedBeton):
        return ReinforcedBeton.open(_path("reinforced", reinforced), images)
    check_same_images(reinforced.path, reinforced.header, images)
    return reinforced


def _path(key: str, path: Any) -> str | Path:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UserError(f"{key}: {shown(path)} is neither a path nor an opened beton of that kind")
    return path if isinstance(path, str) else Path(path)
