"""One row of packed blocks becomes samples: DC, columns to skip, two blocks at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdr.codec.dct.coding import Coding, payload
from ffdr.codec.dct.format import (
    BIASES,
    CHROMA_GROUPS,
    COEFFICIENT_BITS,
    ENTRIES,
    HEAD_BIAS,
    LOW_GROUPS,
    TABLE_SHAPE,
    WIDTHS,
)
from ffdr.codec.dct.idct import (
    ENTRY_BYTES,
    TYPE_BYTES,
    fill_pair,
    pair_1,
    pair_2,
    pair_4,
    pair_8,
    unpack_dc,
)
from ffdr.jit.kernel import address_of, inlined_kernel, kernel
from ffdr.jit.vector import byte_at, short_at, signed_short_at

_LOW, _HIGH, _CHROMA, _CHROMA_HIGH, _EMPTY = (ENTRIES * i for i in range(5))
"""Where in ``Tables.entries`` the codebooks begin; the last one is the one entry of a block with nothing."""
_BYTES, _HAS_HIGH, _USED = 12, 13, 14
_WIDEST = int(np.flatnonzero(WIDTHS == COEFFICIENT_BITS)[0])


class Tables(NamedTuple):
    """A file's coding as the decoder takes it."""

    types: np.ndarray
    """(14, 64) uint8, see ``idct.TYPE_BYTES``"""
    entries: np.ndarray
    """(1025, 16) uint8 codebook entries, see ``idct.ENTRY_BYTES``; byte 13: whether groups 4 to 7 follow; byte 14: how
    many groups of the entry are in use, those of type 0 at the end left out"""
    quants: np.ndarray
    """(3 Q, 64) uint16"""
    first_with_high: int


def make_tables(coding: Coding | None) -> Tables:
    """The decoder's tables of a coding; None: of a file without packed images."""
    entries = np.zeros((_EMPTY + 1, ENTRY_BYTES), np.uint8)
    if coding is None:
        return Tables(_type_table(), entries, np.zeros((0, TABLE_SHAPE[1]), np.uint16), ENTRIES)
    chroma_low, chroma_high = coding.chroma[:, :LOW_GROUPS], coding.chroma[:, LOW_GROUPS:CHROMA_GROUPS]
    for start, types in ((_LOW, coding.low), (_HIGH, coding.high), (_CHROMA, chroma_low), (_CHROMA_HIGH, chroma_high)):
        rows = entries[start : start + ENTRIES]
        rows[:, :8] = (types.astype("<u2") * TYPE_BYTES).view(np.uint8)
        rows[:, 9:12] = np.cumsum(WIDTHS[types], axis=1)[:, :3]
        rows[:, _BYTES] = payload(types)
        rows[:, _USED] = ((types != 0) * np.arange(1, 5)).max(axis=1)
    entries[_LOW : _LOW + ENTRIES, _HAS_HIGH] = np.arange(ENTRIES) >= coding.first_with_high
    entries[_CHROMA : _CHROMA + ENTRIES, _HAS_HIGH] = chroma_high.any(axis=1)
    quants = np.ascontiguousarray(coding.quant.reshape(-1, TABLE_SHAPE[1]))
    return Tables(_type_table(), entries, quants, coding.first_with_high)


def _type_table() -> np.ndarray:
    table = np.zeros((len(WIDTHS), TYPE_BYTES), np.uint8)
    lane = np.arange(8)
    for type_, (width, bias) in enumerate(zip(WIDTHS.tolist(), BIASES.tolist(), strict=True)):
        begin = lane * width
        table[type_, 0:16:2], table[type_, 1:16:2] = begin // 8, begin // 8 + 1
        up = (1 << (16 - width - begin % 8)) & 0xFFFF if width else np.zeros(8, int)
        for at, values in ((16, up), (32, np.full(8, 1 << width)), (48, np.full(8, bias))):
            table[type_, at : at + 16] = (values & 0xFFFF).astype("<u2").view(np.uint8)
    return table


class Books(NamedTuple):
    """The same as addresses, for kernels."""

    types: int
    entries: int
    quants: int
    sets: int
    """how many sets of quantisation tables there are"""
    first_with_high: int


@kernel
def address_books(tables: Tables) -> Books:
    """Addresses of the tables, which must be kept alive meanwhile."""
    sets = tables.quants.shape[0] // TABLE_SHAPE[0]
    types, entries = np.int64(address_of(tables.types)), np.int64(address_of(tables.entries))
    return Books(types, entries, np.int64(address_of(tables.quants)), sets, np.int64(tables.first_with_high))


class Row(NamedTuple):
    """A block row, and which of its blocks are wanted where. All places are addresses."""

    start: int
    end: int
    blocks: int
    first: int
    count: int
    quant: int
    dcs: int
    """room for the int16 DCs of the wanted blocks and of 14 more"""
    out: int
    stride: int
    is_luma: bool


@inlined_kernel
def _type_of_width(width: int) -> int:
    """The type of unsigned DCs of this width, −1 if there is none."""
    return width if width <= 10 else (_WIDEST if width == COEFFICIENT_BITS else -1)


@kernel
def _decode_dc(row: Row, dc: int, types: int, fast: bool) -> None:
    """DC of the row's wanted blocks, and of those that share their heads; all DCs begin at ``dc``."""
    first, last = row.first >> 3, (row.first + row.count - 1) >> 3
    for head in range(last + 1):
        value = short_at(row.start + 2 * head)
        width = value & 15
        if head >= first:
            place, type_ = row.dcs + 16 * (head - first), types + TYPE_BYTES * _type_of_width(width)
            unpack_dc(fast, place, dc, type_, (value >> 4) - HEAD_BIAS)
        dc += width


@kernel
def _open_row(row: Row, first_with_high: int) -> tuple[int, int, int]:
    """Where ``high``, ``dc`` and ``ac`` of a row begin; zeros if they don't fit."""
    none = (np.int64(0), np.int64(0), np.int64(0))
    heads = (row.blocks + 7) >> 3
    high = row.start + 2 * heads + row.blocks
    if high > row.end:
        return none
    highs = np.int64(0)
    if row.is_luma:
        for place in range(high - row.blocks, high):
            highs += np.int64(byte_at(place) >= first_with_high)
    widths, bad = np.int64(0), False
    for head in range(heads):
        width = byte_at(row.start + 2 * head) & 15
        bad |= _type_of_width(width) < 0
        widths += width
    dc = high + highs
    return none if bad or dc + widths > row.end else (high, dc, dc + widths)


@inlined_kernel
def _next_block(at: int, high: int, is_luma: bool, entries: int) -> tuple[int, int, int, int]:
    """Entries of a block's groups 0 to 3 and 4 to 7, its bytes, and the next place in ``high``."""
    code = byte_at(at)
    rest = entries + ENTRY_BYTES * _EMPTY
    if is_luma:
        low = entries + ENTRY_BYTES * (_LOW + code)
        if byte_at(low + _HAS_HIGH) != 0:
            rest = entries + ENTRY_BYTES * (_HIGH + byte_at(high))
            high += 1
    else:
        low = entries + ENTRY_BYTES * (_CHROMA + code)
        if byte_at(low + _HAS_HIGH) != 0:
            rest = entries + ENTRY_BYTES * (_CHROMA_HIGH + code)
    return low, rest, byte_at(low + _BYTES) + byte_at(rest + _BYTES), high


@inlined_kernel
def _level(dc: int, quant: int) -> int:
    """The one level of a block that is nothing but DC, as the inverse DCT would make it."""
    value = np.int64(np.int16(dc * quant))
    return max(0, min(255, (((value << 2) + 16) >> 5) + 128))


class _Pair(NamedTuple):
    """Two neighbouring blocks: addresses of their entries and of their bytes, DCs."""

    low_a: int
    low_b: int
    high_a: int
    high_b: int
    at_a: int
    at_b: int
    dc_a: int
    dc_b: int


@inlined_kernel
def _groups_of(low: int, high: int) -> int:
    """How many groups of a block there are to unpack."""
    rest = byte_at(high + _USED)
    return 4 + rest if rest != 0 else byte_at(low + _USED)


@inlined_kernel
def _decode_pair(two: _Pair, out: int, stride: int, quant: int, types: int, fast: bool) -> None:
    """Samples of two blocks."""
    low_a, low_b, high_a, high_b, at_a, at_b, a, b = two
    groups = max(_groups_of(low_a, high_a), _groups_of(low_b, high_b))
    if groups == 0:
        fill_pair(out, stride, _level(a, short_at(quant)), _level(b, short_at(quant)))
    elif groups == 1:
        pair_1(fast, out, stride, low_a, low_b, high_a, high_b, at_a, at_b, a, b, quant, types)
    elif groups == 2:
        pair_2(fast, out, stride, low_a, low_b, high_a, high_b, at_a, at_b, a, b, quant, types)
    elif groups <= 4:
        pair_4(fast, out, stride, low_a, low_b, high_a, high_b, at_a, at_b, a, b, quant, types)
    else:
        pair_8(fast, out, stride, low_a, low_b, high_a, high_b, at_a, at_b, a, b, quant, types)


@kernel
def decode_row(row: Row, books: Books, fast: bool) -> bool:
    """Samples of the wanted blocks of a row, and of one more if their number is odd. Returns whether it fits."""
    high, dc, ac = _open_row(row, books.first_with_high)
    if ac == 0:
        return False
    _decode_dc(row, dc, books.types, fast)
    entries, place = books.entries, ac
    low, dcs = row.start + 2 * ((row.blocks + 7) >> 3), row.dcs + 2 * (row.first & 7)
    for i in range(row.first):
        _, _, size, high = _next_block(low + i, high, row.is_luma, entries)
        place += size
    low += row.first
    empty = entries + ENTRY_BYTES * _EMPTY
    for i in range(0, row.count, 2):
        low_a, high_a, size, high = _next_block(low + i, high, row.is_luma, entries)
        at_a = place
        place += size
        low_b, high_b, at_b = empty, empty, at_a
        if i + 1 < row.count:
            low_b, high_b, size, high = _next_block(low + i + 1, high, row.is_luma, entries)
            at_b = place
            place += size
        if place > row.end:
            return False
        two = _Pair(low_a, low_b, high_a, high_b, at_a, at_b, signed_short_at(dcs), signed_short_at(dcs + 2))
        _decode_pair(two, row.out + 8 * i, row.stride, row.quant, books.types, fast)
        dcs += 4
    return True
