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
from numba import types

from ffdr.codec.crop import BYTES, CROP, MEMORY, REGION, Crop
from ffdr.codec.jpeg.markers import EOI, RST0
from ffdr.codec.jpeg.segments import MCU
from ffdr.codec.jpeg.stored import (
    Range,
    RowTable,
    StoredRow,
    check_headers,
    ends_well,
    find_restart,
    open_row,
    read_row_table,
    row_bytes,
    segments_under,
)
from ffdr.jit.instructions import copy_bytes
from ffdr.jit.kernel import address_of, kernel
from ffdr.jit.unit import unit

# Of what is stored (``stored.py``) this is made, for the last two segments of rows 0 and 1:
#
#     headers seg RST0 seg RST1 seg RST2 seg EOI        height and width of the frame header changed
#
# Every segment is copied together with the two bytes behind it, which are a marker's in both. So what is made is never
# longer than what is stored up to and with EOI, and ``out`` has room where it is as long as ``data``.

_LEAST_WIDTH = 5
"""Narrower images have fewer than three chroma samples per row, and libjpeg repeats instead of interpolating them."""


class _Written(NamedTuple):
    """What has been copied so far."""

    bytes: int
    segments: int
    """0 where the stored markers are not those that are due"""


@kernel
def _copy_row(data: np.ndarray, row: StoredRow, columns: Range, out: np.ndarray, written: _Written) -> _Written:
    """Append the segments ``columns`` of a row to ``out``, each with its restart marker."""
    size, count, at = written.bytes, written.segments, row.start
    # From the row's first segment on, wherever the wanted ones begin: nothing says where they do but the markers.
    for column in range(columns.end):
        end = find_restart(data, at, row.stop)
        if not ends_well(data, row, column, end):
            return _Written(size, np.int64(0))
        if column >= columns.first:
            copy_bytes(address_of(out) + np.uint64(size), address_of(data) + np.uint64(at), end - at)
            size += end - at
            out[size], out[size + 1] = 0xFF, RST0 + count % 8
            size, count = size + 2, count + 1
        at = end + 2
    return _Written(size, count)


@kernel
def _copy_rows(data: np.ndarray, table: RowTable, rows: Range, columns: Range, out: np.ndarray) -> int:
    """Copy headers, the segments ``columns`` of the MCU rows ``rows``, and EOI to ``out``; bytes written, 0 if damaged.

    ``out`` is at least as long as ``data``.
    """
    copy_bytes(address_of(out), address_of(data), table.scan_start)
    written = _Written(table.scan_start, np.int64(0))
    start = table.scan_start
    for row in range(rows.end):
        if row >= rows.first:
            stored = open_row(data, table, row, start)
            written = (
                _copy_row(data, stored, columns, out, written) if stored.stop >= 0 else _Written(start, np.int64(0))
            )
            if written.segments == 0:
                return 0
        start += row_bytes(data, table, row)
    out[written.bytes - 1] = EOI  # in place of the last restart marker
    return written.bytes


@unit(types.Tuple([types.int64, CROP]), BYTES, types.int64, types.int64, REGION, MEMORY)
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
    table = read_row_table(data, width, height)
    if table.scan_start == 0 or len(out) < len(data):
        return whole
    step = table.interval * MCU
    columns = segments_under(region[0], region[2], width, step)
    rows = segments_under(region[1], region[3], height, MCU)
    if columns.first > 0 and min(columns.end * step, width) - columns.first * step < _LEAST_WIDTH:
        columns = Range(columns.first - 1, columns.end)
    if (columns.end - columns.first) * (rows.end - rows.first) == table.segments * table.rows:
        return whole
    frame = check_headers(data, table, width, height)
    size = _copy_rows(data, table, rows, columns, out) if frame != 0 else np.int64(0)
    if size == 0:
        return whole
    left, top = columns.first * step, rows.first * MCU
    crop = Crop(left, top, min(columns.end * step, width) - left, min(rows.end * MCU, height) - top)
    out[frame + 5], out[frame + 6] = crop.height >> 8, crop.height & 0xFF
    out[frame + 7], out[frame + 8] = crop.width >> 8, crop.width & 0xFF
    return size, crop
