"""Antialiased bilinear crop-resize, the flips folded in: uint8 HWC to uint8 HWC, within one grey level of Pillow.

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
from numba import types

from ffdr.augment.geometry import axis_plans
from ffdr.augment.picture import ImagePart, Output
from ffdr.augment.taps import (
    TAPS,
    Taps,
    build_taps,
    double_weights,
    most_spread,
    most_weights,
    spread_weights,
    tap_count,
)
from ffdr.augment.types import OUTPUT, PART, REGION, VIEW_TYPE
from ffdr.augment.view import FLIP, VERTICAL_FLIP, ViewRecord
from ffdr.jit.arguments import ADDRESS, named
from ffdr.jit.kernel import address_of, bytes_at, int16_at, int32_at, kernel
from ffdr.jit.simd import GROUP, LANES, blend_columns, blend_four_columns, blend_rows
from ffdr.jit.unit import unit

FAST_TAPS = 16
"""Widest filter, in source pixels, that the vector code takes."""
ALIGNMENT = 64
"""Every part of the scratch memory starts at a multiple of this, relative to its beginning."""

_ROW_ONE = 1 << 15
"""The weight 1 down: of a level shifted left by 8 the high half of the product counts, which is in units of 1/128."""
_COLUMN_ONE = 1 << 14
"""The weight 1 across: sums in units of 2**-21 stay below 2**29, far from the sign of an int32."""
_EXACT_BITS = 22
"""Of a weight of wide filters: 255 << 22 is the largest sum down that an int32 holds."""
_SLACK = 64
"""Bytes behind a row that vector loads and stores may touch."""
_PIXEL = 6
"""Bytes of a pixel in a blended row."""


class _Source(NamedTuple):
    """The pixels that a view reads."""

    address: np.uint64
    """of the first one"""
    stride: int
    """bytes from row to row"""
    x: int
    """of the first one, in the image"""
    y: int
    columns: int
    rows: int


class _Scratch(NamedTuple):
    """Addresses of the parts of the scratch memory, in their order there."""

    starts_x: np.uint64
    """int32, outputs and a group more, which the last group reads"""
    starts_y: np.uint64
    """int32"""
    weights_x: np.uint64
    """int32, ``most_weights``"""
    weights_y: np.uint64
    spread: np.uint64
    """int16, the horizontal weights for ``blend_columns``"""
    row: np.uint64
    """the blended row: int16 with slack for the vector code, int32 on the exact path"""
    last: np.uint64
    """uint8, an output row with slack"""
    end: np.uint64


_RESIZED = named(_Source), TAPS, TAPS, OUTPUT, named(_Scratch)
"""What both paths of the resize take."""


@kernel
def padded(count: int) -> int:
    """``count`` bytes rounded up to whole alignments."""
    return (np.int64(count) + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT


@kernel
def _lay_out(begin: np.uint64, width: int, height: int, out_h: int, out_w: int) -> _Scratch:
    """The parts of scratch memory from ``begin`` on, for a view of an image of width × height pixels.

    Sizes follow from the sides alone, never from the record, so memory once made for the largest sides serves all.
    """
    starts_x = np.uint64(begin)
    starts_y = starts_x + np.uint64(padded(4 * (out_w + GROUP)))
    weights_x = starts_y + np.uint64(padded(4 * out_h))
    weights_y = weights_x + np.uint64(padded(4 * most_weights(width, out_w)))
    spread = weights_y + np.uint64(padded(4 * most_weights(height, out_h)))
    # The blended row is int16 on the fast path and int32 on the exact one. On the fast path the last filter may begin
    # at the last pixel; weights of 0 then lie over what it reads behind the row.
    row = spread + np.uint64(padded(FAST_TAPS * most_spread(out_w)))
    last = row + np.uint64(padded(4 * 3 * np.int64(width) + _PIXEL * FAST_TAPS + _SLACK))
    end = last + np.uint64(padded(3 * np.int64(out_w) + _SLACK))
    return _Scratch(starts_x, starts_y, weights_x, weights_y, spread, row, last, end)


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
            blend_four_columns(out, row, starts, weights)
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
def _prepare_fast(across: Taps, down: Taps, out: Output, spread: np.uint64) -> None:
    """Weights of both axes in the forms that the vector code loads; horizontal starts in bytes of a blended row.

    The starts behind the last output are those that the last group has too many: they read the row's first pixels.
    """
    double_weights(down.weights, down.taps * out.height)
    spread_weights(across, out.width, int16_at(spread, most_spread(out.width) * ((across.taps + 1) // 2)))
    for i in range(out.width):
        across.starts[i] *= _PIXEL
    for i in range(out.width, out.width + GROUP):
        across.starts[i] = 0


@unit(types.void, *_RESIZED)
def _resize_fast(source: _Source, across: Taps, down: Taps, out: Output, scratch: _Scratch) -> None:
    """The vector path: filters of at most ``FAST_TAPS`` pixels.

    For each output row::

        source rows                      blended row, int16            output row, uint8
        start_y + 0  ████████████ ─┐
        start_y + 1  ████████████ ─┼─►  ▒▒▒▒▒▒▒▒▒▒▒▒ slack  ─────►  ░░░░░░░░ noise
        start_y + 2  ████████████ ─┘    weights_y, 32 bytes          spread, 8 pixels
                                        at a time                    at a time

    Vertical first: the rows lie in memory as vectors load them, and what is filtered across is one short row in the
    first-level cache. Both steps write whole vectors. A source row is never read behind its end, since the last block
    of ``_blend_row`` overlaps the one before it; an output row is written with up to 7 pixels and 4 bytes of noise
    behind it, which the next rows overwrite. The last rows, with nothing behind them, are made in scratch and copied:
    the bytes behind ``out`` may be another thread's.
    """
    _prepare_fast(across, down, out, scratch.spread)
    pairs, starts = (across.taps + 1) // 2, down.starts
    stride = np.uint64(source.stride)
    count = 3 * source.columns
    written = 3 * ((out.width + GROUP - 1) // GROUP * GROUP) + 4
    total = 3 * out.width * out.height
    for y in range(out.height):
        place = source.address + np.uint64(starts[y]) * stride
        weights = scratch.weights_y + np.uint64(4 * down.taps * y)
        if count >= LANES:
            _blend_row(place, stride, weights, down.taps, count, scratch.row)
        else:
            _blend_narrow_row(place, source.stride, weights, down.taps, count, scratch.row)
        begin = 3 * out.width * y
        if begin + written <= total:
            target = out.address + np.uint64(begin)
            _filter_row(scratch.row, scratch.starts_x, scratch.spread, pairs, out.width, target)
        else:
            _filter_row(scratch.row, scratch.starts_x, scratch.spread, pairs, out.width, scratch.last)
            _copy(scratch.last, out.address + np.uint64(begin), 3 * out.width)


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


@unit(types.void, *_RESIZED)
def _resize_exact(source: _Source, across: Taps, down: Taps, out: Output, scratch: _Scratch) -> None:
    """The path of wide filters: 22-bit weights, sums in 32 bits down and 64 bits across."""
    taps, starts, weights = across
    row = int32_at(scratch.row, 3 * source.columns)
    target = bytes_at(out.address, 3 * out.height * out.width)
    for y in range(out.height):
        _blend_row_exact(source, down.starts[y], down.weights, y * down.taps, down.taps, row)
        for x in range(out.width):
            red = green = blue = np.int64(1) << (2 * _EXACT_BITS - 1)
            place = np.uint64(3 * starts[x])
            for tap in range(np.uint64(taps)):
                weight = np.int64(weights[x * taps + tap])
                red += weight * row[place]
                green += weight * row[place + np.uint64(1)]
                blue += weight * row[place + np.uint64(2)]
                place += np.uint64(3)
            begin = 3 * (y * out.width + x)
            target[begin] = red >> (2 * _EXACT_BITS)
            target[begin + 1] = green >> (2 * _EXACT_BITS)
            target[begin + 2] = blue >> (2 * _EXACT_BITS)


@unit(types.void, PART, REGION, VIEW_TYPE, OUTPUT, ADDRESS)
def resize_view(part: ImagePart, region: tuple, view: ViewRecord, out: Output, scratch_address: np.uint64) -> None:
    """Crop, resize and flip.

    Parameters
    ----------
    part
        Pixels of the image that hold ``region``.
    region
        (x0, y0, x1, y1), the pixels that the view reads: ``view_region``.
    view
        ``VIEW_DTYPE``; has passed ``check_view``.
    out
        Written, and nothing behind it.
    scratch_address
        Of ``resize_bytes`` bytes, whose contents have no meaning.
    """
    x0, y0, x1, y1 = region
    stride = 3 * np.int64(part.pixels.shape[1])
    first = address_of(part.pixels) + np.uint64((y0 - part.top) * stride + 3 * (x0 - part.left))
    source = _Source(first, stride, x0, y0, x1 - x0, y1 - y0)
    plan_x, plan_y = axis_plans(view, part.width, part.height, out.height, out.width)
    taps_x, taps_y = tap_count(plan_x, source.columns), tap_count(plan_y, source.rows)
    is_fast = max(taps_x, taps_y) <= FAST_TAPS
    scratch = _lay_out(scratch_address, part.width, part.height, out.height, out.width)
    weights_x = int32_at(scratch.weights_x, taps_x * out.width)
    weights_y = int32_at(scratch.weights_y, taps_y * out.height)
    across = Taps(taps_x, int32_at(scratch.starts_x, out.width + GROUP), weights_x)
    down = Taps(taps_y, int32_at(scratch.starts_y, out.height), weights_y)
    one_x = np.int64(_COLUMN_ONE if is_fast else 1 << _EXACT_BITS)
    one_y = np.int64(_ROW_ONE if is_fast else 1 << _EXACT_BITS)
    build_taps(plan_x, out.width, source.x, source.columns, one_x, view.flags & FLIP != 0, across)
    build_taps(plan_y, out.height, source.y, source.rows, one_y, view.flags & VERTICAL_FLIP != 0, down)
    if is_fast:
        _resize_fast(source, across, down, out, scratch)
    else:
        _resize_exact(source, across, down, out, scratch)
