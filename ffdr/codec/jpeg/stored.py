"""What a stored JPEG with a row table (``segments.py``) says of itself, checked: headers, rows, segments.

**Any bytes.** Nothing is read outside of the array, whatever it holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from ffdr.codec.jpeg import markers
from ffdr.codec.jpeg.markers import EOI, RST0
from ffdr.codec.jpeg.segments import MCU, TABLE_DTYPE, TABLE_MAGIC
from ffdr.jit.ir import I1, I8, I64, Code, Value, instruction
from ffdr.jit.kernel import address_of, kernel

# What is stored; here three segments to an MCU row. Markers RST0 to RST7 take turns, through all rows:
#
#     headers seg RST0 seg RST1 seg RST2 seg RST3 seg RST4 seg RST5 ... seg RST6 seg RST7 seg EOI row_bytes[] trailer
#             \______ row 0 ___________/ \______ row 1 ___________/ ... \_____ last row ____/
#             scan_start                                                                     eoi
#

_TRAILER = TABLE_DTYPE.itemsize
_MAGIC = int.from_bytes(TABLE_MAGIC, "little")
_MARGIN = 1
"""Pixels around the region whose chroma counts for its edge."""
_LANES = 32


class RowTable(NamedTuple):
    """A row table that fits the image's size; positions in the stored JPEG. Zeros where there is none."""

    scan_start: int
    interval: int
    """MCUs per segment"""
    segments: int
    """per row"""
    rows: int
    """of MCUs"""
    eoi: int
    """where the rows end: they lie in data[scan_start : eoi], one behind the other"""


class StoredRow(NamedTuple):
    """An MCU row, which lies in data[start : stop]; a marker follows it."""

    start: int
    stop: int
    number: int
    """segments that come before it in the image"""
    segments: int
    """its own"""


class Range(NamedTuple):
    """Segments of a row, or MCU rows of an image, that are wanted."""

    first: int
    end: int


@instruction(types.int64, types.uint64)
def _marker_lane(code: Code, address: Value) -> Value:
    """Offset (0 to 31) of the first restart marker that begins in the 32 bytes at ``address``, 32 if there is none.

    Reads 33 bytes.
    """
    vector = ir.VectorType(I8, _LANES)
    first, second = (code.load(code.at(address, i), vector) for i in range(2))
    kind = code.b.and_(second, vector([0xF8] * _LANES))
    begins = code.b.icmp_unsigned("==", first, vector([0xFF] * _LANES))
    restarts = code.b.icmp_unsigned("==", kind, vector([RST0] * _LANES))
    found = code.b.bitcast(code.b.and_(begins, restarts), ir.IntType(_LANES))
    return code.b.zext(code.b.cttz(found, I1(0)), I64)


@kernel
def big_endian(data: np.ndarray, at: int) -> int:
    """The uint16 in two bytes, the first one highest."""
    return np.int64(data[at]) << 8 | np.int64(data[at + 1])


@kernel
def little_endian(data: np.ndarray, at: int) -> int:
    """The uint16 in two bytes, the first one lowest."""
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8


@kernel
def find_restart(data: np.ndarray, at: int, end: int) -> int:
    """Position of the first restart marker in data[at:end], both its bytes; ``end`` if there is none."""
    base = address_of(data)
    while at + _LANES + 1 <= end:
        lane = _marker_lane(base + np.uint64(at))
        if lane < _LANES:
            return at + lane
        at += _LANES
    while at + 1 < end:
        if data[at] == 0xFF and data[at + 1] & 0xF8 == RST0:
            return at
        at += 1
    return end


@kernel
def read_row_table(data: np.ndarray, width: int, height: int) -> RowTable:
    """The table behind the JPEG, or zeros where there is none that fits the image's size and the rows."""
    none = RowTable(np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0))
    at = np.int64(len(data)) - _TRAILER
    if at < 2 or little_endian(data, at) | little_endian(data, at + 2) << 16 != _MAGIC:
        return none
    scan_start, interval = little_endian(data, at + 4), little_endian(data, at + 6)
    columns, rows = little_endian(data, at + 8), little_endian(data, at + 10)
    eoi = at - 2 * rows - 2
    if columns != (width + MCU - 1) // MCU or rows != (height + MCU - 1) // MCU or not 0 < scan_start < eoi:
        return none
    if interval == 0 or columns % interval != 0 or data[eoi] != 0xFF or data[eoi + 1] != EOI:
        return none
    end = scan_start
    for row in range(rows):
        end += little_endian(data, eoi + 2 + 2 * row)
    return RowTable(scan_start, interval, columns // interval, rows, eoi) if end == eoi else none


@kernel
def _is_frame(data: np.ndarray, at: int, width: int, height: int) -> bool:
    """Whether the marker segment at ``at`` is a baseline frame header: this size, three components, 4:2:0."""
    if data[at + 1] != markers.SOF0 or big_endian(data, at + 2) != 17 or data[at + 4] != 8:
        return False
    if big_endian(data, at + 5) != height or big_endian(data, at + 7) != width:
        return False
    return data[at + 9] == 3 and data[at + 11] == 0x22 and data[at + 14] == 0x11 and data[at + 17] == 0x11


@kernel
def check_headers(data: np.ndarray, table: RowTable, width: int, height: int) -> int:
    """Position of the frame header, or 0 unless data[:scan_start] are well-formed headers of such an image.

    One frame header, one interleaved scan that begins at ``scan_start``, and the restart interval of the table.
    """
    frame, restart, at = np.int64(0), np.int64(0), np.int64(2)
    scan_start = table.scan_start
    if scan_start < 2 or data[0] != 0xFF or data[1] != markers.SOI:
        return 0
    while at + 4 <= scan_start and data[at] == 0xFF and data[at + 1] >= markers.SOF0:
        marker, length = data[at + 1], big_endian(data, at + 2)
        # Each segment lies whole before scan_start, so that its body may be read below.
        if length < 2 or at + 2 + length > scan_start or RST0 <= marker <= EOI:
            return 0
        if marker == markers.SOS:
            whole = at + 2 + length == scan_start and data[at + 4] == 3
            return frame if whole and restart == table.interval else 0
        if markers.is_frame_header(marker):
            if frame != 0 or length != 17 or not _is_frame(data, at, width, height):
                return 0
            frame = at
        if marker == markers.DRI:
            restart = big_endian(data, at + 4) if length == 4 else np.int64(0)
        at += 2 + length
    return 0


@kernel
def segments_under(low: int, high: int, side: int, step: int) -> Range:
    """Segments of ``step`` pixels that hold the pixels [low, high) of a side and their margin."""
    return Range(max(low - _MARGIN, 0) // step, (min(high + _MARGIN, side) + step - 1) // step)


@kernel
def row_bytes(data: np.ndarray, table: RowTable, row: int) -> int:
    """Entropy-coded bytes of an MCU row, as the table says."""
    return little_endian(data, table.eoi + 2 + 2 * row)


@kernel
def open_row(data: np.ndarray, table: RowTable, row: int, start: int) -> StoredRow:
    """The MCU row that begins at ``start``; ``stop`` is -1 where the markers before and behind it are not due there."""
    # A row's bytes count the marker of the next row's first segment; behind the last row stands EOI instead.
    number, is_last = row * table.segments, row + 1 == table.rows
    end = start + row_bytes(data, table, row)
    stop = end if is_last else end - 2
    follows = EOI if is_last else RST0 + (number + table.segments - 1) % 8
    bad = stop < start or data[stop] != 0xFF or data[stop + 1] != follows
    if bad or (row > 0 and (data[start - 2] != 0xFF or data[start - 1] != RST0 + (number - 1) % 8)):
        stop = np.int64(-1)
    return StoredRow(start, stop, number, table.segments)


@kernel
def ends_well(data: np.ndarray, row: StoredRow, column: int, end: int) -> bool:
    """Whether the segment ``column`` of a row, which ends at ``end``, ends with its marker: behind the last one of a
    row stands no other."""
    if column + 1 == row.segments:
        return end == row.stop
    return end < row.stop and data[end + 1] == RST0 + (row.number + column) % 8
