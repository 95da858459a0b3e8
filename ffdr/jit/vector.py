"""What the decoder's vector code is built with: LLVM IR on vectors of fixed length, in two versions.

Every function that has two has the same results in both: ``fast`` uses a few instructions of x86-64 with AVX2 that LLVM
does not find by itself; the other is IR that any processor runs. On a processor without AVX2 both are the latter.
Nothing is aligned or checked: the callers prove that addresses are right. All arithmetic wraps around, so any stored
bytes give some samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HAS_AVX2 = bool(llvm.get_host_cpu_features().get("avx2"))


def constant(element: ir.Type, values: Sequence[int]) -> ir.Constant:
    """A vector."""
    return ir.Constant(ir.VectorType(element, len(values)), list(values))


class Code:
    """Builds IR; ``fast`` says which version."""

    def __init__(self, builder: ir.IRBuilder, fast: bool) -> None:
        self.b, self.fast = builder, fast and HAS_AVX2

    def at(self, address: Any, offset: int | Any) -> Any:
        """address + offset."""
        return self.b.add(address, I64(offset) if isinstance(offset, int) else offset)

    def load(self, address: Any, kind: ir.Type) -> Any:
        """What lies at an address."""
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=1)

    def store(self, value: Any, address: Any) -> None:
        """Put a value there."""
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=1)

    def number(self, address: Any, kind: ir.Type) -> Any:
        """An unsigned integer in memory, as int64."""
        return self.b.zext(self.load(address, kind), I64)

    def shuffle(self, first: Any, second: Any, order: Sequence[int]) -> Any:
        """Lanes of two vectors by their numbers, counted through both."""
        return self.b.shuffle_vector(first, second, constant(I32, order))

    def splat(self, value: Any, count: int) -> Any:
        """A vector of equal lanes."""
        kind = ir.VectorType(value.type, count)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        return self.shuffle(one, one, [0] * count)

    def joined(self, first: Any, second: Any) -> Any:
        """Two vectors, one behind the other."""
        return self.shuffle(first, second, range(2 * first.type.count))

    def call(self, name: str, result: ir.Type, *arguments: Any) -> Any:
        """A target's own instruction."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = self.b.module.globals.get(name) or ir.Function(self.b.module, kind, name)
        return self.b.call(function, arguments)

    def wide(self, value: Any, kind: ir.Type, signed: bool = True) -> Any:
        """Lanes extended."""
        target = ir.VectorType(kind, value.type.count)
        return self.b.sext(value, target) if signed else self.b.zext(value, target)

    def high(self, value: Any, factor: Any, signed: bool = True) -> Any:
        """High halves of the products of 16-bit lanes."""
        product = self.b.mul(self.wide(value, I32, signed), self.wide(factor, I32, signed))
        return self.b.trunc(self.b.lshr(product, constant(I32, [16] * value.type.count)), value.type)

    def pairs(self, first: Any, second: Any) -> tuple[Any, Any]:
        """Lanes of two vectors of 16 int16 side by side, within each half: lanes 0-3 and 8-11; 4-7 and 12-15."""
        low = [16 * (i % 2) + i // 2 + start for start in (0, 8) for i in range(8)]
        return self.shuffle(first, second, low), self.shuffle(first, second, [lane + 4 for lane in low])

    def sums(self, pairs: Any, a: int, b: int) -> Any:
        """a × first + b × second of 8 pairs of int16, int32."""
        factors = constant(I16, [a, b] * 8)
        if self.fast:
            return self.call("llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), pairs, factors)
        product = self.b.mul(self.wide(pairs, I32), constant(I32, [a, b] * 8))
        return self.b.add(
            self.shuffle(product, product, range(0, 16, 2)), self.shuffle(product, product, range(1, 16, 2))
        )

    def narrow(self, low: Any, high: Any) -> Any:
        """Two vectors of 8 int32, as ``pairs`` orders them, to 16 int16 with saturation."""
        if self.fast:
            return self.call("llvm.x86.avx2.packssdw", ir.VectorType(I16, 16), low, high)
        half = ir.VectorType(I16, 8)
        low, high = (self.b.trunc(self.clamp(part, -(1 << 15), (1 << 15) - 1), half) for part in (low, high))
        return self.shuffle(low, high, [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15])

    def saturated(self, first: Any, second: Any) -> Any:
        """Two vectors of 16 int16 to 32 uint8, within each half those of the first before those of the second."""
        if self.fast:
            return self.call("llvm.x86.avx2.packuswb", ir.VectorType(I8, 32), first, second)
        order = [*range(8), *range(16, 24), *range(8, 16), *range(24, 32)]
        return self.shuffle(self.bytes_of(first), self.bytes_of(second), order)

    def clamp(self, value: Any, low: int, high: int) -> Any:
        """Lanes kept within bounds."""
        least, most = (constant(value.type.element, [bound] * value.type.count) for bound in (low, high))
        value = self.b.select(self.b.icmp_signed("<", value, least), least, value)
        return self.b.select(self.b.icmp_signed(">", value, most), most, value)

    def bytes_of(self, value: Any) -> Any:
        """int16 lanes to uint8, saturated."""
        return self.b.trunc(self.clamp(value, 0, 255), ir.VectorType(I8, value.type.count))


def in_both_versions(builder: ir.IRBuilder, fast: Any, emit: Callable[[Code], None]) -> None:
    """Emit code twice, of which ``fast`` (i1) chooses one as it runs. Once is enough where both are the same."""
    if not HAS_AVX2:
        emit(Code(builder, False))
        return
    with builder.if_else(fast) as (then, otherwise):
        with then:
            emit(Code(builder, True))
        with otherwise:
            emit(Code(builder, False))


def _load_intrinsic(kind: ir.Type) -> Callable[[int], int]:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return Code(builder, False).number(arguments[0], kind)

        return types.int64(types.int64), generate

    return load


byte_at, short_at, word_at = map(_load_intrinsic, (I8, I16, I32))
"""The unsigned integer of 8, 16 or 32 bits at an address. The decoder counts in addresses, int64: arrays that functions
hand to each other in its innermost loops would be counted in and out of use, which takes longer than the work.
"""


@intrinsic
def signed_short_at(typingctx: Any, address: Any) -> Any:
    """The int16 at an address, as int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sext(Code(builder, False).load(arguments[0], I16), I64)

    return types.int64(types.int64), generate
