"""The replay decoder: stored bytes and view records in, finished pixels out, for a batch at a time.

One decoder serves training, evaluation, the teacher and random access (``Replayer``). It reads the image beton through
memory addresses, so it works on FFCV's page cache and on a plain memory map alike, and it reports a bad sample by its
number and stage instead of crashing or handing out stale pixels. Of packed coefficients (``ffdr/dct``), and of a JPEG
with a row table (``splice.py``), only the part that a view reads is decoded.

Shapes: B images in the batch, H×W output, T threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange, set_num_threads

from ffdr.augment.check import OK, STATUS_TEXT, check_mix, check_view
from ffdr.augment.geometry import view_region
from ffdr.augment.replay import mix_into, replay_view, scratch_bytes, visible
from ffdr.augment.view import MIX_DTYPE, VIEW_DTYPE
from ffdr.beton.layout import DCT, JPG, RAW
from ffdr.beton.read import ImageBeton
from ffdr.codec.dct.blocks import Tables, make_tables
from ffdr.codec.dct.decode import CANVAS_SLACK, decode_coefficients
from ffdr.codec.dct.decode import scratch_bytes as coefficient_scratch_bytes
from ffdr.codec.jpeg.libjpeg import (
    FUNCTION,
    decompress,
    frame_size,
    make_handles,
)
from ffdr.codec.jpeg.splice import splice
from ffdr.jit.kernel import (
    address_of,
    bytes_at,
    kernel,
    numba_threads,
    parallel_kernel,
    take_number,
)
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
    BAD_COEFFICIENTS: "the packed coefficients are corrupt, or of another size",
}


class ReplayError(UserError):
    """A sample that can't be turned into pixels: its number in the beton, and what is wrong with it."""

    def __init__(self, path: object, sample: int, status: int) -> None:
        super().__init__(f"{path}: sample {sample}: {_STATUS_TEXT[status]}")
        self.sample = sample
        self._told = (path, sample, status)

    def __reduce__(self) -> tuple:
        return (ReplayError, self._told)  # by default pickle would call it with the message alone


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
    """``Tables``, flat: Numba hands no nested tuples to its threads"""
    entries: np.ndarray
    quants: np.ndarray
    first_with_high: int
    fast: bool
    """whether to unpack them with AVX2, where there is such"""


class _Workspace(NamedTuple):
    """Scratch of the kernels, one row a thread."""

    handles: np.ndarray
    """(T,) uint64, decompressors"""
    canvas: np.ndarray
    """(T, bytes) uint8, a decoded image"""
    jpeg: np.ndarray
    """(T, bytes) uint8, the part of a JPEG that a view needs"""
    samples: np.ndarray
    """(T, bytes) uint8 for decode_coefficients"""
    scratch: np.ndarray
    """(T, bytes) uint8 for replay_view"""
    partner: np.ndarray
    """(T, H, W, 3) uint8, the partner's view"""


@kernel
def _decode_region(
    stored: _Stored, mode: int, data: np.ndarray, width: int, height: int, region: tuple, room: _Workspace, thread: int
) -> tuple[int, int, int, int, int]:
    """Decode at least ``region`` of an image of width × height pixels to the beginning of the thread's canvas.

    Returns a status and the decoded pixels' left, top, width and height.
    """
    canvas, jpeg = room.canvas[thread], room.jpeg[thread]
    if mode == DCT:
        tables = Tables(stored.types, stored.entries, stored.quants, stored.first_with_high)
        done, left, top, wide, high = decode_coefficients(
            data, width, height, region, tables, room.samples[thread], canvas, stored.fast
        )
        return (OK if done else BAD_COEFFICIENTS), left, top, wide, high
    size, left, top, wide, high = splice(data, width, height, region, jpeg)
    source, size = (address_of(jpeg), size) if size > 0 else (address_of(data), np.int64(len(data)))
    handle, function = np.uint64(room.handles[thread]), np.uint64(stored.decompress)
    failed = decompress(function, handle, source, size, wide, high, address_of(canvas))
    return (OK if failed == 0 else BAD_JPEG), left, top, wide, high


@kernel
def _replay_stored(
    stored: _Stored,
    image: int,
    address: int,
    size: int,
    views: np.ndarray,
    row: int,
    column: int,
    out: np.ndarray,
    room: _Workspace,
    thread: int,
) -> int:
    """Pixels of one view of one stored image, whose bytes lie at ``address``. Returns a status, ``OK`` for success."""
    data = bytes_at(np.uint64(address), np.int64(size))
    width, height = np.int64(stored.sizes[image, 0]), np.int64(stored.sizes[image, 1])
    mode = stored.modes[image]
    if mode == RAW:
        if np.int64(size) != width * height * 3:
            return BAD_RAW_SIZE
        pixels = data.reshape((height, width, 3))
        return replay_view(pixels, 0, 0, width, height, views, row, column, out, room.scratch[thread])
    if mode == JPG and frame_size(data) != (width, height):
        return BAD_JPEG
    status = check_view(views, row, column, width, height, out.shape[0], out.shape[1])
    if status != OK:
        return status
    region = view_region(views, row, column, width, height, out.shape[0], out.shape[1])
    status, left, top, wide, high = _decode_region(stored, mode, data, width, height, region, room, thread)
    if status != OK:
        return status
    pixels = room.canvas[thread][: high * wide * 3].reshape((high, wide, 3))
    return replay_view(pixels, left, top, width, height, views, row, column, out, room.scratch[thread])


@kernel
def _replay_sample(
    stored: _Stored,
    span: np.ndarray,
    views: np.ndarray,
    mixes: np.ndarray,
    row: int,
    out: np.ndarray,
    room: _Workspace,
    thread: int,
) -> int:
    """One row of a batch: the image's view, mixed with its partner's; what can't be seen is not decoded.

    Returns a status.
    """
    image, partner = np.int64(span[0]), np.int64(mixes[row].partner)
    status = check_mix(mixes, row, len(stored.modes))
    if status != OK:
        return status
    first, second = visible(mixes, row)
    if first:
        status = _replay_stored(stored, image, span[1], span[2], views, row, 0, out, room, thread)
    if status != OK or not second:
        return status
    address = np.uint64(stored.base) + stored.data_ptr[partner]
    size = stored.data_size[partner]
    partner_out = room.partner[thread] if first else out
    status = _replay_stored(stored, partner, address, size, views, row, 1, partner_out, room, thread)
    if status == OK and first:
        mix_into(out, partner_out, mixes, row)
    return status


@parallel_kernel
def _replay_batch(
    stored: _Stored,
    spans: np.ndarray,
    views: np.ndarray,
    mixes: np.ndarray,
    out: np.ndarray,
    room: _Workspace,
    status: np.ndarray,
) -> None:
    """Each thread owns one row of the workspace and takes the next sample when it is done with one: crops differ in
    cost, and a batch is only done when its last thread is."""
    counter = np.zeros(1, np.int64)
    for thread in prange(len(room.scratch)):
        place = address_of(counter)
        i = take_number(place)
        while i < len(spans):
            status[i] = _replay_sample(stored, spans[i], views, mixes, i, out[i], room, thread)
            i = take_number(place)


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
        tables = make_tables(images.coding)
        self._stored = _Stored(
            images.modes, images.sizes, images.data_ptr, images.data_size, base, FUNCTION, *tables, not portable
        )
        widths, heights = images.sizes.astype(np.int64).T
        jpegs, packed = images.modes == JPG, images.modes == DCT
        largest = int((widths * heights * 3)[jpegs | packed].max(initial=0))
        longest = int(images.data_size[jpegs].max(initial=0))
        widest = int(widths[packed].max(initial=0))
        room = scratch_bytes(int(widths.max()), int(heights.max()), resolution, resolution)
        self._check_memory(largest + longest + int(room))
        self._room = _Workspace(
            make_handles(threads, self),
            np.zeros((threads, largest + CANVAS_SLACK), np.uint8),
            np.zeros((threads, longest), np.uint8),
            np.zeros((threads, coefficient_scratch_bytes(widest) if widest else 0), np.uint8),
            np.zeros((threads, room), np.uint8),
            np.zeros((threads, *self.shape), np.uint8),
        )

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

    def __call__(self, spans: np.ndarray, views: np.ndarray, mixes: np.ndarray, out: np.ndarray) -> None:
        """Replay one batch.

        Args:
            spans: (B, 3) uint64: index, address of the stored bytes, their number.
            views: (B, 2) ``VIEW_DTYPE``, each image's view and its partner's.
            mixes: (B,) ``MIX_DTYPE``.
            out: (B, H, W, 3) uint8, filled.

        Raises:
            ReplayError: naming the first sample that could not be replayed.
            UserError: the file has become shorter.
        """
        self.check_process()
        self.images.file.check_size()
        status = np.zeros(len(spans), np.int32)
        set_num_threads(self.threads)  # of the calling thread; Numba keeps it per thread
        with numba_threads():
            _replay_batch(self._stored, spans, views, mixes, out, self._room, status)
        bad = np.flatnonzero(status)
        if len(bad):
            raise ReplayError(self.images.path, int(spans[bad[0], 0]), int(status[bad[0]]))

    def one(self, image: int, views: np.ndarray, mixes: np.ndarray) -> np.ndarray:
        """One view, by the calling thread alone, so that a fork can have it, too: (H, W, 3) uint8.

        views, mixes: as in a batch of one.

        Raises:
            ReplayError: it could not be replayed.
            UserError: the file has become shorter.
        """
        self.images.file.check_size()
        out, span = np.empty(self.shape, np.uint8), self.spans(np.array([image]))[0]
        status = _replay_sample(self._stored, span, views, mixes, 0, out, self._room, 0)
        if status != OK:
            raise ReplayError(self.images.path, image, int(status))
        return out


def view_side(resolution: object) -> int:
    """The side of square views, in pixels.

    Raises:
        UserError: it is none.
    """
    return integer("resolution", resolution, 1, MAX_RESOLUTION, "; views are square")


def blank_views(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for the records of a batch: views (count, 2) ``VIEW_DTYPE`` and mixes (count,) ``MIX_DTYPE``."""
    return np.zeros((count, 2), VIEW_DTYPE), np.zeros(count, MIX_DTYPE)
