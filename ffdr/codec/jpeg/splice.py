"""Cropping without decoding: the restart segments under a region of a stored JPEG become a small JPEG of their own.

A JPEG with a row table (``jpeg.py``) is cut on the grid of its segments: the headers with another height and width in
the frame header, the segments, their restart markers numbered anew, an end-of-image marker. libjpeg-turbo decodes that
like any other file, in a time that goes with the area.

**Same pixels.** Inside the region they are those of a full decode by the same call, exactly. What a pixel depends on
besides its own MCU is the chroma of the next pixel, because the decoder interpolates chroma: hence a margin of one
pixel. And libjpeg leaves that interpolation out in images of one or two chroma samples a row: hence ``_LEAST_WIDTH``.

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

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ffdr.codec.jpeg.markers import (
    DRI,
    EOI,
    RST0,
    SOF0,
    SOI,
    SOS,
    is_frame_header,
)
from ffdr.codec.jpeg.segments import MCU, TABLE_DTYPE, TABLE_MAGIC
from ffdr.jit.kernel import address_of, kernel

_TRAILER = TABLE_DTYPE.itemsize
_MAGIC = int.from_bytes(TABLE_MAGIC, "little")
_MARGIN = 1
"""Pixels around the region whose chroma counts for its edge."""
_LEAST_WIDTH = 5
"""Narrower images have fewer than three chroma samples a row, and libjpeg repeats instead of interpolating them."""
_LANES = 32


@intrinsic
def _marker_lane(typing_context: Any, address: Any) -> tuple:
    """Offset (0 to 31) of the first restart marker that begins in the 32 bytes at ``address``, 32 if there is none.

    Reads 33 bytes.
    """

    def code(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        byte, mask = ir.IntType(8), ir.IntType(_LANES)
        vector = ir.VectorType(byte, _LANES)
        first, second = (
            builder.load(builder.inttoptr(builder.add(arguments[0], ir.IntType(64)(i)), vector.as_pointer()), align=1)
            for i in range(2)
        )
        kind = builder.and_(second, vector([0xF8] * _LANES))
        begins = builder.icmp_unsigned("==", first, vector([0xFF] * _LANES))
        restarts = builder.icmp_unsigned("==", kind, vector([RST0] * _LANES))
        found = builder.bitcast(builder.and_(begins, restarts), mask)
        return builder.zext(builder.cttz(found, ir.IntType(1)(0)), ir.IntType(64))

    return types.int64(types.uint64), code


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, count: Any) -> tuple:
    """C's memcpy between two addresses (uint64), which may not overlap."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        target, source, count = arguments
        pointers = [builder.inttoptr(address, cgutils.voidptr_t) for address in (target, source)]
        cgutils.raw_memcpy(builder, *pointers, count, 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64), code


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
def _read_trailer(data: np.ndarray, width: int, height: int) -> tuple[int, int, int, int, int]:
    """(scan_start, interval, segments a row, MCU rows, position of EOI) of a table that fits the size; else zeros.

    The rows of a table that was not refused lie in data[scan_start : EOI], one behind the other.
    """
    none = (np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0))
    size = np.int64(len(data))
    at = size - _TRAILER
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
    return (scan_start, interval, columns // interval, rows, eoi) if end == eoi else none


@kernel
def _is_frame(data: np.ndarray, at: int, width: int, height: int) -> bool:
    """Whether the marker segment at ``at`` is a baseline frame header: this size, three components, 4:2:0."""
    if data[at + 1] != SOF0 or _big_endian(data, at + 2) != 17 or data[at + 4] != 8:
        return False
    if _big_endian(data, at + 5) != height or _big_endian(data, at + 7) != width:
        return False
    return data[at + 9] == 3 and data[at + 11] == 0x22 and data[at + 14] == 0x11 and data[at + 17] == 0x11


@kernel
def _check_headers(data: np.ndarray, scan_start: int, width: int, height: int, interval: int) -> int:
    """Position of the frame header, or 0 unless data[:scan_start] are well-formed headers of such an image.

    One frame header, one interleaved scan that begins at ``scan_start``, and the restart interval of the table.
    """
    frame, restart, at = np.int64(0), np.int64(0), np.int64(2)
    if scan_start < 2 or data[0] != 0xFF or data[1] != SOI:
        return 0
    while at + 4 <= scan_start and data[at] == 0xFF and data[at + 1] >= SOF0:
        marker, length = data[at + 1], _big_endian(data, at + 2)
        if length < 2 or at + 2 + length > scan_start or RST0 <= marker <= EOI:
            return 0
        if marker == SOS:
            whole = at + 2 + length == scan_start and data[at + 4] == 3
            return frame if whole and restart == interval else 0
        if is_frame_header(marker):
            if frame != 0 or length != 17 or not _is_frame(data, at, width, height):
                return 0
            frame = at
        if marker == DRI:
            restart = _big_endian(data, at + 4) if length == 4 else np.int64(0)
        at += 2 + length
    return 0


@kernel
def _segments_under(low: int, high: int, side: int, step: int) -> tuple[int, int]:
    """Segments [first, last) of ``step`` pixels that hold the pixels [low, high) of a side and their margin."""
    return max(low - _MARGIN, 0) // step, (min(high + _MARGIN, side) + step - 1) // step


@kernel
def _copy_row(
    data: np.ndarray, at: int, stop: int, number: int, first: int, last: int, segments: int, out: np.ndarray, put: tuple
) -> tuple[int, int]:
    """Append the segments [first, last) of a row of ``segments`` to ``out``, each with its restart marker.

    The row lies in data[at:stop], a marker follows it; ``number`` segments come before it in the image. ``put`` and
    the result: (bytes, segments) in ``out``; no segments if the row's markers are not those that are due.
    """
    size, count = put
    for column in range(last):
        end = _find_restart(data, at, stop)
        if column + 1 < segments:
            if end == stop or data[end + 1] != RST0 + (number + column) % 8:
                return size, np.int64(0)
        elif end != stop:
            return size, np.int64(0)
        if column >= first:
            _copy(address_of(out) + np.uint64(size), address_of(data) + np.uint64(at), end - at)
            size += end - at
            out[size], out[size + 1] = 0xFF, RST0 + count % 8
            size, count = size + 2, count + 1
        at = end + 2
    return size, count


@kernel
def _copy_rows(data: np.ndarray, table: tuple, rows: tuple, columns: tuple, out: np.ndarray) -> int:
    """Copy headers, the segments [columns) of the MCU rows [rows), and EOI to ``out``; bytes written, 0 if damaged.

    ``out`` is at least as long as ``data``: every byte written but the markers' numbers stands in ``data`` too.
    """
    scan_start, _, segments, mcu_rows, eoi = table
    _copy(address_of(out), address_of(data), scan_start)
    put = (scan_start, np.int64(0))
    start = scan_start
    for row in range(rows[1]):
        end = start + _little_endian(data, eoi + 2 + 2 * row)
        if row >= rows[0]:
            number = row * segments
            stop = end if row + 1 == mcu_rows else end - 2
            follows = EOI if row + 1 == mcu_rows else RST0 + (number + segments - 1) % 8
            if stop < start or data[stop] != 0xFF or data[stop + 1] != follows:
                return 0
            if row > 0 and (data[start - 2] != 0xFF or data[start - 1] != RST0 + (number - 1) % 8):
                return 0
            put = _copy_row(data, start, stop, number, columns[0], columns[1], segments, out, put)
            if put[1] == 0:
                return 0
        start = end
    out[put[0] - 1] = EOI  # in place of the last restart marker
    return put[0]


@kernel
def splice(data: np.ndarray, width: int, height: int, region: tuple, out: np.ndarray) -> tuple[int, int, int, int, int]:
    """Write a JPEG of the part of a stored JPEG that holds ``region`` to ``out``.

    Args:
        data: (bytes,) uint8, the stored JPEG with its table.
        width, height: the stored image's, pixels.
        region: pixels (x0, y0, x1, y1), ends excluded, not empty and inside the image.
        out: uint8, filled; one shorter than ``data`` is not used.

    Returns:
        (bytes, left, top, width, height): the length of the JPEG in ``out``, and which pixels of the image it shows.
        0 bytes and the whole image where ``data`` has to be decoded itself: no table, a table that the image does not
        bear out, or a region that needs all of it.
    """
    whole = (np.int64(0), np.int64(0), np.int64(0), np.int64(width), np.int64(height))
    table = _read_trailer(data, width, height)
    if table[0] == 0 or len(out) < len(data):
        return whole
    step = table[1] * MCU
    first, last = _segments_under(region[0], region[2], width, step)
    top, bottom = _segments_under(region[1], region[3], height, MCU)
    if first > 0 and min(last * step, width) - first * step < _LEAST_WIDTH:
        first -= 1
    if (last - first) * (bottom - top) == table[2] * table[3]:
        return whole
    frame = _check_headers(data, table[0], width, height, table[1])
    size = _copy_rows(data, table, (top, bottom), (first, last), out) if frame != 0 else np.int64(0)
    if size == 0:
        return whole
    wide, high = min(last * step, width) - first * step, min(bottom * MCU, height) - top * MCU
    out[frame + 5], out[frame + 6] = high >> 8, high & 0xFF
    out[frame + 7], out[frame + 8] = wide >> 8, wide & 0xFF
    return size, first * step, top * MCU, wide, high
