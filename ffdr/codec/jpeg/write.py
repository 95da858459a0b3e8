"""Quantised DCT coefficients to a sequential JPEG with Huffman tables of its own (ITU-T T.81, annex F.1).

What libjpeg writes for the same coefficients when it optimises the tables, byte for byte: one interleaved scan, tables
0 for Y and 1 for Cb and Cr, JFIF's header. An image is first turned into a stream of symbols and values, which is
counted and then written.
"""

from __future__ import annotations

import numpy as np

from ffdr.codec.dct.format import COEFFICIENT_BITS, FACTORS, ZIGZAG, Coefficients, check_coefficients
from ffdr.codec.jpeg import markers
from ffdr.codec.jpeg.huffman import codes_of, optimal_code
from ffdr.jit.kernel import inlined_kernel, kernel

_SIZES = np.array([value.bit_length() for value in range(1 << COEFFICIENT_BITS)], np.uint8)
"""Bits of a value or difference, by magnitude: two DCs of 12 bits differ by less than 4096."""
_END_OF_BLOCK, _ZERO_RUN = 0x00, 0xF0
_RESTART = 4 << 8
"""In a stream of symbols, which have the number of their table in bits 8 and 9."""
_AC, _CHROMA = 1, 2
_MOST_ENTRIES = 65
"""Of a block: a DC difference, 63 values with runs of zeros between them, an end of block, or fewer."""
_NATURAL = ZIGZAG.astype(np.int64)
_JFIF = b"JFIF\0" + bytes([1, 1, 0, 0, 1, 0, 1, 0, 0])
"""Version 1.1, pixels are square, no thumbnail."""

# The stream between the two passes, entry by entry; a restart is an entry of its own:
#
#     symbols (uint16)   0 0 0 0 0 R C A  symbol (8 bits)       A: AC or DC, C: chroma or Y, R: restart
#     values (int16)     what follows the symbol's code, in (symbol & 15) bits
#
# The first pass makes it and counts the symbols, the second writes codes that are optimal for the counts.


def write_jpeg(coefficients: Coefficients, interval: int = 0) -> bytes:
    """A JPEG with these coefficients and quantisation tables, and no others.

    Baseline; extended sequential if a quantisation table has a value above 255. Decoders that keep to the letter of
    the standard refuse AC coefficients beyond ±1023; libjpeg reads them.

    Args:
        coefficients: of an image of 1 to 65535 pixels per side, of which libjpeg decodes up to 65500.
        interval: MCUs between restart markers, 0 to 65535; 0: no markers.

    Raises:
        ValueError: what ``check_coefficients`` finds, or an interval out of range.
    """
    check_coefficients(coefficients)
    if not 0 <= interval <= 65535:
        raise ValueError(f"a restart interval of {interval} MCUs: not 0 to 65535")
    factors = [(1, 1)] * len(coefficients.planes)
    factors[0] = FACTORS[coefficients.sampling]
    h, v = factors[0]
    mcus = -(-coefficients.height // (8 * v)), -(-coefficients.width // (8 * h))
    y, cb, cr = (coefficients.planes * 3)[:3]
    most = mcus[0] * mcus[1] * (sum(a * b for a, b in factors) * _MOST_ENTRIES + 1)
    symbols, values = np.empty(most, np.uint16), np.empty(most, np.int16)
    frequency = np.zeros((4, 256), np.int64)
    planes = (np.ascontiguousarray(y), np.ascontiguousarray(cb), np.ascontiguousarray(cr))
    count = _make_symbols(planes, np.array(factors, np.int64), mcus, interval, symbols, values, frequency)
    tables = [optimal_code(frequency[number]) for number in range(2 if len(factors) == 1 else 4)]
    codes = np.zeros((4, 256), np.int64)
    lengths = np.zeros((4, 256), np.int64)
    for number, table in enumerate(tables):
        codes[number], lengths[number] = codes_of(*table)
    bits = int((frequency * (lengths + (np.arange(256) & 15))).sum())
    restarts = (mcus[0] * mcus[1] - 1) // interval if interval else 0
    scan = np.empty(2 * (bits // 8 + 1) + 4 * restarts, np.uint8)
    size = _write_symbols(symbols[:count], values, codes, lengths, scan)
    return _headers(coefficients, factors, tables, interval) + scan[:size].tobytes() + bytes([0xFF, markers.EOI])


@inlined_kernel
def _put(symbols: np.ndarray, values: np.ndarray, count: int, table: int, symbol: int, value: int) -> int:
    symbols[count], values[count] = table << 8 | symbol, value
    return count + 1


@inlined_kernel
def _block_symbols(
    block: np.ndarray, difference: int, table: int, symbols: np.ndarray, values: np.ndarray, count: int
) -> int:
    """Append the symbols of a block."""
    count = _put(symbols, values, count, table, _SIZES[abs(difference)], difference)
    run = np.int64(0)
    for k in range(1, 64):
        value = np.int64(block[_NATURAL[k]])
        if value == 0:
            run += 1
            continue
        while run > 15:
            count = _put(symbols, values, count, table | _AC, _ZERO_RUN, 0)
            run -= 16
        count = _put(symbols, values, count, table | _AC, run << 4 | _SIZES[abs(value)], value)
        run = 0
    return _put(symbols, values, count, table | _AC, _END_OF_BLOCK, 0) if run > 0 else count


@kernel
def _plane_symbols(
    plane: np.ndarray, place: tuple, table: int, predicted: int, symbols: np.ndarray, values: np.ndarray, count: int
) -> tuple[int, int]:
    """Append the blocks of a plane that belong to an MCU; ``place``: its row, its column, h, v.

    Blocks that only pad the MCU repeat the DC of the one before. Returns (count, DC of the last block).
    """
    row, column, h, v = place
    for y in range(row * v, row * v + v):
        for x in range(column * h, column * h + h):
            if y >= plane.shape[0] or x >= plane.shape[1]:
                count = _put(symbols, values, count, table, 0, 0)
                count = _put(symbols, values, count, table | _AC, _END_OF_BLOCK, 0)
                continue
            dc = np.int64(plane[y, x, 0])
            count = _block_symbols(plane[y, x], dc - predicted, table, symbols, values, count)
            predicted = dc
    return count, predicted


@kernel
def _make_symbols(
    planes: tuple,
    factors: np.ndarray,
    mcus: tuple[int, int],
    interval: int,
    symbols: np.ndarray,
    values: np.ndarray,
    frequency: np.ndarray,
) -> int:
    """Turn an image into symbols, (n,) uint16, and the values that follow them, (n,) int16; their number.

    ``planes``: three of (block rows, blocks per row, 64), the first of which counts if there is one row of ``factors``;
    ``frequency``: (4, 256), zeros, filled.
    """
    predicted = np.zeros(3, np.int64)
    count = np.int64(0)
    for mcu in range(mcus[0] * mcus[1]):
        if interval > 0 and mcu > 0 and mcu % interval == 0:
            count = _put(symbols, values, count, 0, _RESTART, 0)
            predicted[:] = 0
        for c in range(len(factors)):
            place = (mcu // mcus[1], mcu % mcus[1], factors[c, 0], factors[c, 1])
            table = 0 if c == 0 else _CHROMA
            count, predicted[c] = _plane_symbols(planes[c], place, table, predicted[c], symbols, values, count)
    for i in range(count):
        if symbols[i] < _RESTART:
            frequency[symbols[i] >> 8, symbols[i] & 0xFF] += 1
    return count


@inlined_kernel
def _flush(waiting: np.uint64, have: int, out: np.ndarray, size: int) -> tuple[int, int]:
    """Write the whole bytes among the lowest ``have`` bits of ``waiting``. Returns (bits left, bytes in ``out``)."""
    while have >= 8:
        have -= 8
        byte = (waiting >> np.uint64(have)) & np.uint64(0xFF)
        out[size] = byte
        size += 1
        if byte == 0xFF:
            out[size] = 0
            size += 1
    return have, size


@kernel
def _write_symbols(
    symbols: np.ndarray, values: np.ndarray, codes: np.ndarray, lengths: np.ndarray, out: np.ndarray
) -> int:
    """Write a stream of symbols; bytes written. ``out`` has room for every byte to be stuffed."""
    waiting, have = np.uint64(0), np.int64(0)
    size, restarts = np.int64(0), np.int64(0)
    for i in range(len(symbols)):
        if symbols[i] == _RESTART:
            have, size = _fill(waiting, have, out, size)
            out[size], out[size + 1] = 0xFF, markers.RST0 + restarts % 8
            size, restarts = size + 2, restarts + 1
            continue
        table, symbol = symbols[i] >> 8, symbols[i] & 0xFF
        bits, value = np.int64(symbol & 15), np.int64(values[i])
        if value < 0:
            value += (1 << bits) - 1
        # At most 16 + 12 bits, and at most 32 are waiting, so 64 hold both.
        length = lengths[table, symbol] + bits
        waiting = waiting << np.uint64(length) | np.uint64(codes[table, symbol] << bits | value)
        have += length
        if have > 32:
            have, size = _flush(waiting, have, out, size)
    return _fill(waiting, have, out, size)[1]


@inlined_kernel
def _fill(waiting: np.uint64, have: int, out: np.ndarray, size: int) -> tuple[int, int]:
    """Write all bits, with ones behind them to the end of the byte. Returns (0, bytes in ``out``)."""
    missing = -have & 7
    return _flush(waiting << np.uint64(missing) | np.uint64((1 << missing) - 1), have + missing, out, size)


def _headers(coefficients: Coefficients, factors: list, tables: list, interval: int) -> bytes:
    """Everything before the entropy-coded data."""
    shared = len(factors) == 3 and np.array_equal(coefficients.quant[1], coefficients.quant[2])
    numbers = [0, 1, 1 if shared else 2][: len(factors)]
    wide = bool((coefficients.quant > 255).any())
    parts = [bytes([0xFF, markers.SOI]), _segment(markers.APP0, _JFIF)]
    for number in sorted(set(numbers)):
        table = coefficients.quant[numbers.index(number)][ZIGZAG]
        large = bool((table > 255).any())
        body = table.astype(">u2" if large else "u1").tobytes()
        parts.append(_segment(markers.DQT, bytes([large << 4 | number]) + body))
    sides = coefficients.height.to_bytes(2, "big") + coefficients.width.to_bytes(2, "big")
    components = sum(((i + 1, h << 4 | v, numbers[i]) for i, (h, v) in enumerate(factors)), ())
    body = b"\x08" + sides + bytes([len(factors)]) + bytes(components)
    parts.append(_segment(markers.SOF1 if wide else markers.SOF0, body))
    for number, (counts, symbols) in enumerate(tables):
        kind = (number & _AC) << 4 | number >> 1
        parts.append(_segment(markers.DHT, bytes([kind]) + counts.tobytes() + symbols.tobytes()))
    if interval:
        parts.append(_segment(markers.DRI, interval.to_bytes(2, "big")))
    scan = [(i + 1, 0x11 if i else 0x00) for i in range(len(factors))]
    parts.append(_segment(markers.SOS, bytes([len(scan)]) + bytes(sum(scan, ())) + bytes([0, 63, 0])))
    return b"".join(parts)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
