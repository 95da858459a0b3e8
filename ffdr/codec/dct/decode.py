"""Pixels of a region of a coefficient image: block rows of samples, upsampling and colour, MCU row by MCU row.

The buffers hold one MCU row of Y and three block rows each of Cb and Cr, so what is made stays in the first-level cache
until it has become pixels. They are those of libjpeg-turbo with its defaults, bit by bit.

**Any bytes.** Whatever ``data`` holds, nothing is read or written outside of the arrays: places in the buffers follow
from the image's size alone, and places in the data are compared with the end of their row before they are read. What
does not fit is reported; anything else gives some pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdr.codec.crop import Crop
from ffdr.codec.dct.blocks import (
    BlockRow,
    Columns,
    DecodingTables,
    TableAddresses,
    address_tables,
    decode_row,
    make_tables,
)
from ffdr.codec.dct.coding import Coding
from ffdr.codec.dct.colour import CHUNK, double_both, double_row, grey_to_rgb, to_rgb
from ffdr.codec.dct.format import FACTORS, GREY, INLINE, RECORD_DTYPE, TABLE_SHAPE, TRAILER, WIDE_ROWS, YUV420, YUV422
from ffdr.jit.instructions import byte_at, short_at, word_at
from ffdr.jit.kernel import address_of, bytes_at, inlined_kernel, kernel

# The scratch memory, for an image of at most ``width`` columns: rows of _stride(width) bytes each, then DCs. Samples of
# the wanted blocks only, so column 0 is the first wanted block's, not the image's.
#
#     luma      16 rows     ssssssssssssssssss........      one MCU row; 4:4:4 and 4:2:2 fill 8 of them
#     ring of   24 rows     ...............<ssssssss>..     three block rows of Cb: block row k at k % 3
#     chroma    24 rows     ...............<ssssssss>..     and of Cr
#     doubled    2 rows     ssssssssssssssssss........      Cb and Cr upsampled under the one row of pixels being made
#     dcs                   int16                           of one block row
#
# s: samples; <: a copy of the image's first sample, at _MARGIN - 1; >: one of its last, where libjpeg's filter reads
# one sample too far. A row of pixels of 4:2:0 takes the two nearest rows of chroma. Under a whole MCU row those lie in
# its own block row of chroma, in the last row of the one above and in the first row of the one below, so three block
# rows are all that must be kept, and the fourth goes where the first one was.
#
# Why nothing is written or read beyond its row: of a row of n ≤ width samples, whole blocks are stored in pairs (less
# than n + 16 bytes), and vectors of 32 upsampled or 16 coloured ones (less than n + 32); chroma begins at _MARGIN, and
# pixels at most 8 samples behind where the first wanted block does. Together that stays below the 4 × CHUNK bytes that
# a row has to spare.
_HEADER = RECORD_DTYPE.itemsize
_QUANT_BYTES = 2 * TABLE_SHAPE[0] * TABLE_SHAPE[1]
_LAST_SAMPLING = len(FACTORS) - 1
_MARGIN = 16
"""Bytes left of the first sample of a row of chroma, the last one for the sample that lies outside of the image."""
_RING = 3
"""Block rows of chroma that are kept: the one under the pixels, those above and below."""
_LUMA_ROWS, _CHROMA_ROWS = 16, 8 * _RING
_ROWS = _LUMA_ROWS + 2 * _CHROMA_ROWS + 2
"""Rows of samples in the scratch memory: Y, both rings, a row each of upsampled Cb and Cr."""
CANVAS_SLACK = 64
"""Bytes behind the pixels that are written to as well: the last row's last vector makes up to 15 pixels too many."""
_FANCY_WIDTH = 3
"""libjpeg repeats samples of chroma instead of interpolating them where a row has fewer."""


@kernel
def _stride(width: int) -> int:
    """Bytes from row to row of samples."""
    return (np.int64(width) + 15) // 16 * 16 + 4 * CHUNK


@kernel
def scratch_bytes(width: int) -> int:
    """Scratch memory that decoding images of up to so many columns takes, bytes."""
    return _ROWS * _stride(width) + 2 * ((np.int64(width) + 7) // 8 + 32)


class _CoefficientImage(NamedTuple):
    """What a record says of itself, checked."""

    fits: bool
    width: int
    height: int
    h: int
    """Pixels per sample of chroma, in a row."""
    v: int
    """In a column."""
    chroma_width: int
    chroma_height: int
    planes: int
    quant: int
    """Address of its three quantisation tables."""
    table: int
    """Address of the row table."""
    entry_bytes: int
    """Of an entry of it."""
    mcu_rows: int
    end: int
    """Address of the trailer."""


@kernel
def _open(data: np.ndarray, width: int, height: int, tables: TableAddresses) -> _CoefficientImage:
    """The image in ``data``, of width × height pixels; ``fits`` is False where it is none."""
    start, width, height = np.int64(address_of(data)), np.int64(width), np.int64(height)
    end = start + np.int64(data.size) - TRAILER
    none = _CoefficientImage(False, width, height, 1, 1, width, height, 1, 0, 0, 2, 0, end)
    if end < start + _HEADER or byte_at(start) > _LAST_SAMPLING:
        return none
    if short_at(start + 4) != width or short_at(start + 6) != height:
        return none
    table, number, sampling = start + _HEADER, byte_at(start + 1), byte_at(start)
    if number == INLINE:
        quant = table
        table += _QUANT_BYTES
    elif number >= tables.sets:
        return none
    else:
        quant = tables.quants + _QUANT_BYTES * number
    h, v = np.int64(2 if sampling >= YUV422 else 1), np.int64(2 if sampling == YUV420 else 1)
    planes = np.int64(1 if sampling == GREY else 3)
    mcu_rows = (height + 8 * v - 1) // (8 * v)
    entry_bytes = np.int64(4 if byte_at(start + 2) & WIDE_ROWS else 2)
    if table + mcu_rows * (v + planes - 1) * entry_bytes > end:
        return none
    chroma_width, chroma_height = (width + h - 1) // h, (height + v - 1) // v
    return _CoefficientImage(
        True, width, height, h, v, chroma_width, chroma_height, planes, quant, table, entry_bytes, mcu_rows, end
    )


@kernel
def _skip(image: _CoefficientImage, place: int, first: int, last: int) -> int:
    """The byte behind block rows ``first`` to ``last`` (excluded) of the row table; ``place`` is that of the first."""
    if image.entry_bytes == 2:
        for row in range(first, last):
            place += short_at(image.table + 2 * row)
    else:
        for row in range(first, last):
            place += word_at(image.table + 4 * row)
    return place


class _Scratch(NamedTuple):
    """Addresses of the parts of the scratch memory."""

    luma: int
    rings: int
    """Cb's, then Cr's"""
    ring_bytes: int
    doubled: int
    """a row of upsampled Cb, then one of Cr"""
    dcs: int
    stride: int
    """bytes from row to row of samples"""


@kernel
def _lay_out(scratch: np.ndarray, width: int) -> _Scratch:
    luma, stride = np.int64(address_of(scratch)), _stride(width)
    rings, ring_bytes = luma + _LUMA_ROWS * stride, _CHROMA_ROWS * stride
    doubled = rings + 2 * ring_bytes
    return _Scratch(luma, rings, ring_bytes, doubled, doubled + 2 * stride, stride)


class _Decoder(NamedTuple):
    """All that decoding one image takes. What is called for every row of pixels is inlined: its fields are many."""

    image: _CoefficientImage
    tables: TableAddresses
    scratch: _Scratch
    fast: bool


@kernel
def _clamp(value: int, length: int) -> int:
    return max(np.int64(0), min(value, length - 1))


@kernel
def _columns(low: int, high: int, width: int) -> Columns:
    """Those that hold the samples low to high (both included, clamped) of a row of ``width``."""
    first = _clamp(low, width) >> 3
    return Columns((width + 7) >> 3, first, (_clamp(high, width) >> 3) + 1 - first)


@kernel
def _extend(ring: int, stride: int, end: int) -> None:
    """Repeat the outermost samples of eight rows of chroma beyond the image; it ends before column ``end``."""
    # Where only inner columns are wanted, the sample behind the image's end is no neighbour of them, and what is
    # copied there is noise. It still lies in the row, which has room for all of the image's columns.
    rows = bytes_at(np.uint64(ring), 8 * stride)
    last = _MARGIN + end
    for row in range(8):
        at = row * stride
        rows[at + _MARGIN - 1] = rows[at + _MARGIN]
        rows[at + last] = rows[at + last - 1]


@kernel
def _repeat(target: int, source: int, count: int) -> None:
    """Upsample a row of chroma of an image too narrow for interpolation."""
    out, samples = bytes_at(np.uint64(target), count), bytes_at(np.uint64(source), count)
    for x in range(count):
        out[x] = samples[x >> 1]


@inlined_kernel
def _upsample(decoder: _Decoder, target: int, ring: int, y: int, width: int) -> None:
    """A row of chroma for the row y of pixels: ``width`` samples. ring: from the first pixel's column on."""
    image, stride = decoder.image, decoder.scratch.stride
    here = y >> 1 if image.v == 2 else y
    near = ring + here % _CHROMA_ROWS * stride
    if image.chroma_width < _FANCY_WIDTH:
        _repeat(target, near, width)
        return
    other = _clamp(here + (1 if y & 1 else -1), image.chroma_height)
    far = ring + other % _CHROMA_ROWS * stride
    for at in range(0, (width + 1) >> 1, CHUNK):
        if image.v == 2:
            double_both(target + 2 * at, near + at, far + at)
        else:
            double_row(target + 2 * at, near + at)


@kernel
def _decode_chroma(decoder: _Decoder, mcu: int, start: int, columns: Columns) -> int:
    """Block rows of Cb and Cr, number ``mcu``, of an MCU row that begins at ``start``; returns its end, 0 if bad."""
    image, scratch = decoder.image, decoder.scratch
    each, stride = image.v + 2, scratch.stride
    start = _skip(image, start, mcu * each, mcu * each + image.v)
    for plane in range(2):
        entry = mcu * each + image.v + plane
        end = _skip(image, start, entry, entry + 1)
        ring = scratch.rings + plane * scratch.ring_bytes + mcu % _RING * 8 * stride
        quant = image.quant + _QUANT_BYTES // 3 * (plane + 1)
        row = BlockRow(start, end, columns, quant, scratch.dcs, ring + _MARGIN, stride, False)
        if end > image.end or not decode_row(row, decoder.tables, decoder.fast):
            return 0
        _extend(ring, stride, image.chroma_width - 8 * columns.skipped)
        start = end
    return start


@kernel
def _decode_luma(decoder: _Decoder, mcu: int, start: int, columns: Columns, top: int, bottom: int) -> int:
    """Block rows of Y of an MCU row that begins at ``start``, those with rows from ``top`` to ``bottom``; returns the
    MCU row's end, 0 if bad."""
    image, scratch = decoder.image, decoder.scratch
    each, stride = image.v + image.planes - 1, scratch.stride
    for part in range(image.v):
        entry = mcu * each + part
        end = _skip(image, start, entry, entry + 1)
        first = 8 * (mcu * image.v + part)
        if first < bottom and first + 8 > top:
            out = scratch.luma + 8 * part * stride
            row = BlockRow(start, end, columns, image.quant, scratch.dcs, out, stride, True)
            if end > image.end or not decode_row(row, decoder.tables, decoder.fast):
                return 0
        start = end
    return _skip(image, start, mcu * each + image.v, (mcu + 1) * each)


@inlined_kernel
def _make_row(decoder: _Decoder, out: int, y: int, luma: int, chroma: int, width: int) -> None:
    """Row y of pixels, and up to 15 more. luma: the row's first sample; chroma: the first pixel's column in Cb's
    ring."""
    image, scratch = decoder.image, decoder.scratch
    cb, cr = scratch.doubled, scratch.doubled + scratch.stride
    if image.h == 2:
        _upsample(decoder, cb, chroma, y, width)
        _upsample(decoder, cr, chroma + scratch.ring_bytes, y, width)
    else:
        cb = chroma + y % _CHROMA_ROWS * scratch.stride
        cr = cb + scratch.ring_bytes
    for at in range(0, width, CHUNK):
        if image.planes == 1:
            grey_to_rgb(out + 3 * at, luma + at)
        else:
            to_rgb(decoder.fast, out + 3 * at, luma + at, cb + at, cr + at)


@kernel
def _decode_region(decoder: _Decoder, region: tuple[int, int, int, int], out: int) -> bool:
    """Decode a region, whose left is even, to ``out``. Returns whether the rows under it fit."""
    left, top, right, bottom = region
    image, scratch = decoder.image, decoder.scratch
    h, v = image.h, image.v
    lines = v - 1  # of chroma above and below that interpolation needs
    y_columns = _columns(left, right - 1, image.width)
    c_columns = _columns(left // h - 1, (right - 1) // h + 1, image.chroma_width)
    c_mcu = _clamp(top // v - lines, image.chroma_height) >> 3
    c_last = _clamp((bottom - 1) // v + lines, image.chroma_height) >> 3
    chroma = scratch.rings + _MARGIN + left // h - 8 * c_columns.skipped
    luma = scratch.luma + left - 8 * y_columns.skipped
    mcu, each = top // (8 * v), v + image.planes - 1
    # Chroma runs ahead of luma by one MCU row (4:2:0), so each has a place of its own in the data. MCU rows follow
    # each other, and sums of the row table find a place; nothing is compared with the data's end until a row is read.
    c_place = _skip(image, image.table + image.mcu_rows * each * image.entry_bytes, 0, c_mcu * each)
    y_place = _skip(image, c_place, c_mcu * each, mcu * each)
    y = top
    while y < bottom:
        while image.planes > 1 and c_mcu <= min(mcu + lines, c_last):
            c_place = _decode_chroma(decoder, c_mcu, c_place, c_columns)
            c_mcu += 1
            if c_place == 0:
                return False
        y_place = _decode_luma(decoder, mcu, y_place, y_columns, top, bottom)
        mcu += 1
        if y_place == 0:
            return False
        while y < min(bottom, 8 * v * mcu):
            row = luma + (y - 8 * v * (mcu - 1)) * scratch.stride
            # From top to bottom: what a row writes behind its last pixel, the next row overwrites.
            _make_row(decoder, out, y, row, chroma, right - left)
            out += 3 * (right - left)
            y += 1
    return True


@kernel
def decode_coefficients(
    data: np.ndarray,
    width: int,
    height: int,
    region: tuple[int, int, int, int],
    tables: DecodingTables,
    scratch: np.ndarray,
    canvas: np.ndarray,
) -> tuple[bool, Crop]:
    """Decode at least ``region`` of a coefficient image to the beginning of ``canvas``, as RGB.

    Args:
        data: (bytes,) uint8, C-contiguous; any bytes.
        width, height: what the image must have, pixels.
        region: pixels (x0, y0, x1, y1), ends excluded, not empty and inside the image.
        tables: of the file's coding.
        scratch: uint8, at least ``scratch_bytes(width)``.
        canvas: uint8, enough for all pixels of the crop and ``CANVAS_SLACK``.

    Returns:
        Whether the data is an image of that size, and what was decoded: the region, from an even column on.
    """
    addresses = address_tables(tables)
    image = _open(data, width, height, addresses)
    left, top, right, bottom = region[0] & ~1, region[1], region[2], region[3]
    done = image.fits and scratch.size >= scratch_bytes(width)
    if done:
        decoder = _Decoder(image, addresses, _lay_out(scratch, width), tables.fast)
        done = _decode_region(decoder, (left, top, right, bottom), np.int64(address_of(canvas)))
    return done, Crop(left, top, right - left, bottom - top)


def decode_image(data: np.ndarray, coding: Coding, width: int, height: int) -> np.ndarray:
    """A whole coefficient image, (bytes,) uint8, as (height, width, 3) uint8 RGB.

    Raises:
        ValueError: the data is not an image of that size.
    """
    canvas = np.empty(3 * width * height + CANVAS_SLACK, np.uint8)
    scratch = np.zeros(scratch_bytes(width), np.uint8)
    region = (0, 0, width, height)
    data, tables = np.ascontiguousarray(data), make_tables(coding)
    done, _ = decode_coefficients(data, width, height, region, tables, scratch, canvas)
    if not done:
        raise ValueError(f"not {width}×{height} pixels, or its rows don't fit")
    return canvas[: 3 * width * height].reshape(height, width, 3)
