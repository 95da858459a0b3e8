"""Gaussian blur: torchvision's ``gaussian_blur`` on a uint8 tensor, with kernel sizes that reach three deviations.

torchvision sums a two-dimensional kernel in float32, in an order that depends on the processor, and rounds to the
nearest level. Here both axes are filtered in turn, in float32 with a fixed order of fused multiply-adds: the same on
every machine, and off by less than a thousandth of a level. So the two agree wherever the sum is not within that of
half-way between two levels.

Images are flat uint8 RGB at an address.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ffdr.augment.view import SIGMA_ONE, SIGMA_SIDE
from ffdr.jit.arguments import ADDRESS
from ffdr.jit.instructions import copy_bytes
from ffdr.jit.ir import F32, I8, I16, I32, I64, Code, Value, instruction
from ffdr.jit.kernel import float32_at, kernel, uint64_at
from ffdr.jit.unit import unit

_LANES = 32
"""Bytes of a row that vector code makes at a time."""
_FLOATS = ir.VectorType(F32, _LANES)


def _add_tap(code: Code, total: Value, weights: Value, tap: Value, levels: Value) -> None:
    """total += weights[tap] * levels."""
    weight = code.splat(code.load(code.at(weights, code.b.shl(tap, tap.type(2))), F32), _LANES)
    fused_sum = code.call(f"llvm.fma.v{_LANES}f32", _FLOATS, weight, levels, code.b.load(total))
    code.b.store(fused_sum, total)


@instruction(types.void, types.uint64, types.uint64, types.uint64, types.uint64, types.int64)
def _sum_rows(code: Code, target: Value, rows: Value, offset: Value, weights: Value, taps: Value) -> None:
    """``_LANES`` float32 at ``target``: the weighted sum of pairs of rows of bytes, ``offset`` bytes from their begin.

    rows: address of the addresses (uint64) of two rows per tap; weights: address of float32, one per tap.
    """
    b = code.b
    total = cgutils.alloca_once_value(b, ir.Constant(_FLOATS, [0.0] * _LANES))
    with cgutils.for_range(b, taps) as loop:
        place = code.at(rows, b.shl(loop.index, taps.type(4)))
        places = (b.add(code.load(code.at(place, i), I64), offset) for i in (0, 8))
        levels = (code.load(place, ir.VectorType(I8, _LANES)) for place in places)
        pair = b.add(*(code.extended(level, I16, signed=False) for level in levels))
        _add_tap(code, total, weights, loop.index, b.uitofp(code.extended(pair, I32, signed=False), _FLOATS))
    code.store(b.load(total), target)


@instruction(types.void, types.uint64, types.uint64, types.uint64, types.int64)
def _sum_columns(code: Code, target: Value, row: Value, weights: Value, taps: Value) -> None:
    """``_LANES`` bytes at ``target``: the rounded weighted sum of pairs of float32 of a row of pixels.

    row: address of the middle one's; the pair of tap i lies i pixels before and behind it.
    """
    b = code.b
    total = cgutils.alloca_once_value(b, ir.Constant(_FLOATS, [0.5] * _LANES))
    with cgutils.for_range(b, taps) as loop:
        away = b.mul(loop.index, taps.type(12))
        pair = b.fadd(code.load(b.sub(row, away), _FLOATS), code.load(b.add(row, away), _FLOATS))
        _add_tap(code, total, weights, loop.index, pair)
    whole = b.fptosi(b.load(total), ir.VectorType(I32, _LANES))
    code.store(b.trunc(whole, ir.VectorType(I8, _LANES)), target)


@kernel
def blur_sigma(value: int, out_h: int, out_w: int) -> float:
    """The standard deviation, in pixels of a view of these sides, that an effect's value says."""
    return np.float64(value) / SIGMA_ONE * min(np.int64(out_h), np.int64(out_w)) / SIGMA_SIDE


@kernel
def blur_radius(sigma: float, length: int) -> int:
    """Pixels to either side that the filter of an axis of ``length`` pixels reads: three deviations, or all there are.

    torchvision's kernel size is 2 * radius + 1. It mirrors at the border, so that a radius is shorter than the axis.
    """
    return min(np.int64(math.ceil(3.0 * sigma)), np.int64(length) - 1)


@kernel
def _most_taps(out_w: int) -> int:
    """Radius and one, of a view of this width: sigma is below 8 pixels per 224."""
    return np.int64(out_w) // 9 + 3


@kernel
def blur_bytes(out_w: int) -> int:
    """Scratch that ``blur`` needs, bytes."""
    # The addresses of two rows per tap, the weights of both axes, a row between its mirrored ends with a block behind
    # them, a block of bytes.
    row = 4 * (3 * np.int64(out_w) + 6 * _most_taps(out_w) + _LANES)
    return (16 + 4 + 4) * _most_taps(out_w) + row + _LANES


@kernel
def _fill_weights(sigma: float, radius: int, weights: np.ndarray) -> None:
    """One side of a filter that sums to 1, and half of its middle; weights: (radius + 1,) float32."""
    total = 0.5
    for i in range(1, radius + 1):
        total += math.exp(-0.5 * (i / sigma) * (i / sigma))
    weights[0] = 0.25 / total
    for i in range(1, radius + 1):
        weights[i] = 0.5 * math.exp(-0.5 * (i / sigma) * (i / sigma)) / total


@kernel
def _mirrored(i: int, length: int) -> int:
    """Where a position up to length - 1 beyond an end of an axis is found in it; the end itself is not doubled."""
    return abs(i) if i < length else 2 * (length - 1) - i


@kernel
def _blur_down(rows: np.uint64, weights: np.uint64, taps: int, row: np.uint64, count: int) -> None:
    """The weighted sum of rows of ``count`` bytes to float32 at ``row``. rows: of the addresses of two rows per tap.

    The last block overlaps the one before it; that of a row shorter than a block is read and written beyond its end.
    """
    last, i = max(count - _LANES, 0), np.int64(0)
    while i < count:
        at = min(i, last)
        _sum_rows(row + np.uint64(4 * at), rows, at, weights, taps)
        i += _LANES


@kernel
def _mirror_ends(row: np.ndarray, radius: int, out_w: int) -> None:
    """Fill ``radius`` pixels on either side of a row of float32 pixels."""
    for i in range(radius):
        left, right = 3 * (radius - 1 - i), 3 * (radius + out_w + i)
        for channel in range(3):
            row[left + channel] = row[3 * (radius + i + 1) + channel]
            row[right + channel] = row[3 * (radius + out_w - 2 - i) + channel]


@kernel
def _blur_across(row: np.uint64, weights: np.uint64, taps: int, target: np.uint64, count: int) -> None:
    """A row between its mirrored ends, filtered, to ``count`` bytes at ``target``, or a block."""
    last, i = max(count - _LANES, 0), np.int64(0)
    first = row + np.uint64(12 * (taps - 1))
    while i < count:
        at = min(i, last)
        _sum_columns(target + np.uint64(at), first + np.uint64(4 * at), weights, taps)
        i += _LANES


@unit(types.void, types.int64, ADDRESS, ADDRESS, types.int64, types.int64, ADDRESS)
def blur(value: int, source: np.uint64, target: np.uint64, out_h: int, out_w: int, scratch: np.uint64) -> None:
    """Blur one picture to another one of the same size.

    value: of the effect, 1 to 32767. ``_LANES`` bytes behind the source are read, with no effect; nothing behind the
    target is touched. scratch: address of ``blur_bytes`` bytes.
    """
    sigma = blur_sigma(value, out_h, out_w)
    across, down = blur_radius(sigma, out_w), blur_radius(sigma, out_h)
    stride, height, most = 3 * np.int64(out_w), np.int64(out_h), np.uint64(_most_taps(out_w))
    weights_x, weights_y = scratch + np.uint64(16) * most, scratch + np.uint64(20) * most
    row = scratch + np.uint64(24) * most
    narrow = row + np.uint64(4 * (stride + 6 * across + _LANES))
    _fill_weights(sigma, across, float32_at(weights_x, across + 1))
    _fill_weights(sigma, down, float32_at(weights_y, down + 1))
    places, levels = uint64_at(scratch, 2 * (down + 1)), float32_at(row, stride + 6 * across)
    for y in range(height):
        for tap in range(down + 1):
            places[2 * tap] = source + np.uint64(_mirrored(y - tap, height) * stride)
            places[2 * tap + 1] = source + np.uint64(_mirrored(y + tap, height) * stride)
        _blur_down(scratch, weights_y, down + 1, row + np.uint64(12 * across), stride)
        _mirror_ends(levels, across, np.int64(out_w))
        line = target + np.uint64(y * stride)
        if stride >= _LANES:
            _blur_across(row, weights_x, across + 1, line, stride)
        else:
            _blur_across(row, weights_x, across + 1, narrow, stride)
            copy_bytes(line, narrow, stride)
