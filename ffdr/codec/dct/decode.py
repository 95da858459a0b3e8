"""Pixels of a region of a packed image: block rows of samples, upsampling and colour, MCU row by MCU row.

The buffers hold one MCU row of Y and three block rows each of Cb and Cr, so what is made stays in the first-level cache
until it has become pixels. They are those of libjpeg-turbo with its defaults, bit by bit.

**Any bytes.** Whatever ``data`` holds, nothing is read or written outside of the arrays: places in the buffers follow
from the image's size alone, and places in the data are compared with the end of their row before they are read. What
does not fit is reported; anything else gives some pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdr.codec.dct.blocks import (
    Books,
    Row,
    Tables,
    address_books,
    decode_row,
    make_tables,
)
from ffdr.codec.dct.coding import Coding
from ffdr.codec.dct.colour import (
    CHUNK,
    double_both,
    double_row,
    grey_to_rgb,
    to_rgb,
)
from ffdr.codec.dct.format import (
    FACTORS,
    GREY,
    INLINE,
    RECORD_DTYPE,
    TABLE_SHAPE,
    TRAILER,
    WIDE_ROWS,
    YUV420,
    YUV422,
)
from ffdr.jit.kernel import address_of, bytes_at, kernel
from ffdr.jit.vector import byte_at, short_at, word_at

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
"""Bytes behind the pixels that are written to as well."""
_FANCY_WIDTH = 3
"""libjpeg repeats samples of chroma instead of interpolating them where a row has fewer."""


@kernel
def _stride(width: int) -> int:
    """Bytes from row to row of samples."""
    return (np.int64(width) + 15) // 16 * 16 + 4 * CHUNK


@kernel
def _dc_bytes(width: int) -> int:
    return 2 * ((np.int64(width) + 7) // 8 + 32)


@kernel
def scratch_bytes(width: int) -> int:
    """Scratch memory that decoding images of up to so many columns takes, bytes."""
    return _ROWS * _stride(width) + _dc_bytes(width)


class _Image(NamedTuple):
    """What a record says of itself, checked."""

    fits: bool
    width: int
    height: int
    h: int
    v: int
    planes: int
    quant: int
    """Address of its three quantisation tables."""
    table: int
    """Address of the row table."""
    entry: int
    """Bytes of an entry of it."""
    rows: int
    """MCU rows."""
    end: int
    """Address of the trailer."""


@kernel
def _open(data: int, size: int, width: int, height: int, books: Books) -> _Image:
    """The image in ``size`` bytes at ``data``, of width × height pixels; ``fits`` is False where it is none."""
    width, height, end = np.int64(width), np.int64(height), data + np.int64(size) - TRAILER
    none = _Image(False, width, height, 1, 1, 1, 0, 0, 2, 0, end)
    if end < data + _HEADER or byte_at(data) > _LAST_SAMPLING:
        return none
    if short_at(data + 4) != width or short_at(data + 6) != height:
        return none
    table, number, sampling = data + _HEADER, byte_at(data + 1), byte_at(data)
    if number == INLINE:
        quant = table
        table += _QUANT_BYTES
    elif number >= books.sets:
        return none
    else:
        quant = books.quants + _QUANT_BYTES * number
    h, v = np.int64(2 if sampling >= YUV422 else 1), np.int64(2 if sampling == YUV420 else 1)
    planes = np.int64(1 if sampling == GREY else 3)
    rows = (height + 8 * v - 1) // (8 * v)
    entry = np.int64(4 if byte_at(data + 2) & WIDE_ROWS else 2)
    if table + rows * (v + planes - 1) * entry > end:
        return none
    return _Image(True, width, height, h, v, planes, quant, table, entry, rows, end)


@kernel
def _skip(image: _Image, place: int, first: int, last: int) -> int:
    """The byte behind block rows ``first`` to ``last`` (excluded) of the row table; ``place`` is that of the first."""
    if image.entry == 2:
        for row in range(first, last):
            place += short_at(image.table + 2 * row)
    else:
        for row in range(first, last):
            place += word_at(image.table + 4 * row)
    return place


class _Room(NamedTuple):
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
def _lay_out(luma: int, width: int) -> _Room:
    stride = _stride(width)
    rings, ring_bytes = luma + _LUMA_ROWS * stride, _CHROMA_ROWS * stride
    doubled = rings + 2 * ring_bytes
    return _Room(luma, rings, ring_bytes, doubled, doubled + 2 * stride, stride)


class _Columns(NamedTuple):
    """Which blocks of a plane's rows are wanted."""

    blocks: int
    first: int
    count: int


@kernel
def _columns(low: int, high: int, width: int) -> _Columns:
    """Those that hold the samples low to high (both included, clamped) of a row of ``width``."""
    first = _clamp(low, width) >> 3
    return _Columns((width + 7) >> 3, first, (_clamp(high, width) >> 3) + 1 - first)


@kernel
def _clamp(value: int, length: int) -> int:
    return max(np.int64(0), min(value, length - 1))


@kernel
def _extend(ring: int, stride: int, first: int, width: int) -> None:
    """Repeat the outermost samples of eight rows of chroma beyond the image. first: column of the first sample."""
    rows = bytes_at(np.uint64(ring), 8 * stride)
    last = _MARGIN + width - first
    for row in range(8):
        at = row * stride
        rows[at + _MARGIN - 1] = rows[at + _MARGIN]
        if last < stride:
            rows[at + last] = rows[at + last - 1]


@kernel
def _repeat(target: int, source: int, count: int) -> None:
    """Upsample a row of chroma of an image too narrow for interpolation."""
    out, samples = bytes_at(np.uint64(target), count), bytes_at(np.uint64(source), count)
    for x in range(count):
        out[x] = samples[x >> 1]


@kernel
def _upsample(target: int, ring: int, y: int, width: int, rows: int, image: _Image, stride: int) -> None:
    """A row of chroma for the row y of pixels: ``width`` samples. ring: from the first pixel's column on."""
    here = y >> 1 if image.v == 2 else y
    near = ring + here % _CHROMA_ROWS * stride
    if (image.width + 1) >> 1 < _FANCY_WIDTH:
        _repeat(target, near, width)
        return
    other = _clamp(here + (1 if y & 1 else -1), rows)
    far = ring + other % _CHROMA_ROWS * stride
    for at in range(0, (width + 1) >> 1, CHUNK):
        if image.v == 2:
            double_both(target + 2 * at, near + at, far + at)
        else:
            double_row(target + 2 * at, near + at)


@kernel
def _colour_row(out: int, y: int, cb: int, cr: int, width: int, grey: bool, fast: bool) -> None:
    """One row of pixels, and up to 15 more."""
    for at in range(0, width, CHUNK):
        if grey:
            grey_to_rgb(out + 3 * at, y + at)
        else:
            to_rgb(fast, out + 3 * at, y + at, cb + at, cr + at)


@kernel
def _decode_chroma(image: _Image, mcu: int, start: int, wanted: _Columns, books: Books, room: _Room, fast: bool) -> int:
    """Block rows of Cb and Cr, number ``mcu``, of an MCU row that begins at ``start``; returns its end, 0 if bad."""
    each, stride = image.v + 2, room.stride
    start = _skip(image, start, mcu * each, mcu * each + image.v)
    for plane in range(2):
        entry = mcu * each + image.v + plane
        end = _skip(image, start, entry, entry + 1)
        ring = room.rings + plane * room.ring_bytes + mcu % _RING * 8 * stride
        quant, out = image.quant + _QUANT_BYTES // 3 * (plane + 1), ring + _MARGIN
        row = Row(start, end, wanted.blocks, wanted.first, wanted.count, quant, room.dcs, out, stride, False)
        if end > image.end or not decode_row(row, books, fast):
            return 0
        _extend(ring, stride, 8 * wanted.first, (image.width + image.h - 1) // image.h)
        start = end
    return start


@kernel
def _decode_luma(
    image: _Image,
    mcu: int,
    start: int,
    wanted: _Columns,
    top: int,
    bottom: int,
    books: Books,
    room: _Room,
    fast: bool,
) -> int:
    """Block rows of Y of an MCU row that begins at ``start``, those with rows from ``top`` to ``bottom``; its end."""
    each, stride = image.v + image.planes - 1, room.stride
    for part in range(image.v):
        entry = mcu * each + part
        end = _skip(image, start, entry, entry + 1)
        first = 8 * (mcu * image.v + part)
        if first < bottom and first + 8 > top:
            out, quant = room.luma + 8 * part * stride, image.quant
            row = Row(start, end, wanted.blocks, wanted.first, wanted.count, quant, room.dcs, out, stride, True)
            if end > image.end or not decode_row(row, books, fast):
                return 0
        start = end
    return _skip(image, start, mcu * each + image.v, (mcu + 1) * each)


@kernel
def _make_row(out: int, y: int, luma: int, chroma: int, width: int, image: _Image, room: _Room, fast: bool) -> None:
    """Row y of pixels. luma: the row's first sample; chroma: the first pixel's column in Cb's ring."""
    cb, cr = room.doubled, room.doubled + room.stride
    if image.h == 2:
        rows = (image.height + image.v - 1) // image.v
        _upsample(cb, chroma, y, width, rows, image, room.stride)
        _upsample(cr, chroma + room.ring_bytes, y, width, rows, image, room.stride)
    else:
        cb = chroma + y % _CHROMA_ROWS * room.stride
        cr = cb + room.ring_bytes
    _colour_row(out, luma, cb, cr, width, image.planes == 1, fast)


@kernel
def _decode_region(
    image: _Image, left: int, top: int, right: int, bottom: int, books: Books, room: _Room, out: int, fast: bool
) -> bool:
    """Decode a region, whose left is even, to ``out``. Returns whether the rows under it fit."""
    h, v = image.h, image.v
    lines = v - 1  # of chroma above and below that interpolation needs
    y_columns = _columns(left, right - 1, image.width)
    c_columns = _columns(left // h - 1, (right - 1) // h + 1, (image.width + h - 1) // h)
    c_mcu = _clamp(top // v - lines, (image.height + v - 1) // v) >> 3
    c_last = _clamp((bottom - 1) // v + lines, (image.height + v - 1) // v) >> 3
    chroma = room.rings + _MARGIN + left // h - 8 * c_columns.first
    luma = room.luma + left - 8 * y_columns.first
    mcu, each = top // (8 * v), v + image.planes - 1
    c_place = _skip(image, image.table + image.rows * each * image.entry, 0, c_mcu * each)
    y_place = _skip(image, c_place, c_mcu * each, mcu * each)
    y = top
    while y < bottom:
        while image.planes > 1 and c_mcu <= min(mcu + lines, c_last):
            c_place = _decode_chroma(image, c_mcu, c_place, c_columns, books, room, fast)
            c_mcu += 1
            if c_place == 0:
                return False
        y_place = _decode_luma(image, mcu, y_place, y_columns, top, bottom, books, room, fast)
        mcu += 1
        if y_place == 0:
            return False
        while y < min(bottom, 8 * v * mcu):
            row = luma + (y - 8 * v * (mcu - 1)) * room.stride
            _make_row(out, y, row, chroma, right - left, image, room, fast)
            out += 3 * (right - left)
            y += 1
    return True


@kernel
def decode_coefficients(
    data: np.ndarray,
    width: int,
    height: int,
    region: tuple,
    tables: Tables,
    scratch: np.ndarray,
    canvas: np.ndarray,
    fast: bool,
) -> tuple[bool, int, int, int, int]:
    """Decode at least ``region`` of a packed image to the beginning of ``canvas``, uint8, as RGB.

    data: uint8 (bytes,), C-contiguous; width, height: what the image must have; region: x0, y0, x1, y1 in pixels,
    inside of it and not empty; scratch: uint8, at least ``scratch_bytes(width)``; canvas: room for all pixels and
    ``CANVAS_SLACK``; fast: use AVX2 where there is such. Returns whether the data is an image of that size, and the
    decoded pixels' left, top, width and height.
    """
    books = address_books(tables)
    image = _open(np.int64(address_of(data)), data.size, width, height, books)
    left, top, right, bottom = region[0] & ~1, region[1], region[2], region[3]
    done = image.fits and scratch.size >= scratch_bytes(width)
    if done:
        room = _lay_out(np.int64(address_of(scratch)), width)
        out = np.int64(address_of(canvas))
        done = _decode_region(image, left, top, right, bottom, books, room, out, fast)
    return done, left, top, right - left, bottom - top


def decode_image(data: np.ndarray, coding: Coding, width: int, height: int) -> np.ndarray:
    """A whole packed image, uint8 (bytes,), as (height, width, 3) uint8 RGB.

    Raises:
        ValueError: the data is not an image of that size.
    """
    canvas = np.empty(3 * width * height + CANVAS_SLACK, np.uint8)
    scratch = np.zeros(scratch_bytes(width), np.uint8)
    region = (0, 0, width, height)
    done, *_ = decode_coefficients(
        np.ascontiguousarray(data), width, height, region, make_tables(coding), scratch, canvas, True
    )
    if not done:
        raise ValueError(f"not {width}×{height} pixels, or its rows don't fit")
    return canvas[: 3 * width * height].reshape(height, width, 3)
