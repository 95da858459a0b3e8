"""Where a batch's views and targets come from: stored, drawn on the fly, or the one evaluation view.

A source fills the records and targets of a batch from nothing but (epoch, image indices), so that what a sample gets
does not depend on batch, thread or rank.

Shapes: B images in the batch, K views an image, T target entries.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numba import prange

from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.pick import pick_views
from ffdr.augment.policy import Policy
from ffdr.augment.random import SHARE, uniform
from ffdr.augment.view import FRACTION, MIX_DTYPE, VIEW_DTYPE, center_view, share_of_first, unmixed
from ffdr.beton.header import UNUSED
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.jit.kernel import kernel, numba_threads, parallel_kernel
from ffdr.util.errors import UserError

_HALF = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)


class ViewSource(Protocol):
    """What the loader asks for every batch."""

    entries: int
    """T, the number of target entries."""
    mixes: bool
    """Whether an image may be mixed with another one."""

    def fill(
        self,
        epoch: int,
        index: np.ndarray,
        views: np.ndarray,
        mixes: np.ndarray,
        ids: np.ndarray,
        log_probs: np.ndarray,
    ) -> None:
        """Fill views (B, 2), mixes (B,), ids (B, T) int32 and log_probs (B, T) float32 for index (B,) int64."""


class FixedView:
    """The evaluation view: resize, then cut the centre that is ``center`` of the short side. Targets: the label."""

    entries = 1
    mixes = False

    def __init__(self, labels: np.ndarray, center: float) -> None:
        self.labels = labels
        self.view = center_view(center)

    def fill(
        self,
        epoch: int,
        index: np.ndarray,
        views: np.ndarray,
        mixes: np.ndarray,
        ids: np.ndarray,
        log_probs: np.ndarray,
    ) -> None:
        """See :class:`ViewSource`; the epoch does not matter."""
        views[:, 0] = self.view
        mixes[:] = 0
        mixes["partner"] = index
        mixes["mixup"] = FRACTION
        ids[:, 0] = self.labels[index]
        log_probs[:, 0] = 0.0


class DrawnViews:
    """Views drawn on the fly from the key (seed, epoch, image): ERM and KD.

    Targets are the label or, with mixing, the labels of both images weighted by their share of the picture.
    """

    def __init__(self, policy: Policy, seed: int, images: ImageBeton) -> None:
        if policy.mixes and images.num_images < 2:
            raise UserError(f"{images.path}: mixing needs two images, the file has {images.num_images}")
        self.mixes = policy.mixes
        self.entries = 2 if policy.mixes else 1
        self.seed = seed
        self.labels = images.labels
        self.sizes = images.original_sizes
        self.policy = pack_policy(policy)

    def fill(
        self,
        epoch: int,
        index: np.ndarray,
        views: np.ndarray,
        mixes: np.ndarray,
        ids: np.ndarray,
        log_probs: np.ndarray,
    ) -> None:
        """See :class:`ViewSource`."""
        draw_batch(self.policy, self.seed, epoch, index, self.sizes, views, mixes)
        ids[:, 0] = self.labels[index]
        log_probs[:, 0] = 0.0
        if self.entries == 2:
            kept = share_of_first(mixes)
            ids[:, 1] = self.labels[mixes["partner"]]
            with np.errstate(divide="ignore"):
                log_probs[:, 0] = np.maximum(np.log(kept), UNUSED)
                log_probs[:, 1] = np.maximum(np.log1p(-kept), UNUSED)


class StoredViews:
    """Views and teacher outputs of a reinforced beton: DR. Which of the K views: ``pick_view(seed, epoch, image)``."""

    def __init__(self, reinforced: ReinforcedBeton, seed: int) -> None:
        self.reinforced = reinforced
        self.seed = seed
        self.entries = reinforced.header.topk
        self.mixes = reinforced.header.mixes

    def fill(
        self,
        epoch: int,
        index: np.ndarray,
        views: np.ndarray,
        mixes: np.ndarray,
        ids: np.ndarray,
        log_probs: np.ndarray,
    ) -> None:
        """See :class:`ViewSource`."""
        self._read(index, self.pick(epoch, index), views, mixes, ids, log_probs)

    def pick(self, epoch: int, index: np.ndarray) -> np.ndarray:
        """Which view each image shows in an epoch: (B,) int64 below K."""
        picked = np.empty(len(index), np.uint64)
        pick_views(np.uint64(self.seed), epoch, index, self.reinforced.header.views, picked)
        return picked.view(np.int64)

    def read(self, image: int, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Records and targets of one view: views (1, 2), mixes (1,), ids (1, T), log_probs (1, T).

        No kernel runs in threads, so that a fork can read them, too.
        """
        views, mixes = np.zeros((1, 2), VIEW_DTYPE), unmixed(image)[None]
        record = self.reinforced.views(image)[view]
        if self.mixes:
            views[0, 0], mixes[0], views[0, 1] = record["first"], record["mix"], record["second"]
        else:
            views[0, 0] = record
        ids, log_probs = (part[[view]] for part in self.reinforced.logits(image))
        return views, mixes, ids.astype(np.int32), log_probs.astype(np.float32)

    def _read(
        self,
        index: np.ndarray,
        picked: np.ndarray,
        views: np.ndarray,
        mixes: np.ndarray,
        ids: np.ndarray,
        log_probs: np.ndarray,
    ) -> None:
        file, header = self.reinforced, self.reinforced.header
        file.file.check_size()
        with numba_threads():
            bad = _read_stored(
                file.memmap, file.view_ptr, file.logit_ptr, header.mixes, header.num_classes, index, picked,
                views.view(np.uint8).reshape(len(index), 2, VIEW_DTYPE.itemsize), mixes,
                mixes.view(np.uint8).reshape(len(index), MIX_DTYPE.itemsize), ids, log_probs, _HALF,
            )  # fmt: skip
            if bad >= 0:
                raise UserError(
                    f"{file.path}: sample {index[bad]}, view {picked[bad]}: a stored class id is not below "
                    f"{header.num_classes} or a log-probability is not a finite number up to 0"
                )


class SomeStored:
    """Stored views for a ``share`` of the samples, drawn ones for the others, as (seed, epoch, image) decides."""

    def __init__(self, stored: StoredViews, drawn: DrawnViews, share: float, seed: int) -> None:
        self.stored, self.drawn, self.share, self.seed = stored, drawn, share, seed
        self.entries = max(stored.entries, drawn.entries)
        self.mixes = stored.mixes or drawn.mixes

    def fill(
        self,
        epoch: int,
        index: np.ndarray,
        views: np.ndarray,
        mixes: np.ndarray,
        ids: np.ndarray,
        log_probs: np.ndarray,
    ) -> None:
        """See :class:`ViewSource`."""
        ids[...], log_probs[...] = 0, UNUSED
        is_stored = np.empty(len(index), np.bool_)
        _choose_stored(np.uint64(self.seed), epoch, index, self.share, is_stored)
        for source, rows in ((self.stored, np.flatnonzero(is_stored)), (self.drawn, np.flatnonzero(~is_stored))):
            shape = (len(rows), source.entries)
            part = (np.zeros((len(rows), 2), VIEW_DTYPE), np.zeros(len(rows), MIX_DTYPE))
            targets = (np.empty(shape, np.int32), np.empty(shape, np.float32))
            source.fill(epoch, index[rows], *part, *targets)
            views[rows], mixes[rows] = part
            ids[rows, : source.entries], log_probs[rows, : source.entries] = targets


@kernel
def _choose_stored(seed: np.uint64, epoch: int, index: np.ndarray, share: float, is_stored: np.ndarray) -> None:
    """Which images of ``index`` show a stored view in an epoch: into is_stored, bool (B,)."""
    for i in range(len(index)):
        is_stored[i] = uniform(seed, SHARE, epoch, index[i], 0) < share


@parallel_kernel
def _read_stored(
    file: np.ndarray,
    view_ptr: np.ndarray,
    logit_ptr: np.ndarray,
    mixed: bool,
    num_classes: int,
    index: np.ndarray,
    picked: np.ndarray,
    views: np.ndarray,
    mixes: np.ndarray,
    mix_bytes: np.ndarray,
    ids: np.ndarray,
    log_probs: np.ndarray,
    half: np.ndarray,
) -> int:
    """Copy records and logits out of the file (parallel, because a cold page costs a disk read). Returns the row of
    a bad entry, or −1."""
    view_bytes, mix_size, entries = views.shape[2], mix_bytes.shape[1], ids.shape[1]
    record = 2 * view_bytes + mix_size if mixed else view_bytes
    bad = np.int64(-1)
    for i in prange(len(index)):
        at = np.int64(view_ptr[index[i]]) + picked[i] * record
        views[i, 0, :] = file[at : at + view_bytes]
        if mixed:
            mix_bytes[i, :] = file[at + view_bytes : at + view_bytes + mix_size]
            views[i, 1, :] = file[at + view_bytes + mix_size : at + record]
        else:
            mix_bytes[i, :] = 0
            mixes[i]["partner"] = index[i]
            mixes[i]["mixup"] = FRACTION
        at = np.int64(logit_ptr[index[i]]) + picked[i] * entries * 4
        wrong = np.int64(-1)
        for t in range(entries):
            ids[i, t] = np.int32(file[at + 2 * t]) | np.int32(file[at + 2 * t + 1]) << 8
            tail = at + 2 * entries + 2 * t
            log_probs[i, t] = half[np.int32(file[tail]) | np.int32(file[tail + 1]) << 8]
            # Not finite fails both comparisons.
            if ids[i, t] >= num_classes or not (-65504.0 <= log_probs[i, t] <= 0.0):
                wrong = i
        bad = max(bad, wrong)
    return bad
