"""Emitting LLVM IR: how kernels get instructions and vectors of fixed length, which Numba has no words for.

LLVM turns portable IR into whatever the processor has (AVX2 and AVX-512 on x86, NEON on ARM, scalar code elsewhere),
with the same results everywhere. A few instructions of x86-64 with AVX2 it does not find by itself; what needs them is
written twice, with equal results. Which one is emitted follows from the processor that Numba compiles for, as
NUMBA_CPU_NAME may say, too. Nothing is aligned or checked: callers prove that addresses are right. All
integer arithmetic wraps around, so any bytes give some result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from typing import Any

from llvmlite import ir
from llvmlite.ir import Value  # what an instruction computes, while its code is being emitted
from numba import types
from numba.extending import intrinsic

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()


def constant(element: ir.Type, values: Sequence[int]) -> ir.Constant:
    """A vector."""
    return ir.Constant(ir.VectorType(element, len(values)), list(values))


class Code:
    """Appends to a function. ``b`` is LLVM's builder; ``has_avx2``: where the code will run."""

    def __init__(self, builder: ir.IRBuilder, has_avx2: bool) -> None:
        self.b, self.has_avx2 = builder, has_avx2

    def at(self, address: Value, offset: int | Value) -> Value:
        """address + offset."""
        return self.b.add(address, I64(offset) if isinstance(offset, int) else offset)

    def load(self, address: Value, kind: ir.Type) -> Value:
        """What lies at an address."""
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=1)

    def store(self, value: Value, address: Value) -> None:
        """Put a value there."""
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=1)

    def number(self, address: Value, kind: ir.Type) -> Value:
        """An unsigned integer in memory, as int64."""
        return self.b.zext(self.load(address, kind), I64)

    def shuffle(self, first: Value, second: Value, order: Sequence[int]) -> Value:
        """Lanes of two vectors by their numbers, counted through both."""
        return self.b.shuffle_vector(first, second, constant(I32, order))

    def splat(self, value: Value, count: int) -> Value:
        """A vector of equal lanes."""
        kind = ir.VectorType(value.type, count)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        return self.shuffle(one, one, [0] * count)

    def joined(self, first: Value, second: Value) -> Value:
        """Two vectors, one behind the other."""
        return self.shuffle(first, second, range(2 * first.type.count))

    def call(self, name: str, result: ir.Type, *arguments: Value) -> Value:
        """An LLVM intrinsic, such as a target's own instruction."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = self.b.module.globals.get(name) or ir.Function(self.b.module, kind, name)
        return self.b.call(function, arguments)

    def extended(self, value: Value, kind: ir.Type, signed: bool = True) -> Value:
        """Lanes of a wider type."""
        target = ir.VectorType(kind, value.type.count)
        return self.b.sext(value, target) if signed else self.b.zext(value, target)

    def high_product(self, value: Value, factor: Value, signed: bool = True) -> Value:
        """High halves of the products of 16-bit lanes."""
        product = self.b.mul(self.extended(value, I32, signed), self.extended(factor, I32, signed))
        return self.b.trunc(self.b.lshr(product, constant(I32, [16] * value.type.count)), value.type)

    def rounded_product(self, value: Value, factor: Value) -> Value:
        """Products of 16 int16 lanes over 32768, rounded to the nearest; not of −32768 by itself."""
        if self.has_avx2:
            return self.call("llvm.x86.avx2.pmul.hr.sw", value.type, value, factor)
        count = value.type.count
        product = self.b.mul(self.extended(value, I32), self.extended(factor, I32))
        rounded = self.b.ashr(self.b.add(product, constant(I32, [1 << 14] * count)), constant(I32, [15] * count))
        return self.b.trunc(rounded, value.type)

    def pairs(self, first: Value, second: Value) -> tuple[Value, Value]:
        """Lanes of two vectors of 16 int16 side by side, within each half: lanes 0-3 and 8-11; 4-7 and 12-15."""
        # As AVX2's unpack instructions take them, which never cross the middle of a register.
        low = [16 * (i % 2) + i // 2 + start for start in (0, 8) for i in range(8)]
        return self.shuffle(first, second, low), self.shuffle(first, second, [lane + 4 for lane in low])

    def products(self, pairs: Value, factors: Value) -> Value:
        """Sums of the two products of 8 pairs of int16 with as many factors, int32."""
        if self.has_avx2:
            return self.call("llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), pairs, factors)
        product = self.b.mul(self.extended(pairs, I32), self.extended(factors, I32))
        even, odd = (self.shuffle(product, product, range(i, 16, 2)) for i in range(2))
        return self.b.add(even, odd)

    def sums(self, pairs: Value, a: int, b: int) -> Value:
        """a × first + b × second of 8 pairs of int16, int32."""
        return self.products(pairs, constant(I16, [a, b] * 8))

    def narrow(self, low: Value, high: Value) -> Value:
        """Two vectors of 8 int32, as ``pairs`` orders them, to 16 int16 with saturation."""
        if self.has_avx2:
            return self.call("llvm.x86.avx2.packssdw", ir.VectorType(I16, 16), low, high)
        half = ir.VectorType(I16, 8)
        low, high = (self.b.trunc(self.clamp(part, -(1 << 15), (1 << 15) - 1), half) for part in (low, high))
        return self.shuffle(low, high, [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15])

    def halves(self, levels: Value) -> tuple[Value, Value]:
        """32 uint8 to two vectors of 16 int16, as ``saturated`` takes them: lanes 0-7 and 16-23; 8-15 and 24-31."""
        zero, low = constant(I8, [0] * 32), [*range(8), *range(16, 24)]
        orders = ([lane for i in low for lane in (i + more, 32)] for more in (0, 8))
        first, second = (self.b.bitcast(self.shuffle(levels, zero, order), ir.VectorType(I16, 16)) for order in orders)
        return first, second

    def saturated(self, first: Value, second: Value) -> Value:
        """Two vectors of 16 int16 to 32 uint8, within each half those of the first before those of the second."""
        if self.has_avx2:
            return self.call("llvm.x86.avx2.packuswb", ir.VectorType(I8, 32), first, second)
        order = [*range(8), *range(16, 24), *range(8, 16), *range(24, 32)]
        return self.shuffle(self.bytes_of(first), self.bytes_of(second), order)

    def clamp(self, value: Value, low: int, high: int) -> Value:
        """Lanes kept within bounds."""
        least, most = (constant(value.type.element, [bound] * value.type.count) for bound in (low, high))
        value = self.b.select(self.b.icmp_signed("<", value, least), least, value)
        return self.b.select(self.b.icmp_signed(">", value, most), most, value)

    def bytes_of(self, value: Value) -> Value:
        """int16 lanes to uint8, saturated."""
        return self.b.trunc(self.clamp(value, 0, 255), ir.VectorType(I8, value.type.count))


def instruction(result: types.Type, *arguments: types.Type) -> Callable[[Callable[..., Value]], Callable[..., Any]]:
    """Turn a function that emits code into one that kernels call; the code becomes part of the caller's.

    The function takes a ``Code`` and the arguments as values, and returns the result, or None for ``types.void``.

    Args:
        result: Numba's type of the result.
        arguments: Numba's types of what a kernel passes, which is converted to them.
    """

    def make(emit: Callable[..., Value]) -> Callable[..., Any]:
        def generate(context: Any, builder: ir.IRBuilder, _: Any, values: Sequence[Value]) -> Value:
            *_, features = context.codegen().magic_tuple()
            done = emit(Code(builder, "+avx2" in features.split(",")), *values)
            return context.get_dummy_value() if done is None else done

        def typed(typing_context: Any, *_: types.Type) -> tuple:
            return result(*arguments), generate

        names = ["typing_context", *list(signature(emit).parameters)[1:]]
        typed.__name__, typed.__doc__ = emit.__name__, emit.__doc__
        shown = Signature([Parameter(name, Parameter.POSITIONAL_ONLY) for name in names])
        typed.__signature__ = shown  # type: ignore[attr-defined] # Numba takes the kernel's arguments for its own *_
        return intrinsic(typed)

    return make
