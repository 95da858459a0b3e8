"""Coefficients to the packed bytes of ``ffdr.codec.dct.format``, and back: the exact twin of what the decoder reads."""

from __future__ import annotations

import numpy as np

from ffdr.codec.dct.coding import Coding
from ffdr.codec.dct.format import (
    BLOCKS_PER_HEAD,
    FACTORS,
    GREY,
    INLINE,
    RECORD_DTYPE,
    TABLE_SHAPE,
    TRAILER,
    WIDE_ROWS,
    Coefficients,
    block_grid,
    check_coefficients,
    mcu_rows,
    rows_per_mcu,
)
from ffdr.codec.dct.rows import FAULTS, OK, most_bytes, pack_row, unpack_row

_QUANT_BYTES = 2 * TABLE_SHAPE[0] * TABLE_SHAPE[1]


def pack(coefficients: Coefficients, coding: Coding) -> bytes:
    """An image as packed bytes. Every block takes the cheapest entries that serve it, of those the lowest.

    Raises:
        ValueError: coefficients that can't be packed (``check_coefficients``).
    """
    check_coefficients(coefficients)
    number, tables = _find_quant(coefficients.quant, coding)
    rows = _block_rows(coefficients)
    ends = np.cumsum([most_bytes(len(blocks)) for _, blocks in rows])
    out = np.empty(ends[-1], np.uint8)  # only what is written takes memory
    books = coding.books
    at, lengths = 0, []
    for is_luma, blocks in rows:
        begin = at
        if len(blocks):
            at = pack_row(blocks, books.low if is_luma else books.chroma, books.high, out, at)
        lengths.append(at - begin)
    wide = max(lengths) > np.iinfo(np.uint16).max
    record = np.zeros(1, RECORD_DTYPE)
    record["sampling"], record["quant"], record["flags"] = coefficients.sampling, number, WIDE_ROWS if wide else 0
    record["width"], record["height"] = coefficients.width, coefficients.height
    table = np.array(lengths, "<u4" if wide else "<u2")
    return b"".join([record.tobytes(), tables, table.tobytes(), out[:at].tobytes(), bytes(TRAILER)])


def unpack(data: bytes | np.ndarray, coding: Coding, width: int, height: int) -> Coefficients:
    """The coefficients in packed bytes, (bytes,) uint8, of an image of width × height pixels.

    Raises:
        ValueError: anything that ``pack`` would not write, but for a costlier choice of entries, widths or bases.
    """
    data = np.frombuffer(data, np.uint8)
    record, quant, at = _read_record(data, coding, width, height)
    lengths, at = _read_row_table(data, at, record)
    sampling = int(record["sampling"])
    grids = [block_grid(sampling, width, height, plane) for plane in range(len(quant))]
    _check_lengths(data, at, lengths, _row_blocks(sampling, height, grids))
    planes = tuple(np.empty((*grid, 64), np.int16) for grid in grids)
    coefficients = Coefficients(sampling, width, height, quant, planes)
    books = coding.books
    for number, (is_luma, blocks) in enumerate(_block_rows(coefficients)):
        if len(blocks):
            row = data[at : at + lengths[number]]
            fault = unpack_row(row, books.low if is_luma else books.chroma, books.high, blocks)
            if fault != OK:
                raise ValueError(f"coefficient image: block row {number} {FAULTS[fault]}")
        at += lengths[number]
    return coefficients


def all_tables(quant: np.ndarray) -> np.ndarray:
    """(3, 64) quantisation tables of Y, Cb and Cr out of (P, 64)."""
    return np.broadcast_to(quant, TABLE_SHAPE)


def _find_quant(quant: np.ndarray, coding: Coding) -> tuple[int, bytes]:
    """The number of the tables in the coding and no bytes, or INLINE and the tables."""
    tables = all_tables(quant)
    same = np.flatnonzero((coding.quant == tables).all(axis=(1, 2)))
    return (int(same[0]), b"") if len(same) else (INLINE, tables.astype("<u2").tobytes())


def _block_rows(coefficients: Coefficients) -> list[tuple[bool, np.ndarray]]:
    """In the order of the row table: whether it is one of Y, and its (n, 64) blocks; none for a row below the last."""
    planes, v = coefficients.planes, FACTORS[coefficients.sampling][1]
    rows = []
    for mcu in range(mcu_rows(coefficients.sampling, coefficients.height)):
        for row in range(mcu * v, (mcu + 1) * v):
            rows.append((True, planes[0][row] if row < len(planes[0]) else planes[0][0, :0]))
        rows += [(False, plane[mcu]) for plane in planes[1:]]
    return rows


def _row_blocks(sampling: int, height: int, grids: list[tuple[int, int]]) -> np.ndarray:
    """(rows,) blocks of every row of the row table."""
    of_mcu_row = [grids[0][1]] * FACTORS[sampling][1] + [columns for _, columns in grids[1:]]
    blocks = np.tile(np.array(of_mcu_row, np.int64), (mcu_rows(sampling, height), 1))
    if grids[0][0] < len(blocks) * FACTORS[sampling][1]:
        blocks[-1, FACTORS[sampling][1] - 1] = 0
    return blocks.ravel()


def _read_record(data: np.ndarray, coding: Coding, width: int, height: int) -> tuple[np.void, np.ndarray, int]:
    """The record, its (P, 64) quantisation tables, and the first byte behind them."""
    at = RECORD_DTYPE.itemsize
    if len(data) < at + TRAILER:
        raise ValueError(f"coefficient image: {len(data)} bytes are too few")
    record = data[:at].view(RECORD_DTYPE)[0]
    if record["sampling"] >= len(FACTORS):
        raise ValueError(f"coefficient image: sampling {record['sampling']} is unknown")
    if record["flags"] not in (0, WIDE_ROWS) or record["reserved"]:
        raise ValueError("coefficient image: a flag or reserved byte that must be 0 is not")
    if (record["width"], record["height"]) != (width, height) or not (width and height):
        found = f"{record['width']}×{record['height']}"
        raise ValueError(f"coefficient image: {found} pixels, should be {width}×{height}")
    number = int(record["quant"])
    if number == INLINE:
        if len(data) < at + _QUANT_BYTES:
            raise ValueError("coefficient image: ends in its quantisation tables")
        tables = data[at : at + _QUANT_BYTES].view("<u2").reshape(TABLE_SHAPE).astype(np.uint16)
        at += _QUANT_BYTES
    elif number < len(coding.quant):
        tables = coding.quant[number]
    else:
        raise ValueError(f"coefficient image: quantisation set {number}, the coding has {len(coding.quant)}")
    if not tables.all():
        raise ValueError("coefficient image: its quantisation tables hold a divisor of 0")
    if record["sampling"] == GREY and (tables != tables[0]).any():
        raise ValueError("coefficient image: grey, but its three quantisation tables differ")
    return record, tables[: 1 if record["sampling"] == GREY else 3].copy(), at


def _read_row_table(data: np.ndarray, at: int, record: np.void) -> tuple[np.ndarray, int]:
    """(rows,) int64 bytes of every row, and the first byte behind the table."""
    sampling = int(record["sampling"])
    dtype = np.dtype("<u4" if record["flags"] & WIDE_ROWS else "<u2")
    end = at + mcu_rows(sampling, int(record["height"])) * rows_per_mcu(sampling) * dtype.itemsize
    if len(data) < end:
        raise ValueError("coefficient image: ends in its row table")
    return data[at:end].view(dtype).astype(np.int64), end


def _check_lengths(data: np.ndarray, at: int, lengths: np.ndarray, blocks: np.ndarray) -> None:
    """Rows fill the data up to the trailer, and none is too short for its blocks."""
    end = len(data) - TRAILER
    if at + lengths.sum() != end:
        raise ValueError(f"coefficient image: its rows end at byte {at + lengths.sum()}, should end at {end}")
    if data[end:].any():
        raise ValueError("coefficient image: its last bytes must be 0 and are not")
    if (lengths < blocks + 2 * -(-blocks // BLOCKS_PER_HEAD)).any() or lengths[blocks == 0].any():
        raise ValueError("coefficient image: a block row's length does not fit its blocks")
