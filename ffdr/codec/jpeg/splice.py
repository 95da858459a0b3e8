"""Cropping without decoding: the restart segments under a region of a stored JPEG become a small JPEG of their own.

A JPEG with a row table (``segments.py``) is cut on the grid of its segments: the headers with another height and width
in the frame header, the segments, their restart markers numbered anew, an end-of-image marker. libjpeg-turbo decodes
that like any other file, in a time that goes with the area.

**Same pixels.** Inside the region they are those of a full decode by the same call, exactly. What a pixel depends on
besides its own MCU is the chroma of the next pixel, because the decoder interpolates chroma: hence a margin of one
pixel. And libjpeg leaves that interpolation out in images of one or two chroma samples per row: hence ``_LEAST_WIDTH``.

**Any bytes.** Nothing is read or written outside of the arrays, whatever they hold. ``splice`` answers "decode the
whole image" wherever the table, the headers, the stored size and the restart markers it meets do not all agree, so
damage to the table alone does not change pixels; only a table forged with care (row lengths exchanged between rows that
begin with the same marker) could show another part of the same image. Damage to the entropy-coded data: segments are
handed over as they are stored, and each decodes by itself. So what a full decode takes without complaint is taken here,
too, with the same pixels. The reverse does not hold: damage outside of the region passes unseen, as do up to seven
bytes too many in the last segment, and flipped bits may form valid codes for either decode. Whether a sample is what
was written is for its checksum to say (``ImageBeton.is_intact``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from ffdr.codec.crop import Crop
from ffdr.codec.jpeg import markers
from ffdr.codec.jpeg.markers import EOI, RST0
from ffdr.codec.jpeg.segments import MCU, TABLE_DTYPE, TABLE_MAGIC
from ffdr.jit.instructions import copy_bytes
from ffdr.jit.ir import I1, I8, I64, Code, Value, instruction
from ffdr.jit.kernel import address_of, kernel

# What is stored; here three segments to an MCU row. Markers RST0 to RST7 take turns, through all rows:
#
#     headers seg RST0 seg RST1 seg RST2 seg RST3 seg RST4 seg RST5 ... seg RST6 seg RST7 seg EOI row_bytes[] trailer
#             \______ row 0 ___________/ \______ row 1 ___________/ ... \_____ last row ____/
#             scan_start                                                                     eoi
#
# and what is made of it, for the last two segments of rows 0 and 1:
#
#     headers seg RST0 seg RST1 seg RST2 seg EOI        height and width of the frame header changed
#
# Every segment is copied together with the two bytes behind it, which are a marker's in both. So what is made is never
# longer than what is stored up to and with EOI, and ``out`` has room where it is as long as ``data``.

_TRAILER = TABLE_DTYPE.itemsize
_MAGIC = int.from_bytes(TABLE_MAGIC, "little")
_MARGIN = 1
"""Pixels around the region whose chroma counts for its edge."""
_LEAST_WIDTH = 5
"""Narrower images have fewer than three chroma samples per row, and libjpeg repeats instead of interpolating them."""
_LANES = 32


class _RowTable(NamedTuple):
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


class _StoredRow(NamedTuple):
    """An MCU row, which lies in data[start : stop]; a marker follows it."""

    start: int
    stop: int
    number: int
    """segments that come before it in the image"""
    segments: int
    """its own"""


class _Range(NamedTuple):
    """Segments of a row, or MCU rows of an image, that are wanted."""

    first: int
    end: int


class _Written(NamedTuple):
    """What has been copied so far."""

    bytes: int
    segments: int
    """0 where the stored markers are not those that are due"""


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
def _big_endian(data: np.ndarray, at: int) -> int:
    return np.int64(data[at]) << 8 | np.int64(data[at + 1])


@kernel
def _little_endian(data: np.ndarray, at: int) -> int:
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8


@kernel
def _find_restart(data: np.ndarray, at: int, end: int) -> int:
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
def _read_row_table(data: np.ndarray, width: int, height: int) -> _RowTable:
    """The table behind the JPEG, or zeros where there is none that fits the image's size and the rows."""
    none = _RowTable(np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0))
    at = np.int64(len(data)) - _TRAILER
    if at < 2 or _little_endian(data, at) | _little_endian(data, at + 2) << 16 != _MAGIC:
        return none
    scan_start, interval = _little_endian(data, at + 4), _little_endian(data, at + 6)
    columns, rows = _little_endian(data, at + 8), _little_endian(data, at + 10)
    eoi = at - 2 * rows - 2
    if columns != (width + MCU - 1) // MCU or rows != (height + MCU - 1) // MCU or not 0 < scan_start < eoi:
        return none
    if interval == 0 or columns % interval != 0 or data[eoi] != 0xFF or data[eoi + 1] != EOI:
        return none
    end = scan_start
    for row in range(rows):
        end += _little_endian(data, eoi + 2 + 2 * row)
    return _RowTable(scan_start, interval, columns // interval, rows, eoi) if end == eoi else none


@kernel
def _is_frame(data: np.ndarray, at: int, width: int, height: int) -> bool:
    """Whether the marker segment at ``at`` is a baseline frame header: this size, three components, 4:2:0."""
    if data[at + 1] != markers.SOF0 or _big_endian(data, at + 2) != 17 or data[at + 4] != 8:
        return False
    if _big_endian(data, at + 5) != height or _big_endian(data, at + 7) != width:
        return False
    return data[at + 9] == 3 and data[at + 11] == 0x22 and data[at + 14] == 0x11 and data[at + 17] == 0x11


@kernel
def _check_headers(data: np.ndarray, table: _RowTable, width: int, height: int) -> int:
    """Position of the frame header, or 0 unless data[:scan_start] are well-formed headers of such an image.

    One frame header, one interleaved scan that begins at ``scan_start``, and the restart interval of the table.
    """
    frame, restart, at = np.int64(0), np.int64(0), np.int64(2)
    scan_start = table.scan_start
    if scan_start < 2 or data[0] != 0xFF or data[1] != markers.SOI:
        return 0
    while at + 4 <= scan_start and data[at] == 0xFF and data[at + 1] >= markers.SOF0:
        marker, length = data[at + 1], _big_endian(data, at + 2)
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
            restart = _big_endian(data, at + 4) if length == 4 else np.int64(0)
        at += 2 + length
    return 0


@kernel
def _segments_under(low: int, high: int, side: int, step: int) -> _Range:
    """Segments of ``step`` pixels that hold the pixels [low, high) of a side and their margin."""
    return _Range(max(low - _MARGIN, 0) // step, (min(high + _MARGIN, side) + step - 1) // step)


@kernel
def _copy_row(data: np.ndarray, row: _StoredRow, columns: _Range, out: np.ndarray, written: _Written) -> _Written:
    """Append the segments ``columns`` of a row to ``out``, each with its restart marker."""
    size, count, at = written.bytes, written.segments, row.start
    # From the row's first segment on, wherever the wanted ones begin: nothing says where they do but the markers.
    for column in range(columns.end):
        end = _find_restart(data, at, row.stop)
        if column + 1 < row.segments:
            if end == row.stop or data[end + 1] != RST0 + (row.number + column) % 8:
                return _Written(size, np.int64(0))
        elif end != row.stop:
            return _Written(size, np.int64(0))
        if column >= columns.first:
            copy_bytes(address_of(out) + np.uint64(size), address_of(data) + np.uint64(at), end - at)
            size += end - at
            out[size], out[size + 1] = 0xFF, RST0 + count % 8
            size, count = size + 2, count + 1
        at = end + 2
    return _Written(size, count)


@kernel
def _copy_rows(data: np.ndarray, table: _RowTable, rows: _Range, columns: _Range, out: np.ndarray) -> int:
    """Copy headers, the segments ``columns`` of the MCU rows ``rows``, and EOI to ``out``; bytes written, 0 if damaged.

    ``out`` is at least as long as ``data``.
    """
    copy_bytes(address_of(out), address_of(data), table.scan_start)
    written = _Written(table.scan_start, np.int64(0))
    start = table.scan_start
    for row in range(rows.end):
        end = start + _little_endian(data, table.eoi + 2 + 2 * row)
        if row >= rows.first:
            # A row's bytes count the marker of the next row's first segment; behind the last row stands EOI instead.
            number, is_last = row * table.segments, row + 1 == table.rows
            stop = end if is_last else end - 2
            follows = EOI if is_last else RST0 + (number + table.segments - 1) % 8
            if stop < start or data[stop] != 0xFF or data[stop + 1] != follows:
                return 0
            if row > 0 and (data[start - 2] != 0xFF or data[start - 1] != RST0 + (number - 1) % 8):
                return 0
            stored = _StoredRow(start, stop, number, table.segments)
            written = _copy_row(data, stored, columns, out, written)
            if written.segments == 0:
                return 0
        start = end
    out[written.bytes - 1] = EOI  # in place of the last restart marker
    return written.bytes


@kernel
def splice(
    data: np.ndarray, width: int, height: int, region: tuple[int, int, int, int], out: np.ndarray
) -> tuple[int, Crop]:
    """Write a JPEG of the part of a stored JPEG that holds ``region`` to ``out``.

    Args:
        data: (bytes,) uint8, the stored JPEG with its table.
        width, height: the stored image's, pixels.
        region: pixels (x0, y0, x1, y1), ends excluded, not empty and inside the image.
        out: uint8, filled; one shorter than ``data`` is not used.

    Returns:
        The length of the JPEG in ``out``, bytes, and which pixels of the image it shows. 0 bytes and the whole image
        where ``data`` has to be decoded itself: no table, a table that the image does not bear out, or a region that
        needs all of it.
    """
    whole = np.int64(0), Crop(np.int64(0), np.int64(0), np.int64(width), np.int64(height))
    table = _read_row_table(data, width, height)
    if table.scan_start == 0 or len(out) < len(data):
        return whole
    step = table.interval * MCU
    columns = _segments_under(region[0], region[2], width, step)
    rows = _segments_under(region[1], region[3], height, MCU)
    if columns.first > 0 and min(columns.end * step, width) - columns.first * step < _LEAST_WIDTH:
        columns = _Range(columns.first - 1, columns.end)
    if (columns.end - columns.first) * (rows.end - rows.first) == table.segments * table.rows:
        return whole
    frame = _check_headers(data, table, width, height)
    size = _copy_rows(data, table, rows, columns, out) if frame != 0 else np.int64(0)
    if size == 0:
        return whole
    left, top = columns.first * step, rows.first * MCU
    crop = Crop(left, top, min(columns.end * step, width) - left, min(rows.end * MCU, height) - top)
    out[frame + 5], out[frame + 6] = crop.height >> 8, crop.height & 0xFF
    out[frame + 7], out[frame + 8] = crop.width >> 8, crop.width & 0xFF
    return size, crop
