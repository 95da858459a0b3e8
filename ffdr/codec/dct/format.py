"""The bytes of a coefficient image, and of the codebooks that all images of a file share.

A *plane* is Y, Cb or Cr; a *block* is 8×8 samples of one, stored as its quantised DCT coefficients. Only blocks that
hold samples of the image are stored: ceil(width / 8) of a plane's own width, not the padding of JPEG's MCUs. An MCU
row is v block rows of Y (v = 2 for 4:2:0, else 1) and one each of Cb and Cr.

One image, little endian::

    RECORD_DTYPE
    uint16 quant[3][64]     quantisation tables in natural order, only where ``quant`` is INLINE
    uint16 row_bytes[rows]  bytes of each block row (uint32 where flags has WIDE_ROWS), MCU row by MCU row, in each
                            first Y from top to bottom, then Cb, Cr; 0 for a row of Y below the image's last one
    the block rows, one behind the other
    TRAILER zeros           so that a vector load may reach over the end

One block row of n blocks::

    uint16 head[ceil(n / 8)]  DC of eight blocks: bits 0..3 width w, bits 4..15 base + 2048
    uint8  low[n]             entry in the codebook ``low`` (Y) or ``chroma``
    uint8  high[...]          Y only: for each block whose ``low`` is at least ``coding.first_with_high``, in order, an
                              entry in the codebook ``high``
    uint8  dc[...]            for each head w bytes: DC − base of eight blocks, unsigned w bits each (0 behind the last)
    uint8  ac[...]            for each block the payload of its groups, 0 to 7, in order

The 63 AC coefficients of a block form eight *groups* by zig-zag rank (``GROUPS``). A codebook entry gives the *types*
of several groups at once: of groups 0 to 3 (``low``), of 4 to 7 (``high``; all 0 where there is none), or of all eight
(``chroma``). A group of width w takes w bytes: the values minus the type's bias as eight w-bit integers in two's
complement, the first one in the lowest bits. Widths are such that no value is spread over more than 16 bits from the
byte in which it begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GREY, YUV444, YUV422, YUV420 = range(4)
"""Samplings: how many samples of Y there are to one of Cb and Cr, ``FACTORS``. GREY has no Cb and Cr."""
SAMPLING_NAMES = ("grey", "4:4:4", "4:2:2", "4:2:0")
FACTORS = ((1, 1), (1, 1), (2, 1), (2, 2))
"""Horizontal and vertical."""

RECORD_DTYPE = np.dtype(
    [
        ("sampling", "u1"),
        ("quant", "u1"),  # number of the set of quantisation tables in the file's coding, or INLINE
        ("flags", "u1"),
        ("reserved", "u1"),  # 0
        ("width", "<u2"),
        ("height", "<u2"),
    ]
)
INLINE = 255
WIDE_ROWS = 1
TRAILER = 16
TABLE_SHAPE = (3, 64)
"""A set of quantisation tables: of Y, Cb, Cr, in natural order; those of a grey image are three times the same."""

BLOCKS_PER_HEAD = 8
HEAD_BIAS = 2048
COEFFICIENT_BITS = 12
LEAST, MOST = -HEAD_BIAS, (1 << COEFFICIENT_BITS) - HEAD_BIAS - 1
"""Every coefficient lies between them."""

WIDTHS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 1, 2], np.uint8)
"""Bits of a value, by type."""
BIASES = np.array([0] * 12 + [1, 1], np.int16)
"""What is added to a stored value, by type."""
DC_WIDTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)

ENTRIES = 256
LOW_GROUPS, HIGH_GROUPS, CHROMA_GROUPS = 4, 4, 8
MAX_QUANTS = 255


def _zigzag() -> list[int]:
    """Natural-order position (8 × row + column) by zig-zag rank (ITU-T T.81, figure 5)."""
    along = {}
    for row in range(8):
        for column in range(8):
            diagonal = row + column
            along[diagonal, row if diagonal % 2 else column] = 8 * row + column
    return [along[key] for key in sorted(along)]


ZIGZAG = np.array(_zigzag(), np.uint8)
"""(64,) natural-order position by zig-zag rank."""


def _groups() -> np.ndarray:
    """Within a group, a coefficient takes the lane of its column if that is free, so that unpacking moves less."""
    groups = np.full((8, 8), -1, np.int8)
    for group in range(8):
        waiting = []
        for position in ZIGZAG[1 + 8 * group : 9 + 8 * group].tolist():
            lane = position % 8
            if groups[group, lane] < 0:
                groups[group, lane] = position
            else:
                waiting.append(position)
        for position in waiting:
            groups[group, np.flatnonzero(groups[group] < 0)[0]] = position
    return groups


GROUPS = _groups()
"""(8, 8) natural-order position of the coefficient in each lane of each group; −1 for the one lane that stays 0."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The quantised DCT coefficients of one image. P planes: 1 (grey) or 3."""

    sampling: int
    width: int
    """pixels"""
    height: int
    quant: np.ndarray
    """(P, 64) uint16 quantisation tables, natural order, each at least 1."""
    planes: tuple[np.ndarray, ...]
    """P of (block rows, blocks per row, 64) int16, natural order; DC is the value itself, not a difference."""


def check_coefficients(coefficients: Coefficients) -> None:
    """Raise ValueError where shapes, types or values are none that ``Coefficients`` may have."""
    sampling, width, height = coefficients.sampling, coefficients.width, coefficients.height
    if not 0 <= sampling < len(FACTORS):
        raise ValueError(f"coefficients: sampling {sampling} is unknown")
    if not (0 < width <= 65535 and 0 < height <= 65535):
        raise ValueError(f"coefficients: {width}×{height} pixels, sides can be 1 to 65535")
    planes = 1 if sampling == GREY else 3
    if len(coefficients.planes) != planes:
        raise ValueError(f"coefficients: {len(coefficients.planes)} planes, must be {planes}")
    quant = coefficients.quant
    if quant.dtype != np.uint16 or quant.shape != (planes, 64) or not quant.all():
        raise ValueError(f"coefficients: quant must be uint16 ({planes}, 64), at least 1")
    for plane, blocks in enumerate(coefficients.planes):
        shape = (*block_grid(sampling, width, height, plane), 64)
        if blocks.dtype != np.int16 or blocks.shape != shape:
            raise ValueError(f"coefficients: plane {plane} is {blocks.dtype} {blocks.shape}, must be int16 {shape}")
        if blocks.min() < LEAST or blocks.max() > MOST:
            raise ValueError(f"coefficients: plane {plane} has a value outside of [{LEAST}, {MOST}]")


def block_grid(sampling: int, width: int, height: int, plane: int) -> tuple[int, int]:
    """Block rows of a plane, and blocks per row."""
    h, v = FACTORS[sampling] if plane else (1, 1)
    return _ceil(_ceil(height, v), 8), _ceil(_ceil(width, h), 8)


def mcu_rows(sampling: int, height: int) -> int:
    """MCU rows of an image."""
    return _ceil(height, 8 * FACTORS[sampling][1])


def rows_per_mcu(sampling: int) -> int:
    """Entries of the row table for one MCU row."""
    return FACTORS[sampling][1] + (0 if sampling == GREY else 2)


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)
