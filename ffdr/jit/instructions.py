"""Single instructions for kernels: numbers at an address, copies, and arithmetic that Numba has no words for.

The coefficient decoder counts in addresses (int64): arrays that functions hand to each other in its innermost loops
would be counted in and out of use, which takes longer than the work.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils

from ffdr.jit.ir import I8, I16, I32, I64, Code, Value, instruction


@instruction(types.int64, types.int64)
def byte_at(code: Code, address: Value) -> Value:
    """The uint8 at an address, as int64."""
    return code.number(address, I8)


@instruction(types.int64, types.int64)
def short_at(code: Code, address: Value) -> Value:
    """The uint16 at an address, as int64."""
    return code.number(address, I16)


@instruction(types.int64, types.int64)
def signed_short_at(code: Code, address: Value) -> Value:
    """The int16 at an address, as int64."""
    return code.b.sext(code.load(address, I16), I64)


@instruction(types.int64, types.int64)
def word_at(code: Code, address: Value) -> Value:
    """The uint32 at an address, as int64."""
    return code.number(address, I32)


@instruction(types.uint64, types.uint64)
def long_at(code: Code, address: Value) -> Value:
    """The uint64 at an address."""
    return code.load(address, I64)


@instruction(types.void, types.uint64, types.uint64)
def put_long(code: Code, value: Value, address: Value) -> None:
    """Put a uint64 at an address."""
    code.store(value, address)


@instruction(types.void, types.int64, types.int64)
def put_short(code: Code, value: Value, address: Value) -> None:
    """Put the low 16 bits of an int64 at an address."""
    code.store(code.b.trunc(value, I16), address)


@instruction(types.void, types.uint64, types.uint64, types.int64)
def copy_bytes(code: Code, target: Value, source: Value, count: Value) -> None:
    """C's memcpy between two addresses; the ranges may not overlap."""
    to, from_ = (code.b.inttoptr(address, cgutils.voidptr_t) for address in (target, source))
    cgutils.raw_memcpy(code.b, to, from_, count, itemsize=1)


@instruction(types.uint64, types.uint64)
def swap_bytes(code: Code, value: Value) -> Value:
    """The bytes of a uint64 in reverse order: of loaded ones, the first becomes the highest."""
    return code.b.bswap(value)


@instruction(types.float32, types.float32, types.float32, types.float32)
def fused(code: Code, a: Value, b: Value, c: Value) -> Value:
    """a * b + c in float32 with one rounding."""
    return code.b.fma(a, b, c)
