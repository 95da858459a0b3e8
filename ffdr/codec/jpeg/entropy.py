"""The entropy-coded data of a restart segment, 4:2:0: bytes without stuffing, Huffman codes, coefficients.

A segment is first copied without its stuffed zeros, so that decoding needs no look at single bytes. From there, bits
come through a word of 64 that is filled up once for two coefficients. Of an image's 18,000 coefficients at quality 90,
nine in ten take one look-up each (``tables.py``), and leave the loop by no other branch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from ffdr.codec.dct.format import ZIGZAG
from ffdr.codec.jpeg.tables import END_OF_BLOCK, LARGEST, LOOKUP_BITS, NOT_FINAL, PLACES, SYMBOLS
from ffdr.jit.instructions import byte_at, long_at, put_short, swap_bytes, word_at
from ffdr.jit.ir import I1, I8, I64, Code, Value, instruction
from ffdr.jit.kernel import inlined_kernel, kernel

_LANES = 32
_TO_INDEX = np.uint64(64 - LOOKUP_BITS)
_PAST = 64
"""Advance of a code that does not exist."""
BLOCK_SLACK = 2 * 8 * 32
"""Bytes from a block's first coefficient to the one that takes what lies behind the 63rd; blocks may overlap there."""
CLEAN_SLACK = 2048
"""Bytes behind a segment that decoding may look at before it notices: an MCU of 6 blocks of 64 codes with values, 27
bits at most, and a load; and that the copy may write to, a vector."""


def _places() -> np.ndarray:
    """(192,) byte of a coefficient by zig-zag rank, in blocks laid out in pairs (``idct.LoosePair``)."""
    places = np.full(END_OF_BLOCK + 64, BLOCK_SLACK, np.int64)
    places[:64] = ZIGZAG // 8 * 32 + ZIGZAG % 8 * 2
    return places


_PLACES = _places()


class Bits(NamedTuple):
    """What comes next in a segment."""

    word: np.uint64
    """the first bit highest"""
    held: int
    """how many bits of the word have been taken in; behind them may stand some of the next"""
    place: int
    """address of the first byte that has not"""


@instruction(types.int64, types.int64, types.int64)
def _copy_to_ff(code: Code, target: Value, source: Value) -> Value:
    """Copy 32 bytes between two addresses. Returns the place (0 to 31) of the first FF among them, 32 for none."""
    vector = ir.VectorType(I8, _LANES)
    data = code.load(source, vector)
    code.store(data, target)
    found = code.b.icmp_unsigned("==", data, vector([0xFF] * _LANES))
    return code.b.zext(code.b.cttz(code.b.bitcast(found, ir.IntType(_LANES)), I1(0)), I64)


@kernel
def unstuff(source: int, limit: int, readable: int, target: int) -> tuple[int, int]:
    """Copy the bytes of a segment, FF 00 as FF.

    Args:
        source: address of the first one.
        limit: address where the segment's row ends.
        readable: address behind the last byte that may be read, at least 2 behind ``limit``.
        target: address of as many bytes as the row has left, and ``CLEAN_SLACK``.

    Returns:
        Number of bytes copied, and the address of the FF that ended it, of a marker, or ``limit``.
    """
    at, out = source, target
    while at < limit:
        lane = np.int64(0)
        if at + _LANES <= readable:
            lane = _copy_to_ff(out, at)
        else:
            while lane < limit - at and byte_at(at + lane) != 0xFF:
                put_short(byte_at(at + lane), out + lane)
                lane += 1
            if at + lane < limit:
                put_short(np.int64(0xFF), out + lane)
        lane = min(lane, limit - at)
        at, out = at + lane, out + lane
        if lane < _LANES and at < limit:
            if byte_at(at + 1) != 0:
                break
            at, out = at + 2, out + 1
    return out - target, min(at, limit)


@inlined_kernel
def open_bits(start: int) -> Bits:
    """Those that begin at an address."""
    return Bits(np.uint64(0), np.int64(0), start)


@inlined_kernel
def bits_taken(bits: Bits, start: int) -> int:
    """How many bits have been used up since the address ``start``."""
    return 8 * (bits.place - start) - bits.held


@inlined_kernel
def _filled(bits: Bits) -> Bits:
    """The same with at least 56 bits in the word, which serve for two codes with their values."""
    # Whole bytes are taken in, as many as have room. What the load brings of the byte behind them stays in the word: it
    # is or-ed with itself the next time.
    word = bits.word | swap_bytes(long_at(np.uint64(bits.place))) >> np.uint64(bits.held)
    return Bits(word, bits.held | 56, bits.place + ((63 - bits.held) >> 3))


@inlined_kernel
def _drop(bits: Bits, entry: int) -> Bits:
    """The same without the bits that an entry takes."""
    taken = entry & 63
    return Bits(bits.word << np.uint64(taken), bits.held - taken, bits.place)


@kernel
def _complete(table: int, word: np.uint64, entry: int) -> int:
    """A final entry for one that is not; ``_PAST`` for a code that does not exist."""
    length, size, advance = entry & 63, entry >> 16, entry >> 8 & 0xFF
    if length == 0:
        length = np.int64(LOOKUP_BITS + 1)
        code = np.int64(word >> np.uint64(64 - length))
        while length <= 16 and code > np.int64(np.int32(word_at(table + 4 * (LARGEST + length)))):
            length += 1
            code = np.int64(word >> np.uint64(64 - length))
        if length > 16:
            return _PAST << 8
        place = code + np.int64(np.int32(word_at(table + 4 * (PLACES + length))))
        symbol = word_at(table + 4 * (SYMBOLS + (place & 255)))
        size, advance = symbol & 15, (symbol >> 4) + 1
        if symbol == 0:
            advance = np.int64(END_OF_BLOCK)
    half = 1 << size >> 1
    bits = np.int64(word << np.uint64(length) >> np.uint64(1) >> np.uint64(63 - size))
    value = bits if bits >= half else bits - 2 * half + 1
    return (value & 0xFFFF) << 16 | advance << 8 | (length + size)


@inlined_kernel
def _look_up(table: int, word: np.uint64) -> int:
    entry = word_at(table + 4 * np.int64(word >> _TO_INDEX))
    if entry & NOT_FINAL:
        entry = _complete(table, word, entry)
    return entry


@inlined_kernel
def decode_dc(bits: Bits, table: int) -> tuple[Bits, int]:
    """(What follows, difference of DC); one that is too large where the code does not exist."""
    bits = _filled(bits)
    entry = _look_up(table, bits.word)
    return _drop(bits, entry), np.int64(np.int16(entry >> 16)) + ((entry >> 8 & _PAST) << 16)


@inlined_kernel
def decode_ac(bits: Bits, table: int, block: int) -> tuple[Bits, int]:
    """Decode a block's coefficients behind DC to where they belong.

    Args:
        bits: what comes next.
        table: address of a look-up.
        block: address of the block, laid out as ``idct.LoosePair`` says, and of ``BLOCK_SLACK`` + 2 bytes.

    Returns:
        (What follows, zig-zag rank of the last coefficient); the rank is above 63 where it is none.
    """
    rank = np.int64(0)
    while rank < 63:
        bits = _filled(bits)
        entry = _look_up(table, bits.word)
        rank += entry >> 8 & 0xFF
        put_short(entry >> 16, block + _PLACES[np.uint64(rank)])
        bits = _drop(bits, entry)
        if rank >= 63:
            break
        entry = _look_up(table, bits.word)
        rank += entry >> 8 & 0xFF
        put_short(entry >> 16, block + _PLACES[np.uint64(rank)])
        bits = _drop(bits, entry)
    return bits, (rank - END_OF_BLOCK if rank >= END_OF_BLOCK else rank)
