"""Where a batch's views and targets come from: stored, drawn on the fly, or the one evaluation view.

A source fills the records and targets of a batch from nothing but (epoch, image index) of each row, so that what a
sample gets does not depend on batch, thread or rank.

Shapes: B images in the batch, K views per image, T target entries.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numba import prange, types

from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.ops.apply import apply_op
from ffdr.augment.ops.effects import apply_effect
from ffdr.augment.pick import pick_views
from ffdr.augment.policy import Policy
from ffdr.augment.random import SHARE, uniform
from ffdr.augment.replay import mix_into
from ffdr.augment.types import EFFECTS, INDEX, MIX_TYPE, VIEW_TYPE
from ffdr.augment.view import EFFECTS_DTYPE, FRACTION, MIX_DTYPE, VIEW_DTYPE, center_view, share_of_first
from ffdr.beton.header import UNUSED
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.records import Records, record_of
from ffdr.jit.arguments import ADDRESS, array_of, named
from ffdr.jit.instructions import copy_bytes
from ffdr.jit.kernel import address_of, bytes_at, numba_threads
from ffdr.jit.unit import Unit, unit
from ffdr.util.errors import UserError

_HALF = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)


_VIEW, _MIX, _EFFECTS = VIEW_DTYPE.itemsize, MIX_DTYPE.itemsize, EFFECTS_DTYPE.itemsize


class ViewBatch(NamedTuple):
    """What the images of a batch show, and what they are learned from."""

    views: np.ndarray
    """this and the next two: ``Records``, flat, because Numba hands no nested tuples to its threads"""
    mixes: np.ndarray
    effects: np.ndarray
    ids: np.ndarray
    """(B, T) int32 classes"""
    log_probs: np.ndarray
    """(B, T) float32"""

    @classmethod
    def blank(cls, count: int, entries: int) -> ViewBatch:
        """Of ``count`` images with T entries, to be filled by a ``ViewSource``."""
        entry = count, entries
        return cls(*Records.blank(count), np.zeros(entry, np.int32), np.zeros(entry, np.float32))

    @property
    def records(self) -> Records:
        """What the images show."""
        return Records(self.views, self.mixes, self.effects)


class ViewSource(Protocol):
    """What the loader asks for every batch."""

    entries: int
    """T, the number of target entries."""
    has_mixes: bool
    """Whether an image may be mixed with another one."""
    num_views: int | None
    """K, views per image before one comes again; None: each epoch draws its own."""
    units: tuple[Unit, ...]
    """What fills a batch."""
    unused: frozenset[Unit]
    """Parts of a replay that no view of this source has."""

    def fill(self, epochs: np.ndarray, index: np.ndarray, batch: ViewBatch) -> None:
        """Fill the records and targets of the images ``index`` in ``epochs``, (B,) int64 each; whatever they held."""

    def one(self, epoch: int, image: int) -> ViewBatch:
        """The same of one image, a batch of one. No kernel runs in threads, so that a fork can have it, too."""
        ...


class FixedView:
    """The evaluation view: resize, then cut the centre that is ``center`` of the short side. Targets: the label."""

    entries = 1
    has_mixes = False
    num_views: int | None = 1
    units: tuple[Unit, ...] = ()
    unused = frozenset({apply_op, apply_effect, mix_into})

    def __init__(self, images: ImageBeton, center: float) -> None:
        self.images = images
        self.view = center_view(center)

    def fill(self, epochs: np.ndarray, index: np.ndarray, batch: ViewBatch) -> None:
        """The same in every epoch."""
        batch.views[:, 0] = self.view
        _leave_unmixed(batch.mixes, index)
        batch.effects[:] = 0
        batch.ids[:, 0] = self.images.labels[index]
        batch.log_probs[:, 0] = 0.0

    def one(self, epoch: int, image: int) -> ViewBatch:
        """A batch of one."""
        return _filled(self, epoch, image)


class DrawnViews:
    """Views drawn on the fly from the key (seed, epoch, image): ERM and KD.

    Targets are the label or, with mixing, the labels of both images weighted by their share of the picture.
    """

    num_views: int | None = None

    def __init__(self, policy: Policy, seed: int, images: ImageBeton) -> None:
        if policy.mixes and images.num_images < 2:
            raise UserError(f"{images.path}: mixing needs two images, the file has {images.num_images}")
        self.has_mixes = policy.mixes
        self.entries = 2 if policy.mixes else 1
        self.seed = seed
        self.images = images
        self.policy = pack_policy(policy)
        self.units: tuple[Unit, ...] = (draw_batch,)
        has_ops = policy.randaugment > 0 and policy.ops > 0
        self.unused = _unused(has_ops, policy.has_effects, policy.mixes)

    def fill(self, epochs: np.ndarray, index: np.ndarray, batch: ViewBatch) -> None:
        """Draw them."""
        labels, sizes = self.images.labels, self.images.original_sizes
        draw_batch(self.policy, self.seed, epochs, index, sizes, *batch.records)
        batch.ids[:, 0] = labels[index]
        batch.log_probs[:, 0] = 0.0
        if self.has_mixes:
            kept = share_of_first(batch.mixes)
            batch.ids[:, 1] = labels[batch.mixes["partner"]]
            with np.errstate(divide="ignore"):
                batch.log_probs[:, 0] = np.maximum(np.log(kept), UNUSED)
                batch.log_probs[:, 1] = np.maximum(np.log1p(-kept), UNUSED)

    def one(self, epoch: int, image: int) -> ViewBatch:
        """A batch of one."""
        return _filled(self, epoch, image)


class StoredViews:
    """Views and teacher outputs of a reinforced beton: DR. Which of the K views, ``pick_views`` says."""

    def __init__(self, reinforced: ReinforcedBeton, seed: int) -> None:
        self.reinforced = reinforced
        self.seed = seed
        self.entries = reinforced.header.topk
        self.has_mixes = reinforced.header.mixes
        self.num_views: int | None = reinforced.header.views
        self.units: tuple[Unit, ...] = (pick_views, _read_stored)
        self.unused = _unused(True, bool(reinforced.header.effects), self.has_mixes)

    def fill(self, epochs: np.ndarray, index: np.ndarray, batch: ViewBatch) -> None:
        """Read them. Raises as ``read_batch``."""
        self.read_batch(index, self.pick(epochs, index), batch)

    def read_batch(self, index: np.ndarray, picked: np.ndarray, batch: ViewBatch) -> None:
        """Read view ``picked`` of each image of ``index``, both (B,) int64.

        Raises:
            UserError: an entry that none can be; the file has become shorter.
        """
        file, header = self.reinforced, self.reinforced.header
        file.file.check_size()
        stored = _StoredViews(
            file.memmap, file.view_ptr, file.logit_ptr, self.has_mixes, bool(header.effects), header.num_classes
        )
        if not self.has_mixes:
            _leave_unmixed(batch.mixes, index)
        fits = np.empty(len(index), np.bool_)
        with numba_threads():
            _read_stored(stored, index, picked, batch, _HALF, fits)
        if not fits.all():
            bad = int(fits.argmin())
            raise UserError(
                f"{file.path}: sample {index[bad]}, view {picked[bad]}: a stored class id is not below "
                f"{header.num_classes} or a log-probability is not a finite number up to 0"
            )

    def pick(self, epochs: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Which view each image shows in its epoch: (B,) int64 below K."""
        picked = np.empty(len(index), np.uint64)
        pick_views(np.uint64(self.seed), epochs, index, self.reinforced.header.views, picked)
        return picked.view(np.int64)

    def one(self, epoch: int, image: int) -> ViewBatch:
        """A batch of one. Raises as ``read``."""
        return self.read(image, int(self.pick(np.array([epoch]), np.array([image]))[0]))

    def read(self, image: int, view: int) -> ViewBatch:
        """Records and targets of one view, a batch of one.

        No kernel runs in threads, so that a fork can read them, too.
        """
        records = record_of(self.reinforced.views(image)[view], image)
        ids, log_probs = (part[[view]] for part in self.reinforced.logits(image))
        return ViewBatch(*records, ids.astype(np.int32), log_probs.astype(np.float32))


class SomeStored:
    """Stored views for a ``share`` of the samples, drawn ones for the others, as (seed, epoch, image) decides."""

    def __init__(self, stored: StoredViews, drawn: DrawnViews, share: float, seed: int) -> None:
        self.stored, self.drawn, self.share, self.seed = stored, drawn, share, seed
        self.entries = max(stored.entries, drawn.entries)
        self.has_mixes = stored.has_mixes or drawn.has_mixes
        self.num_views = stored.num_views
        self.units: tuple[Unit, ...] = (_choose_stored, *stored.units, *drawn.units)
        self.unused = stored.unused & drawn.unused

    def fill(self, epochs: np.ndarray, index: np.ndarray, batch: ViewBatch) -> None:
        """Each from its source; entries that it has fewer of are unused."""
        batch.ids[...], batch.log_probs[...] = 0, UNUSED
        is_stored = self._is_stored(epochs, index)
        sources: tuple[tuple[ViewSource, np.ndarray], ...] = (self.stored, is_stored), (self.drawn, ~is_stored)
        for source, rows in sources:
            part = ViewBatch.blank(int(np.count_nonzero(rows)), source.entries)
            source.fill(epochs[rows], index[rows], part)
            for whole, some in zip(batch.records, part.records, strict=True):
                whole[rows] = some
            batch.ids[rows, : source.entries], batch.log_probs[rows, : source.entries] = part.ids, part.log_probs

    def one(self, epoch: int, image: int) -> ViewBatch:
        """A batch of one."""
        is_stored = self._is_stored(np.array([epoch]), np.array([image]))[0]
        part = (self.stored if is_stored else self.drawn).one(epoch, image)
        missing = (0, 0), (0, self.entries - part.ids.shape[1])
        ids, log_probs = np.pad(part.ids, missing), np.pad(part.log_probs, missing, constant_values=UNUSED)
        return part._replace(ids=ids, log_probs=log_probs)

    def _is_stored(self, epochs: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Which of the images show a stored view: (B,) bool."""
        is_stored = np.empty(len(index), np.bool_)
        _choose_stored(np.uint64(self.seed), epochs, index, self.share, is_stored)
        return is_stored


def _leave_unmixed(mixes: np.ndarray, index: np.ndarray) -> None:
    """The mixing records, (B,), of images that are not mixed."""
    mixes[:] = 0
    mixes["partner"] = index
    mixes["mixup"] = FRACTION


def _filled(source: FixedView | DrawnViews, epoch: int, image: int) -> ViewBatch:
    """A batch of one from a source that never uses threads."""
    batch = ViewBatch.blank(1, source.entries)
    source.fill(np.array([epoch]), np.array([image]), batch)
    return batch


def _unused(has_ops: bool, has_effects: bool, has_mixes: bool) -> frozenset[Unit]:
    parts = {apply_op: has_ops, apply_effect: has_effects, mix_into: has_mixes}
    return frozenset(part for part, is_used in parts.items() if not is_used)


@unit(types.void, ADDRESS, INDEX, INDEX, types.float64, array_of(types.boolean, 1))
def _choose_stored(seed: np.uint64, epochs: np.ndarray, index: np.ndarray, share: float, is_stored: np.ndarray) -> None:
    """Which images of ``index`` show a stored view in their epoch: into is_stored, bool (B,)."""
    for i in range(len(index)):
        is_stored[i] = uniform(seed, SHARE, epochs[i], index[i], 0) < share


class _StoredViews(NamedTuple):
    """What the kernel needs of a reinforced beton; N images."""

    file: np.ndarray
    """uint8, all bytes"""
    view_ptr: np.ndarray
    """(N,) uint64"""
    logit_ptr: np.ndarray
    """(N,) uint64"""
    has_mixes: bool
    has_effects: bool
    num_classes: int


_FILE = array_of(types.uint8, 1, writable=False)
_PLACES = array_of(types.uint64, 1, writable=False)
_STORED = named(_StoredViews, file=_FILE, view_ptr=_PLACES, logit_ptr=_PLACES)
_BATCH = named(
    ViewBatch,
    views=array_of(VIEW_TYPE, 2),
    mixes=array_of(MIX_TYPE, 1),
    effects=array_of(EFFECTS.dtype, 3),
    ids=array_of(types.int32, 2),
    log_probs=array_of(types.float32, 2),
)


_ROWS = _STORED, INDEX, INDEX, _BATCH, array_of(types.float32, 1)


@unit(types.boolean, *_ROWS, types.int64)
def _read_row(
    stored: _StoredViews, index: np.ndarray, picked: np.ndarray, batch: ViewBatch, half: np.ndarray, i: int
) -> bool:
    """Copy a record and its targets out of the file to row ``i`` of the batch. Returns whether the targets are such.

    An image's views and logits lie in the file as::

        view_ptr[i]     record of view 0 | of view 1 | …     a record: see augment.view.record_dtype
        logit_ptr[i]    T ids, T log-probabilities of view 0 | of view 1 | …     uint16 and float16

    half: (65536,) float32, the value of every float16.
    """
    file, view_ptr, logit_ptr, has_mixes, has_effects, num_classes = stored
    ids, log_probs = batch.ids, batch.log_probs
    begin, row, view = address_of(file), np.uint64(i), np.uint64(picked[i])
    views = address_of(batch.views) + row * np.uint64(2 * _VIEW)
    effects = address_of(batch.effects) + row * np.uint64(2 * _EFFECTS)
    plain = 2 * _VIEW + _MIX if has_mixes else _VIEW  # bytes before the effects
    behind = 0 if not has_effects else 2 * _EFFECTS if has_mixes else _EFFECTS
    source = begin + view_ptr[index[i]] + view * np.uint64(plain + behind)
    copy_bytes(views, source, _VIEW)
    if has_mixes:
        copy_bytes(address_of(batch.mixes) + row * np.uint64(_MIX), source + np.uint64(_VIEW), _MIX)
        copy_bytes(views + np.uint64(_VIEW), source + np.uint64(_VIEW + _MIX), _VIEW)
    copy_bytes(effects, source + np.uint64(plain), behind)
    rest = bytes_at(effects + np.uint64(behind), 2 * _EFFECTS - behind)
    for k in range(len(rest)):
        rest[k] = 0
    entries = ids.shape[1]
    numbers = bytes_at(begin + logit_ptr[index[i]] + view * np.uint64(4 * entries), 4 * entries)
    fits = True
    for t in range(entries):
        tail = 2 * (entries + t)
        ids[i, t] = np.int32(numbers[2 * t]) | np.int32(numbers[2 * t + 1]) << 8
        log_probs[i, t] = half[np.int32(numbers[tail]) | np.int32(numbers[tail + 1]) << 8]
        # Not finite fails both comparisons.
        fits &= ids[i, t] < num_classes and -65504.0 <= log_probs[i, t] <= 0.0
    return fits


@unit(types.void, *_ROWS, array_of(types.boolean, 1), parallel=True)
def _read_stored(
    stored: _StoredViews,
    index: np.ndarray,
    picked: np.ndarray,
    batch: ViewBatch,
    half: np.ndarray,
    fits: np.ndarray,
) -> None:
    """All rows, whether they fit to ``fits``, (B,) bool; in threads, because a cold page costs a disk read."""
    for i in prange(len(index)):
        fits[i] = _read_row(stored, index, picked, batch, half, np.int64(i))
