"""The table behind a stored JPEG, read in plain Python: where its restart segments lie."""

from dataclasses import dataclass

import numpy as np

from ffdr.codec.jpeg.segments import TABLE_DTYPE, TABLE_MAGIC


@dataclass(frozen=True, eq=False)
class OffsetTable:
    """Where the restart segments of a JPEG lie. R rows of MCUs, S segments a row; positions count from its first byte.

    ``segments[r, s]`` is the first entropy-coded byte of a segment; two bytes before it ends the restart marker's
    place, except for the very first. ``ends[r, s]`` is behind its last entropy-coded byte.
    """

    interval: int
    """MCUs a segment."""
    mcus_per_row: int
    mcu_rows: int
    scan_start: int
    row_starts: np.ndarray
    """(R + 1,) int64; the last one is the position of the end-of-image marker."""
    segments: np.ndarray
    """(R, S) int64."""
    ends: np.ndarray
    """(R, S) int64."""


def read_offset_table(data):
    """The offset table of a stored JPEG: bytes, or (bytes,) uint8. None where there is no valid one.

    Whatever the bytes, every position of a returned table lies inside of them, and every segment but the first
    follows the restart marker that is due.
    """
    data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    size = TABLE_DTYPE.itemsize
    if len(data) < size:
        return None
    table = np.frombuffer(data[-size:].tobytes(), TABLE_DTYPE)[0]
    scan_start, interval, mcus_per_row, mcu_rows = (int(table[name]) for name in TABLE_DTYPE.names[1:])
    eoi = len(data) - size - 2 * mcu_rows - 2
    if table["magic"] != TABLE_MAGIC or not interval or not mcu_rows or not 0 < scan_start < eoi:
        return None
    if not mcus_per_row or mcus_per_row % interval:
        return None
    row_bytes = np.frombuffer(data[eoi + 2 : eoi + 2 + 2 * mcu_rows].tobytes(), "<u2").astype(np.int64)
    row_starts = np.concatenate([[scan_start], scan_start + np.cumsum(row_bytes)])
    if row_starts[-1] != eoi or data[eoi] != 0xFF or data[eoi + 1] != 0xD9:
        return None
    segments = mcus_per_row // interval
    markers = scan_start + _restart_markers(data[scan_start:eoi])
    if len(markers) != segments * mcu_rows - 1:
        return None
    if (data[markers + 1] != 0xD0 + np.arange(len(markers)) % 8).any():
        return None
    starts = np.concatenate([[scan_start], markers + 2]).reshape(mcu_rows, segments)
    ends = np.concatenate([markers, [eoi]]).reshape(mcu_rows, segments)
    if (starts[:, 0] != row_starts[:-1]).any():
        return None
    return OffsetTable(interval, mcus_per_row, mcu_rows, scan_start, row_starts, starts, ends)


def _restart_markers(data):
    """Positions of FF D0 … FF D7 in entropy-coded data, where a byte FF that is not a marker is followed by 00."""
    data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    at = np.flatnonzero(data[:-1] == 0xFF)
    return at[(data[at + 1] & 0xF8) == 0xD0]
