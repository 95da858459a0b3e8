"""The last stage of decoding: rows of samples in scratch memory become RGB, chroma interpolated as libjpeg does it.

Coefficient images and JPEGs share it. Their decoders fill the rows, one MCU row after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdr.codec.dct.colour import CHUNK, grey_to_rgb, to_rgb, to_rgb_420, to_rgb_422
from ffdr.jit.kernel import bytes_at, inlined_kernel, kernel

# The rows, for an image of at most ``width`` columns, row_stride(width) bytes each. Samples of the wanted blocks only,
# so column 0 is the first wanted block's, not the image's.
#
#     luma      32 rows     ssssssssssssssssss........      two MCU rows; 4:4:4 and 4:2:2 fill 8 of them
#     ring of   24 rows     ...............<ssssssss>..     three block rows of Cb: block row k at k % 3
#     chroma    24 rows     ...............<ssssssss>..     and of Cr
#     repeated   2 rows     ssssssssssssssssss........      Cb and Cr under one row of pixels of a very narrow image
#
# s: samples; <: a copy of the image's first sample, at MARGIN - 1; >: one of its last, where libjpeg's filter reads
# one sample too far. A row of pixels of 4:2:0 takes the two nearest rows of chroma. Under a whole MCU row those lie in
# its own block row of chroma, in the last row of the one above and in the first row of the one below, so three block
# rows are all that must be kept, and the fourth goes where the first one was. A JPEG brings an MCU row's Y together
# with its chroma, before the last row of pixels of the MCU row above can be made: hence two MCU rows of Y. Coefficient
# images bring it afterwards, and use the first of the two.
#
# Why nothing is written or read beyond its row: of a row of n ≤ width samples, whole blocks are stored in pairs (less
# than n + 16 bytes), and vectors of 32 are read (less than n + 32); chroma begins at MARGIN, and pixels at most 8
# samples behind where the first wanted block does. Together that stays below the 2 × CHUNK bytes that a row has to
# spare. A JPEG's MCUs are stored whole: one may begin 8 samples of chroma (16 of Y) before the first
# wanted sample, which takes 8 bytes more.
MARGIN = 16
"""Bytes left of the first sample of a row of chroma, the last one for the sample that lies outside of the image."""
RING = 3
"""Block rows of chroma that are kept: the one under the pixels, those above and below."""
LUMA_ROWS, CHROMA_ROWS = 32, 8 * RING
_ROWS = LUMA_ROWS + 2 * CHROMA_ROWS + 2
"""Y, both rings, a row each of repeated Cb and Cr."""
CANVAS_SLACK = 96
"""Bytes behind the pixels that are written to as well: the last row's last vector makes up to 31 pixels too many."""
FANCY_WIDTH = 3
"""libjpeg repeats samples of chroma instead of interpolating them where a row has fewer."""


class Sampling(NamedTuple):
    """How an image's chroma lies under its pixels."""

    h: int
    """Pixels per sample of chroma, in a row."""
    v: int
    """In a column."""
    chroma_width: int
    chroma_height: int
    planes: int
    """1 or 3"""


class Rows(NamedTuple):
    """Addresses of the rows of samples."""

    luma: int
    rings: int
    """Cb's, then Cr's"""
    ring_bytes: int
    repeated: int
    """a row of Cb, then one of Cr"""
    stride: int
    """bytes from row to row of samples"""


@kernel
def row_stride(width: int) -> int:
    """Bytes from row to row of samples."""
    return (np.int64(width) + 15) // 16 * 16 + 2 * CHUNK


@kernel
def rows_bytes(width: int) -> int:
    """Bytes that the rows of an image of so many columns take."""
    return _ROWS * row_stride(width)


@kernel
def lay_out_rows(start: int, width: int) -> Rows:
    """Where the rows lie in memory (address) of ``rows_bytes(width)``."""
    stride = row_stride(width)
    rings, ring_bytes = start + LUMA_ROWS * stride, CHROMA_ROWS * stride
    return Rows(start, rings, ring_bytes, rings + 2 * ring_bytes, stride)


@kernel
def clamp(value: int, length: int) -> int:
    """The nearest number from 0 to length − 1."""
    return max(np.int64(0), min(value, length - 1))


@kernel
def extend_chroma(ring: int, stride: int, end: int) -> None:
    """Repeat the outermost samples of eight rows of chroma beyond the image; it ends before column ``end``."""
    # Where only inner columns are wanted, the sample behind the image's end is no neighbour of them, and what is
    # copied there is noise. It still lies in the row, which has room for all of the image's columns.
    rows = bytes_at(np.uint64(ring), 8 * stride)
    last = MARGIN + end
    for row in range(8):
        at = row * stride
        rows[at + MARGIN - 1] = rows[at + MARGIN]
        rows[at + last] = rows[at + last - 1]


@kernel
def _repeat(target: int, source: int, count: int) -> None:
    """Upsample a row of chroma of an image too narrow for interpolation."""
    out, samples = bytes_at(np.uint64(target), count), bytes_at(np.uint64(source), count)
    for x in range(count):
        out[x] = samples[x >> 1]


@inlined_kernel
def _row_of(chroma: int, line: int, stride: int) -> int:
    """Where a line of chroma is, from the column ``chroma`` of its ring on."""
    return chroma + line % CHROMA_ROWS * stride


@inlined_kernel
def make_row_420(sampling: Sampling, rows: Rows, out: int, y: int, luma: int, chroma: int, width: int) -> None:
    """``make_row`` of 4:2:0, of an image wide enough for interpolation."""
    here = y >> 1
    other = clamp(here + (1 if y & 1 else -1), sampling.chroma_height)
    cb = _row_of(chroma, here, rows.stride)
    cr, far = cb + rows.ring_bytes, _row_of(chroma, other, rows.stride) - cb
    for at in range(0, width, CHUNK):
        half = at >> 1
        to_rgb_420(out + 3 * at, luma + at, cb + half, cr + half, cb + far + half, cr + far + half)


@inlined_kernel
def make_row(sampling: Sampling, rows: Rows, out: int, y: int, luma: int, chroma: int, width: int) -> None:
    """Row y of pixels, and up to 31 more. luma: the row's first sample; chroma: the first pixel's column in Cb's
    ring."""
    is_narrow = sampling.h == 2 and sampling.chroma_width < FANCY_WIDTH
    if sampling.planes == 1:
        for at in range(0, width, CHUNK):
            grey_to_rgb(out + 3 * at, luma + at)
    elif sampling.v == 2 and not is_narrow:
        make_row_420(sampling, rows, out, y, luma, chroma, width)
    else:
        cb = _row_of(chroma, y >> 1 if sampling.v == 2 else y, rows.stride)
        cr = cb + rows.ring_bytes
        if is_narrow:
            _repeat(rows.repeated, cb, width)
            _repeat(rows.repeated + rows.stride, cr, width)
            cb, cr = rows.repeated, rows.repeated + rows.stride
        for at in range(0, width, CHUNK):
            if sampling.h == 1 or is_narrow:
                to_rgb(out + 3 * at, luma + at, cb + at, cr + at)
            else:
                to_rgb_422(out + 3 * at, luma + at, cb + (at >> 1), cr + (at >> 1))
