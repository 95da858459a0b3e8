"""The replay decoder: stored bytes and view records in, finished pixels out, for a batch at a time.

One decoder serves training, evaluation, the teacher and random access (``Replayer``). It reads the image beton through
memory addresses, so it works on FFCV's page cache and on a plain memory map alike, and it reports a bad sample by its
number and stage instead of crashing or handing out stale pixels. Of coefficient images (``codec/dct``), and of a JPEG
with a row table (``codec/jpeg/splice.py``), only the part that a view reads is decoded::

    stored bytes ── splice ──► JPEG of the part ── libjpeg ──► canvas ──┐
                 └─ coefficients ────────────────────────────► canvas ──┼─► replay_view ─► out, or the partner's
                 └─ raw ────────────────────────────────────────────────┘                  view, which is mixed in

**Any bytes.** A file may hold anything, and a record any 24 bytes, its effects any 32. So before memory is handed over:
a raw image has as many bytes as its size says, a JPEG's frame header states the size that the canvas was made for
(libjpeg writes as many pixels as the header says), ``decode_coefficients`` compares the sizes itself, and
``check_view`` comes before ``view_region``, which holds only for records that have passed it.

Shapes: B images in the batch, H×W output, T threads.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
from numba import prange, set_num_threads

from ffdr.augment.check import OK, STATUS_TEXT, check_mix, check_view
from ffdr.augment.geometry import view_region
from ffdr.augment.laps import DECODE, MIX, OTHER, SPLICE, STAGES, lap, new_laps
from ffdr.augment.picture import ImagePart
from ffdr.augment.replay import mix_into, replay_view, scratch_bytes, visible
from ffdr.augment.view import MixRecord, ViewRecord
from ffdr.beton.layout import DCT, JPG, RAW
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import Records
from ffdr.codec.crop import Crop
from ffdr.codec.dct.blocks import DecodingTables, make_tables
from ffdr.codec.dct.decode import CANVAS_SLACK, decode_coefficients
from ffdr.codec.dct.decode import scratch_bytes as coefficient_scratch_bytes
from ffdr.codec.jpeg.libjpeg import FUNCTION, decompress, frame_size, make_handles
from ffdr.codec.jpeg.splice import splice
from ffdr.jit.kernel import address_of, bytes_at, kernel, numba_threads, parallel_kernel, take_number
from ffdr.util.arguments import integer
from ffdr.util.errors import UserError
from ffdr.util.machine import machine_memory
from ffdr.util.process import OneProcess
from ffdr.util.text import byte_size

MAX_RESOLUTION = 26_754
"""Side of the largest square view below 2 GiB, which is as far as the kernels count."""

# Statuses of this stage; those of a bad view record come from augment.check.
BAD_JPEG = 1001
BAD_RAW_SIZE = 1002
BAD_COEFFICIENTS = 1003
_STATUS_TEXT = STATUS_TEXT | {
    BAD_JPEG: "the JPEG is corrupt",
    BAD_RAW_SIZE: "the raw image does not have width × height × 3 bytes",
    BAD_COEFFICIENTS: "the coefficient image is corrupt, or of another size",
}


class ReplayError(UserError):
    """A sample that can't be turned into pixels: its number in the beton, and what is wrong with it."""

    def __init__(self, path: object, sample: int, status: int) -> None:
        super().__init__(f"{path}: sample {sample}: {_STATUS_TEXT[status]}")
        self.sample = sample
        self._arguments = (path, sample, status)

    def __reduce__(self) -> tuple:
        return (ReplayError, self._arguments)  # by default pickle would call it with the message alone


class _Stored(NamedTuple):
    """What the kernels need of an image beton; N images."""

    modes: np.ndarray
    """(N,) uint8"""
    sizes: np.ndarray
    """(N, 2) int32 width, height"""
    data_ptr: np.ndarray
    """(N,) uint64"""
    data_size: np.ndarray
    """(N,) uint64"""
    base: int
    """address of the file's first byte in memory"""
    decompress: int
    """address of libjpeg-turbo's function: an argument, because compiled code outlives the process"""
    types: np.ndarray
    """this and the next four: ``DecodingTables``, flat, because Numba hands no nested tuples to its threads"""
    entries: np.ndarray
    quants: np.ndarray
    first_with_high: int
    fast: bool
    """whether to unpack coefficients with AVX2, where there is such"""


class _Span(NamedTuple):
    """One stored image."""

    image: int
    """its number"""
    address: np.uint64
    size: int
    """bytes"""


class _Scratch(NamedTuple):
    """Memory of one thread."""

    handle: np.uint64
    """a decompressor"""
    canvas: np.ndarray
    """(bytes,) uint8, a decoded image"""
    jpeg: np.ndarray
    """(bytes,) uint8, the part of a JPEG that a view needs"""
    samples: np.ndarray
    """(bytes,) uint8 for decode_coefficients"""
    replay: np.ndarray
    """(bytes,) uint8 for replay_view"""
    partner: np.ndarray
    """(H, W, 3) uint8, the partner's view"""
    laps: np.ndarray | None


_Workspace = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""The first six of ``_Scratch`` of all threads: (T, …) each."""


@kernel
def _decode_region(
    stored: _Stored, mode: int, data: np.ndarray, width: int, height: int, region: tuple, scratch: _Scratch
) -> tuple[int, Crop]:
    """Decode at least ``region`` of an image of width × height pixels to the beginning of the canvas.

    Returns a status and what was decoded.
    """
    canvas, jpeg = scratch.canvas, scratch.jpeg
    if mode == DCT:
        tables = DecodingTables(stored.types, stored.entries, stored.quants, stored.first_with_high, stored.fast)
        done, crop = decode_coefficients(data, width, height, region, tables, scratch.samples, canvas)
        lap(scratch.laps, DECODE)
        return (OK if done else BAD_COEFFICIENTS), crop
    size, crop = splice(data, width, height, region, jpeg)
    lap(scratch.laps, SPLICE)
    source, size = (address_of(jpeg), size) if size > 0 else (address_of(data), np.int64(len(data)))
    function = np.uint64(stored.decompress)
    failed = decompress(function, scratch.handle, source, size, crop.width, crop.height, address_of(canvas))
    lap(scratch.laps, DECODE)
    return (OK if failed == 0 else BAD_JPEG), crop


@kernel
def _replay_stored(
    stored: _Stored, span: _Span, view: ViewRecord, effects: np.ndarray, out: np.ndarray, scratch: _Scratch
) -> int:
    """Pixels of one view of one stored image. Returns a status, ``OK`` for success."""
    data = bytes_at(span.address, span.size)
    width, height = np.int64(stored.sizes[span.image, 0]), np.int64(stored.sizes[span.image, 1])
    mode = stored.modes[span.image]
    lap(scratch.laps, OTHER)
    if mode == RAW:
        if span.size != width * height * 3:
            return BAD_RAW_SIZE
        part = ImagePart(data.reshape((height, width, 3)), np.int64(0), np.int64(0), width, height)
        return replay_view(part, view, effects, out, scratch.replay, scratch.laps)
    if mode == JPG and frame_size(data) != (width, height):
        return BAD_JPEG
    status = check_view(view, width, height, out.shape[0], out.shape[1])
    if status != OK:
        return status
    region = view_region(view, width, height, out.shape[0], out.shape[1])
    status, crop = _decode_region(stored, mode, data, width, height, region, scratch)
    if status != OK:
        return status
    pixels = scratch.canvas[: crop.height * crop.width * 3].reshape((crop.height, crop.width, 3))
    part = ImagePart(pixels, crop.left, crop.top, width, height)
    return replay_view(part, view, effects, out, scratch.replay, scratch.laps)


@kernel
def _replay_sample(
    stored: _Stored,
    span: np.ndarray,
    pair: np.ndarray,
    effects: np.ndarray,
    mix: MixRecord,
    out: np.ndarray,
    scratch: _Scratch,
) -> int:
    """One row of a batch: the image's view, mixed with its partner's; what can't be seen is not decoded.

    span: (3,) of ``Replayer.spans``. pair: (2,) the views of both, and effects, (2, 8), theirs. Returns a status.
    """
    status = check_mix(mix, len(stored.modes))
    if status != OK:
        return status
    first, second = visible(mix)
    if first:
        own = _Span(np.int64(span[0]), span[1], np.int64(span[2]))
        status = _replay_stored(stored, own, pair[0], effects[0], out, scratch)
    if status != OK or not second:
        return status
    partner = np.int64(mix.partner)
    address = np.uint64(stored.base) + stored.data_ptr[partner]
    other = _Span(partner, address, np.int64(stored.data_size[partner]))
    other_out = scratch.partner if first else out
    status = _replay_stored(stored, other, pair[1], effects[1], other_out, scratch)
    if status == OK and first:
        lap(scratch.laps, OTHER)
        mix_into(out, other_out, mix)
        lap(scratch.laps, MIX)
    return status


@parallel_kernel
def _replay_batch(
    stored: _Stored,
    spans: np.ndarray,
    records: Records,
    out: np.ndarray,
    workspace: _Workspace,
    status: np.ndarray,
) -> None:
    """Each thread owns one row of the workspace and takes the next sample when it is done with one: crops differ in
    cost, and a batch is only done when its last thread is."""
    counter = np.zeros(1, np.int64)
    views, mixes, effects = records
    handles, canvas, jpeg, samples, replay, partner = workspace
    for thread in prange(len(handles)):
        t = np.int64(thread)  # unsigned here, signed elsewhere: Numba would compile all below for either
        scratch = _Scratch(handles[t], canvas[t], jpeg[t], samples[t], replay[t], partner[t], None)
        place = address_of(counter)
        i = take_number(place)
        while i < len(spans):
            status[i] = _replay_sample(stored, spans[i], views[i], effects[i], mixes[i], out[i], scratch)
            i = take_number(place)


@kernel
def _time_batch(stored: _Stored, spans: np.ndarray, records: Records, scratch: _Scratch, status: np.ndarray) -> None:
    """``_replay_batch`` in one thread, with laps, one view over the other."""
    out = np.empty_like(scratch.partner)
    views, mixes, effects = records
    for i in range(len(spans)):
        status[i] = _replay_sample(stored, spans[i], views[i], effects[i], mixes[i], out, scratch)


class Replayer(OneProcess):
    """Turns (image, view record) into pixels, in ``threads`` threads, at one resolution.

    Holds all scratch memory: per thread one decoded image of the largest stored size, one JPEG of the most stored
    bytes, the kernels' scratch and one output. Not to be called from two Python threads at once.

    portable: unpack coefficients without AVX2, as other processors do; the pixels are the same.

    Raises:
        UserError: a resolution that is none; images too large for the memory of this machine.
    """

    noun = "replayer"

    def __init__(self, images: ImageBeton, resolution: int, threads: int, portable: bool = False) -> None:
        super().__init__()
        resolution = view_side(resolution)
        self.images = images
        self.threads = threads
        self.shape = (resolution, resolution, 3)
        base = np.uint64(images.memmap.ctypes.data)
        tables = make_tables(images.coding, fast=not portable)
        self._stored = _Stored(images.modes, images.sizes, images.data_ptr, images.data_size, base, FUNCTION, *tables)
        widths, heights = images.sizes.astype(np.int64).T
        is_jpeg, is_dct = images.modes == JPG, images.modes == DCT
        largest = int((widths * heights * 3)[is_jpeg | is_dct].max(initial=0))
        longest = int(images.data_size[is_jpeg].max(initial=0))
        widest = int(widths[is_dct].max(initial=0))
        scratch = int(scratch_bytes(int(widths.max()), int(heights.max()), resolution, resolution))
        self._check_memory(largest + longest + scratch)
        self._workspace: _Workspace = (
            make_handles(threads, self),
            np.zeros((threads, largest + CANVAS_SLACK), np.uint8),
            np.zeros((threads, longest), np.uint8),
            np.zeros((threads, coefficient_scratch_bytes(widest) if widest else 0), np.uint8),
            np.zeros((threads, scratch), np.uint8),
            np.zeros((threads, *self.shape), np.uint8),
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of the scratch memory."""
        return sum(part.nbytes for part in self._workspace)

    def _first_scratch(self, laps: np.ndarray | None) -> _Scratch:
        """For the calling thread alone."""
        handle, canvas, jpeg, samples, replay, partner = (part[0] for part in self._workspace)
        return _Scratch(handle, canvas, jpeg, samples, replay, partner, laps)

    def _check_memory(self, per_thread: int) -> None:
        """Refuse images too large for this machine: of one colour, one of gigabytes has a JPEG of a few megabytes."""
        needed, present = self.threads * per_thread, machine_memory()
        if needed > present:
            width, height = self.images.sizes.max(axis=0).tolist()
            raise UserError(
                f"{self.images.path}: images of up to {width}×{height} pixels: decoding them in {self.threads} threads "
                f"needs {byte_size(needed)} of memory, this machine has {byte_size(present)}"
            )

    def spans(self, index: np.ndarray) -> np.ndarray:
        """Where the images of ``index`` (B,) lie in the memory map: (B, 3) uint64 index, address, size."""
        address = self.images.data_ptr[index] + self._stored.base
        return np.stack([index.astype(np.uint64), address, self.images.data_size[index]], axis=1)

    def __call__(self, spans: np.ndarray, records: Records, out: np.ndarray) -> None:
        """Replay one batch.

        Args:
            spans: (B, 3) uint64: index, address of the stored bytes, their number.
            records: B of them.
            out: (B, H, W, 3) uint8, filled; of this replayer's resolution, or smaller.

        Raises:
            ReplayError: naming the first sample that could not be replayed.
            UserError: the file has become shorter.
        """
        self.check_process()
        self.images.file.check_size()
        status = np.zeros(len(spans), np.int32)
        set_num_threads(self.threads)  # of the calling thread; Numba keeps it per thread
        *scratch, partner = self._workspace
        partner = partner.ravel()[: self.threads * prod(out.shape[1:])].reshape(-1, *out.shape[1:])
        with numba_threads():
            _replay_batch(self._stored, spans, records, out, (*scratch, partner), status)
        self._check_status(spans, status)

    def _check_status(self, spans: np.ndarray, status: np.ndarray) -> None:
        bad = np.flatnonzero(status)
        if len(bad):
            raise ReplayError(self.images.path, int(spans[bad[0], 0]), int(status[bad[0]]))

    def time_stages(self, spans: np.ndarray, records: Records) -> dict[str, float]:
        """Replay a batch by the calling thread alone, for the time it takes; the pixels are lost.

        Args:
            spans, records: as for a batch.

        Returns:
            Seconds by stage (``ffdr.augment.laps.STAGES``), of all views together. The checks are in none of them.

        Raises:
            ReplayError, UserError: as for a batch.
        """
        self.images.file.check_size()
        laps, status = new_laps(), np.zeros(len(spans), np.int32)
        _time_batch(self._stored, spans, records, self._first_scratch(laps), status)
        self._check_status(spans, status)
        return dict(zip(STAGES, (laps[: len(STAGES)] / 1e9).tolist(), strict=True))

    def one(self, image: int, records: Records) -> np.ndarray:
        """One view, by the calling thread alone, so that a fork can have it, too: (H, W, 3) uint8.

        records: a batch of one.

        Raises:
            ReplayError: it could not be replayed.
            UserError: the file has become shorter.
        """
        self.images.file.check_size()
        out, span = np.empty(self.shape, np.uint8), self.spans(np.array([image]))[0]
        views, mixes, effects = records
        scratch = self._first_scratch(None)
        status = _replay_sample(self._stored, span, views[0], effects[0], mixes[0], out, scratch)
        if status != OK:
            raise ReplayError(self.images.path, image, int(status))
        return out


def view_side(resolution: object) -> int:
    """The side of square views, in pixels.

    Raises:
        UserError: it is none.
    """
    return integer("resolution", resolution, 1, MAX_RESOLUTION, "; views are square")
