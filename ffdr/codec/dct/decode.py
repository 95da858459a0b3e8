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
from numba import types

from ffdr.codec.crop import BYTES, CROP, MEMORY, REGION, Crop
from ffdr.codec.dct.blocks import (
    TABLES,
    BlockRow,
    Columns,
    DecodingTables,
    TableAddresses,
    address_tables,
    decode_row,
    make_tables,
)
from ffdr.codec.dct.coding import Coding
from ffdr.codec.dct.format import FACTORS, GREY, INLINE, RECORD_DTYPE, TABLE_SHAPE, TRAILER, WIDE_ROWS, YUV420, YUV422
from ffdr.codec.dct.pixels import (
    CANVAS_SLACK,
    MARGIN,
    RING,
    Rows,
    Sampling,
    clamp,
    extend_chroma,
    lay_out_rows,
    make_row,
    rows_bytes,
)
from ffdr.jit.instructions import byte_at, short_at, word_at
from ffdr.jit.kernel import address_of, kernel
from ffdr.jit.unit import unit

_HEADER = RECORD_DTYPE.itemsize
_QUANT_BYTES = 2 * TABLE_SHAPE[0] * TABLE_SHAPE[1]
_LAST_SAMPLING = len(FACTORS) - 1


@kernel
def scratch_bytes(width: int) -> int:
    """Scratch memory that decoding images of up to so many columns takes, bytes."""
    return rows_bytes(width) + 2 * ((np.int64(width) + 7) // 8 + 32)


class _CoefficientImage(NamedTuple):
    """What a record says of itself, checked."""

    fits: bool
    width: int
    height: int
    sampling: Sampling
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
    none = _CoefficientImage(False, width, height, Sampling(1, 1, width, height, 1), 0, 0, 2, 0, end)
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
    chroma = Sampling(h, v, (width + h - 1) // h, (height + v - 1) // v, planes)
    return _CoefficientImage(True, width, height, chroma, quant, table, entry_bytes, mcu_rows, end)


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


class _Decoder(NamedTuple):
    """All that decoding one image takes. What is called for every row of pixels is inlined: its fields are many."""

    image: _CoefficientImage
    tables: TableAddresses
    rows: Rows
    dcs: int
    """Address of the int16 DCs of one block row, which lie behind the rows in the scratch memory."""


@kernel
def _columns(low: int, high: int, width: int) -> Columns:
    """Those that hold the samples low to high (both included, clamped) of a row of ``width``."""
    first = clamp(low, width) >> 3
    return Columns((width + 7) >> 3, first, (clamp(high, width) >> 3) + 1 - first)


@kernel
def _decode_chroma(decoder: _Decoder, mcu: int, start: int, columns: Columns) -> int:
    """Block rows of Cb and Cr, number ``mcu``, of an MCU row that begins at ``start``; returns its end, 0 if bad."""
    image, rows, v = decoder.image, decoder.rows, decoder.image.sampling.v
    each, stride = v + 2, rows.stride
    start = _skip(image, start, mcu * each, mcu * each + v)
    for plane in range(2):
        entry = mcu * each + v + plane
        end = _skip(image, start, entry, entry + 1)
        ring = rows.rings + plane * rows.ring_bytes + mcu % RING * 8 * stride
        quant = image.quant + _QUANT_BYTES // 3 * (plane + 1)
        row = BlockRow(start, end, columns, quant, decoder.dcs, ring + MARGIN, stride, False)
        if end > image.end or not decode_row(row, decoder.tables):
            return 0
        extend_chroma(ring, stride, image.sampling.chroma_width - 8 * columns.skipped)
        start = end
    return start


@kernel
def _decode_luma(decoder: _Decoder, mcu: int, start: int, columns: Columns, top: int, bottom: int) -> int:
    """Block rows of Y of an MCU row that begins at ``start``, those with rows from ``top`` to ``bottom``; returns the
    MCU row's end, 0 if bad."""
    image, rows, v = decoder.image, decoder.rows, decoder.image.sampling.v
    each, stride = v + image.sampling.planes - 1, rows.stride
    for part in range(v):
        entry = mcu * each + part
        end = _skip(image, start, entry, entry + 1)
        first = 8 * (mcu * v + part)
        if first < bottom and first + 8 > top:
            out = rows.luma + 8 * part * stride
            row = BlockRow(start, end, columns, image.quant, decoder.dcs, out, stride, True)
            if end > image.end or not decode_row(row, decoder.tables):
                return 0
        start = end
    return _skip(image, start, mcu * each + v, (mcu + 1) * each)


@kernel
def _decode_region(decoder: _Decoder, region: tuple[int, int, int, int], out: int) -> bool:
    """Decode a region, whose left is even, to ``out``. Returns whether the rows under it fit."""
    left, top, right, bottom = region
    image, rows, sampling = decoder.image, decoder.rows, decoder.image.sampling
    h, v = sampling.h, sampling.v
    lines = v - 1  # of chroma above and below that interpolation needs
    y_columns = _columns(left, right - 1, image.width)
    c_columns = _columns(left // h - 1, (right - 1) // h + 1, sampling.chroma_width)
    c_mcu = clamp(top // v - lines, sampling.chroma_height) >> 3
    c_last = clamp((bottom - 1) // v + lines, sampling.chroma_height) >> 3
    chroma = rows.rings + MARGIN + left // h - 8 * c_columns.skipped
    luma = rows.luma + left - 8 * y_columns.skipped
    mcu, each = top // (8 * v), v + sampling.planes - 1
    # Chroma runs ahead of luma by one MCU row (4:2:0), so each has a place of its own in the data. MCU rows follow
    # each other, and sums of the row table find a place; nothing is compared with the data's end until a row is read.
    c_place = _skip(image, image.table + image.mcu_rows * each * image.entry_bytes, 0, c_mcu * each)
    y_place = _skip(image, c_place, c_mcu * each, mcu * each)
    y = top
    while y < bottom:
        while sampling.planes > 1 and c_mcu <= min(mcu + lines, c_last):
            c_place = _decode_chroma(decoder, c_mcu, c_place, c_columns)
            c_mcu += 1
            if c_place == 0:
                return False
        y_place = _decode_luma(decoder, mcu, y_place, y_columns, top, bottom)
        mcu += 1
        if y_place == 0:
            return False
        while y < min(bottom, 8 * v * mcu):
            row = luma + (y - 8 * v * (mcu - 1)) * rows.stride
            # From top to bottom: what a row writes behind its last pixel, the next row overwrites.
            make_row(sampling, rows, out, y, row, chroma, right - left)
            out += 3 * (right - left)
            y += 1
    return True


@unit(types.Tuple([types.boolean, CROP]), BYTES, types.int64, types.int64, REGION, TABLES, MEMORY, MEMORY)
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
        rows = lay_out_rows(np.int64(address_of(scratch)), width)
        decoder = _Decoder(image, addresses, rows, np.int64(address_of(scratch)) + rows_bytes(width))
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
