"""Compiled loops over many views that call the product's kernels, in one thread: what they cost without Python.

R pixels is the side of the output, n the number of views.
"""

from __future__ import annotations

import time

import numpy as np
from numba import types

from ffdr.augment.geometry import view_region
from ffdr.augment.ops import IMAGE_SLACK, apply_op, op_bytes
from ffdr.augment.replay import _erase, mix_into, visible
from ffdr.augment.resize import ALIGNMENT, resize_bytes, resize_view
from ffdr.augment.view import WIDE
from ffdr.beton.layout import DCT
from ffdr.beton.read import ImageBeton
from ffdr.codec.dct.blocks import Tables
from ffdr.codec.dct.decode import decode_coefficients
from ffdr.codec.jpeg.libjpeg import decompress
from ffdr.codec.jpeg.splice import splice
from ffdr.jit.kernel import address_of, bytes_at, kernel
from ffdr.loader.decode import Replayer

STAGES = ("splice", "decode", "resize", "operations", "erase", "mix")
_SPLICE, _DECODE, _RESIZE, _OPERATIONS, _ERASE, _MIX = range(len(STAGES))

_MONOTONIC = int(time.CLOCK_MONOTONIC)
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))


class Room:
    """All memory that the drivers need for the images of a beton."""

    def __init__(self, images: ImageBeton, resolution: int) -> None:
        replayer = Replayer(images, resolution, threads=1)
        self.stored = replayer._stored
        self.replayer = replayer  # keeps its decompressor alive
        self.decoder = (replayer._stored.decompress, replayer._room.handles[0])
        self.canvas, self.jpeg = replayer._room.canvas[0], replayer._room.jpeg[0]
        self.samples = replayer._room.samples[0]
        widths, heights = images.sizes.T
        size = 3 * resolution * resolution
        self.pictures = np.zeros((2, size + IMAGE_SLACK), np.uint8)
        """Two R×R images with the bytes behind them that operations may use."""
        self.work = work_bytes(int(widths.max()), int(heights.max()), resolution)
        self.out = np.zeros((2, resolution, resolution, 3), np.uint8)
        """A view and its partner's."""


def work_bytes(width: int, height: int, resolution: int) -> np.ndarray:
    """Aligned scratch for resizing images up to this size and for operations."""
    count = max(resize_bytes(width, height, resolution, resolution), op_bytes(resolution))
    memory = np.zeros(count + ALIGNMENT, np.uint8)
    return memory[-memory.ctypes.data % ALIGNMENT :][:count]


@kernel
def _now(clock: np.ndarray) -> int:
    """Nanoseconds; ``clock`` int64 (2,) is overwritten."""
    _clock_gettime(np.int32(_MONOTONIC), clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@kernel
def _lap(spent: np.ndarray, stage: int, since: int, clock: np.ndarray) -> int:
    """Add the time since ``since`` to a stage; returns the time now."""
    now = _now(clock)
    spent[stage] += now - since
    return now


@kernel
def apply_ops(
    views: np.ndarray,
    row: int,
    column: int,
    first: np.ndarray,
    second: np.ndarray,
    out: np.ndarray,
    work: np.ndarray,
) -> None:
    """A view's operations on the picture in ``first``, by way of ``second``, to ``out`` (R, R, 3).

    first, second: uint8, R * R * 3 bytes and ``IMAGE_SLACK``. Nothing is done when both operations are Identity.
    """
    view = views[row, column]
    wide = view.flags & WIDE != 0
    height, width = out.shape[0], out.shape[1]
    op0, level0 = np.int64(view.op0), np.int64(view.level0)
    op1, level1 = np.int64(view.op1), np.int64(view.level1)
    source, target = address_of(first), address_of(out)
    if op0 != 0 and op1 != 0:
        apply_op(op0, level0, view.bins, wide, source, address_of(second), height, width, address_of(work))
        source = address_of(second)
    if op1 != 0:
        apply_op(op1, level1, view.bins, wide, source, target, height, width, address_of(work))
    elif op0 != 0:
        apply_op(op0, level0, view.bins, wide, source, target, height, width, address_of(work))


@kernel
def _timed_view(
    stored: tuple,
    image: int,
    views: np.ndarray,
    row: int,
    column: int,
    out: np.ndarray,
    room: tuple,
    spent: np.ndarray,
    clock: np.ndarray,
) -> None:
    """What ``decode._replay_stored`` does with all but raw images, looking at the clock after each stage."""
    decoder, canvas, jpeg, samples, pictures, work = room
    data = bytes_at(np.uint64(stored.base) + stored.data_ptr[image], np.int64(stored.data_size[image]))
    width, height = np.int64(stored.sizes[image, 0]), np.int64(stored.sizes[image, 1])
    view = views[row, column]
    now = _now(clock)
    region = view_region(views, row, column, width, height, out.shape[0], out.shape[1])
    if stored.modes[image] == DCT:
        tables = Tables(stored.types, stored.entries, stored.quants, stored.first_with_high)
        _, left, top, wide, high = decode_coefficients(
            data, width, height, region, tables, samples, canvas, stored.fast
        )
    else:
        size, left, top, wide, high = splice(data, width, height, region, jpeg)
        source, size = (address_of(jpeg), size) if size > 0 else (address_of(data), np.int64(len(data)))
        now = _lap(spent, _SPLICE, now, clock)
        decompress(decoder[0], decoder[1], source, np.uint64(size), wide, high, address_of(canvas))
    now = _lap(spent, _DECODE, now, clock)
    pixels = canvas[: high * wide * 3].reshape((high, wide, 3))
    resized = address_of(pictures[0]) if view.op0 != 0 or view.op1 != 0 else address_of(out)
    resize_view(
        pixels, left, top, width, height, region, views, row, column,
        resized, out.shape[0], out.shape[1], address_of(work),
    )  # fmt: skip
    now = _lap(spent, _RESIZE, now, clock)
    apply_ops(views, row, column, pictures[0], pictures[1], out, work)
    now = _lap(spent, _OPERATIONS, now, clock)
    _erase(views, row, column, out)
    _lap(spent, _ERASE, now, clock)


@kernel
def _time_stages(
    stored: tuple,
    views: np.ndarray,
    mixes: np.ndarray,
    index: np.ndarray,
    outs: np.ndarray,
    room: tuple,
    spent: np.ndarray,
    clock: np.ndarray,
) -> None:
    for i in range(len(index)):
        first, second = visible(mixes, i)
        if first:
            _timed_view(stored, index[i], views, i, np.int64(0), outs[0], room, spent, clock)
        if second:
            out = outs[1] if first else outs[0]
            _timed_view(stored, np.int64(mixes[i].partner), views, i, np.int64(1), out, room, spent, clock)
        if first and second:
            now = _now(clock)
            mix_into(outs[0], outs[1], mixes, i)
            _lap(spent, _MIX, now, clock)


def time_stages(room: Room, index: np.ndarray, views: np.ndarray, mixes: np.ndarray) -> np.ndarray:
    """Replay the views of JPEGs or packed images, one after the other in ``room.out[0]``; seconds a stage (``STAGES``).

    index: (n,) int64; views (n, 2) and mixes (n,) as for ``Replayer``, and good.
    """
    spent = np.zeros(len(STAGES), np.int64)
    memory = (room.decoder, room.canvas, room.jpeg, room.samples, room.pictures, room.work)
    _time_stages(room.stored, views, mixes, index, room.out, memory, spent, np.zeros(2, np.int64))
    return spent / 1e9


@kernel
def splice_all(
    stored: tuple, index: np.ndarray, views: np.ndarray, resolution: int, jpeg: np.ndarray, parts: np.ndarray
) -> None:
    """The JPEG of what each view reads, one over the other in ``jpeg``; parts (n, 3): its bytes, width and height.

    0 bytes where the image itself is to be decoded.
    """
    for i in range(len(index)):
        image = index[i]
        data = bytes_at(np.uint64(stored.base) + stored.data_ptr[image], np.int64(stored.data_size[image]))
        width, height = np.int64(stored.sizes[image, 0]), np.int64(stored.sizes[image, 1])
        region = view_region(views, i, 0, width, height, resolution, resolution)
        size, _, _, wide, high = splice(data, width, height, region, jpeg)
        parts[i, 0], parts[i, 1], parts[i, 2] = size, wide, high


@kernel
def decode_all(decoder: tuple, jpegs: np.ndarray, parts: np.ndarray, canvas: np.ndarray) -> int:
    """Decode the JPEGs ``jpegs[start : start + size]``, parts (n, 4) int64: start, size, width, height; returns how
    many failed. decoder: ``Room.decoder``."""
    failed = np.int64(0)
    for i in range(len(parts)):
        source = address_of(jpegs) + np.uint64(parts[i, 0])
        size, wide, high = np.uint64(parts[i, 1]), parts[i, 2], parts[i, 3]
        if decompress(decoder[0], decoder[1], source, size, wide, high, address_of(canvas)) != 0:
            failed += 1
    return failed


def collect(images: ImageBeton, room: Room, index: np.ndarray, views: np.ndarray | None) -> tuple:
    """The JPEGs to decode for the views, or for None the whole images, as ``decode_all`` takes them: jpegs, parts."""
    whole = [(images.data_size[i], *images.sizes[i]) for i in index]
    pieces = [images.data(i) for i in index]
    parts = np.zeros((len(index), 4), np.int64)
    parts[:, 1:] = whole
    if views is not None:
        resolution = room.out.shape[1]
        for row in range(len(index)):
            part = np.zeros((1, 3), np.int64)
            splice_all(room.stored, index[row : row + 1], views[row : row + 1], resolution, room.jpeg, part)
            if part[0, 0]:
                pieces[row] = room.jpeg[: part[0, 0]].copy()
                parts[row, 1:] = part[0]
    parts[1:, 0] = np.cumsum(parts[:-1, 1])
    return np.concatenate(pieces), parts


@kernel
def resize_all(photos: np.ndarray, views: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
    """Crop, resize and flip to ``out`` (R, R, 3), a view after the other; photos (P, h, w, 3) take turns."""
    height, width = np.int64(photos.shape[1]), np.int64(photos.shape[2])
    for i in range(len(views)):
        region = view_region(views, i, 0, width, height, out.shape[0], out.shape[1])
        resize_view(
            photos[i % len(photos)], 0, 0, width, height, region, views, i, 0,
            address_of(out), out.shape[0], out.shape[1], address_of(work),
        )  # fmt: skip


@kernel
def operate_all(pictures: np.ndarray, views: np.ndarray, second: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
    """Each view's operations, see ``apply_ops``; pictures (P, bytes) take turns."""
    for i in range(len(views)):
        apply_ops(views, i, np.int64(0), pictures[i % len(pictures)], second, out, work)


@kernel
def erase_all(views: np.ndarray, out: np.ndarray) -> None:
    """Each view's erasing, all in ``out`` (R, R, 3)."""
    for i in range(len(views)):
        _erase(views, i, np.int64(0), out)


@kernel
def mix_all(mixes: np.ndarray, out: np.ndarray, partner: np.ndarray) -> None:
    """Each record's mixing of ``partner`` into ``out``, both (R, R, 3)."""
    for i in range(len(mixes)):
        mix_into(out, partner, mixes, i)
