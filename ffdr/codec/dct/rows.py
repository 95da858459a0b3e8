"""One block row, packed and unpacked, one value after the other: the plain twin of what ``blocks`` and ``idct`` do.

The bytes are those of ``ffdr.codec.dct.format``.
"""

from __future__ import annotations

import numpy as np

from ffdr.codec.dct.coding import HIGH_BYTE, Book, block_levels, serves
from ffdr.codec.dct.format import (
    BIASES,
    BLOCKS_PER_HEAD,
    CHROMA_GROUPS,
    COEFFICIENT_BITS,
    DC_WIDTHS,
    GROUPS,
    HEAD_BIAS,
    LEAST,
    LOW_GROUPS,
    MOST,
    WIDTHS,
)
from ffdr.jit.kernel import kernel

OK, LENGTH, WIDTH, BEHIND_LAST, DC_RANGE, NO_LANE = range(6)
"""What ``unpack_row`` finds."""
FAULTS = (
    "is whole",
    "is not as long as its blocks",
    "has a head of no known width",
    "has a DC behind its last block",
    "has a DC that is too large",
    "has a value in the lane that stays 0",
)

# A row of n blocks; how each part's length follows from the parts before it, so that none is stored:
#
#     heads            low or chroma   high                      dc                       ac
#     2 ceil(n / 8)    n               number of low entries     sum of the heads'        sum of the entries'
#                                      with a high byte          widths                   bytes
#
# When a row is packed, the first two lengths are known from the start; ``_choose_entries`` writes the entries and so
# finds where dc begins, then dc and ac are appended in turn. When it is unpacked, ``_measure_row`` adds up all five and
# compares the sum with the row's length, before a single value is read. From then on nothing can lead outside.
_MOST_PER_BLOCK = 2 + int(WIDTHS.max()) * CHROMA_GROUPS
_MOST_PER_HEAD = 2 + max(DC_WIDTHS)
_HEAD_WIDTH = np.array([next(w for w in DC_WIDTHS if w >= bits) for bits in range(COEFFICIENT_BITS + 1)], np.int64)
"""By bits of the largest difference from the base."""
_IS_WIDTH = np.array([w in DC_WIDTHS for w in range(16)])
_PLACES = GROUPS.astype(np.int64)
_WIDTHS, _BIASES = WIDTHS.astype(np.int64), BIASES.astype(np.int64)
_LOW_BITS = 8 * LOW_GROUPS


def most_bytes(blocks: int) -> int:
    """Bytes that a row of so many blocks takes at most."""
    return _MOST_PER_BLOCK * blocks + _MOST_PER_HEAD * (-(-blocks // BLOCKS_PER_HEAD))


@kernel
def _cheapest(book: Book, below: int, above: int) -> int:
    """The cheapest entry that serves the levels; every codebook has one."""
    for i in range(len(book.order)):
        if serves(book.below[i], below) and serves(book.above[i], above):
            return np.int64(book.order[i])
    return np.int64(-1)


@kernel
def _append(values: np.ndarray, width: int, out: np.ndarray, at: int) -> int:
    """Write eight ``width``-bit integers, the lower bits of int64 ``values``. Returns the byte behind them."""
    # Less than 8 bits wait between values, so 12 more always fit, and 8 × width bits leave none behind.
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    waiting, bits = np.uint64(0), np.uint64(0)
    for lane in range(8):
        waiting |= (np.uint64(values[lane]) & mask) << bits
        bits += np.uint64(width)
        while bits >= np.uint64(8):
            out[at] = np.uint8(waiting & np.uint64(255))
            waiting >>= np.uint64(8)
            bits -= np.uint64(8)
            at += 1
    return at


@kernel
def _take(data: np.ndarray, at: int, width: int, values: np.ndarray) -> int:
    """Read eight ``width``-bit integers, unsigned, to int64 ``values``. Returns the byte behind them."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    waiting, bits = np.uint64(0), np.uint64(0)
    for lane in range(8):
        while bits < np.uint64(width):
            waiting |= np.uint64(data[at]) << bits
            bits += np.uint64(8)
            at += 1
        values[lane] = np.int64(waiting & mask)
        waiting >>= np.uint64(width)
        bits -= np.uint64(width)
    return at


@kernel
def _block_types(low: Book, high: Book, row: np.ndarray, entry: int, high_entry: int, types: np.ndarray) -> int:
    """Types of a block's groups to ``types`` (8,). entry, high_entry: where the row has the block's entries. Returns
    where the next block's ``high`` entry is."""
    known = low.types.shape[1]
    for group in range(CHROMA_GROUPS):
        types[group] = low.types[row[entry], group] if group < known else 0
    if known == CHROMA_GROUPS or types[LOW_GROUPS] == 0:
        return high_entry
    for group in range(LOW_GROUPS, CHROMA_GROUPS):
        types[group] = high.types[row[high_entry], group - LOW_GROUPS]
    return high_entry + 1


@kernel
def pack_row(blocks: np.ndarray, low: Book, high: Book, out: np.ndarray, at: int) -> int:
    """Append a row of blocks, (n, 64) int16 in [LEAST, MOST], to ``out`` from byte ``at`` on, where there is room for
    ``most_bytes(n)``. low: the codebook ``low`` or ``chroma``. Returns the byte behind the row."""
    count = np.int64(len(blocks))
    heads = (count + (BLOCKS_PER_HEAD - 1)) // BLOCKS_PER_HEAD
    entries = at + 2 * heads
    high_entries = entries + count
    end = _choose_entries(blocks, low, high, out, entries)
    values, types = np.empty(8, np.int64), np.empty(CHROMA_GROUPS, np.uint8)
    for head in range(heads):
        end = _append_dc(blocks[BLOCKS_PER_HEAD * head : BLOCKS_PER_HEAD * (head + 1)], values, out, at + 2 * head, end)
    for i in range(count):
        high_entries = _block_types(low, high, out, entries + i, high_entries, types)
        for group in range(CHROMA_GROUPS):
            if types[group]:
                for lane in range(8):
                    place = _PLACES[group, lane]
                    values[lane] = (np.int64(blocks[i, place]) if place >= 0 else 0) - _BIASES[types[group]]
                end = _append(values, _WIDTHS[types[group]], out, end)
    return end


@kernel
def _choose_entries(blocks: np.ndarray, low: Book, high: Book, out: np.ndarray, at: int) -> int:
    """Write the entries of a row's blocks, then their ``high`` entries. Returns the byte behind them."""
    end = at + len(blocks)
    mask, shift = np.uint64((1 << _LOW_BITS) - 1), np.uint64(_LOW_BITS)
    for i in range(len(blocks)):
        below, above = block_levels(blocks[i])
        if low.types.shape[1] == CHROMA_GROUPS:
            out[at + i] = _cheapest(low, below, above)
            continue
        # The low half of the demand, and a fifth group that demands the high byte where the high half is not empty.
        # HIGH_BYTE is type 1, and its level below zero is 1 as well. An entry that has the byte serves blocks that do
        # without, too, and may be their cheapest: so whether a ``high`` entry follows is asked of the entry.
        high_below, high_above = below >> shift, above >> shift
        high_byte = np.uint64(HIGH_BYTE if high_below | high_above else 0)
        entry = _cheapest(low, below & mask | high_byte << shift, above & mask)
        out[at + i] = entry
        if low.types[entry, LOW_GROUPS]:
            out[end] = _cheapest(high, high_below, high_above)
            end += 1
    return end


@kernel
def _append_dc(blocks: np.ndarray, values: np.ndarray, out: np.ndarray, head: int, end: int) -> int:
    """Write the head of up to eight blocks, append their DC. Returns the byte behind it."""
    base, largest = np.int64(MOST), np.int64(LEAST)
    for i in range(len(blocks)):
        base, largest = min(base, np.int64(blocks[i, 0])), max(largest, np.int64(blocks[i, 0]))
    bits = 0
    while (largest - base) >> bits:
        bits += 1
    word = (base + HEAD_BIAS) << 4 | _HEAD_WIDTH[bits]
    out[head], out[head + 1] = word & 255, word >> 8
    for lane in range(BLOCKS_PER_HEAD):
        values[lane] = np.int64(blocks[lane, 0]) - base if lane < len(blocks) else 0
    return _append(values, _HEAD_WIDTH[bits], out, end)


@kernel
def _measure_row(row: np.ndarray, low: Book, high: Book, count: int) -> tuple[int, int, int]:
    """What is wrong with a row of ``count`` blocks by its heads and entries, and the first bytes of its DC and AC."""
    entries = 2 * ((np.int64(count) + (BLOCKS_PER_HEAD - 1)) // BLOCKS_PER_HEAD)
    high_entries = entries + count
    if len(row) < high_entries:
        return LENGTH, 0, 0
    dc, payload = high_entries, np.int64(0)
    for i in range(entries, high_entries):
        payload += low.bytes[row[i]]
        if low.types.shape[1] < CHROMA_GROUPS and low.types[row[i], LOW_GROUPS]:
            dc += 1
    if len(row) < dc:
        return LENGTH, 0, 0
    for i in range(high_entries, dc):
        payload += high.bytes[row[i]]
    ac = dc
    for i in range(0, entries, 2):
        if not _IS_WIDTH[row[i] & 15]:
            return WIDTH, 0, 0
        ac += np.int64(row[i] & 15)
    return (OK if ac + payload == len(row) else LENGTH), dc, ac


@kernel
def unpack_row(row: np.ndarray, low: Book, high: Book, blocks: np.ndarray) -> int:
    """Read all of ``row``, (bytes,) uint8, into ``blocks``, (n, 64) int16. Returns OK or what is wrong, after which
    the blocks are undefined; whatever the row holds, nothing outside of it is read."""
    count = np.int64(len(blocks))
    fault, dc, ac = _measure_row(row, low, high, count)
    if fault != OK:
        return fault
    blocks[:] = 0
    values, types = np.empty(8, np.int64), np.empty(CHROMA_GROUPS, np.uint8)
    fault = _take_dc(row, dc, blocks, values)
    entries = 2 * ((count + (BLOCKS_PER_HEAD - 1)) // BLOCKS_PER_HEAD)
    high_entries = entries + count
    for i in range(count):
        high_entries = _block_types(low, high, row, entries + i, high_entries, types)
        for group in range(CHROMA_GROUPS):
            if types[group] == 0:
                continue
            width, bias = _WIDTHS[types[group]], _BIASES[types[group]]
            ac = _take(row, ac, width, values)
            for lane in range(8):
                value = values[lane] - (values[lane] >> (width - 1) << width) + bias  # two's complement
                if _PLACES[group, lane] >= 0:
                    blocks[i, _PLACES[group, lane]] = value
                elif value:
                    fault = NO_LANE
    return fault


@kernel
def _take_dc(row: np.ndarray, at: int, blocks: np.ndarray, values: np.ndarray) -> int:
    """Read the DC of a row's blocks; it begins at byte ``at``. Returns OK, or what is wrong."""
    count = len(blocks)
    for first in range(0, count, BLOCKS_PER_HEAD):
        head = first // BLOCKS_PER_HEAD * 2
        word = np.int64(row[head]) | np.int64(row[head + 1]) << 8
        at = _take(row, at, word & 15, values)
        for lane in range(BLOCKS_PER_HEAD):
            value = values[lane] + (word >> 4) - HEAD_BIAS
            if first + lane >= count:
                if values[lane]:
                    return BEHIND_LAST
            elif value > MOST:
                return DC_RANGE
            else:
                blocks[first + lane, 0] = value
    return OK
