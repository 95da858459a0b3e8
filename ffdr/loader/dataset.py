"""``ReinforcedDataset``: single views, for the loops of others, notebooks, pictures and tests."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ffdr.augment.policy import Policy
from ffdr.augment.view import share_of_first
from ffdr.beton.read import ReinforcedBeton
from ffdr.loader.normalise import Normalisation
from ffdr.loader.replay.replayer import Replayer, view_side
from ffdr.loader.settings import channels, checked_dtype
from ffdr.loader.sources import Images, Reinforced, open_images, open_views
from ffdr.loader.targets import SparseTargets
from ffdr.loader.views import SomeStored, StoredViews, ViewBatch
from ffdr.util.arguments import integer
from ffdr.util.errors import UserError

_MOST_EPOCHS = 2**63 - 1
Item = dict[str, Any]


class ReinforcedDataset(Dataset[Item]):
    """Views by number, for whatever takes a map-style dataset: PyTorch's DataLoader, Hugging Face's Trainer, notebooks.

    ``dataset[i]`` is image i as it looks in the current epoch (``set_epoch``), ``dataset[epoch, i]`` as in that epoch:
    the view that ``ReinforcedLoader`` shows with the same files, policy and seed. ``view(i, k)`` is stored view k. A
    loop that takes batches from anywhere should have ``ReinforcedLoader``, which decodes them whole, in one process.

    An item is a dictionary that any collate function can stack:

    - ``pixel_values``: (3, H, W), normalised, or uint8;
    - ``labels``, ``index``: class and number of the image, integers;
    - ``target_ids``, ``target_log_probs``: (T,) int64 and float32, what to learn from, as in ``SparseTargets``;
    - ``partner_labels``, an integer, and ``shares``, () float32: as ``partner`` and ``share`` there; only where views
      may be mixed.

    ``SparseTargets.from_batch`` takes the stacked items.

    The epoch is known at once in all worker processes of a DataLoader, ``persistent_workers`` too; set it before an
    epoch's iteration begins. Threads may share a dataset, a fork of the process may use it, and it may be pickled: it
    opens its files anew where it is unpickled, and raises UserError if they are no longer the same.

    Args:
        images: image beton (path or opened).
        reinforced: reinforced beton of these images (path or opened); None: of a merged beton its own, unless there is
            a policy; else see ``ReinforcedLoader``.
        resolution: side of the square views, in pixels.
        dtype: torch.uint8 for the pixels as they are, 0..255; a floating dtype normalises them.
        policy, reinforced_share, center, mean, std: as for ``ReinforcedLoader``.
        seed: of draws and choice of views.

    Raises:
        UserError: files that don't fit together, impossible options.
    """

    def __init__(
        self,
        images: Images,
        reinforced: Reinforced | None = None,
        *,
        resolution: int = 224,
        dtype: torch.dtype = torch.float32,
        policy: Policy | None = None,
        reinforced_share: float = 1.0,
        center: float = 0.875,
        seed: int = 0,
        mean: Sequence[float] | np.ndarray | torch.Tensor | None = None,
        std: Sequence[float] | np.ndarray | torch.Tensor | None = None,
    ) -> None:
        self.images = open_images(images)
        self.resolution, self.seed = view_side(resolution), integer("seed", seed, 0, 2**63 - 1)
        self.dtype = checked_dtype(dtype)
        self.mean, self.std = channels("mean", mean, self.images.mean), channels("std", std, self.images.std)
        self._normalisation = Normalisation.on("cpu", self.mean, self.std)
        if reinforced is None and policy is None and "aug_params" in self.images.field_names:
            reinforced = self.images.path
        self._source, self.num_classes = open_views(
            self.images, reinforced, policy, reinforced_share, center, self.seed
        )
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._idle: dict[int, list[Replayer]] = {}
        """by resolution; each serves one thread at a time"""

    def __len__(self) -> int:
        return self.images.num_images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # a plain pickle and a deep copy have it in memory of their own

    @property
    def class_names(self) -> tuple[str, ...]:
        """The images' classes by number; a reinforcement may know of more (``num_classes``)."""
        return self.images.class_names

    @property
    def reinforced(self) -> ReinforcedBeton:
        """The reinforced beton. Raises UserError where there is none."""
        return self._stored.reinforced

    @property
    def num_views(self) -> int:
        """K, the stored views per image. Raises UserError where there are none."""
        return self.reinforced.header.views

    @property
    def _stored(self) -> StoredViews:
        source = self._source.stored if isinstance(self._source, SomeStored) else self._source
        if not isinstance(source, StoredViews):
            raise UserError(f"{self.images.path}: no stored views (field aug_params); give a reinforced beton, too")
        return source

    @property
    def epoch(self) -> int:
        """That of ``dataset[i]``; 0 until ``set_epoch``."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """``dataset[i]`` is of this epoch from now on, here and in the workers of DataLoaders."""
        self._epoch.fill_(integer("epoch", epoch, 0, _MOST_EPOCHS))

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """An image in the current epoch, or (epoch, image); negative images count from the end.

        Raises:
            IndexError: there is no such image.
            UserError: an epoch that is none; a file that has changed; ReplayError: the image can't be decoded.
        """
        epoch, at = key if isinstance(key, tuple) and len(key) == 2 else (self.epoch, key)
        epoch, number = integer("epoch", epoch, 0, _MOST_EPOCHS), operator.index(at)
        image = number + len(self) if number < 0 else number
        if not 0 <= image < len(self):
            raise IndexError(f"image {number}: there are {len(self)}")
        pixels, targets = self._replayed(image, self._source.one(epoch, image), self.resolution)
        chw = torch.from_numpy(pixels).permute(2, 0, 1)
        item = {
            "pixel_values": chw if self.dtype is torch.uint8 else self._normalisation(chw, self.dtype),
            "labels": int(targets.label),
            "target_ids": targets.ids[0],
            "target_log_probs": targets.log_probs[0],
            "index": image,
        }
        if targets.partner is not None and targets.share is not None:
            item |= {"partner_labels": int(targets.partner), "shares": targets.share[0]}
        return item

    def view(self, image: int, view: int, resolution: int | None = None) -> tuple[np.ndarray, SparseTargets]:
        """One stored view: pixels (resolution, resolution, 3) uint8 and its targets, a batch of one.

        resolution: None: the dataset's.

        Raises:
            IndexError: there is no such image or view.
            UserError: a resolution that is none; there are no stored views.
        """
        image, view = operator.index(image), operator.index(view)
        if not 0 <= image < len(self) or not 0 <= view < self.num_views:
            raise IndexError(f"image {image}, view {view}: there are {len(self)} images of {self.num_views} views")
        side = self.resolution if resolution is None else view_side(resolution)
        return self._replayed(image, self._stored.read(image, view), side)

    def _replayed(self, image: int, record: ViewBatch, resolution: int) -> tuple[np.ndarray, SparseTargets]:
        """Pixels and targets of one view."""
        with self._replayer(resolution) as replayer:
            pixels = replayer.one(image, record.records)
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
            replayer.prepare(self._source, in_threads=False)
        yield replayer
        self._idle.setdefault(resolution, []).append(replayer)  # not after an error: it goes
