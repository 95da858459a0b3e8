"""JPEGs that can be cut up without decoding them: restart markers, and a table of where the rows begin.

Images are baseline JPEGs, 4:2:0 (an MCU is 16×16 pixels), with Huffman tables made for the image. Restart markers
divide every row of MCUs into equal *segments* of a few MCUs, each of which decodes on its own. Behind the end-of-image
marker, where no decoder looks, lies a table (little endian)::

    uint16 row_bytes[mcu_rows]    entropy-coded bytes of each MCU row, its restart markers included
    12 bytes                      TABLE_DTYPE

so a reader takes the last 12 bytes of what is stored, and from them finds the rows. The rows follow each other from
``scan_start``; the last one ends at the end-of-image marker, every other one with the restart marker that begins the
next row's first segment. Inside a row the segments are found by looking for FF D0 … FF D7, which entropy-coded data
can't contain: that is as exact as a table, takes a few microseconds, and stores nothing.

Why rows only, and how segments get their size: a restart marker costs about 3.3 bytes (2 itself, 0.5 padding, the rest
in DC differences). Small segments make cropped decoding faster, but the promise is that an image grows by 1 % at most
(``--write.growth``). Measured on photographs of 500×375 pixels at quality 90, against the same JPEG without: 16 MCUs
per segment cost 0.5 % and decode crops of 8 to 100 % of the area at 1 × speed, 8 MCUs 0.9 % at 1.12 ×, 4 MCUs 1.6 % at
1.19 ×, 2 MCUs 3.2 % at 1.23 ×, 1 MCU 5.4 % at 1.17 ×. ``cut_jpeg`` takes the shortest segments that keep it; every byte
of table would make them longer. An image that cannot have segments within a row (too small, or a prime number of MCUs
wide) gets one segment per row, or neither markers nor table when that is too much as well.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ffdr.config.files import WriteOptions

TABLE_DTYPE = np.dtype(
    [
        ("magic", "S4"),
        ("scan_start", "<u2"),  # first entropy-coded byte, from the beginning of the JPEG
        ("interval", "<u2"),  # MCUs per segment; divides mcus_per_row
        ("mcus_per_row", "<u2"),
        ("mcu_rows", "<u2"),
    ]
)
TABLE_MAGIC = b"FFR1"
MCU = 16
"""Pixels per side of an MCU (4:2:0)."""
MIN_INTERVAL = 2
"""Shortest segment in MCUs: still shorter ones make cropped decoding no faster."""
_MARKER_BYTES = 3.3
"""What a segment costs, so that hopeless intervals are not tried."""
MAX_SIDE = 65500
"""libjpeg's JPEG_MAX_DIMENSION."""


def encode_jpeg(pixels: np.ndarray, quality: int, growth: float = WriteOptions.growth) -> bytes:
    """A JPEG of (H, W, 3) uint8 RGB pixels, with restart markers and offset table.

    Args:
        pixels: H and W from 1 to 65500.
        quality: libjpeg's, 1 to 100.
        growth: largest size, table included, relative to the same JPEG without markers and table.

    Raises:
        ValueError: a side too long for a JPEG.
    """
    height, width = pixels.shape[:2]
    check_sides(width, height)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cut_jpeg(lambda interval: encode_plain(bgr, quality, interval), width, height, growth)


def check_sides(width: int, height: int) -> None:
    """Raise ValueError for more pixels per side than libjpeg takes."""
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"{width}×{height} pixels are more than a JPEG can hold ({MAX_SIDE} per side)")


def cut_jpeg(encode: Callable[[int], bytes], width: int, height: int, growth: float) -> bytes:
    """The JPEG that ``encode`` makes with the best restart interval, and its offset table.

    Args:
        encode: makes a baseline 4:2:0 JPEG with a restart marker every so many MCUs; 0: none.
        width: of the image, in pixels.
        height: of the image.
        growth: as of ``encode_jpeg``.
    """
    plain = encode(0)
    budget = int(len(plain) * growth)
    mcus_per_row, mcu_rows = -(-width // MCU), -(-height // MCU)
    table_bytes = 2 * mcu_rows + TABLE_DTYPE.itemsize
    for interval in range(MIN_INTERVAL if mcus_per_row > 1 else 1, mcus_per_row + 1):
        segments = mcu_rows * (mcus_per_row // interval)
        if mcus_per_row % interval or len(plain) + segments * _MARKER_BYTES + table_bytes > budget:
            continue
        data = encode(interval)
        table = _pack_table(data, interval, mcus_per_row, mcu_rows)
        if table and len(data) + len(table) <= budget:
            return data + table
    return plain


def encode_plain(bgr: np.ndarray, quality: int, interval: int) -> bytes:
    """Baseline 4:2:0 JPEG with its own Huffman tables and a restart marker every ``interval`` MCUs (0: none)."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    done, data = cv2.imencode(".jpg", bgr, options)
    if not done:
        raise ValueError("OpenCV could not encode the image as JPEG")
    return data.tobytes()


def _pack_table(data: bytes, interval: int, mcus_per_row: int, mcu_rows: int) -> bytes:
    """The table of a JPEG, or nothing where a row is too long for it."""
    scan_start = _scan_start(data)
    markers = scan_start + _restart_markers(data[scan_start:])
    segments = mcus_per_row // interval
    assert len(markers) == segments * mcu_rows - 1, "restart markers are not where they were asked for"
    starts = np.concatenate([[scan_start], markers[segments - 1 :: segments] + 2, [len(data) - 2]])
    row_bytes = np.diff(starts)
    if row_bytes.max() > 0xFFFF:
        return b""
    table = np.array((TABLE_MAGIC, scan_start, interval, mcus_per_row, mcu_rows), TABLE_DTYPE)
    return row_bytes.astype("<u2").tobytes() + table.tobytes()


def _scan_start(data: bytes) -> int:
    """First entropy-coded byte of a JPEG that was just made: its markers are well-formed."""
    at = 2
    while data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _restart_markers(data: bytes) -> np.ndarray:
    """Positions of FF D0 … FF D7 in entropy-coded data, where a byte FF that is not a marker is followed by 00."""
    stream = np.frombuffer(data, np.uint8)
    at = np.flatnonzero(stream[:-1] == 0xFF)
    return at[(stream[at + 1] & 0xF8) == 0xD0]
