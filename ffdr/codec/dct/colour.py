"""From samples to pixels: interpolated chroma and colours, as libjpeg makes them, 32 pixels at a time.

Chroma becomes pixels without a detour through memory. Vectors of 16-bit lanes hold half of the pixels each, in the
order in which AVX2 takes bytes apart and packs them again, whose lanes never cross the middle of a register::

    bytes            0 …  7   8 … 15 | 16 … 23  24 … 31
    first vector     0 …  7          | 16 … 23
    second vector             8 … 15 |          24 … 31
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from numba import types

from ffdr.jit.ir import I8, I16, I32, Code, Value, constant, instruction

_ADDRESS = types.int64
CHUNK = 32
"""Pixels that are made at a time, of as many samples, or half as many of chroma."""
_HALF = CHUNK // 2
_MIDDLE = 128
"""The sample of no colour; chroma counts from there."""

_Halves = tuple[Value, Value]
"""Two vectors of 16 int16, as above."""


def _bytes(code: Code, address: Value, count: int) -> Value:
    return code.load(address, ir.VectorType(I8, count))


def _centred(code: Code, halves: _Halves) -> _Halves:
    low, high = (code.b.sub(half, constant(I16, [_MIDDLE] * _HALF)) for half in halves)
    return low, high


def _doubled(code: Code, columns: Sequence[Value], bias: tuple[int, int], shift: int) -> _Halves:
    """32 samples of chroma, centred, out of 16: a triangle filter along the row, 3/4 of a sample, 1/4 of a neighbour.

    columns: int16, the samples before, those that are doubled, the ones behind; bias: of the left and the right sample
    of the two, so that halves are rounded down and up in turns.
    """
    b = code.b
    before, here, behind = columns
    three = b.mul(here, constant(I16, [3] * _HALF))
    left, right = (
        b.ashr(
            b.add(b.add(three, other), constant(I16, [more - (_MIDDLE << shift)] * _HALF)),
            constant(I16, [shift] * _HALF),
        )
        for other, more in zip((before, behind), bias, strict=True)
    )
    return code.pairs(left, right)


def _row(code: Code, address: Value) -> Value:
    """16 samples, as int16."""
    return code.extended(_bytes(code, address, _HALF), I16, signed=False)


def _doubled_both(code: Code, near: Value, far: Value) -> _Halves:
    """Of 4:2:0, out of the nearest and the next nearest row; libjpeg's ``h2v2_fancy_upsample``."""
    three = constant(I16, [3] * _HALF)
    blended = [
        code.b.add(code.b.mul(_row(code, code.at(near, at)), three), _row(code, code.at(far, at))) for at in (-1, 0, 1)
    ]
    return _doubled(code, blended, bias=(8, 7), shift=4)


def _doubled_row(code: Code, row: Value) -> _Halves:
    """Of 4:2:2; libjpeg's ``h2v1_fancy_upsample``."""
    return _doubled(code, [_row(code, code.at(row, at)) for at in (-1, 0, 1)], bias=(1, 2), shift=2)


_RED, _BLUE = 13173, -7471
"""1.402 - 1 and 1.772 - 2 in 1/32768: of all chroma there is, products are rounded as libjpeg's in 1/65536 are."""
_GREEN_CB, _GREEN_CR = -22554, (1 << 16) - 46802
"""libjpeg's factors −0.34414 and 1 − 0.71414 in 1/65536."""


def _colours(code: Code, y: Value, cb: Value, cr: Value) -> tuple[Value, Value, Value]:
    """Red, green, blue of 16 pixels, not yet clamped; cb and cr are centred."""
    b = code.b
    red = b.add(b.add(y, cr), code.rounded_product(cr, constant(I16, [_RED] * _HALF)))
    blue = b.add(b.add(y, b.add(cb, cb)), code.rounded_product(cb, constant(I16, [_BLUE] * _HALF)))
    # libjpeg rounds the sum of green's two products, not each: it needs 32 bits.
    half, down = constant(I32, [1 << 15] * 8), constant(I32, [16] * 8)
    sums = [b.ashr(b.add(code.sums(two, _GREEN_CB, _GREEN_CR), half), down) for two in code.pairs(cb, cr)]
    green = b.add(b.sub(y, cr), code.narrow(*sums))
    return red, green, blue


def _store_pixels(code: Code, channels: Sequence[Value], out: Value) -> None:
    """32 pixels, 96 bytes, out of three vectors of 32 bytes."""
    # Each third of 16 pixels' 48 bytes takes them from all three channels: every channel is moved to its places, with
    # 0 (lane 32 of the two vectors) in those of the others, and the three are or-ed together; both halves at once.
    zero = constant(I8, [0] * CHUNK)
    for third in range(3):
        places = [(half, *divmod(16 * third + i, 3)) for half in (0, 16) for i in range(16)]
        moved = [
            code.shuffle(levels, zero, [half + pixel if which == channel else CHUNK for half, pixel, which in places])
            for channel, levels in enumerate(channels)
        ]
        both = code.b.or_(code.b.or_(moved[0], moved[1]), moved[2])
        for half in range(2):
            part = code.shuffle(both, both, range(16 * half, 16 * half + 16))
            code.store(part, code.at(out, 48 * half + 16 * third))


def _to_rgb(code: Code, out: Value, y: Value, cb: _Halves, cr: _Halves) -> None:
    """32 pixels RGB; libjpeg's ``ycc_rgb_convert``."""
    luma = code.halves(_bytes(code, y, CHUNK))
    halves = [_colours(code, *samples) for samples in zip(luma, cb, cr, strict=True)]
    _store_pixels(code, [code.saturated(*channel) for channel in zip(*halves, strict=True)], out)


@instruction(types.void, *[_ADDRESS] * 4)
def to_rgb(code: Code, out: Value, y: Value, cb: Value, cr: Value) -> None:
    """32 pixels RGB, 96 bytes at ``out``, from 32 samples each of Y, Cb and Cr. All are addresses."""
    _to_rgb(code, out, y, *(_centred(code, code.halves(_bytes(code, chroma, CHUNK))) for chroma in (cb, cr)))


@instruction(types.void, *[_ADDRESS] * 4)
def to_rgb_422(code: Code, out: Value, y: Value, cb: Value, cr: Value) -> None:
    """The same from 16 samples each of Cb and Cr; one before and one behind them are read as well."""
    _to_rgb(code, out, y, *(_doubled_row(code, chroma) for chroma in (cb, cr)))


@instruction(types.void, *[_ADDRESS] * 6)
def to_rgb_420(code: Code, out: Value, y: Value, cb: Value, cr: Value, far_cb: Value, far_cr: Value) -> None:
    """The same of 4:2:0, from the nearest and the next nearest row of chroma."""
    _to_rgb(code, out, y, *(_doubled_both(code, near, far) for near, far in ((cb, far_cb), (cr, far_cr))))


@instruction(types.void, _ADDRESS, _ADDRESS)
def grey_to_rgb(code: Code, out: Value, y: Value) -> None:
    """32 pixels RGB, 96 bytes at ``out``, from 32 samples of Y alone."""
    _store_pixels(code, [_bytes(code, y, CHUNK)] * 3, out)
