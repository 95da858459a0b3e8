"""One stored block row becomes samples: DC, columns to skip, then two blocks at a time.

Nothing is read outside of the row but up to 16 bytes behind its end, which the next row or the image's trailer holds:
``_open_row`` proves that the heads, the codebook entries and the DCs lie inside, ``decode_row`` compares where the
payload of every pair ends before the pair is unpacked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from ffdr.codec.dct.coding import LARGEST, Coding, payload
from ffdr.codec.dct.format import BIASES, COEFFICIENT_BITS, ENTRIES, HEAD_BIAS, LOW_GROUPS, TABLE_SHAPE, WIDTHS
from ffdr.codec.dct.idct import ENTRY_BYTES, TYPE_BYTES, Pair, fill_pair, pair_1, pair_2, pair_4, pair_8, unpack_dc
from ffdr.jit.arguments import array_of, named
from ffdr.jit.instructions import byte_at, short_at, signed_short_at
from ffdr.jit.kernel import address_of, inlined_kernel, kernel
from ffdr.jit.unit import unit

# A codebook entry, as the decoder keeps it; four groups, in types and places:
#
#     0     2     4     6     8    9    10   11   12     13        14    15
#     type0 type1 type2 type3 at0  at1  at2  at3  bytes  has_high  used  -
#     \___ × TYPE_BYTES ____/ \_ first byte of _/
#                              each group: 0, w0,
#                              w0 + w1, ...
#
# Chroma's entries of eight groups are halved: 256 of groups 0 to 3, and 256 of groups 4 to 7 under the same numbers.
_LOW, _HIGH, _CHROMA, _CHROMA_HIGH, _EMPTY = (ENTRIES * i for i in range(5))
"""Where in ``DecodingTables.entries`` the codebooks begin; the last one is the one entry of a block with nothing."""
_BYTES, _HAS_HIGH, _USED = 12, 13, 14


class DecodingTables(NamedTuple):
    """A file's coding as the decoder takes it."""

    types: np.ndarray
    """(14, 64) uint8, see ``idct.TYPE_BYTES``"""
    entries: np.ndarray
    """(1025, 16) uint8 codebook entries, see ``idct.ENTRY_BYTES``; byte 13: whether groups 4 to 7 follow; byte 14: how
    many groups of the entry are in use, those of type 0 at the end left out"""
    quants: np.ndarray
    """(3 Q, 64) uint16"""
    first_with_high: int


def make_tables(coding: Coding | None) -> DecodingTables:
    """The decoder's tables of a coding; None: of a file without coefficient images."""
    entries = np.zeros((_EMPTY + 1, ENTRY_BYTES), np.uint8)
    if coding is None:
        return DecodingTables(_type_table(), entries, np.zeros((0, TABLE_SHAPE[1]), np.uint16), ENTRIES)
    chroma_low, chroma_high = coding.chroma[:, :LOW_GROUPS], coding.chroma[:, LOW_GROUPS:]
    for start, kinds in ((_LOW, coding.low), (_HIGH, coding.high), (_CHROMA, chroma_low), (_CHROMA_HIGH, chroma_high)):
        rows = entries[start : start + ENTRIES]
        rows[:, :8] = (kinds.astype("<u2") * TYPE_BYTES).view(np.uint8)
        rows[:, 9:12] = np.cumsum(WIDTHS[kinds], axis=1)[:, :3]
        rows[:, _BYTES] = payload(kinds)
        rows[:, _USED] = ((kinds != 0) * np.arange(1, 5)).max(axis=1)
    entries[_LOW : _LOW + ENTRIES, _HAS_HIGH] = np.arange(ENTRIES) >= coding.first_with_high
    entries[_CHROMA : _CHROMA + ENTRIES, _HAS_HIGH] = chroma_high.any(axis=1)
    quants = np.ascontiguousarray(coding.quant.reshape(-1, TABLE_SHAPE[1]))
    return DecodingTables(_type_table(), entries, quants, coding.first_with_high)


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


_TABLE = array_of(types.uint8, 2)
TABLES = named(DecodingTables, types=_TABLE, entries=_TABLE, quants=array_of(types.uint16, 2))


class TableAddresses(NamedTuple):
    """The same as addresses, for kernels; the arrays must be kept alive meanwhile."""

    types: int
    entries: int
    quants: int
    sets: int
    """how many sets of quantisation tables there are"""
    first_with_high: int


@kernel
def address_tables(tables: DecodingTables) -> TableAddresses:
    """Addresses of the tables."""
    sets = tables.quants.shape[0] // TABLE_SHAPE[0]
    types, entries = np.int64(address_of(tables.types)), np.int64(address_of(tables.entries))
    return TableAddresses(types, entries, np.int64(address_of(tables.quants)), sets, np.int64(tables.first_with_high))


class Columns(NamedTuple):
    """Which blocks of a plane's rows are wanted."""

    blocks: int
    """of a row"""
    skipped: int
    """before the first wanted one"""
    wanted: int


class BlockRow(NamedTuple):
    """A stored block row, and where the wanted blocks' samples go. All but ``columns`` and ``stride`` are addresses."""

    start: int
    end: int
    columns: Columns
    quant: int
    dcs: int
    """scratch for the int16 DCs of the wanted blocks and of 14 more"""
    out: int
    """8 rows; 8 bytes in each for every wanted block, and for one more where their number is odd"""
    stride: int
    is_luma: bool


class _Parts(NamedTuple):
    """Addresses of the parts of a row that follow its ``low`` entries."""

    high: int
    dc: int
    ac: int


class _Block(NamedTuple):
    """Addresses of a block's codebook entries; how many bytes its groups take."""

    low: int
    high: int
    bytes: int
    next_high: int
    """where the next block's ``high`` entry is, if it has one"""


@inlined_kernel
def _type_of_width(width: int) -> int:
    """The type of unsigned DCs of this width, −1 if there is none."""
    return width if width <= 10 else (LARGEST if width == COEFFICIENT_BITS else -1)


@kernel
def _decode_dc(row: BlockRow, dc: int, types: int) -> None:
    """DC of the row's wanted blocks, and of those that share their heads; all DCs begin at ``dc``."""
    # Heads cover eight blocks each, so up to seven DCs are unpacked before the first wanted block and behind the last.
    first, last = row.columns.skipped >> 3, (row.columns.skipped + row.columns.wanted - 1) >> 3
    for head in range(last + 1):
        value = short_at(row.start + 2 * head)
        width = value & 15
        if head >= first:
            place, type_ = row.dcs + 16 * (head - first), types + TYPE_BYTES * _type_of_width(width)
            unpack_dc(place, dc, type_, (value >> 4) - HEAD_BIAS)
        dc += width


@kernel
def _open_row(row: BlockRow, first_with_high: int) -> _Parts:
    """The parts of a row; zeros if they don't fit, or a head has no known width."""
    none = _Parts(np.int64(0), np.int64(0), np.int64(0))
    heads = (row.columns.blocks + 7) >> 3
    high = row.start + 2 * heads + row.columns.blocks
    if high > row.end:
        return none
    highs = np.int64(0)
    if row.is_luma:
        for place in range(high - row.columns.blocks, high):
            highs += np.int64(byte_at(place) >= first_with_high)
    widths, bad = np.int64(0), False
    for head in range(heads):
        width = byte_at(row.start + 2 * head) & 15
        bad |= _type_of_width(width) < 0
        widths += width
    dc = high + highs
    return none if bad or dc + widths > row.end else _Parts(high, dc, dc + widths)


@inlined_kernel
def _next_block(at: int, high: int, is_luma: bool, entries: int) -> _Block:
    """The block whose ``low`` or ``chroma`` entry is at ``at``; ``high``: where its ``high`` entry is if it has one."""
    # A code is a byte and each codebook has 256 entries, so whatever the bytes, an entry is in the table; and since
    # _open_row counted the codes with a high entry, ``high`` never reaches beyond these.
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
    return _Block(low, rest, byte_at(low + _BYTES) + byte_at(rest + _BYTES), high)


@inlined_kernel
def _level(dc: int, quant: int) -> int:
    """The one level of a block that is nothing but DC, as the inverse DCT would make it."""
    value = np.int64(np.int16(dc * quant))
    return max(0, min(255, (((value << 2) + 16) >> 5) + 128))


@inlined_kernel
def _groups_of(low: int, high: int) -> int:
    """How many groups of a block there are to unpack."""
    rest = byte_at(high + _USED)
    return 4 + rest if rest != 0 else byte_at(low + _USED)


@inlined_kernel
def _decode_pair(pair: Pair) -> None:
    """Samples of two blocks, by the cheapest of the transforms that take all of their groups."""
    groups = max(_groups_of(pair.low_a, pair.high_a), _groups_of(pair.low_b, pair.high_b))
    if groups == 0:
        quant = short_at(pair.quant)
        fill_pair(pair.out, pair.stride, _level(pair.dc_a, quant), _level(pair.dc_b, quant))
    elif groups == 1:
        pair_1(pair)
    elif groups == 2:
        pair_2(pair)
    elif groups <= 4:
        pair_4(pair)
    else:
        pair_8(pair)


@unit(types.boolean, named(BlockRow, columns=named(Columns)), named(TableAddresses))
def decode_row(row: BlockRow, tables: TableAddresses) -> bool:
    """Samples of the wanted blocks of a row, and of one more if their number is odd. Returns whether it fits."""
    parts = _open_row(row, tables.first_with_high)
    if parts.ac == 0:
        return False
    _decode_dc(row, parts.dc, tables.types)
    columns, entries = row.columns, tables.entries
    empty = entries + ENTRY_BYTES * _EMPTY
    codes, dcs = row.start + 2 * ((columns.blocks + 7) >> 3), row.dcs + 2 * (columns.skipped & 7)
    place, high = parts.ac, parts.high
    for i in range(columns.skipped):
        block = _next_block(codes + i, high, row.is_luma, entries)
        place, high = place + block.bytes, block.next_high
    codes += columns.skipped
    for i in range(0, columns.wanted, 2):
        a = _next_block(codes + i, high, row.is_luma, entries)
        b = _Block(empty, empty, 0, a.next_high)
        if i + 1 < columns.wanted:
            b = _next_block(codes + i + 1, a.next_high, row.is_luma, entries)
        at_a, at_b = place, place + a.bytes
        place, high = at_b + b.bytes, b.next_high
        if place > row.end:
            return False
        dc_a, dc_b, out = signed_short_at(dcs), signed_short_at(dcs + 2), row.out + 8 * i
        pair = Pair(
            out, row.stride, a.low, b.low, a.high, b.high, at_a, at_b, dc_a, dc_b, row.quant, tables.types
        )  # fmt: skip
        _decode_pair(pair)
        dcs += 4
    return True
