"""Decoders with which FFCV's own Loader hands out stored views and their targets: the face of it is ``ffdr.ffcv``.

FFCV gives a decoder image indices and a buffer, and compiles its code; that code steps out of the compiled world at
once, into what ``ReinforcedLoader`` uses (``views.py``, ``replay/``), and reads through the map of the opened file,
whatever FFCV has in memory. So the bytes are those of ``ReinforcedLoader`` with the same seed.

What is relied on, of FFCV 1.0.2:

- ``Graph.collect_requirements`` calls ``accept_globals`` and ``declare_state_and_memory`` when a Loader is made, and
  again at the beginning of each pass, for its buffers: their shape may change from pass to pass.
- ``PipelineSpec.accept_decoder`` takes the first operation of a list as the decoder if it is an instance of what the
  field's ``get_decoder_class`` says: see the registrations below.
- The code is called in the thread of the pass, which knows its epoch (``util/lean_ffcv.py``), with Numba's number of
  threads set to the Loader's ``num_workers``; an error in it is raised in the consumer (the same).
"""

from __future__ import annotations

import ffdr.util.lean_ffcv  # noqa: F401

# isort: split
import os
import pickle
import re
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import numpy as np
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from numba import get_num_threads, objmode
from numba.core.errors import NumbaWarning

from ffdr.beton.fields import BlockDecoder, NoDecoder
from ffdr.beton.read import ReinforcedBeton
from ffdr.loader.replay.replayer import Replayer, view_side
from ffdr.loader.sources import Images, open_images, open_reinforced
from ffdr.loader.views import StoredViews, ViewBatch
from ffdr.util.arguments import integer, shown
from ffdr.util.errors import UserError

# Of the one step out of compiled code. The kernels behind it run in threads and without the interpreter lock.
warnings.filterwarnings(
    "ignore", ".*Code running in object mode", NumbaWarning, re.escape(__file__.removesuffix(".py"))
)


class _Files:
    """Images and their reinforcement, opened once for all decoders of a pipeline."""

    def __init__(self, images: Images, reinforced: str | Path | ReinforcedBeton | None) -> None:
        self.images = open_images(images)
        if reinforced is None and "aug_params" not in self.images.field_names:
            alone = "holds images, but no views; give the reinforced beton, too, or merge both with ffdr pack"
            raise UserError(f"{self.images.path}: {alone}")
        self.reinforced = open_reinforced(self.images.path if reinforced is None else reinforced, self.images)


_opened: WeakValueDictionary[tuple, _Files] = WeakValueDictionary()


def _open(images: Images, reinforced: str | Path | ReinforcedBeton | None) -> _Files:
    """Open both, unless a decoder has the very same files open."""
    given: list[Any] = [images] if reinforced is None else [images, reinforced]
    try:
        stats = [os.stat(path) for path in given]
        key = tuple((os.path.abspath(path), *stat[:3], stat.st_size, stat.st_mtime_ns)
                    for path, stat in zip(given, stats, strict=True))  # fmt: skip
    except (TypeError, ValueError, OSError):  # open already; or no file, which opening it says
        return _Files(images, reinforced)
    files = _opened.get(key)
    if files is None:
        _opened[key] = files = _Files(images, reinforced)
    return files


class StoredDecoder(Operation):
    """What the decoders have in common: their files, the choice of views, the way out of FFCV's compiled code."""

    def __init__(
        self, images: Images, reinforced: str | Path | ReinforcedBeton | None = None, *, seed: int = 0
    ) -> None:
        super().__init__()
        seed = integer("seed", seed, 0, 2**63 - 1)
        self._files = _open(images, reinforced)
        self._source = StoredViews(self._files.reinforced, seed)
        self._one_pass = threading.Lock()
        """The thread of a pass that was left half-way may still be at its last batch."""

    def __reduce__(self) -> NoReturn:
        """Decoders hold locks and scratch memory. Numba tries whether what compiled code refers to can be pickled."""
        raise pickle.PicklingError(f"a {type(self).__name__} can't be pickled; make one in each process")

    @property
    @abstractmethod
    def sample(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and dtype of what comes out per image."""

    @abstractmethod
    def fill(self, batch: ViewBatch, index: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out``, (B, …) of ``sample``, for the images ``index``, (B,) int64, whose views are ``batch``."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """As FFCV's decoders: an array per image, on which compiled operations may follow.

        Raises:
            UserError: the Loader reads another file.
        """
        self._check_file()
        shape, dtype = self.sample
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def _check_file(self) -> None:
        """Refuse a Loader of other samples, by its tables: pointers of the field, and labels."""
        images, reinforced = self._files.images, self._files.reinforced
        tables = self.metadata.base  # FFCV hands out the field of a table of all fields
        has_labels = any(_are(tables[name], images.labels) for name in tables.dtype.names)
        found = self.metadata
        if "data_ptr" in (found.dtype.names or ()):
            found = found["data_ptr"]
        known = images.data_ptr, images.labels, reinforced.logit_ptr, reinforced.view_ptr
        if not has_labels or not any(_are(found, of_field) for of_field in known):
            raise UserError(
                f"{images.path}: FFCV's Loader reads another file, or the decoder is none of image, label, aug_params "
                "or logits; give the Loader and its decoders the same path"
            )

    def generate_code(self) -> Callable:
        """Code that steps out of what FFCV compiles; ``_decode`` does the work."""
        make = self._decode

        def decode(indices: np.ndarray, out: np.ndarray, metadata: np.ndarray, storage: tuple) -> np.ndarray:
            with objmode():
                make(indices, out)
            return out[: len(indices)]

        return decode

    def _decode(self, indices: np.ndarray, out: np.ndarray) -> None:
        """A batch of the pass whose thread this is.

        Raises:
            ReplayError: a sample that can't be decoded.
            UserError: there is no such image; an entry that none can be; the file has become shorter.
        """
        epoch = getattr(threading.current_thread(), "epoch", None)
        if epoch is None:
            raise UserError(f"{type(self).__name__}: runs in the thread of a pass of FFCV's Loader only")
        index, count = indices.astype(np.int64), self._files.images.num_images
        if index.min() < 0 or index.max() >= count:
            wrong = index[(index < 0) | (index >= count)][0]
            raise UserError(f"indices: {wrong} is not the number of an image; there are {count}")
        batch = ViewBatch.blank(len(index), self._source.entries)
        self._source.fill(np.full_like(index, epoch), index, batch)
        with self._one_pass:
            self.fill(batch, index, out)


def _are(column: np.ndarray, values: np.ndarray) -> bool:
    """Whether the column of a table, which may be one of records, holds these numbers."""
    return column.dtype.names is None and np.array_equal(column, values)


class ReplayImageDecoder(StoredDecoder):
    """Decoder of the field ``image`` for FFCV's own Loader: the stored view that an image shows in the Loader's epoch.

    Out come (resolution, resolution, 3) uint8 pixels per image, from JPEGs, raw and coefficient images, mixed with a
    partner where the view says so; they equal those of ``ReinforcedLoader`` with this seed, byte for byte. The epoch is
    that of the Loader, which begins with 0; after ``loader.next_epoch = n`` the next pass is epoch n. It decodes
    in ``num_workers`` threads, out of the operating system's cache, with ``os_cache=False`` too.

    Args:
        images: image beton (path or opened), the file of the Loader.
        reinforced: reinforced beton of these images (path or opened); None: the images are a merged beton's.
        resolution: side of the square views, in pixels.
        seed: of the choice of views; the same for all decoders of a Loader.

    Raises:
        UserError: files that are none or don't fit together, a resolution or seed that is none; when the Loader is
            made: it reads another file; in the loop: an entry that none can be.
        ReplayError: in the loop, a sample that can't be decoded, by its number.
    """

    def __init__(
        self,
        images: Images,
        reinforced: str | Path | ReinforcedBeton | None = None,
        *,
        resolution: int = 224,
        seed: int = 0,
    ) -> None:
        super().__init__(images, reinforced, seed=seed)
        self._side = view_side(resolution)
        self._replayer: Replayer | None = None

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the views, the same; those of the coming passes may be set, as of FFCV's decoders."""
        return self._side, self._side

    @output_size.setter
    def output_size(self, size: Any) -> None:
        sides = list(size) if isinstance(size, Sequence) else []
        if len(sides) != 2 or sides[0] != sides[1]:
            raise UserError(f"output_size: {shown(size)} is not (side, side); views are square")
        self._side = view_side(sides[0])

    @property
    def sample(self) -> tuple[tuple[int, ...], np.dtype]:
        """Pixels."""
        return (*self.output_size, 3), np.dtype("uint8")

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """As FFCV's decoders; takes the scratch memory, too.

        Raises:
            UserError: the Loader reads another file; images too large for the memory of this machine.
        """
        declared = super().declare_state_and_memory(previous_state)
        with self._one_pass:
            self._replayer_of(self._side, Compiler.num_threads)
        return declared

    def _replayer_of(self, side: int, threads: int) -> Replayer:
        """The one there is, if it is of that kind."""
        replayer = self._replayer
        if replayer is None or (replayer.shape[0], replayer.threads) != (side, threads):
            self._replayer = None  # its memory goes first
            self._replayer = replayer = Replayer(self._files.images, side, threads)
        return replayer

    def fill(self, batch: ViewBatch, index: np.ndarray, out: np.ndarray) -> None:
        """Replay; of a resolution and in as many threads as the pass began with."""
        replayer = self._replayer_of(out.shape[1], get_num_threads())
        replayer(replayer.spans(index), batch.records, out)


class TargetIdsDecoder(StoredDecoder):
    """Decoder of the field ``logits`` for FFCV's own Loader: the classes that the teacher gave the view that is shown.

    Out come (T,) int64 class ids per image, best first, with T the entries per view (top-k): ``SparseTargets.ids``.

    Args:
        images: image beton (path or opened), the file of the Loader.
        reinforced: reinforced beton of these images (path or opened); None: the images are a merged beton's.
        seed: of the choice of views; the same for all decoders of a Loader.

    Raises:
        UserError: files that are none or don't fit together, a seed that is none; when the Loader is made: it reads
            another file; in the loop: an entry that none can be.
    """

    @property
    def sample(self) -> tuple[tuple[int, ...], np.dtype]:
        """Class ids."""
        return (self._source.entries,), np.dtype("int64")

    def fill(self, batch: ViewBatch, index: np.ndarray, out: np.ndarray) -> None:
        """Copy."""
        out[...] = batch.ids


class TargetLogProbsDecoder(StoredDecoder):
    """Decoder of the field ``logits`` for FFCV's own Loader: what the teacher made of the view that is shown.

    Out come (T,) float32 natural log-probabilities per image, those of the ids of ``TargetIdsDecoder``:
    ``SparseTargets.log_probs``.

    Args:
        images: image beton (path or opened), the file of the Loader.
        reinforced: reinforced beton of these images (path or opened); None: the images are a merged beton's.
        seed: of the choice of views; the same for all decoders of a Loader.

    Raises:
        UserError: as TargetIdsDecoder.
    """

    @property
    def sample(self) -> tuple[tuple[int, ...], np.dtype]:
        """Log-probabilities."""
        return (self._source.entries,), np.dtype("float32")

    def fill(self, batch: ViewBatch, index: np.ndarray, out: np.ndarray) -> None:
        """Copy."""
        out[...] = batch.log_probs


# What FFCV's fields accept as the first operation of a list; nothing is inherited.
SimpleRGBImageDecoder.register(ReplayImageDecoder)
NoDecoder.register(ReplayImageDecoder)
BlockDecoder.register(TargetIdsDecoder)
BlockDecoder.register(TargetLogProbsDecoder)
