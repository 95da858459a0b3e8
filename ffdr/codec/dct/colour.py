"""From samples to pixels: interpolated chroma and colours, as libjpeg makes them, 16 samples at a time."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from numba import types

from ffdr.jit.ir import I8, I16, I32, Code, Value, constant, instruction

_ADDRESS = types.int64
CHUNK = 16
"""Samples of chroma that the upsampling takes at a time, and pixels that the colour conversion makes."""


def _chunk(code: Code, address: Value) -> Value:
    """16 samples, as int16."""
    return code.extended(code.load(address, ir.VectorType(I8, CHUNK)), I16, signed=False)


def _store_doubled(code: Code, out: Value, columns: Sequence[Value], bias: tuple[int, int], shift: int) -> None:
    """Triangle filter along a row: of each sample two, 3/4 of it and 1/4 of its neighbour.

    columns: 16 samples each, the ones before, the ones that are doubled, the ones behind; bias: of the left and the
    right sample of the two, so that halves are rounded down and up in turns.
    """
    b = code.b
    before, here, behind = columns
    three = b.mul(here, constant(I16, [3] * CHUNK))
    left, right = (
        b.lshr(b.add(b.add(three, other), constant(I16, [more] * CHUNK)), constant(I16, [shift] * CHUNK))
        for other, more in zip((before, behind), bias, strict=True)
    )
    # Both fit a byte, so one 16-bit lane is two neighbouring samples, and nothing has to be interleaved.
    code.store(b.or_(left, b.shl(right, constant(I16, [8] * CHUNK))), out)


@instruction(types.void, _ADDRESS, _ADDRESS, _ADDRESS)
def double_both(code: Code, out: Value, near: Value, far: Value) -> None:
    """32 samples of a row of 4:2:0 chroma upsampled both ways, out of 16 of the nearest and the next nearest row.

    Addresses; one sample before and one behind the 16 are read as well. libjpeg's ``h2v2_fancy_upsample``.
    """
    blended = [
        code.b.add(
            code.b.mul(_chunk(code, code.at(near, at)), constant(I16, [3] * CHUNK)), _chunk(code, code.at(far, at))
        )
        for at in (-1, 0, 1)
    ]
    _store_doubled(code, out, blended, bias=(8, 7), shift=4)


@instruction(types.void, _ADDRESS, _ADDRESS)
def double_row(code: Code, out: Value, row: Value) -> None:
    """32 samples of a row of 4:2:2 chroma upsampled, out of 16; libjpeg's ``h2v1_fancy_upsample``.

    Addresses; one sample before and one behind the 16 are read as well.
    """
    _store_doubled(code, out, [_chunk(code, code.at(row, at)) for at in (-1, 0, 1)], bias=(1, 2), shift=2)


_RED, _BLUE = 91881 - (1 << 16), 116130 - (2 << 16)
_GREEN_CB, _GREEN_CR = -22554, (1 << 16) - 46802
"""libjpeg's factors in 1/65536, less the whole multiples that additions make up for: 1.402, 1.772, −0.34414,
−0.71414."""


def _colours(code: Code, y: Value, cb: Value, cr: Value) -> tuple[Value, Value, Value]:
    """Red, green, blue of 16 pixels, not yet clamped; cb and cr are centred on 0."""
    b = code.b
    one = constant(I16, [1] * CHUNK)

    def part(doubled: Value, factor: int) -> Value:
        """Half of doubled × factor / 65536, rounded to nearest."""
        return b.ashr(b.add(code.high_product(doubled, constant(I16, [factor] * CHUNK)), one), one)

    cb2, cr2 = b.shl(cb, one), b.shl(cr, one)
    red = b.add(b.add(y, cr), part(cr2, _RED))
    blue = b.add(b.add(y, cb2), part(cb2, _BLUE))
    # libjpeg rounds the sum of green's two products, not each: it needs 32 bits.
    half, down = constant(I32, [1 << 15] * 8), constant(I32, [16] * 8)
    sums = [b.ashr(b.add(code.sums(two, _GREEN_CB, _GREEN_CR), half), down) for two in code.pairs(cb, cr)]
    green = b.add(b.sub(y, cr), code.narrow(*sums))
    return red, green, blue


def _store_pixels(code: Code, channels: Sequence[Value], out: Value) -> None:
    """16 pixels, 48 bytes, out of three vectors of 16 bytes."""
    # Each third of the output takes its bytes from all three channels: every channel is moved to its places, with 0
    # (lane 16 of the two vectors) in those of the others, and the three are or-ed together.
    zero = constant(I8, [0] * CHUNK)
    for third in range(3):
        places = [divmod(16 * third + i, 3) for i in range(16)]
        moved = [
            code.shuffle(levels, zero, [pixel if which == channel else CHUNK for pixel, which in places])
            for channel, levels in enumerate(channels)
        ]
        code.store(code.b.or_(code.b.or_(moved[0], moved[1]), moved[2]), code.at(out, 16 * third))


@instruction(types.void, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, two_versions=True)
def to_rgb(code: Code, out: Value, y: Value, cb: Value, cr: Value) -> None:
    """16 pixels RGB, 48 bytes at ``out``, from 16 samples each of Y, Cb and Cr; libjpeg's ``ycc_rgb_convert``."""
    middle = constant(I16, [128] * CHUNK)
    chroma = (code.b.sub(_chunk(code, address), middle) for address in (cb, cr))
    channels = _colours(code, _chunk(code, y), *chroma)
    _store_pixels(code, [code.bytes_of(levels) for levels in channels], out)


@instruction(types.void, _ADDRESS, _ADDRESS)
def grey_to_rgb(code: Code, out: Value, y: Value) -> None:
    """16 pixels RGB, 48 bytes at ``out``, from 16 samples of Y alone."""
    _store_pixels(code, [code.load(y, ir.VectorType(I8, CHUNK))] * 3, out)
