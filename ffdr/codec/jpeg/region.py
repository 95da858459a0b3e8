"""Pixels of a region of a stored JPEG, straight from its restart segments.

It does what ``splice`` and libjpeg-turbo do together, with the same pixels bit by bit, in two thirds of the time: no
JPEG is put together, MCUs of a segment beside the region are entropy-decoded only or not even that, and what follows
is the vector code of coefficient images. It is for the JPEGs that ffdr writes: baseline, 4:2:0, 8 bits, with a row
table. Whatever else, and any damage that it meets, it hands back, for libjpeg to decide.

**Any bytes.** Nothing is read or written outside of the arrays. Every MCU is checked for having taken no more bits than
its segment has, with as much slack behind the segment as an MCU can take. Coefficients that no encoder makes are handed
back as well: where sums overflow, decoders differ. So what a full decode takes without complaint has the same pixels
here, and what is complained of inside of the MCUs that are needed is still complained of. The reverse does not hold:
damage outside of them passes unseen, where ``splice`` has libjpeg decode their segments to the end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from ffdr.codec.crop import BYTES, CROP, MEMORY, REGION, Crop
from ffdr.codec.dct.idct import SAFE, LoosePair, fill_block, loose_1, loose_2, loose_4, loose_8
from ffdr.codec.dct.pixels import (
    FANCY_WIDTH,
    MARGIN,
    RING,
    Rows,
    Sampling,
    clamp,
    extend_chroma,
    lay_out_rows,
    make_row_420,
    rows_bytes,
)
from ffdr.codec.jpeg.entropy import (
    BLOCK_SLACK,
    CLEAN_SLACK,
    Bits,
    bits_taken,
    decode_ac,
    decode_dc,
    open_bits,
    unstuff,
)
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
)
from ffdr.codec.jpeg.tables import TABLES_BYTES, Tables, read_tables
from ffdr.jit.arguments import named
from ffdr.jit.instructions import long_at, put_long, put_short, short_at, signed_short_at
from ffdr.jit.kernel import address_of, inlined_kernel, kernel
from ffdr.jit.unit import unit

# The scratch memory: rows of samples as ``dct/pixels.py`` lays them out, the image's tables, and
#
#     blocks      256 bytes     coefficients of a pair of blocks, all 0 but while the pair is being decoded
#     dump        256 bytes     those of a pair that is not wanted, and what lies behind the 63rd of any block
#     slack
#     seen         32 bytes     see idct.LoosePair
#     predicted     8 bytes     int16 DC of the last blocks of Y, Cb and Cr
_PAIR = 256
_BLOCKS = _PAIR + BLOCK_SLACK + _PAIR
_SEEN = 32
_UNSAFE = np.uint64(0x0001000100010001 * (0xFFFF & -2 * SAFE))


@kernel
def segments_scratch_bytes(width: int) -> int:
    """Scratch memory that decoding regions of JPEGs of up to so many columns takes, bytes."""
    return rows_bytes(width) + TABLES_BYTES + _BLOCKS + _SEEN + 8


class _Decoder(NamedTuple):
    """All that decoding one image takes; memory by address."""

    tables: Tables
    sampling: Sampling
    rows: Rows
    blocks: int
    seen: int
    predicted: int
    clean: int
    clean_bytes: int


class _Wanted(NamedTuple):
    """MCU columns of the image, and block rows of the MCU row at hand."""

    chroma: Range
    luma: Range
    top: bool
    """whether pixels of the MCUs' upper blocks of Y are wanted"""
    bottom: bool


_DECODER = named(_Decoder, tables=named(Tables), sampling=named(Sampling), rows=named(Rows))
_WANTED = named(_Wanted, chroma=named(Range), luma=named(Range))


@inlined_kernel
def _transform(decoder: _Decoder, pair: LoosePair, rank: int, dc_a: int, dc_b: int) -> None:
    """Samples of a pair with nothing behind a zig-zag rank, by the cheapest way."""
    if rank == 0:
        for block in range(2):
            value = np.int64(np.int16((dc_a if block == 0 else dc_b) * short_at(pair.quant + 16 * block)))
            put_short(value + SAFE | signed_short_at(pair.seen), pair.seen)
            level = clamp((((value << 2) + 16) >> 5) + 128, 256)
            fill_block(pair.out_a if block == 0 else pair.out_b, pair.stride, level)
            put_short(np.int64(0), pair.coefficients + 16 * block)
    elif rank <= 8:
        loose_1(pair)
    elif rank <= 16:
        loose_2(pair)
    elif rank <= 32:
        loose_4(pair)
    else:
        loose_8(pair)


@inlined_kernel
def _decode_pair(decoder: _Decoder, bits: Bits, which: int, out_a: int, out_b: int) -> tuple[Bits, bool]:
    """Samples of an MCU's pair of blocks: 0 and 1 upper and lower of Y, 2 chroma; out_a 0: only pass over it.

    Returns (what follows, whether its data are sound).
    """
    tables, is_chroma = decoder.tables, which == 2
    blocks = decoder.blocks if out_a else decoder.blocks + _PAIR
    rank, sound = np.int64(0), True
    for half in range(2):
        component = 1 + half if is_chroma else 0
        dc_table = (tables.cr_dc if half else tables.cb_dc) if is_chroma else tables.y_dc
        ac_table = (tables.cr_ac if half else tables.cb_ac) if is_chroma else tables.y_ac
        bits, difference = decode_dc(bits, dc_table)
        predicted = decoder.predicted + 2 * component
        dc = signed_short_at(predicted) + difference
        put_short(dc, predicted)
        put_short(dc, blocks + 16 * half)
        bits, last = decode_ac(bits, ac_table, blocks + 16 * half)
        rank = max(rank, last)
        sound &= -SAFE <= dc < SAFE and last < 64
    if out_a and sound:
        quant = tables.c_quant if is_chroma else tables.y_quant
        pair = LoosePair(blocks, quant, out_a, out_b, decoder.rows.stride, decoder.seen)
        dc_a, dc_b = signed_short_at(blocks), signed_short_at(blocks + 16)
        _transform(decoder, pair, rank, dc_a, dc_b)
    return bits, sound


@unit(types.boolean, _DECODER, types.int64, types.int64, types.int64, _WANTED, types.int64)
def _decode_mcus(decoder: _Decoder, mcu_row: int, first: int, count: int, wanted: _Wanted, size: int) -> bool:
    """Samples of the MCUs ``first`` and following of a row, whose segment's ``size`` bytes lie in ``clean``.

    count: of the segment's MCUs. Returns whether its data are sound as far as they are needed.
    """
    rows, stride = decoder.rows, decoder.rows.stride
    luma = rows.luma + (mcu_row & 1) * MCU * stride
    cb = rows.rings + mcu_row % RING * 8 * stride + MARGIN
    put_long(np.uint64(0), np.uint64(decoder.predicted))
    bits, end = open_bits(decoder.clean), min(first + count, wanted.chroma.end)
    for mcu in range(first, end):
        out_y = luma + MCU * (mcu - wanted.luma.first)
        out_c = cb + MCU // 2 * (mcu - wanted.chroma.first)
        in_luma = wanted.luma.first <= mcu < wanted.luma.end
        for which in range(3):
            keep = mcu >= wanted.chroma.first
            if which < 2:
                keep = in_luma and (wanted.bottom if which else wanted.top)
            out_a = out_c if which == 2 else out_y + which * 8 * stride
            out_b = out_a + (rows.ring_bytes if which == 2 else 8)
            bits, sound = _decode_pair(decoder, bits, which, out_a if keep else 0, out_b)
            if not sound:
                return False
        if bits_taken(bits, decoder.clean) > 8 * size:
            return False
    return end < first + count or 8 * size - bits_taken(bits, decoder.clean) < 8


@kernel
def _decode_row(
    decoder: _Decoder, data: np.ndarray, row: StoredRow, mcu_row: int, interval: int, wanted: _Wanted
) -> bool:
    """Samples of the wanted MCUs of a row. Returns whether its data are sound as far as they are needed."""
    if row.stop < row.start or row.stop - row.start + CLEAN_SLACK > decoder.clean_bytes:
        return False
    base, at = np.int64(address_of(data)), row.start
    for column in range((wanted.chroma.end + interval - 1) // interval):
        here, size = (column + 1) * interval > wanted.chroma.first, np.int64(0)
        if here:
            size, end = unstuff(base + at, base + row.stop, base + len(data), decoder.clean)
            end -= base
        else:
            end = find_restart(data, at, row.stop)
        if not ends_well(data, row, column, end):
            return False
        if here and not _decode_mcus(decoder, mcu_row, column * interval, interval, wanted, size):
            return False
        at = end + 2
    ring = decoder.rows.rings + mcu_row % RING * 8 * decoder.rows.stride
    for plane in range(2):
        end = decoder.sampling.chroma_width - MCU // 2 * wanted.chroma.first
        extend_chroma(ring + plane * decoder.rows.ring_bytes, decoder.rows.stride, end)
    return True


@kernel
def _decode_rows(
    decoder: _Decoder, data: np.ndarray, table: RowTable, region: tuple[int, int, int, int], out: int
) -> bool:
    """Decode a region, whose left is even, to ``out``. Returns whether the data are sound as far as they are needed."""
    left, top, right, bottom = region
    rows, sampling = decoder.rows, decoder.sampling
    # Interpolation takes one sample of chroma more on all sides.
    chroma = Range(
        clamp(left // 2 - 1, sampling.chroma_width) >> 3, (clamp((right - 1) // 2 + 1, sampling.chroma_width) >> 3) + 1
    )
    luma = Range(left // MCU, (right - 1) // MCU + 1)
    first = clamp(top // 2 - 1, sampling.chroma_height) >> 3
    last = clamp((bottom - 1) // 2 + 1, sampling.chroma_height) >> 3
    chroma_column = rows.rings + MARGIN + left // 2 - MCU // 2 * chroma.first
    luma_column = rows.luma + left - MCU * luma.first
    start, y = table.scan_start, top
    for mcu_row in range(last + 1):
        if mcu_row >= first:
            middle = MCU * mcu_row + MCU // 2
            wanted = _Wanted(
                chroma,
                luma,
                top < middle and bottom > middle - MCU // 2,
                top < middle + MCU // 2 and bottom > middle,
            )
            row = open_row(data, table, mcu_row, start)
            if not _decode_row(decoder, data, row, mcu_row, table.interval, wanted):
                return False
            # The last row of an MCU row takes chroma of the next one.
            ready = bottom if mcu_row == last else min(bottom, MCU * (mcu_row + 1) - 1)
            while y < ready:
                # From top to bottom: what a row writes behind its last pixel, the next row overwrites.
                samples = luma_column + y % (2 * MCU) * rows.stride
                make_row_420(sampling, rows, out, y, samples, chroma_column, right - left)
                out += 3 * (right - left)
                y += 1
        start += row_bytes(data, table, mcu_row)
    return True


@kernel
def _is_safe(seen: int) -> bool:
    """Whether the coefficients were such that all decoders make the same of them."""
    word = np.uint64(0)
    for at in range(0, _SEEN, 8):
        word |= long_at(np.uint64(seen + at))
    return word & _UNSAFE == 0


@unit(types.Tuple([types.boolean, CROP]), BYTES, types.int64, types.int64, REGION, MEMORY, MEMORY, MEMORY)
def decode_segments(
    data: np.ndarray,
    width: int,
    height: int,
    region: tuple[int, int, int, int],
    clean: np.ndarray,
    scratch: np.ndarray,
    canvas: np.ndarray,
) -> tuple[bool, Crop]:
    """Decode a region of a stored JPEG to the beginning of ``canvas``, as RGB.

    Args:
        data: (bytes,) uint8, C-contiguous, the stored JPEG with its table; any bytes.
        width, height: what the image must have, pixels.
        region: pixels (x0, y0, x1, y1), ends excluded, not empty and inside the image.
        clean: uint8, ``CLEAN_SLACK`` longer than ``data``.
        scratch: uint8, at least ``segments_scratch_bytes(width)``.
        canvas: uint8, enough for all pixels of the crop and ``CANVAS_SLACK``.

    Returns:
        Whether it could be done, and what was decoded: the region, from an even column on. Where it could not, the
        canvas holds noise, and ``splice`` and libjpeg have to say what the data are.
    """
    left, top, right, bottom = region[0] & ~1, region[1], region[2], region[3]
    crop = Crop(left, top, right - left, bottom - top)
    table = read_row_table(data, width, height)
    chroma_width, chroma_height = (np.int64(width) + 1) // 2, (np.int64(height) + 1) // 2
    if table.scan_start == 0 or chroma_width < FANCY_WIDTH or scratch.size < segments_scratch_bytes(width):
        return False, crop
    frame = check_headers(data, table, width, height)
    if frame == 0:
        return False, crop
    start = np.int64(address_of(scratch))
    blocks = start + rows_bytes(width) + TABLES_BYTES
    tables = read_tables(data, frame, blocks - TABLES_BYTES)
    if not tables.fit:
        return False, crop
    scratch[blocks - start : blocks - start + _BLOCKS + _SEEN + 8] = 0
    seen, sampling = blocks + _BLOCKS, Sampling(2, 2, chroma_width, chroma_height, 3)
    rows, cleared = lay_out_rows(start, width), np.int64(address_of(clean))
    decoder = _Decoder(tables, sampling, rows, blocks, seen, seen + _SEEN, cleared, np.int64(clean.size))
    done = _decode_rows(decoder, data, table, (left, top, right, bottom), np.int64(address_of(canvas)))
    return done and _is_safe(seen), crop
