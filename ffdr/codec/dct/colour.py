"""From samples to pixels: interpolated chroma and colours, as libjpeg makes them, 16 samples at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ffdr.jit.vector import (
    I8,
    I16,
    I32,
    Code,
    constant,
    in_both_versions,
)

_A = types.int64
CHUNK = 16
"""Samples of chroma that the upsampling takes at a time, and pixels that the colour conversion makes."""


def _chunk(code: Code, address: Any) -> Any:
    """16 samples, as int16."""
    return code.wide(code.load(address, ir.VectorType(I8, CHUNK)), I16, signed=False)


def _doubled(code: Code, out: Any, before: Any, here: Any, behind: Any, bias: tuple[int, int], shift: int) -> None:
    """Triangle filter along a row: of each sample two, 3/4 of it and 1/4 of its neighbour."""
    b = code.b
    three = b.mul(here, constant(I16, [3] * CHUNK))
    even, odd = (
        b.lshr(b.add(b.add(three, other), constant(I16, [more] * CHUNK)), constant(I16, [shift] * CHUNK))
        for other, more in zip((before, behind), bias, strict=True)
    )
    code.store(b.or_(even, b.shl(odd, constant(I16, [8] * CHUNK))), out)


@intrinsic
def double_both(typingctx: Any, out: Any, near: Any, far: Any) -> Any:
    """32 samples of a row of 4:2:0 chroma upsampled both ways, out of 16 of the nearest and the next nearest row.

    Addresses; one sample before and one behind the 16 are read as well. libjpeg's ``h2v2_fancy_upsample``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = Code(builder, False)
        to, near, far = arguments
        blended = [
            builder.add(
                builder.mul(_chunk(code, code.at(near, at)), constant(I16, [3] * CHUNK)),
                _chunk(code, code.at(far, at)),
            )
            for at in (-1, 0, 1)
        ]
        _doubled(code, to, *blended, bias=(8, 7), shift=4)
        return context.get_dummy_value()

    return types.void(_A, _A, _A), generate


@intrinsic
def double_row(typingctx: Any, out: Any, row: Any) -> Any:
    """32 samples of a row of 4:2:2 chroma upsampled, out of 16; libjpeg's ``h2v1_fancy_upsample``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = Code(builder, False)
        _doubled(code, arguments[0], *(_chunk(code, code.at(arguments[1], at)) for at in (-1, 0, 1)), (1, 2), 2)
        return context.get_dummy_value()

    return types.void(_A, _A), generate


_RED, _BLUE = 91881 - (1 << 16), 116130 - (2 << 16)
_GREEN_CB, _GREEN_CR = -22554, (1 << 16) - 46802
"""libjpeg's factors in 1/65536, less the whole multiples that additions make up for: 1.402, 1.772, −0.34414,
−0.71414."""


def _colours(code: Code, y: Any, cb: Any, cr: Any) -> tuple[Any, Any, Any]:
    """Red, green, blue of 16 pixels, not yet clamped; cb and cr are centred on 0."""
    b = code.b
    one = constant(I16, [1] * CHUNK)

    def part(doubled: Any, factor: int) -> Any:
        """Half of doubled × factor / 65536, rounded to nearest."""
        return b.ashr(b.add(code.high(doubled, constant(I16, [factor] * CHUNK)), one), one)

    cb2, cr2 = b.shl(cb, one), b.shl(cr, one)
    red = b.add(b.add(y, cr), part(cr2, _RED))
    blue = b.add(b.add(y, cb2), part(cb2, _BLUE))
    half, down = constant(I32, [1 << 15] * 8), constant(I32, [16] * 8)
    sums = [b.ashr(b.add(code.sums(two, _GREEN_CB, _GREEN_CR), half), down) for two in code.pairs(cb, cr)]
    green = b.add(b.sub(y, cr), code.narrow(*sums))
    return red, green, blue


def _store_pixels(code: Code, channels: Sequence[Any], out: Any) -> None:
    """16 pixels, 48 bytes, out of three vectors of 16 bytes."""
    zero = constant(I8, [0] * CHUNK)
    for part in range(3):
        total = None
        for channel, levels in enumerate(channels):
            places = [divmod(16 * part + i, 3) for i in range(16)]
            order = [pixel if which == channel else CHUNK for pixel, which in places]
            moved = code.shuffle(levels, zero, order)
            total = moved if total is None else code.b.or_(total, moved)
        code.store(total, code.at(out, 16 * part))


def _to_rgb(code: Code, out: Any, y: Any, cb: Any, cr: Any) -> None:
    middle = constant(I16, [128] * CHUNK)
    chroma = (code.b.sub(_chunk(code, address), middle) for address in (cb, cr))
    channels = _colours(code, _chunk(code, y), *chroma)
    _store_pixels(code, [code.bytes_of(levels) for levels in channels], out)


@intrinsic
def to_rgb(typingctx: Any, fast: Any, out: Any, y: Any, cb: Any, cr: Any) -> Any:
    """16 pixels RGB, 48 bytes at ``out``, from 16 samples each of Y, Cb and Cr; libjpeg's ``ycc_rgb_convert``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        in_both_versions(builder, arguments[0], lambda code: _to_rgb(code, *arguments[1:]))
        return context.get_dummy_value()

    return types.void(types.boolean, _A, _A, _A, _A), generate


@intrinsic
def grey_to_rgb(typingctx: Any, out: Any, y: Any) -> Any:
    """16 pixels RGB, 48 bytes at ``out``, from 16 samples of Y alone."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = Code(builder, False)
        levels = code.load(arguments[1], ir.VectorType(I8, CHUNK))
        _store_pixels(code, [levels] * 3, arguments[0])
        return context.get_dummy_value()

    return types.void(_A, _A), generate
