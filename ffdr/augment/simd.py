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

LANES = 16
"""Bytes that ``blend_rows`` handles at a time."""


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
    """Weighted sum of ``taps`` rows, 16 bytes of each, into 16 int16 at ``target`` in units of 1/128.

    target, source, weights: addresses (uint64); stride: bytes from row to row (uint64); taps: int64; weights: int32 in
    units of 1/32768, summing to at most 32768. Each product is cut to 1/128; half a unit a tap but the first makes up
    for it on average, and is too little to change a plain copy.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, from_, step, factors, count = arguments
        short, wide = ir.VectorType(_I16, LANES), ir.VectorType(_I32, LANES)
        bias = builder.trunc(builder.lshr(count, ir.Constant(_I64, 1)), _I16)
        total = cgutils.alloca_once_value(builder, _splat(builder, bias, LANES))
        with cgutils.for_range(builder, count) as loop:
            address = builder.add(from_, builder.mul(loop.index, step))
            values = builder.zext(_load(builder, address, ir.VectorType(_I8, LANES)), short)
            scaled = builder.shl(values, _vector(_I16, [8] * LANES))
            # Loaded anew for each block of 16: a weight widened outside the loop would hide from LLVM that this is a
            # 16-bit multiply-high, one instruction instead of six.
            where = builder.add(factors, builder.shl(loop.index, ir.Constant(_I64, 2)))
            weight = _splat(builder, _load(builder, where, _I16), LANES)
            product = builder.mul(builder.zext(scaled, wide), builder.zext(weight, wide))
            high = builder.trunc(builder.lshr(product, _vector(_I32, [16] * LANES)), short)
            builder.store(builder.add(builder.load(total), high), total)
        _store(builder, builder.load(total), to)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64, types.uint64, types.int64), code


@intrinsic
def blend_columns(typingctx: Any, target: Any, first: Any, second: Any, weights: Any, pairs: Any) -> Any:
    """Two neighbouring output pixels from a row of int16 RGB pixels; writes 4 bytes at ``target`` and 4 at + 3.

    first, second: addresses of the first pixel under each one's filter; weights: address of int16 in units of
    1/16384, for either pixel ``pairs`` groups of (a, b) four times over; pairs: int64. The row is in units of 1/128 and
    the sum is rounded to whole grey levels. Reads 12 * pairs + 4 bytes at either address; the fourth byte of a pixel is
    noise that the next pixel overwrites.
    """
    even, odd = list(range(0, 16, 2)), list(range(1, 16, 2))
    # r0 g0 b0 r1 g1 b1 . . of both pixels to r0 r1 g0 g1 b0 b1 . .
    order = [0, 3, 1, 4, 2, 5, 6, 7]
    order = order + [8 + lane for lane in order]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, left, right, factors, count = arguments
        eight, wide = ir.VectorType(_I16, 8), ir.VectorType(_I32, 16)
        span = builder.shl(count, ir.Constant(_I64, 4))
        total = cgutils.alloca_once_value(builder, _vector(_I32, [1 << 20] * 8))
        with cgutils.for_range(builder, count) as loop:
            offset = builder.mul(loop.index, ir.Constant(_I64, 12))
            pixels = _shuffle(
                builder,
                _load(builder, builder.add(left, offset), eight),
                _load(builder, builder.add(right, offset), eight),
                order,
            )
            where = builder.add(factors, builder.shl(loop.index, ir.Constant(_I64, 4)))
            weight = _shuffle(
                builder,
                _load(builder, where, eight),
                _load(builder, builder.add(where, span), eight),
                list(range(16)),
            )
            product = builder.mul(builder.sext(pixels, wide), builder.sext(weight, wide))
            both = builder.add(_shuffle(builder, product, product, even), _shuffle(builder, product, product, odd))
            builder.store(builder.add(builder.load(total), both), total)
        grey = builder.lshr(builder.load(total), _vector(_I32, [21] * 8))
        packed = builder.bitcast(builder.trunc(grey, ir.VectorType(_I8, 8)), ir.VectorType(_I32, 2))
        _store(builder, builder.extract_element(packed, ir.Constant(_I32, 0)), to)
        _store(builder, builder.extract_element(packed, ir.Constant(_I32, 1)), builder.add(to, ir.Constant(_I64, 3)))
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
