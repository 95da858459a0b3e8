"""The two passes of the resize, as vector code: what the auto-vectoriser does not find by itself."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ffdr.jit.ir import I8, I16, I32, Code, Value, constant, instruction

LANES = 32
"""Bytes of a row that ``blend_rows`` makes at a time."""
GROUP = 4
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


@instruction(types.void, types.uint64, types.uint64, types.uint64, types.uint64, types.int64)
def blend_columns(code: Code, target: Value, row: Value, starts: Value, weights: Value, pairs: Value) -> None:
    """Four neighbouring output pixels from a row of int16 RGB pixels, 12 bytes; writes 16 bytes at ``target``.

    row: address of the row, in units of 1/128; starts: address of four int32, bytes from there to the first pixel
    under each output's filter; weights: address of int16 in units of 1/16384, for each pair of taps and each of the
    four pixels (a, b) four times over; pairs: pairs of taps, int64. Sums are rounded to whole grey levels. Reads
    12 * pairs + 4 bytes from each start on; the last four bytes written are noise that the next pixels overwrite.
    """
    b, lanes = code.b, 8 * GROUP
    # A pair of taps of one output is a load of eight int16, two pixels and two lanes of noise:
    #
    #   loaded    r0 g0 b0 r1 g1 b1  .  .
    #   shuffled  r0 r1 g0 g1 b0 b1  .  .      so that (a, b) · (first, second) is a multiply-add of neighbours
    #
    # All four outputs' loads are joined to one vector of 32 lanes, and their sums, r g b . each, closed up to r g b
    # r g b r g b r g b at the end. All lanes stay in use, the noise goes last: were some dropped, LLVM would take the
    # multiply-add apart.
    order = [8 * pixel + lane for pixel in range(GROUP) for lane in (0, 3, 1, 4, 2, 5, 6, 7)]
    compact = [4 * pixel + lane for pixel in range(GROUP) for lane in range(3)] + [3, 7, 11, 15]
    places = [code.at(row, code.number(code.at(starts, 4 * i), I32)) for i in range(GROUP)]
    total = cgutils.alloca_once_value(b, constant(I32, [1 << 20] * (lanes // 2)))
    with cgutils.for_range(b, pairs) as loop:
        along = b.mul(loop.index, pairs.type(12))
        parts = [code.load(code.at(place, along), ir.VectorType(I16, 8)) for place in places]
        pixels = code.shuffle(code.joined(*parts[:2]), code.joined(*parts[2:]), order)
        factors = code.load(code.at(weights, b.shl(loop.index, pairs.type(6))), ir.VectorType(I16, lanes))
        product = b.mul(code.extended(pixels, I32), code.extended(factors, I32))
        even, odd = (code.shuffle(product, product, range(i, lanes, 2)) for i in range(2))
        b.store(b.add(b.load(total), b.add(even, odd)), total)
    grey = b.lshr(b.load(total), constant(I32, [21] * (lanes // 2)))
    levels = b.trunc(grey, ir.VectorType(I8, lanes // 2))
    code.store(code.shuffle(levels, levels, compact), target)
