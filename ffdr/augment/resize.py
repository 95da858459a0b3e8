"""Antialiased bilinear crop-resize, the flip folded in: uint8 HWC to uint8 HWC, within one grey level of Pillow.

The reference is ``image.crop(box).resize((w, h), BILINEAR)``, what torchvision's RandomResizedCrop does on PIL images:
a triangle filter as wide as the shrink factor (one source pixel when enlarging), clamped to the crop's own pixels.
Both axes are separable. A row of the output is made in two steps that stay in the first-level cache: source rows are
blended into one row of int16 in units of 1/128 grey level, and that row is then filtered horizontally. Pillow rounds
to whole levels between its passes and is off by at most one level; this code is off by less than 3/4 of one for
filters of up to ``FAST_TAPS`` pixels, so the two never differ by more than one. Wider filters take 22-bit weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdr.augment.geometry import axis_plans
from ffdr.augment.taps import (
    build_taps,
    double_weights,
    most_spread,
    most_weights,
    spread_weights,
    tap_count,
)
from ffdr.augment.view import FLIP
from ffdr.jit.kernel import (
    address_of,
    bytes_at,
    int16_at,
    int32_at,
    kernel,
)
from ffdr.jit.simd import (
    GROUP,
    LANES,
    blend_columns,
    blend_rows,
)

FAST_TAPS = 16
"""Widest filter, in source pixels, that the vector code takes."""
ALIGNMENT = 64
"""Every part of the scratch memory starts at a multiple of this, relative to its beginning."""

_ROW_ONE = 1 << 15
_COLUMN_ONE = 1 << 14
_EXACT_BITS = 22
_SLACK = 64
"""Bytes behind a row that vector loads and stores may touch."""
_PIXEL = 6
"""Bytes of a pixel in a blended row."""


class _Source(NamedTuple):
    """The pixels a view reads: their first byte, bytes from row to row, place in the image and extent in pixels."""

    address: np.uint64
    stride: int
    x: int
    y: int
    columns: int
    rows: int


class _Room(NamedTuple):
    """Addresses of the parts of the scratch memory."""

    starts_x: np.uint64
    starts_y: np.uint64
    weights_x: np.uint64
    weights_y: np.uint64
    spread: np.uint64
    row: np.uint64
    last: np.uint64
    end: np.uint64


@kernel
def padded(count: int) -> int:
    """``count`` bytes rounded up to whole alignments."""
    return (np.int64(count) + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT


@kernel
def _lay_out(begin: np.uint64, width: int, height: int, out_h: int, out_w: int) -> _Room:
    """Places in scratch memory from ``begin`` on, for an image of width × height pixels."""
    starts_x = np.uint64(begin)
    starts_y = starts_x + np.uint64(padded(4 * (out_w + GROUP)))
    weights_x = starts_y + np.uint64(padded(4 * out_h))
    weights_y = weights_x + np.uint64(padded(4 * most_weights(width, out_w)))
    spread = weights_y + np.uint64(padded(4 * most_weights(height, out_h)))
    row = spread + np.uint64(padded(FAST_TAPS * most_spread(out_w)))
    # The blended row is int16 with slack for the vector code; the exact path keeps int32.
    last = row + np.uint64(padded(4 * 3 * np.int64(width) + _PIXEL * FAST_TAPS + _SLACK))
    end = last + np.uint64(padded(3 * np.int64(out_w) + _SLACK))
    return _Room(starts_x, starts_y, weights_x, weights_y, spread, row, last, end)


@kernel
def resize_bytes(width: int, height: int, out_h: int, out_w: int) -> int:
    """Scratch that ``resize_view`` needs for an image of width × height pixels, bytes. Grows with every argument."""
    return np.int64(_lay_out(np.uint64(0), width, height, out_h, out_w).end)


@kernel
def _blend_row(source: np.uint64, stride: np.uint64, weights: np.uint64, taps: int, count: int, row: np.uint64) -> None:
    """``taps`` rows of ``count`` bytes at ``source`` into int16 at ``row``; count >= LANES.

    The last block overlaps the one before it. Few taps are spelt out, so that the compiler unrolls their loop.
    """
    lanes = np.uint64(LANES)
    last = np.uint64(count) - lanes
    i = np.uint64(0)
    if taps == 2:
        while i < last:
            blend_rows(row + i + i, source + i, stride, weights, 2)
            i += lanes
    elif taps == 3:
        while i < last:
            blend_rows(row + i + i, source + i, stride, weights, 3)
            i += lanes
    elif taps == 4:
        while i < last:
            blend_rows(row + i + i, source + i, stride, weights, 4)
            i += lanes
    else:
        while i < last:
            blend_rows(row + i + i, source + i, stride, weights, taps)
            i += lanes
    blend_rows(row + last + last, source + last, stride, weights, taps)


@kernel
def _blend_narrow_row(
    source: np.uint64, stride: int, weights: np.uint64, taps: int, count: int, row: np.uint64
) -> None:
    """``_blend_row`` for rows that are shorter than its blocks, byte by byte."""
    pixels = bytes_at(source, (taps - 1) * stride + count)
    factors = int16_at(weights, 2 * taps)
    blended = int16_at(row, count)
    for i in range(count):
        total = np.int64(128)
        for tap in range(taps):
            total += np.int64(pixels[tap * stride + i]) * np.int64(np.uint16(factors[2 * tap]))
        blended[i] = total >> 8


@kernel
def _filter_row(row: np.uint64, starts: np.uint64, weights: np.uint64, pairs: int, count: int, out: np.uint64) -> None:
    """One output row of ``count`` pixels, in whole groups, from a blended row; four bytes more are written."""
    group, step = np.uint64(4 * GROUP), np.uint64(3 * GROUP)
    end = out + np.uint64(3 * count)
    if pairs == 1:
        while out < end:
            blend_columns(out, row, starts, weights, 1)
            out += step
            starts += group
            weights += np.uint64(16 * GROUP)
    elif pairs == 2:
        while out < end:
            blend_columns(out, row, starts, weights, 2)
            out += step
            starts += group
            weights += np.uint64(32 * GROUP)
    else:
        while out < end:
            blend_columns(out, row, starts, weights, pairs)
            out += step
            starts += group
            weights += np.uint64(16 * GROUP * pairs)


@kernel
def _prepare_fast(
    source: _Source, plans: tuple, flip: bool, out_h: int, out_w: int, taps_x: int, taps_y: int, room: _Room
) -> None:
    """Weights of both axes in the forms that the vector code loads; horizontal starts in bytes of a blended row."""
    across, down = plans
    starts_x, starts_y = int32_at(room.starts_x, out_w + GROUP), int32_at(room.starts_y, out_h)
    weights_x, weights_y = int32_at(room.weights_x, taps_x * out_w), int32_at(room.weights_y, taps_y * out_h)
    build_taps(across, out_w, source.x, source.columns, taps_x, np.int64(_COLUMN_ONE), flip, starts_x, weights_x)
    build_taps(down, out_h, source.y, source.rows, taps_y, np.int64(_ROW_ONE), False, starts_y, weights_y)
    double_weights(weights_y, taps_y * out_h)
    spread_weights(weights_x, out_w, taps_x, int16_at(room.spread, most_spread(out_w) * ((taps_x + 1) // 2)))
    for i in range(out_w):
        starts_x[i] *= _PIXEL
    for i in range(out_w, out_w + GROUP):
        starts_x[i] = 0


@kernel
def _resize_fast(
    source: _Source, plans: tuple, flip: bool, out: np.uint64, out_h: int, out_w: int, room: _Room
) -> None:
    """The vector path: filters of at most ``FAST_TAPS`` pixels."""
    taps_x, taps_y = tap_count(plans[0], source.columns), tap_count(plans[1], source.rows)
    pairs = (taps_x + 1) // 2
    _prepare_fast(source, plans, flip, out_h, out_w, taps_x, taps_y, room)
    starts_y = int32_at(room.starts_y, out_h)
    stride = np.uint64(source.stride)
    count = 3 * source.columns
    written = 3 * ((out_w + GROUP - 1) // GROUP * GROUP) + 4
    total = 3 * out_w * out_h
    for y in range(out_h):
        place = source.address + np.uint64(starts_y[y]) * stride
        weights = room.weights_y + np.uint64(4 * taps_y * y)
        if count >= LANES:
            _blend_row(place, stride, weights, taps_y, count, room.row)
        else:
            _blend_narrow_row(place, source.stride, weights, taps_y, count, room.row)
        # A row is written with some noise behind it, which the next rows overwrite. The last ones, with nothing behind
        # them, are made aside.
        begin = 3 * out_w * y
        if begin + written <= total:
            _filter_row(room.row, room.starts_x, room.spread, pairs, out_w, out + np.uint64(begin))
        else:
            _filter_row(room.row, room.starts_x, room.spread, pairs, out_w, room.last)
            _copy(room.last, out + np.uint64(begin), 3 * out_w)


@kernel
def _copy(source: np.uint64, target: np.uint64, count: int) -> None:
    from_, to = bytes_at(source, count), bytes_at(target, count)
    for i in range(np.uint64(count)):
        to[i] = from_[i]


@kernel
def _blend_row_exact(source: _Source, start: int, weights: np.ndarray, place: int, taps: int, row: np.ndarray) -> None:
    """``taps`` rows from row ``start`` on into int32 (3 × columns) in units of 2**-22; weights[place:] are theirs."""
    count = np.uint64(3 * source.columns)
    for i in range(count):
        row[i] = 0
    for tap in range(taps):
        weight = np.int32(weights[place + tap])
        pixels = bytes_at(source.address + np.uint64((start + tap) * source.stride), 3 * source.columns)
        for i in range(count):
            row[i] += np.int32(np.int32(pixels[i]) * weight)  # at most 255 << 22 in all


@kernel
def _resize_exact(
    source: _Source, plans: tuple, flip: bool, out: np.uint64, out_h: int, out_w: int, room: _Room
) -> None:
    """The path of wide filters: 22-bit weights, sums in 32 bits down and 64 bits across."""
    across, down = plans
    taps_x, taps_y = tap_count(across, source.columns), tap_count(down, source.rows)
    starts_x, starts_y = int32_at(room.starts_x, out_w), int32_at(room.starts_y, out_h)
    weights_x, weights_y = int32_at(room.weights_x, taps_x * out_w), int32_at(room.weights_y, taps_y * out_h)
    row = int32_at(room.row, 3 * source.columns)
    target = bytes_at(out, 3 * out_h * out_w)
    one = np.int64(1 << _EXACT_BITS)
    build_taps(across, out_w, source.x, source.columns, taps_x, one, flip, starts_x, weights_x)
    build_taps(down, out_h, source.y, source.rows, taps_y, one, False, starts_y, weights_y)
    for y in range(out_h):
        _blend_row_exact(source, starts_y[y], weights_y, y * taps_y, taps_y, row)
        for x in range(out_w):
            red = green = blue = np.int64(1) << (2 * _EXACT_BITS - 1)
            place = np.uint64(3 * starts_x[x])
            for tap in range(np.uint64(taps_x)):
                weight = np.int64(weights_x[x * taps_x + tap])
                red += weight * row[place]
                green += weight * row[place + np.uint64(1)]
                blue += weight * row[place + np.uint64(2)]
                place += np.uint64(3)
            begin = 3 * (y * out_w + x)
            target[begin] = red >> (2 * _EXACT_BITS)
            target[begin + 1] = green >> (2 * _EXACT_BITS)
            target[begin + 2] = blue >> (2 * _EXACT_BITS)


@kernel
def resize_view(
    pixels: np.ndarray,
    left: int,
    top: int,
    width: int,
    height: int,
    region: tuple,
    views: np.ndarray,
    row: int,
    column: int,
    out: np.uint64,
    out_h: int,
    out_w: int,
    scratch: np.uint64,
) -> None:
    """Crop, resize and flip as ``views[row, column]`` says, to uint8 (out_h, out_w, 3) at address ``out``.

    pixels: uint8 (h, w, 3), C-contiguous, the part of the width × height image that begins at (left, top); it must
    hold ``region``, the pixels that ``view_region`` names. scratch: address of ``resize_bytes`` bytes.
    """
    plans = axis_plans(views, row, column, width, height, out_h, out_w)
    room = _lay_out(scratch, width, height, out_h, out_w)
    x0, y0, x1, y1 = region
    stride = 3 * np.int64(pixels.shape[1])
    first = address_of(pixels) + np.uint64((y0 - top) * stride + 3 * (x0 - left))
    source = _Source(first, stride, x0, y0, x1 - x0, y1 - y0)
    flip = views[row, column].flags & FLIP != 0
    if max(tap_count(plans[0], source.columns), tap_count(plans[1], source.rows)) <= FAST_TAPS:
        _resize_fast(source, plans, flip, out, out_h, out_w, room)
    else:
        _resize_exact(source, plans, flip, out, out_h, out_w, room)
