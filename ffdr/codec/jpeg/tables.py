"""The tables that a stored JPEG's headers define, in the form in which ``entropy.py`` and the inverse DCT take them.

Every image that ffdr writes has Huffman codes of its own, so they are built for each view: a look-up costs 2 µs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from ffdr.codec.crop import BYTES
from ffdr.codec.dct.format import ZIGZAG
from ffdr.codec.jpeg import markers
from ffdr.codec.jpeg.stored import big_endian
from ffdr.jit.arguments import named
from ffdr.jit.instructions import byte_at, put_short, short_at
from ffdr.jit.kernel import address_of, int32_at, kernel
from ffdr.jit.unit import unit

LOOKUP_BITS = 10
LARGEST, PLACES, SYMBOLS = 1 << LOOKUP_BITS, (1 << LOOKUP_BITS) + 17, (1 << LOOKUP_BITS) + 2 * 17
_LOOKUP = SYMBOLS + 256
"""int32 of a look-up."""
# Its parts. Lengths run from 0 to 16, symbols are in the order of their codes:
#
#     0                    what the next LOOKUP_BITS bits bring, an entry each
#     LARGEST + length     the largest code of this length, -1 for none
#     PLACES  + length     what to add to a code of this length to get the place of its symbol
#     SYMBOLS + place      the symbol: run of zeros << 4 | bits of the value
#
# An entry is one int32. Where the bits are too few for code and value it is not final, and ``entropy.py`` makes it so:
#
#     31          16 15      8   7    6   5        0
#     value           advance    -    0   bits taken     final: code and value
#     size            advance    -    1   bits of code   else; 0 bits: the code is longer than LOOKUP_BITS, or none
#
# ``advance`` is how much further in the zig-zag order the value is than the last one: the run, and one. The end of a
# block is a value of 0 so far behind that the block is over; sixteen zeros are a run of fifteen and a 0.
NOT_FINAL = 64
END_OF_BLOCK = 128
_MOST_AC, _MOST_DC = 10, 11
"""Bits of the largest coefficients and differences of DC that 8-bit images have (T.81, tables F.1 and F.2)."""

_QUANT = 128
"""Bytes of a quantisation table: uint16."""
_PAIR_QUANT = 256
_FOUR_LOOKUPS = 4 * 4 * _LOOKUP
TABLES_BYTES = _FOUR_LOOKUPS + 4 * _QUANT + 2 * _PAIR_QUANT
"""Memory that an image's tables take: look-ups of DC 0, DC 1, AC 0, AC 1; four quantisation tables as they are defined,
in natural order; those of a pair of blocks of Y, and of one of Cb and one of Cr, as ``idct.LoosePair`` takes them."""

_NATURAL = ZIGZAG.astype(np.int64)


class Tables(NamedTuple):
    """Addresses of what decodes the components of a scan."""

    fit: bool
    """whether all that the scan names has been defined, in a form that is known here"""
    y_dc: int
    y_ac: int
    cb_dc: int
    cb_ac: int
    cr_dc: int
    cr_ac: int
    y_quant: int
    """of a pair of blocks of Y, see ``idct.LoosePair.quant``"""
    c_quant: int
    """of Cb and Cr"""


@kernel
def _fill(table: np.ndarray, at: int, count: int, entry: int) -> None:
    for i in range(at, at + count):
        table[np.uint64(i)] = entry


@kernel
def _fill_code(table: np.ndarray, code: int, length: int, symbol: int, is_dc: bool) -> None:
    """Entries of all bits that begin with a code of at most LOOKUP_BITS bits."""
    size, advance = symbol & 15, (symbol >> 4) + 1
    spare = LOOKUP_BITS - length
    at = code << spare
    if size == 0:
        advance = END_OF_BLOCK if symbol == 0 and not is_dc else advance
        _fill(table, at, 1 << spare, advance << 8 | length)
    elif size > spare:
        _fill(table, at, 1 << spare, size << 16 | advance << 8 | NOT_FINAL | length)
    else:
        each = 1 << (spare - size)
        for bits in range(1 << size):
            value = bits if bits >> (size - 1) else bits - (1 << size) + 1  # T.81, figure F.12
            _fill(table, at + bits * each, each, value << 16 | advance << 8 | (length + size))


@kernel
def _is_known(symbol: int, is_dc: bool) -> bool:
    """Whether the encoder of an 8-bit image makes such symbols."""
    if is_dc:
        return symbol <= _MOST_DC
    size = symbol & 15
    return size <= _MOST_AC and (size > 0 or symbol == 0 or symbol == 0xF0)


@kernel
def _build_lookup(definition: int, table: np.ndarray, is_dc: bool) -> bool:
    """Fill a look-up from the definition (address) of a Huffman code. Returns whether it is one that is known here."""
    code, done, symbols = np.int64(0), np.int64(0), definition + 16
    filled = np.int64(0)
    for length in range(1, 17):
        count = byte_at(definition + length - 1)
        # As for libjpeg, no code is all ones.
        if count > 0 and code + count >= 1 << length:
            return False
        table[LARGEST + length] = code + count - 1 if count else -1
        table[PLACES + length] = done - code
        for i in range(count):
            symbol = byte_at(symbols + done)
            if not _is_known(symbol, is_dc):
                return False
            table[SYMBOLS + done] = symbol
            if length <= LOOKUP_BITS:
                _fill_code(table, code + i, length, symbol, is_dc)
                filled = (code + i + 1) << (LOOKUP_BITS - length)
            done += 1
        code = (code + count) << 1
    _fill(table, filled, (1 << LOOKUP_BITS) - filled, NOT_FINAL)
    return True


@kernel
def _define_lookups(data: np.ndarray, at: int, end: int, start: int) -> int:
    """Take in the Huffman codes of a marker segment, whose definitions lie in data[at:end].

    Returns which of the four look-ups it fills, as bits; −1 where it is unusual or does not fit.
    """
    defined = np.int64(0)
    while at + 17 <= end:
        kind = np.int64(data[at])
        symbols = np.int64(0)
        for length in range(16):
            symbols += np.int64(data[at + 1 + length])
        if kind & 0xEE != 0 or symbols > 256 or at + 17 + symbols > end:
            return -1
        number = kind >> 4 << 1 | kind & 1
        table = int32_at(np.uint64(start + 4 * _LOOKUP * number), _LOOKUP)
        if not _build_lookup(np.int64(address_of(data)) + at + 1, table, kind < 16):
            return -1
        defined |= 1 << number
        at += 17 + symbols
    return defined if at == end else -1


@kernel
def _define_quants(data: np.ndarray, at: int, end: int, start: int) -> int:
    """The same for the quantisation tables of a marker segment; bits of the four that there can be."""
    defined = np.int64(0)
    while at + 65 <= end:
        number = np.int64(data[at])
        if number > 3:  # as well where it has 16 bits
            return -1
        for rank in range(64):
            put_short(np.int64(data[at + 1 + rank]), start + _QUANT * number + 2 * _NATURAL[rank])
        defined |= 1 << number
        at += 65
    return defined if at == end else -1


@kernel
def _join_quants(first: int, second: int, out: int) -> None:
    """Lay out the quantisation tables of two blocks for ``idct.LoosePair``."""
    for row in range(8):
        for column in range(8):
            at = 16 * row + 2 * column
            put_short(short_at(first + at), out + 16 * row + at)
            put_short(short_at(second + at), out + 16 * row + at + 16)


@kernel
def _choose(data: np.ndarray, frame: int, scan: int, lookups: int, quants: int, start: int) -> Tables:
    """The tables that the headers of frame and scan (positions in the data) name, out of those that are defined."""
    quant = start + _FOUR_LOOKUPS
    pairs = quant + 4 * _QUANT
    fit = True
    for component in range(3):
        number, codes = np.int64(data[frame + 12 + 3 * component]), np.int64(data[scan + 6 + 2 * component])
        # Components 1, 2 and 3 are Y, Cb and Cr, where no Adobe marker says otherwise.
        fit &= data[frame + 10 + 3 * component] == component + 1 and data[scan + 5 + 2 * component] == component + 1
        fit &= number <= 3 and (quants >> number) & 1 == 1 and codes & 0xEE == 0
        fit &= (lookups >> (codes >> 4)) & 1 == 1 and (lookups >> (2 + (codes & 1))) & 1 == 1
    fit &= data[scan + 11] == 0 and data[scan + 12] == 63 and data[scan + 13] == 0
    y, cb, cr = (np.int64(data[scan + 6]), np.int64(data[scan + 8]), np.int64(data[scan + 10]))
    if fit:
        y_quant = quant + _QUANT * np.int64(data[frame + 12])
        _join_quants(y_quant, y_quant, pairs)
        c_quants = quant + _QUANT * np.int64(data[frame + 15]), quant + _QUANT * np.int64(data[frame + 18])
        _join_quants(c_quants[0], c_quants[1], pairs + _PAIR_QUANT)
    each, ac = 4 * _LOOKUP, start + 2 * 4 * _LOOKUP
    return Tables(
        fit,
        start + each * (y >> 4 & 1),
        ac + each * (y & 1),
        start + each * (cb >> 4 & 1),
        ac + each * (cb & 1),
        start + each * (cr >> 4 & 1),
        ac + each * (cr & 1),
        pairs,
        pairs + _PAIR_QUANT,
    )


@unit(named(Tables), BYTES, types.int64, types.int64)
def read_tables(data: np.ndarray, frame: int, start: int) -> Tables:
    """The tables of a stored JPEG.

    Args:
        data: (bytes,) uint8, whose headers ``stored.check_headers`` has found well-formed.
        frame: position of the frame header.
        start: address of ``TABLES_BYTES`` of memory.
    """
    none = np.int64(0)
    unfit = Tables(False, none, none, none, none, none, none, none, none)
    lookups, quants, at = none, none, np.int64(2)
    while data[at + 1] != markers.SOS:
        marker, end = data[at + 1], at + 2 + big_endian(data, at + 2)
        defined = none
        if marker == markers.DHT:
            defined = _define_lookups(data, at + 4, end, start)
            lookups |= defined
        elif marker == markers.DQT:
            defined = _define_quants(data, at + 4, end, start + _FOUR_LOOKUPS)
            quants |= defined
        if defined < 0 or marker == markers.APP14:
            return unfit
        at = end
    if big_endian(data, at + 2) != 12:
        return unfit
    return _choose(data, frame, at, lookups, quants, start)
