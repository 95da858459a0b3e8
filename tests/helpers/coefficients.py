"""Coefficients to pack, and the packed bytes read in plain Python, by nothing but the description of the format."""

import numpy as np

from ffdr.codec.dct.format import FACTORS, Coefficients, block_grid

# The order in which JPEG stores the 64 coefficients of a block, row by row (T.81, figure A.6).
ZIGZAG = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14]
ZIGZAG += [21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53]
ZIGZAG += [60, 61, 54, 47, 55, 62, 63]
TYPES = [
    (0, 0),
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (12, 0),
    (1, 1),
    (2, 1),
]
"""Width and bias."""


def random_coefficients(rng, sampling, width, height, spread=6.0, quant=None):
    """Coefficients that get smaller towards high frequencies, as those of photographs do, at random."""
    planes = 1 if sampling == 0 else 3
    scale = np.empty(64)
    scale[ZIGZAG] = spread * np.exp(-np.arange(64) / 9)
    blocks = []
    for plane in range(planes):
        shape = (*block_grid(sampling, width, height, plane), 64)
        values = np.rint(rng.laplace(0, scale, shape)).clip(-2048, 2047).astype(np.int16)
        values[..., 0] = rng.integers(-400, 400, shape[:2])
        blocks.append(values)
    if quant is None:
        quant = rng.integers(1, 65536, (planes, 64)).astype(np.uint16)
    return Coefficients(sampling, width, height, quant, tuple(blocks))


def same(first, second):
    """Whether two Coefficients are equal in everything."""
    sides = [(c.sampling, c.width, c.height, len(c.planes)) for c in (first, second)]
    pairs = [(first.quant, second.quant), *zip(first.planes, second.planes, strict=False)]
    return sides[0] == sides[1] and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


class Bits:
    """Integers out of bytes, the lowest bits first."""

    def __init__(self, data):
        self.number, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, width):
        value, self.number, self.left = self.number & ((1 << width) - 1), self.number >> width, self.left - width
        assert self.left >= 0
        return value

    def signed(self, width):
        value = self.take(width)
        return value - (1 << width) if width and value >> (width - 1) else value


def lanes(group):
    """Natural-order positions in the lanes of a group: each in the lane of its column if that is free."""
    positions = [ZIGZAG[rank] for rank in range(1 + 8 * group, min(9 + 8 * group, 64))]
    taken, waiting = {}, []
    for position in positions:
        if position % 8 in taken:
            waiting.append(position)
        else:
            taken[position % 8] = position
    free = [lane for lane in range(8) if lane not in taken]
    return taken | dict(zip(free, waiting, strict=False))


LANES = [lanes(group) for group in range(8)]


def read_row(row, blocks, is_luma, coding):
    """Lists of 64 values for each of the row's blocks, all of whose bytes must be used."""
    heads = -(-blocks // 8)
    at = 2 * heads
    entries, at = row[at : at + blocks], at + blocks
    types = []
    for entry in entries:
        if is_luma:
            types.append(list(coding.low[entry]) + [0] * 4)
            if entry >= coding.first_with_high:
                types[-1][4:] = coding.high[row[at]]
                at += 1
        else:
            types.append(list(coding.chroma[entry]))
    found = [[0] * 64 for _ in range(blocks)]
    for head in range(heads):
        word = row[2 * head] + 256 * row[2 * head + 1]
        bits = Bits(row[at : at + word % 16])
        at += word % 16
        for block in range(8 * head, 8 * head + 8):
            value = bits.take(word % 16)
            if block < blocks:
                found[block][0] = value + word // 16 - 2048
            else:
                assert value == 0
    for block in range(blocks):
        for group in range(8):
            width, bias = TYPES[types[block][group]]
            bits = Bits(row[at : at + width])
            at += width
            for lane in range(8):
                value = bits.signed(width) + bias if width else 0
                if lane in LANES[group]:
                    found[block][LANES[group][lane]] = value
                else:
                    assert value == 0
    assert at == len(row)
    return found


def read_packed(data, coding):
    """Coefficients of an image's packed bytes."""
    sampling, number, flags, reserved = data[:4]
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (4, 6))
    assert reserved == 0 and flags in (0, 1)
    at = 8
    if number == 255:
        quant = np.array([int.from_bytes(data[8 + 2 * i : 10 + 2 * i], "little") for i in range(192)])
        at += 384
    else:
        quant = coding.quant[number]
    _, v = FACTORS[sampling]
    planes = 1 if sampling == 0 else 3
    order = [0] * v + [1, 2][: planes - 1]
    mcus = -(-height // (8 * v))
    size = 4 if flags else 2
    table = [int.from_bytes(data[at + size * i : at + size * (i + 1)], "little") for i in range(mcus * len(order))]
    at += size * len(table)
    grids = [block_grid(sampling, width, height, plane) for plane in range(planes)]
    rows = [[] for _ in range(planes)]
    for number, length in enumerate(table):
        plane = order[number % len(order)]
        if len(rows[plane]) < grids[plane][0]:
            rows[plane].append(read_row(data[at : at + length], grids[plane][1], plane == 0, coding))
        else:
            assert length == 0
        at += length
    assert data[at:] == bytes(16)
    quant = quant.reshape(3, 64)[:planes].astype(np.uint16)
    return Coefficients(sampling, width, height, quant, tuple(np.array(plane, np.int16) for plane in rows))
