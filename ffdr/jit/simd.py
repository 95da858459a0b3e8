"""The two passes of the resize, as vector code: what the auto-vectoriser does not find by itself."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ffdr.jit.ir import I8, I16, I32, Code, Value, constant, instruction

LANES = 32
"""Bytes of a row that ``blend_rows`` makes at a time."""
GROUP = 8
"""Pixels that ``blend_columns`` makes at a time."""


@instruction(types.void, types.uint64, types.uint64, types.uint64, types.uint64, types.int64)
def blend_rows(code: Code, target: Value, source: Value, stride: Value, weights: Value, taps: Value) -> None:
    """Weighted sum of ``taps`` rows, 32 bytes of each, into 32 int16 at ``target`` in units of 1/128.

    target, source, weights: addresses (uint64); stride: bytes from row to row (uint64); taps: int64; weights: for each
    row the same number twice, uint16 in units of 1/32768, summing to at most 32768. Products are cut to 1/128; half a
    unit per tap makes up for it on average, and is too little to change a plain copy.
    """
    b, half = code.b, LANES // 2
    short = ir.VectorType(I16, half)
    bias = code.splat(b.trunc(b.lshr(taps, taps.type(1)), I16), half)
    totals = [cgutils.alloca_once_value(b, bias) for _ in range(2)]
    with cgutils.for_range(b, taps) as loop:
        row = code.at(source, b.mul(loop.index, stride))
        # Loaded anew for each block: a weight widened outside the loop would hide from LLVM that this is a 16-bit
        # multiply-high, one instruction instead of six.
        weight = code.load(code.at(weights, b.shl(loop.index, taps.type(2))), I32)
        factors = b.bitcast(code.splat(weight, half // 2), short)
        for part, total in enumerate(totals):
            levels = b.zext(code.load(code.at(row, part * half), ir.VectorType(I8, half)), short)
            scaled = b.shl(levels, constant(I16, [8] * half))
            b.store(b.add(b.load(total), code.high_product(scaled, factors, signed=False)), total)
    for part, total in enumerate(totals):
        code.store(b.load(total), code.at(target, part * LANES))


# A pair of taps of one output is eight int16, two pixels and two lanes of noise:
#
#   loaded    r0 g0 b0 r1 g1 b1  .  .
#   shuffled  r0 r1 g0 g1 b0 b1  .  .      so that (a, b) · (first, second) is a multiply-add of neighbours
#
# Outputs i and 4 + i share a vector of sums, so that packing, which never crosses the middle of a register, leaves
# outputs 0 to 3 in one half and 4 to 7 in the other, r g b . each; they are closed up, and the noise goes last.
_PAIR = (0, 3, 1, 4, 2, 5, 6, 7)
_HALF = GROUP // 2
_ROUNDING = 1 << 20


def _filter_places(code: Code, row: Value, starts: Value) -> list[Value]:
    """Where the filters of a group's outputs begin."""
    return [code.at(row, code.number(code.at(starts, 4 * i), I32)) for i in range(GROUP)]


def _store_outputs(code: Code, sums: Sequence[Value], target: Value) -> None:
    """Store a group's outputs: 24 bytes, and four of noise."""
    greys = [code.b.lshr(total, constant(I32, [21] * 8)) for total in sums]
    levels = code.saturated(code.narrow(*greys[:2]), code.narrow(*greys[2:]))
    compact = [4 * pixel + lane for pixel in range(_HALF) for lane in range(3)] + [3, 7, 11, 15]
    for side in range(2):
        part = code.shuffle(levels, levels, [16 * side + lane for lane in compact])
        code.store(part, code.at(target, 3 * _HALF * side))


@instruction(types.void, types.uint64, types.uint64, types.uint64, types.uint64, types.int64)
def blend_columns(code: Code, target: Value, row: Value, starts: Value, weights: Value, pairs: Value) -> None:
    """Eight neighbouring output pixels from a row of int16 RGB pixels, 24 bytes; writes 28 bytes at ``target``.

    row: address of the row, in units of 1/128; starts: address of eight int32, bytes from there to the first pixel
    under each output's filter; weights: address of int16 in units of 1/16384, for each pair of taps and each of the
    eight pixels, in the order 0 4 1 5 2 6 3 7, (a, b) four times over; pairs: pairs of taps, int64. Sums are rounded to
    whole grey levels. Reads 12 * pairs + 4 bytes from each start on; the last four bytes written are noise that the
    next pixels overwrite.
    """
    b, order = code.b, [8 * side + lane for side in range(2) for lane in _PAIR]
    places = _filter_places(code, row, starts)
    totals = [cgutils.alloca_once_value(b, constant(I32, [_ROUNDING] * 8)) for _ in range(_HALF)]
    with cgutils.for_range(b, pairs) as loop:
        along, first = b.mul(loop.index, pairs.type(12)), b.mul(loop.index, pairs.type(16 * GROUP))
        for i, total in enumerate(totals):
            both = (code.load(code.at(places[j], along), ir.VectorType(I16, 8)) for j in (i, _HALF + i))
            pixels = code.joined(*both)
            factors = code.load(code.at(weights, code.at(first, 32 * i)), ir.VectorType(I16, 16))
            product = code.products(code.shuffle(pixels, pixels, order), factors)
            b.store(b.add(b.load(total), product), total)
    _store_outputs(code, [b.load(total) for total in totals], target)


@instruction(types.void, types.uint64, types.uint64, types.uint64, types.uint64)
def blend_four_columns(code: Code, target: Value, row: Value, starts: Value, weights: Value) -> None:
    """``blend_columns`` of two pairs of taps, with fewer loads, of which there are more than of anything else.

    weights: for each of the eight pixels, (a, b) four times over and (c, d) four times over. Also reads the four bytes
    before each start.
    """
    # From two lanes before the start on, each half of a register holds a pair:
    #
    #   loaded    .  .  r0 g0 b0 r1 g1 b1 | r2 g2 b2 r3 g3 b3 .  .
    b, sixteen = code.b, ir.VectorType(I16, 16)
    order = [(lane + 2) % 8 for lane in _PAIR] + [8 + lane for lane in _PAIR]
    products = []
    for i, place in enumerate(_filter_places(code, row, starts)):
        pixels = code.load(code.at(place, -4), sixteen)
        factors = code.load(code.at(weights, 32 * i), sixteen)
        products.append(code.products(code.shuffle(pixels, pixels, order), factors))
    sums = []
    for two in zip(products[:_HALF], products[_HALF:], strict=True):
        firsts, seconds = (code.shuffle(*two, [*range(at, at + 4), *range(at + 8, at + 12)]) for at in (0, 4))
        sums.append(b.add(b.add(firsts, seconds), constant(I32, [_ROUNDING] * 8)))
    _store_outputs(code, sums, target)
