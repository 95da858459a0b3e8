"""Shear, translate and rotate: torchvision's nearest-neighbour ``affine`` and ``rotate`` on uint8 tensors, bit by bit.

torchvision builds a float32 sampling grid with a matrix product, scales it to pixels and rounds each point to the
nearest. At half-way points, which shears hit systematically, the last bit decides, and torch's own last bit depends on
the processor: with Intel's matrix library and AVX2 every multiply-add is fused, elsewhere about 1 sheared pixel in
2,000 differs. A view must replay to the same bytes everywhere, so the fused order is fixed here:
fma(y, b, x * a) + c, then fma(grid + 1, side / 2, -1/2).

Images are flat uint8 RGB at an address, followed by at least 4 writable bytes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from ffdr.augment.ops.magnitude import ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X
from ffdr.jit.arguments import ADDRESS
from ffdr.jit.instructions import copy_bytes
from ffdr.jit.kernel import bytes_at, float32_at, kernel
from ffdr.jit.pixels import GROUP, find_offsets, gather_pixels
from ffdr.jit.unit import unit


@kernel
def _inverse_matrix(op: int, size: float, out_h: int, out_w: int) -> tuple:
    """torchvision's ``_get_inverse_affine_matrix`` for one shear or rotation, float64, in the same order."""
    rotation = math.radians(-size) if op == ROTATE else 0.0
    angle = math.radians(math.degrees(math.atan(size)))
    shear_x = angle if op == SHEAR_X else 0.0
    shear_y = angle if op == SHEAR_Y else 0.0
    # Shears keep the top left corner in place, rotations the centre; the origin is the centre.
    center_x = 0.0 if op == ROTATE else 1.0 * (0 - out_w * 0.5)
    center_y = 0.0 if op == ROTATE else 1.0 * (0 - out_h * 0.5)
    a = math.cos(rotation - shear_y) / math.cos(shear_y)
    b = -math.cos(rotation - shear_y) * math.tan(shear_x) / math.cos(shear_y) - math.sin(rotation)
    c = math.sin(rotation - shear_y) / math.cos(shear_y)
    d = -math.sin(rotation - shear_y) * math.tan(shear_x) / math.cos(shear_y) + math.cos(rotation)
    shift_x = d * -center_x + -b * -center_y + center_x
    shift_y = -c * -center_x + a * -center_y + center_y
    return d, -b, shift_x, -c, a, shift_y


@kernel
def _grid_terms(matrix: tuple, out_h: int, out_w: int) -> tuple:
    """The matrix in float32, divided by half the output's sides as torchvision's grid is."""
    half_w, half_h = np.float32(0.5 * out_w), np.float32(0.5 * out_h)
    a, b, c, d, e, f = matrix
    return (
        np.float32(a) / half_w,
        np.float32(b) / half_w,
        np.float32(c) / half_w,
        np.float32(d) / half_h,
        np.float32(e) / half_h,
        np.float32(f) / half_h,
    )


@kernel
def _groups(out_w: int) -> int:
    """Of a row's pixels, the last one perhaps not whole."""
    return (np.int64(out_w) + GROUP - 1) // GROUP


@kernel
def warp_bytes(out_w: int) -> int:
    """Scratch that ``warp`` needs, bytes: terms and products of the grid, the offsets of a row, a row and its noise."""
    return 24 + (8 + 4 + 3) * GROUP * _groups(out_w) + 4


@kernel
def _fill_grid(terms: tuple, out_h: int, out_w: int, grid: np.ndarray) -> None:
    """What all rows of a sampling grid share, float32, in the order in which ``find_offsets`` takes it."""
    a, b, c, d, e, f = terms
    grid[0], grid[1], grid[2], grid[3] = b, c, e, f
    grid[4], grid[5] = np.float32(0.5 * out_w), np.float32(0.5 * out_h)
    for x in range(GROUP * _groups(out_w)):
        position = np.float32(np.float64(x) - 0.5 * out_w + 0.5)
        place = 6 + 2 * GROUP * (x // GROUP) + x % GROUP
        grid[place], grid[place + GROUP] = position * a, position * d


@unit(types.void, types.int64, types.float64, ADDRESS, ADDRESS, types.int64, types.int64, ADDRESS)
def warp(
    op: int, size: float, source: np.uint64, target: np.uint64, out_h: int, out_w: int, scratch: np.uint64
) -> None:
    """ShearX, ShearY or Rotate by magnitude ``size`` from one image to another of the same size."""
    stride, groups = 3 * np.int64(out_w), _groups(out_w)
    count, written = stride * out_h, 3 * GROUP * groups + 4
    behind = bytes_at(source + np.uint64(count), 4)
    for i in range(4):
        behind[i] = 0
    terms = _grid_terms(_inverse_matrix(op, size, out_h, out_w), out_h, out_w)
    _fill_grid(terms, out_h, out_w, float32_at(scratch, 6 + 2 * GROUP * groups))
    offsets = scratch + np.uint64(24 + 8 * GROUP * groups)
    spare = offsets + np.uint64(4 * GROUP * groups)
    for line in range(out_h):
        y, to = np.float32(line - 0.5 * out_h + 0.5), target + np.uint64(line * stride)
        find_offsets(offsets, scratch, y, out_w, out_h, groups)
        # What a row has too much, the next ones overwrite; the last rows are made in scratch.
        whole = line * stride + written <= count
        gather_pixels(to if whole else spare, source, offsets, groups)
        if not whole:
            copy_bytes(to, spare, stride)


@unit(types.void, types.int64, types.float64, ADDRESS, ADDRESS, types.int64, types.int64)
def translate(op: int, size: float, source: np.uint64, target: np.uint64, out_h: int, out_w: int) -> None:
    """TranslateX or TranslateY by whole pixels, the fraction cut off as torchvision does; black moves in."""
    shift = np.int64(size)
    shift_x = shift if op == TRANSLATE_X else np.int64(0)
    shift_y = np.int64(0) if op == TRANSLATE_X else shift
    count = 3 * np.int64(out_h) * np.int64(out_w)
    from_, to = bytes_at(source, count), bytes_at(target, count)
    stride = 3 * np.int64(out_w)
    begin = min(max(3 * shift_x, 0), stride)
    end = max(min(stride + 3 * shift_x, stride), 0)
    for y in range(out_h):
        line = np.uint64(y * stride)
        if not 0 <= y - shift_y < out_h or end <= begin:
            for i in range(np.uint64(stride)):
                to[line + i] = 0
            continue
        origin = np.uint64((y - shift_y) * stride - 3 * shift_x + begin)
        for i in range(np.uint64(begin)):
            to[line + i] = 0
        for i in range(np.uint64(end - begin)):
            to[line + np.uint64(begin) + i] = from_[origin + i]
        for i in range(np.uint64(end), np.uint64(stride)):
            to[line + i] = 0
