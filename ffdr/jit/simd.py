"""Vector code for the resize, as portable LLVM IR: what the auto-vectoriser does not find by itself.

Numba compiles a function marked ``intrinsic`` by calling its code generator, which emits LLVM instructions on vectors
of fixed length. LLVM turns them into whatever the processor has (AVX2 and AVX-512 on x86, NEON on ARM, scalar code
elsewhere) with the same results everywhere. Nothing here is aligned, checked or saturating; the callers prove that
addresses and ranges are right.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()

LANES = 32
"""Bytes of a row that ``blend_rows`` makes at a time."""
GROUP = 4
"""Pixels that ``blend_columns`` makes at a time."""


def _vector(element: ir.Type, values: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, len(values)), values)


def _load(builder: Any, address: Any, kind: ir.Type) -> Any:
    return builder.load(builder.inttoptr(address, ir.PointerType(kind)), align=1)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, ir.PointerType(value.type)), align=1)


def _splat(builder: Any, value: Any, count: int) -> Any:
    kind = ir.VectorType(value.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _vector(_I32, [0] * count))


def _shuffle(builder: Any, first: Any, second: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(first, second, _vector(_I32, order))


@intrinsic
def blend_rows(typingctx: Any, target: Any, source: Any, stride: Any, weights: Any, taps: Any) -> Any:
    """Weighted sum of ``taps`` rows, 32 bytes of each, into 32 int16 at ``target`` in units of 1/128.

    target, source, weights: addresses (uint64); stride: bytes from row to row (uint64); taps: int64; weights: for each
    row the same number twice, uint16 in units of 1/32768, summing to at most 32768. Products are cut to 1/128; half a
    unit a tap makes up for it on average, and is too little to change a plain copy.
    """
    half = LANES // 2

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, from_, step, factors, count = arguments
        short, wide = ir.VectorType(_I16, half), ir.VectorType(_I32, half)
        bias = _splat(builder, builder.trunc(builder.lshr(count, ir.Constant(_I64, 1)), _I16), half)
        totals = [cgutils.alloca_once_value(builder, bias) for _ in range(2)]
        with cgutils.for_range(builder, count) as loop:
            address = builder.add(from_, builder.mul(loop.index, step))
            # Loaded anew for each block: a weight widened outside the loop would hide from LLVM that this is a 16-bit
            # multiply-high, one instruction instead of six.
            where = builder.add(factors, builder.shl(loop.index, ir.Constant(_I64, 2)))
            weight = builder.bitcast(_splat(builder, _load(builder, where, _I32), half // 2), short)
            for part, total in enumerate(totals):
                place = builder.add(address, ir.Constant(_I64, part * half))
                values = builder.zext(_load(builder, place, ir.VectorType(_I8, half)), short)
                scaled = builder.shl(values, _vector(_I16, [8] * half))
                product = builder.mul(builder.zext(scaled, wide), builder.zext(weight, wide))
                high = builder.trunc(builder.lshr(product, _vector(_I32, [16] * half)), short)
                builder.store(builder.add(builder.load(total), high), total)
        for part, total in enumerate(totals):
            _store(builder, builder.load(total), builder.add(to, ir.Constant(_I64, part * LANES)))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64, types.uint64, types.int64), code


@intrinsic
def blend_columns(typingctx: Any, target: Any, row: Any, starts: Any, weights: Any, pairs: Any) -> Any:
    """Four neighbouring output pixels from a row of int16 RGB pixels, 12 bytes; writes 16 bytes at ``target``.

    row: address of the row, in units of 1/128; starts: address of four int32, bytes from there to the first pixel
    under each output's filter; weights: address of int16 in units of 1/16384, for each pair of taps and each of the
    four pixels (a, b) four times over; pairs: pairs of taps, int64. Sums are rounded to whole grey levels. Reads
    12 * pairs + 4 bytes from each start on; the last four bytes written are noise that the next pixels overwrite.
    """
    lanes = 8 * GROUP
    # r0 g0 b0 r1 g1 b1 . . of every pixel to r0 r1 g0 g1 b0 b1 . .
    order = [8 * pixel + lane for pixel in range(GROUP) for lane in (0, 3, 1, 4, 2, 5, 6, 7)]
    # r g b . of every pixel to r g b r g b r g b r g b . . . . All lanes stay in use: were some dropped, LLVM would
    # take the multiply-add apart.
    compact = [4 * pixel + lane for pixel in range(GROUP) for lane in range(3)] + [3, 7, 11, 15]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, from_, offsets, factors, count = arguments
        eight, wide = ir.VectorType(_I16, 8), ir.VectorType(_I32, lanes)
        places = [
            builder.add(from_, builder.zext(_load(builder, builder.add(offsets, ir.Constant(_I64, 4 * i)), _I32), _I64))
            for i in range(GROUP)
        ]
        total = cgutils.alloca_once_value(builder, _vector(_I32, [1 << 20] * (lanes // 2)))
        with cgutils.for_range(builder, count) as loop:
            along = builder.mul(loop.index, ir.Constant(_I64, 12))
            parts = [_load(builder, builder.add(place, along), eight) for place in places]
            halves = [_shuffle(builder, parts[i], parts[i + 1], list(range(16))) for i in (0, 2)]
            pixels = _shuffle(builder, *halves, order)
            where = builder.add(factors, builder.shl(loop.index, ir.Constant(_I64, 6)))
            weight = _load(builder, where, ir.VectorType(_I16, lanes))
            product = builder.mul(builder.sext(pixels, wide), builder.sext(weight, wide))
            even, odd = (_shuffle(builder, product, product, list(range(i, lanes, 2))) for i in range(2))
            builder.store(builder.add(builder.load(total), builder.add(even, odd)), total)
        grey = builder.lshr(builder.load(total), _vector(_I32, [21] * (lanes // 2)))
        levels = builder.trunc(grey, ir.VectorType(_I8, lanes // 2))
        _store(builder, _shuffle(builder, levels, levels, compact), to)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64, types.uint64, types.int64), code


@intrinsic
def copy_word(typingctx: Any, target: Any, source: Any) -> Any:
    """Copy four bytes between two addresses (uint64)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _store(builder, _load(builder, arguments[1], _I32), arguments[0])
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), code


@intrinsic
def fused(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c in float32 with one rounding."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), code


@intrinsic
def nearest(typingctx: Any, value: Any) -> Any:
    """A float32 rounded to the nearest integer, half to even."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.rint", [_F32])
        return builder.call(function, arguments)

    return types.float32(types.float32), code
