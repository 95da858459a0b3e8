"""Antialiased bilinear crop-resize, the flip folded in: uint8 HWC to uint8 HWC, within one grey level of Pillow.

The reference is ``image.crop(box).resize((w, h), BILINEAR)``, what torchvision's RandomResizedCrop does on PIL images:
a triangle filter as wide as the shrink factor (one source pixel when enlarging), clamped to the crop's own pixels.
Both axes are separable. A row of the output is made in two steps that stay in the first-level cache: source rows are
blended into one row of int16 in units of 1/128 grey level, and that row is then filtered horizontally. Pillow rounds
to whole levels between its passes and is off by at most one level; this code is off by less than 3/4 of one for
filters of up to ``FAST_TAPS`` pixels, so the two never differ by more than one. Wider filters take 22-bit weights.
"""

from __future__ import annotations

import math

import numpy as np

from ffdr.augment.geometry import axis_plans, filter_scale, tap_range
from ffdr.augment.jit import address_of, bytes_at, int16_at, int32_at, kernel
from ffdr.augment.simd import LANES, blend_columns, blend_rows
from ffdr.augment.view import FLIP

FAST_TAPS = 16
"""Widest filter, in source pixels, that the vector code takes."""
ALIGNMENT = 64
"""Every part of the scratch memory starts at a multiple of this, relative to its beginning."""

_ROW_ONE = 1 << 15
_COLUMN_ONE = 1 << 14
_EXACT_BITS = 22
_SLACK = 64
"""Bytes behind a row that vector loads and stores may touch."""


@kernel
def padded(count: int) -> int:
    """``count`` bytes rounded up to whole alignments."""
    return (np.int64(count) + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT


@kernel
def _weight_bytes(length: int, out_length: int) -> int:
    """Bytes of an axis's int32 weights at most.

    A filter has ceil(2 * shrink) taps (2 when enlarging); a canvas is at most three images long (``pad`` <= 1).
    """
    return padded(4 * (6 * np.int64(length) + 2 * np.int64(out_length) + 16))


@kernel
def resize_bytes(width: int, height: int, out_h: int, out_w: int) -> int:
    """Scratch that ``resize_view`` needs for an image of width × height pixels, bytes. Grows with every argument."""
    starts = padded(4 * (out_w + 2)) + padded(4 * out_h)
    weights = _weight_bytes(width, out_w) + _weight_bytes(height, out_h)
    expanded = padded(8 * (FAST_TAPS + 1) * (out_w + 2))
    row = padded(2 * (3 * (np.int64(width) + FAST_TAPS + 2)) + _SLACK)
    exact_row = padded(4 * 3 * np.int64(width))
    return starts + weights + expanded + row + exact_row + padded(3 * np.int64(out_w) + _SLACK)


@kernel
def _tap_count(plan: tuple, available: int) -> int:
    """Taps an output of this axis needs, at most: the filter's width, or all the pixels there are."""
    begin, end, steps, _, low, _ = plan
    _, step = filter_scale(begin, end, steps, low)
    return min(np.int64(math.ceil(2.0 * max(step, 1.0))), np.int64(available))


@kernel
def _build_taps(
    plan: tuple,
    count: int,
    offset: int,
    available: int,
    taps: int,
    one: int,
    flip: bool,
    starts: np.ndarray,
    weights: np.ndarray,
) -> None:
    """First pixels (int32, count) and weights (int32, count × taps, summing to ``one``) of an axis's outputs.

    ``offset`` is the image coordinate of the first of ``available`` pixels. Pixels outside them are border: they take
    their share of the weight and, being black, add nothing. Weights are rounded as a running sum, so that they add up
    exactly; ``flip`` stores the outputs in reverse.
    """
    begin, end, steps, first, low, high = plan
    start, step = filter_scale(begin, end, steps, low)
    inverse = 1.0 / max(step, 1.0)
    for i in range(count):
        slot = count - 1 - i if flip else i
        from_, to = tap_range(start, step, first + i, low, high)
        middle = low + start + (np.float64(first + i) + 0.5) * step - 0.5
        total = 0.0
        for x in range(from_, to):
            total += max(0.0, 1.0 - abs(x - middle) * inverse)
        base = max(min(from_ - offset, available - taps), 0)
        starts[slot] = base
        for tap in range(taps):
            weights[slot * taps + tap] = 0
        running = 0.0
        before = np.int64(0)
        for x in range(from_, to):
            running += max(0.0, 1.0 - abs(x - middle) * inverse)
            now = np.int64(running / total * one + 0.5)
            tap = x - offset - base
            if 0 <= tap < taps and x >= offset:
                weights[slot * taps + tap] = now - before
            before = now


@kernel
def _expand(weights: np.ndarray, count: int, taps: int, pairs: int, target: np.ndarray) -> None:
    """Weights (count × taps) in the order ``blend_columns`` loads them: (a, b) four times over for each pair of taps.

    One output of zero weights is added, the partner of the last when their number is odd.
    """
    for i in range((count + 1) * pairs * 8):
        target[i] = 0
    for i in range(count):
        for tap in range(taps):
            place = (i * pairs + tap // 2) * 8 + tap % 2
            for copy in range(4):
                target[place + 2 * copy] = weights[i * taps + tap]


@kernel
def _blend_row(source: np.uint64, stride: int, weights: np.uint64, taps: int, count: int, row: np.uint64) -> None:
    """``taps`` rows of ``count`` bytes at ``source`` into int16 at ``row``; count >= 16."""
    lanes = np.uint64(LANES)
    last = np.uint64(count) - lanes
    i = np.uint64(0)
    if taps == 2:  # the common case, unrolled by the compiler
        while i < last:
            blend_rows(row + i + i, source + i, np.uint64(stride), weights, 2)
            i += lanes
        blend_rows(row + last + last, source + last, np.uint64(stride), weights, 2)
        return
    while i < last:
        blend_rows(row + i + i, source + i, np.uint64(stride), weights, taps)
        i += lanes
    blend_rows(row + last + last, source + last, np.uint64(stride), weights, taps)


@kernel
def _blend_row_narrow(
    source: np.uint64, stride: int, weights: np.ndarray, place: int, taps: int, count: int, row: np.ndarray
) -> None:
    """``_blend_row`` for rows below 16 bytes, one at a time."""
    pixels = bytes_at(source, (taps - 1) * stride + count)
    for i in range(count):
        total = np.int64(0)
        for tap in range(taps):
            total += np.int64(pixels[tap * stride + i]) * np.int64(weights[place + tap])
        row[i] = (total + 128) >> 8


@kernel
def _filter_row(row: np.uint64, starts: np.ndarray, weights: np.uint64, pairs: int, count: int, out: np.uint64) -> None:
    """One output row of ``count`` pixels from a blended row; writes up to 5 bytes behind it."""
    stride = np.uint64(16 * pairs)
    target = out
    place = weights
    i = np.uint64(0)
    end = np.uint64(count)
    six = np.uint64(6)
    if pairs == 1:
        while i < end:
            first = row + six * np.uint64(starts[i])
            second = row + six * np.uint64(starts[i + np.uint64(1)])
            blend_columns(target, first, second, place, 1)
            target += six
            place += np.uint64(32)
            i += np.uint64(2)
        return
    while i < end:
        first = row + six * np.uint64(starts[i])
        second = row + six * np.uint64(starts[i + np.uint64(1)])
        blend_columns(target, first, second, place, pairs)
        target += six
        place += stride + stride
        i += np.uint64(2)


@kernel
def _resize_fast(
    source: np.uint64,
    stride: int,
    columns: int,
    rows: int,
    plans: tuple,
    offsets: tuple,
    flip: bool,
    out: np.uint64,
    out_h: int,
    out_w: int,
    width: int,
    height: int,
    scratch: np.uint64,
) -> None:
    """The vector path: filters of at most ``FAST_TAPS`` pixels. ``source`` is the first pixel of the region read."""
    across, down = plans
    taps_x, taps_y = _tap_count(across, columns), _tap_count(down, rows)
    pairs = (taps_x + 1) // 2
    starts_x = int32_at(scratch, out_w + 1)
    scratch += np.uint64(padded(4 * (out_w + 2)))
    starts_y = int32_at(scratch, out_h)
    scratch += np.uint64(padded(4 * out_h))
    weights_x = int32_at(scratch, taps_x * out_w)
    scratch += np.uint64(_weight_bytes(width, out_w))
    weights_y = int32_at(scratch, taps_y * out_h)
    factors_y = scratch
    scratch += np.uint64(_weight_bytes(height, out_h))
    expanded = int16_at(scratch, 8 * pairs * (out_w + 1))
    factors_x = scratch
    scratch += np.uint64(padded(8 * (FAST_TAPS + 1) * (out_w + 2)))
    row = scratch
    narrow = int16_at(row, 3 * columns)
    last_row = row + np.uint64(padded(2 * (3 * (np.int64(width) + FAST_TAPS + 2)) + _SLACK))

    _build_taps(across, out_w, offsets[0], columns, taps_x, _COLUMN_ONE, flip, starts_x, weights_x)
    _build_taps(down, out_h, offsets[1], rows, taps_y, _ROW_ONE, False, starts_y, weights_y)
    starts_x[out_w] = 0
    _expand(weights_x, out_w, taps_x, pairs, expanded)
    for y in range(out_h):
        place = source + np.uint64(starts_y[y]) * np.uint64(stride)
        if 3 * columns >= LANES:
            _blend_row(place, stride, factors_y + np.uint64(4 * taps_y * y), taps_y, 3 * columns, row)
        else:
            _blend_row_narrow(place, stride, weights_y, taps_y * y, taps_y, 3 * columns, narrow)
        target = out + np.uint64(3 * out_w * y)
        # A row is written with up to five bytes of noise behind it, which the next row overwrites. The last rows, with
        # nothing behind them, are made aside.
        if 3 * out_w * (y + 1) + 5 <= 3 * out_w * out_h:
            _filter_row(row, starts_x, factors_x, pairs, out_w, target)
        else:
            _filter_row(row, starts_x, factors_x, pairs, out_w, last_row)
            _copy(last_row, target, 3 * out_w)


@kernel
def _copy(source: np.uint64, target: np.uint64, count: int) -> None:
    from_, to = bytes_at(source, count), bytes_at(target, count)
    for i in range(np.uint64(count)):
        to[i] = from_[i]


@kernel
def _resize_exact(
    source: np.uint64,
    stride: int,
    columns: int,
    rows: int,
    plans: tuple,
    offsets: tuple,
    flip: bool,
    out: np.uint64,
    out_h: int,
    out_w: int,
    width: int,
    height: int,
    scratch: np.uint64,
) -> None:
    """The path of wide filters: 22-bit weights, sums in 32 bits down and 64 bits across."""
    across, down = plans
    taps_x, taps_y = _tap_count(across, columns), _tap_count(down, rows)
    starts_x = int32_at(scratch, out_w)
    scratch += np.uint64(padded(4 * (out_w + 2)))
    starts_y = int32_at(scratch, out_h)
    scratch += np.uint64(padded(4 * out_h))
    weights_x = int32_at(scratch, taps_x * out_w)
    scratch += np.uint64(_weight_bytes(width, out_w))
    weights_y = int32_at(scratch, taps_y * out_h)
    scratch += np.uint64(_weight_bytes(height, out_h))
    row = int32_at(scratch, 3 * columns)
    count = np.uint64(3 * columns)
    pixels = bytes_at(source, (rows - 1) * stride + 3 * columns)
    target = bytes_at(out, 3 * out_h * out_w)

    one = 1 << _EXACT_BITS
    _build_taps(across, out_w, offsets[0], columns, taps_x, one, flip, starts_x, weights_x)
    _build_taps(down, out_h, offsets[1], rows, taps_y, one, False, starts_y, weights_y)
    for y in range(out_h):
        for i in range(count):
            row[i] = 0
        for tap in range(taps_y):
            weight = weights_y[y * taps_y + tap]
            begin = np.uint64((starts_y[y] + tap) * stride)
            for i in range(count):
                row[i] += np.int32(pixels[begin + i]) * weight  # at most 255 << 22
        for x in range(out_w):
            for channel in range(3):
                total = np.int64(1) << (2 * _EXACT_BITS - 1)
                place = 3 * np.int64(starts_x[x]) + channel
                for tap in range(taps_x):
                    total += np.int64(row[place + 3 * tap]) * np.int64(weights_x[x * taps_x + tap])
                target[3 * (y * out_w + x) + channel] = np.uint8(total >> (2 * _EXACT_BITS))


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
    x0, y0, x1, y1 = region
    stride = 3 * np.int64(pixels.shape[1])
    source = address_of(pixels) + np.uint64((y0 - top) * stride + 3 * (x0 - left))
    columns, rows = x1 - x0, y1 - y0
    flip = views[row, column].flags & FLIP != 0
    fast = max(_tap_count(plans[0], columns), _tap_count(plans[1], rows)) <= FAST_TAPS
    if fast:
        _resize_fast(source, stride, columns, rows, plans, (x0, y0), flip, out, out_h, out_w, width, height, scratch)
    else:
        _resize_exact(source, stride, columns, rows, plans, (x0, y0), flip, out, out_h, out_w, width, height, scratch)
