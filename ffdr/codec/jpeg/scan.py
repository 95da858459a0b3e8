"""The entropy-coded data of a sequential scan, Huffman-decoded (ITU-T T.81, annex F.2), whatever the bytes.

The bytes between two restart markers are first copied without their stuffed zeros, with zeros behind. So decoding
needs no look at single bytes: any 64 bits may be loaded from any bit position that a block can reach, and once a block
is decoded it shows whether it took more bits than there are.

A look-up of the next ``_BITS`` bits gives a whole coefficient where its code and its value are no longer than that,
which at quality 90 is nine out of ten times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdr.codec.dct.format import COEFFICIENT_BITS, ZIGZAG
from ffdr.codec.jpeg.markers import RST0
from ffdr.jit.instructions import long_at, put_long, swap_bytes
from ffdr.jit.kernel import address_of, inlined_kernel, kernel

OK, TRUNCATED, BAD_CODE, BAD_INDEX, BAD_RESTART, LEFTOVER, OUTSIDE = range(7)
REASONS = (
    "",
    "the entropy-coded data end early",
    "an invalid Huffman code",
    "a coefficient behind the 63rd",
    "a restart marker is missing",
    "entropy-coded data are left over",
    f"a coefficient of more than {COEFFICIENT_BITS} bits",
)

_BITS = 10
_LENGTHS = 1 << _BITS
_SYMBOLS = _LENGTHS + 2 * 17
TABLE = _SYMBOLS + 256
"""int32 of a decoding table."""
# Its parts. Lengths run from 0 to 16, symbols are in the order of their codes:
#
#     0                            what the next _BITS bits bring (``_entry``), if a code of that length or less
#     _LENGTHS       + length      the largest code of this length, -1 for none
#     _LENGTHS + 17  + length      what to add to a code of this length to get the place of its symbol
#     _SYMBOLS       + place       the symbol: run of zeros << 4 | bits of the value
#
# An entry is one int32, 0 for no such code. Where the value's bits are among the next _BITS as well, it is final:
#
#     31          16 15     12 11      8 7         0
#     value          0         run       bits taken       final: code and value are taken
#     0              size      run       bits taken       else: the code alone, the value's ``size`` bits follow
#
# A value is never 0, so that tells the two apart. Codes without a value (size 0) are the end of a block (run 0) and
# sixteen zeros (run 15).
SLACK = 264
"""Bytes behind the data that decoding a block may look at: 64 codes of 16 bits with values of 15, and a load."""

_LEAST, _MOST = -(1 << COEFFICIENT_BITS - 1), (1 << COEFFICIENT_BITS - 1) - 1
_FF = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONES = np.uint64(0x0101010101010101)
_TOPS = np.uint64(0x8080808080808080)
_TO_INDEX = np.uint64(64 - _BITS)
_NATURAL = ZIGZAG.astype(np.int64)


@inlined_kernel
def _extend(bits: int, size: int) -> int:
    """The value that ``size`` bits stand for (T.81, figure F.12)."""
    return bits if bits >= 1 << (size - 1) else bits - (1 << size) + 1


@kernel
def _entry(symbol: int, length: int, rest: int) -> int:
    """The entry for a code of ``length`` bits that the ``_BITS - length`` bits ``rest`` follow."""
    run, size = symbol >> 4, symbol & 15
    spare = _BITS - length - size
    if size == 0 or spare < 0:
        return size << 12 | run << 8 | length
    return _extend(rest >> spare, size) << 16 | run << 8 | length + size


@kernel
def build_table(counts: np.ndarray, symbols: np.ndarray, table: np.ndarray) -> bool:
    """Fill a decoding table, (TABLE,) int32, from codes of each length (16,) and their symbols, uint8.

    Returns whether the codes are a code: as for libjpeg, one of all ones is none.
    """
    table[:] = 0
    code, done = np.int64(0), np.int64(0)
    for length in range(1, 17):
        count = np.int64(counts[length - 1])
        if code + count >= 1 << length and count > 0:
            return False
        table[_LENGTHS + length] = code + count - 1 if count else -1
        table[_LENGTHS + 17 + length] = done - code
        for i in range(count):
            symbol = np.int64(symbols[done + i])
            table[_SYMBOLS + done + i] = symbol
            if length <= _BITS:  # all entries that begin with the code, whatever follows
                spare = _BITS - length
                for rest in range(1 << spare):
                    table[(code + i) << spare | rest] = _entry(symbol, length, rest)
        done += count
        code = (code + count) << 1
    return True


@inlined_kernel
def _long_code(table: np.ndarray, word: np.uint64) -> int:
    """What ``_entry`` packs for a code longer than ``_BITS`` at the top of ``word``; 0 if there is no such code."""
    for length in range(_BITS + 1, 17):
        code = np.int64(word >> np.uint64(64 - length))
        if code <= table[_LENGTHS + length]:
            symbol = np.int64(table[_SYMBOLS + (code + table[_LENGTHS + 17 + length] & 255)])
            return (symbol & 15) << 12 | (symbol >> 4) << 8 | length
    return np.int64(0)


@inlined_kernel
def _look(base: np.uint64, position: int) -> np.uint64:
    """The bits from a bit position on, first one highest; 57 are valid, and a code and its value take up to 31."""
    return swap_bytes(long_at(base + np.uint64(position >> 3))) << np.uint64(position & 7)


@inlined_kernel
def _read(word: np.uint64, length: int, size: int) -> int:
    """The value of ``size`` bits (1 to 15) behind a code of ``length``."""
    return _extend(np.int64(word << np.uint64(length) >> np.uint64(64 - size)), size)


@inlined_kernel
def _decode_dc(base: np.uint64, position: int, table: np.ndarray) -> tuple[int, int]:
    """(Bit position behind, difference) of a DC code; position −BAD_CODE."""
    word = _look(base, position)
    entry = np.int64(table[np.int64(word >> _TO_INDEX)])
    if entry == 0:
        entry = _long_code(table, word)
    if entry == 0:
        return -BAD_CODE, 0
    length, size = entry & 0xFF, entry >> 12 & 15
    if size == 0:
        return position + length, entry >> 16
    return position + length + size, _read(word, length, size)


@inlined_kernel
def _decode_block(
    base: np.uint64, position: int, dc: np.ndarray, ac: np.ndarray, predicted: int, block: np.ndarray
) -> int:
    """Decode a block of zeros, (64,) int16, in natural order. Returns the bit position behind it, or −status."""
    position, difference = _decode_dc(base, position, dc)
    if position < 0:
        return position
    value = predicted + difference
    if not _LEAST <= value <= _MOST:
        return -OUTSIDE
    block[0] = value
    k = np.int64(1)
    while k < 64:
        word = _look(base, position)
        entry = np.int64(ac[np.int64(word >> _TO_INDEX)])
        value = entry >> 16
        if value == 0:
            if entry == 0:
                entry = _long_code(ac, word)
                if entry == 0:
                    return -BAD_CODE
            length, size = entry & 0xFF, entry >> 12 & 15
            if size == 0:  # an end of block, sixteen zeros, or nothing that there is
                position += length
                if entry >> 8 == 0:
                    return position
                if entry >> 8 != 15:
                    return -BAD_CODE
                k += 16
                if k > 63:
                    return -BAD_INDEX
                continue
            value = _read(word, length, size)
            if not _LEAST <= value <= _MOST:
                return -OUTSIDE
            position += size
        position += entry & 0xFF
        k += entry >> 8 & 15
        if k > 63:
            return -BAD_INDEX
        block[_NATURAL[k]] = value
        k += 1
    return position


@kernel
def _unstuff(data: np.ndarray, at: int, clean: np.ndarray) -> tuple[int, int]:
    """Copy what stands before the next marker from ``at`` on to ``clean``, FF 00 as FF, and zeros behind it.

    Returns (bytes copied, position of the marker's FF; the end of the data if there is none). ``clean`` has ``SLACK``
    bytes more than the data.
    """
    # size never exceeds at, so eight bytes that may be read from data may be written to clean, too.
    size, end = np.int64(0), np.int64(len(data))
    source, target = address_of(data), address_of(clean)
    while at < end:
        while at + 8 <= end:
            word = long_at(source + np.uint64(at))
            if ((word ^ _FF) - _ONES) & word & _TOPS != 0:  # some byte is FF
                break
            put_long(word, target + np.uint64(size))
            at, size = at + 8, size + 8
        for _ in range(min(8, end - at)):
            if data[at] == 0xFF:
                if at + 1 == end:
                    at = end
                    break
                if data[at + 1] == 0xFF:  # the first of several before a marker
                    at += 1
                    continue
                if data[at + 1] != 0:
                    clean[size : size + SLACK] = 0
                    return size, at
                at += 1
                clean[size] = 0xFF
            else:
                clean[size] = data[at]
            at, size = at + 1, size + 1
            if at >= end:
                break
    clean[size : size + SLACK] = 0
    return size, end


class ScanLayout(NamedTuple):
    """Which blocks a scan brings, in which order, and how they are coded."""

    mcu_rows: int
    mcus_per_row: int
    interval: int
    """MCUs between restart markers, 0 without"""
    components: np.ndarray
    """(components, 7) int64: h, v (1, 1 for a scan of one component), block rows, blocks per row, index in ``blocks``
    of the first, index in ``tables`` of the DC and the AC table"""
    tables: np.ndarray
    """(tables, TABLE) int32"""


@inlined_kernel
def _decode_mcu(
    base: np.uint64, position: int, limit: int, mcu: int, scan: ScanLayout, predicted: np.ndarray, blocks: np.ndarray
) -> int:
    """Decode an MCU that begins at a bit position. Returns the position behind it, or −status."""
    # Inlined, and the tables taken out once: handing on and counting the layout's arrays took 7 % of the time.
    row, column, tables = mcu // scan.mcus_per_row, mcu % scan.mcus_per_row, scan.tables
    for c in range(len(scan.components)):
        h, v, rows, columns, first, dc, ac = scan.components[c]
        for y in range(row * v, row * v + v):
            for x in range(column * h, column * h + h):
                stored = y < rows and x < columns
                block = blocks[first + y * columns + x] if stored else blocks[len(blocks) - 1]
                position = _decode_block(base, position, tables[dc], tables[ac], predicted[c], block)
                if position < 0:
                    return position
                # Now, not at the end of the MCU: another block could leave the zeros behind the data.
                if position > limit:
                    return -TRUNCATED
                predicted[c] = block[0]
    return position


@kernel
def decode_scan(data: np.ndarray, at: int, scan: ScanLayout, blocks: np.ndarray, clean: np.ndarray) -> tuple[int, int]:
    """Decode the scan whose entropy-coded data begin at ``at``.

    Args:
        data: (bytes,) uint8, the JPEG.
        at: position in the data.
        scan: what is there.
        blocks: (blocks + 1, 64) int16, zeros, filled; the last one takes those that only pad MCUs.
        clean: (bytes + SLACK,) uint8, scratch.

    Returns:
        (status, position of the marker behind).
    """
    predicted = np.zeros(len(scan.components), np.int64)
    base = address_of(clean)
    position, limit, number = np.int64(0), np.int64(0), np.int64(0)
    for mcu in range(scan.mcu_rows * scan.mcus_per_row):
        if mcu == 0 or (scan.interval > 0 and mcu % scan.interval == 0):
            if mcu > 0:
                if limit - position >= 8:
                    return LEFTOVER, at
                if at + 1 >= len(data) or data[at + 1] != RST0 + number % 8:
                    return BAD_RESTART if at < len(data) else TRUNCATED, at
                at, number = at + 2, number + 1
                predicted[:] = 0
            size, at = _unstuff(data, at, clean)
            position, limit = np.int64(0), 8 * size
        position = _decode_mcu(base, position, limit, mcu, scan, predicted, blocks)
        if position < 0:
            # Where the data end before any marker, invalid codes are those of the zeros behind them.
            return TRUNCATED if at == len(data) and position != -OUTSIDE else -position, at
    return LEFTOVER if limit - position >= 8 else OK, at
