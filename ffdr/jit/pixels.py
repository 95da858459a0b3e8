"""Vector code of the operations on pictures: what the auto-vectoriser does not find by itself."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ffdr.jit.ir import F32, I8, I16, I32, I64, Code, Value, constant, instruction

_EIGHT_FLOATS, _EIGHT_INTS = ir.VectorType(F32, 8), ir.VectorType(I32, 8)
BYTES = 32
"""Bytes that the operations on single bytes take at a time."""
GROUP = 8
"""Pixels that the others take at a time."""
SUMS = 16
"""Bytes that sharpening takes at a time."""
RANGE_BYTES = 96
"""Bytes that the search for extremes takes at a time: whole pixels."""
MOST_GROUPS = 1 << 20
"""Groups whose grey levels 32 bits can sum."""
_ADDRESS = types.uint64
_PIXEL_BYTES = 3 * GROUP


def _floats(value: float) -> ir.Constant:
    return ir.Constant(_EIGHT_FLOATS, [value] * 8)


def _fused(code: Code, a: Value, b: Value, c: Value) -> Value:
    """a * b + c with one rounding."""
    return code.call("llvm.fma.v8f32", _EIGHT_FLOATS, a, b, c)


def _nearest(code: Code, value: Value) -> Value:
    """float32 lanes of less than 2**22 rounded to int32, half to even."""
    # Where a float32 counts in ones, adding rounds, and the number stands in its lowest bits.
    moved = code.b.bitcast(code.b.fadd(value, _floats(1.5 * 2**23)), _EIGHT_INTS)
    return code.b.sub(moved, constant(I32, [0x4B400000] * 8))


@instruction(types.void, _ADDRESS, _ADDRESS, types.float32, types.int32, types.int32, types.int64)
def find_offsets(code: Code, offsets: Value, grid: Value, y: Value, width: Value, height: Value, groups: Value) -> None:
    """Where a row of a sampling grid points to in a picture of width × height pixels, eight points of a group at a
    time: byte offsets, int32. A point outside of it has that of the first byte behind it.

    grid: address of float32: six terms, b c e f and half the sides, then the columns' products, eight of a group for x
    and eight for y; y: of the row.
    """
    b = code.b
    terms = [code.splat(code.load(code.at(grid, 4 * i), F32), 8) for i in range(6)]
    rows, sides = code.splat(y, 8), [code.splat(side, 8) for side in (width, height)]
    behind = code.splat(b.mul(b.mul(width, height), I32(3)), 8)
    with cgutils.for_range(b, groups) as loop:
        columns = code.at(grid, b.add(b.shl(loop.index, groups.type(6)), groups.type(24)))
        points = []
        for axis in range(2):
            product = code.load(code.at(columns, 32 * axis), _EIGHT_FLOATS)
            factor, term, half = terms[2 * axis], terms[2 * axis + 1], terms[4 + axis]
            place = b.fadd(_fused(code, rows, factor, product), term)
            points.append(_nearest(code, _fused(code, b.fadd(place, _floats(1)), half, _floats(-0.5))))
        # Unsigned, a negative number is a large one.
        inside = b.and_(*(b.icmp_unsigned("<", point, side) for point, side in zip(points, sides, strict=True)))
        place = b.mul(b.add(b.mul(points[1], sides[0]), points[0]), constant(I32, [3] * 8))
        code.store(b.select(inside, place, behind), code.at(offsets, b.shl(loop.index, groups.type(5))))


def _gather_four(code: Code, source: Value, offsets: Value) -> Value:
    """Four pixels from the offsets at an address, side by side: 12 bytes and 4 of noise."""
    words = ir.Constant(ir.VectorType(I32, 4), ir.Undefined)
    for lane in range(4):
        place = code.at(source, code.number(code.at(offsets, 4 * lane), I32))
        words = code.b.insert_element(words, code.load(place, I32), I32(lane))
    data = code.b.bitcast(words, ir.VectorType(I8, 16))
    return code.shuffle(data, data, [lane for lane in range(16) if lane % 4 < 3] + [3, 7, 11, 15])


@instruction(types.void, _ADDRESS, _ADDRESS, _ADDRESS, types.int64)
def gather_pixels(code: Code, out: Value, source: Value, offsets: Value, groups: Value) -> None:
    """``groups`` times eight pixels at ``out``, and up to 4 bytes of noise, from byte offsets (int32) into ``source``.

    Of each pixel a fourth byte is read. Eight neighbours, the most frequent case of a shear, are copied at once.
    """
    b = code.b
    with cgutils.for_range(b, groups) as loop:
        places = code.at(offsets, b.shl(loop.index, groups.type(5)))
        to = code.at(out, b.mul(loop.index, groups.type(_PIXEL_BYTES)))
        neighbours = b.add(code.splat(code.load(places, I32), 8), constant(I32, range(0, _PIXEL_BYTES, 3)))
        apart = b.icmp_signed("!=", code.load(places, _EIGHT_INTS), neighbours)
        with b.if_else(b.icmp_signed("==", b.bitcast(apart, I8), I8(0))) as (together, otherwise):
            with together:
                begin = code.at(source, code.number(places, I32))
                code.store(code.load(begin, ir.VectorType(I8, 16)), to)
                code.store(code.load(code.at(begin, 16), ir.VectorType(I8, 8)), code.at(to, 16))
            with otherwise:
                for half in range(2):
                    code.store(_gather_four(code, source, code.at(places, 16 * half)), code.at(to, 12 * half))


# A level x becomes a float32 for nothing: 0x4B0000xx are the bits of 2**23 + x. Of such a *raised* level, a fused
# multiply-add makes factor * (2**23 + x) - factor * 2**23, which is factor * x with one rounding, as the product is.
_RAISE = constant(I8, [0, 0x4B] + [0] * 30)
_RAISED_BY = float(2**23)


def _raised(code: Code, levels: Value, places: Sequence[int]) -> Value:
    """Eight of 32 bytes as raised levels."""
    order = [lane for place in places for lane in (place, 32, 32, 33)]
    return code.b.bitcast(code.shuffle(levels, _RAISE, order), _EIGHT_FLOATS)


def _scaled(code: Code, factor: Value, raised: Value) -> Value:
    """factor times levels, rounded once; ``factor``: equal lanes."""
    back = code.b.fmul(factor, _floats(-_RAISED_BY))
    return _fused(code, factor, raised, back)


def _collected(code: Code, parts: Sequence[Value]) -> Value:
    """Back from float32 lanes to 32 bytes, cut to whole levels and clamped."""
    a, b, c, d = (code.b.fptosi(part, _EIGHT_INTS) for part in parts)
    return code.saturated(code.narrow(a, b), code.narrow(c, d))


@instruction(types.void, _ADDRESS, _ADDRESS, types.float32, types.float32)
def blend_bytes(code: Code, out: Value, source: Value, ratio: Value, rest: Value) -> None:
    """``ratio`` times each of 32 bytes and ``rest``, each step rounded, cut to whole levels and clamped."""
    b = code.b
    factor, term = code.splat(ratio, 8), code.splat(rest, 8)
    levels = code.load(source, ir.VectorType(I8, BYTES))
    # In an order that ``_collected`` undoes without a lane of the other half of a register.
    parts = [_raised(code, levels, [*range(i, i + 4), *range(16 + i, 20 + i)]) for i in range(0, 16, 4)]
    code.store(_collected(code, [b.fadd(_scaled(code, factor, part), term) for part in parts]), out)


@instruction(types.void, _ADDRESS, _ADDRESS, types.int16)
def mix_bytes(code: Code, first: Value, second: Value, weight: Value) -> None:
    """Move 32 bytes towards others, by ``weight``, 0 to 32767, in 1/32768; rounded to the nearest, half up."""
    b = code.b
    factor = code.splat(weight, 16)
    pairs = zip(*(code.halves(code.load(place, ir.VectorType(I8, BYTES))) for place in (first, second)), strict=True)
    mixed = [b.add(own, code.rounded_product(b.sub(other, own), factor)) for own, other in pairs]
    code.store(code.saturated(*mixed), first)


def _channels(code: Code, source: Value) -> list[Value]:
    """Red, green and blue of eight pixels, 24 bytes and 4 that have no effect, raised."""
    data = code.joined(*(code.load(code.at(source, at), ir.VectorType(I8, 16)) for at in (0, 12)))
    return [_raised(code, data, [half + i for half in (0, 16) for i in range(channel, 12, 3)]) for channel in range(3)]


def _store_channels(code: Code, channels: Sequence[Value], out: Value) -> None:
    """Red, green and blue of eight pixels, float32, to 24 bytes, cut to whole levels and clamped."""
    red, green, blue = (code.b.fptosi(channel, _EIGHT_INTS) for channel in channels)
    levels = code.saturated(code.narrow(red, green), code.narrow(blue, blue))
    quad = [4 * channel + pixel for pixel in range(4) for channel in range(3)]
    order = [*quad, *quad[:4], *(16 + lane for lane in quad), *(16 + lane for lane in quad[:4])]
    levels = code.shuffle(levels, levels, order)
    words = code.b.bitcast(levels, _EIGHT_INTS)
    code.store(code.shuffle(levels, levels, range(16)), out)
    code.store(code.shuffle(words, words, [4, 5]), code.at(out, 12))
    code.store(code.b.extract_element(words, I32(6)), code.at(out, 20))


def _grey(code: Code, channels: Sequence[Value]) -> Value:
    """torchvision's ``rgb_to_grayscale`` of eight pixels: whole levels, int32."""
    b = code.b
    weights = (_floats(weight) for weight in (0.2989, 0.587, 0.114))
    red, green, blue = (_scaled(code, weight, channel) for weight, channel in zip(weights, channels, strict=True))
    return b.fptosi(b.fadd(b.fadd(red, green), blue), _EIGHT_INTS)


@instruction(types.void, _ADDRESS, _ADDRESS, types.float32, types.float32)
def blend_with_grey(code: Code, out: Value, source: Value, ratio: Value, rest: Value) -> None:
    """Eight pixels: ``ratio`` times each channel and ``rest`` times the pixel's grey, each step rounded."""
    b = code.b
    channels = _channels(code, source)
    grey = b.fmul(code.splat(rest, 8), b.sitofp(_grey(code, channels), _EIGHT_FLOATS))
    factor = code.splat(ratio, 8)
    _store_channels(code, [b.fadd(_scaled(code, factor, channel), grey) for channel in channels], out)


@instruction(types.int64, _ADDRESS, types.int64)
def sum_grey(code: Code, source: Value, groups: Value) -> Value:
    """The sum of the grey levels of ``groups`` times eight pixels; at most ``MOST_GROUPS``."""
    b = code.b
    total = cgutils.alloca_once_value(b, constant(I32, [0] * 8))
    with cgutils.for_range(b, groups) as loop:
        grey = _grey(code, _channels(code, code.at(source, b.mul(loop.index, groups.type(_PIXEL_BYTES)))))
        b.store(b.add(b.load(total), grey), total)
    return b.zext(code.call("llvm.vector.reduce.add.v8i32", I32, b.load(total)), I64)


@instruction(types.void, _ADDRESS, _ADDRESS, _ADDRESS)
def stretch_pixels(code: Code, out: Value, source: Value, ranges: Value) -> None:
    """Eight pixels, each channel (level - zero) * scale. ranges: address of three zeros and three scales, float32."""
    b = code.b
    zeros, scales = ([code.splat(code.load(code.at(ranges, at + 4 * c), F32), 8) for c in range(3)] for at in (0, 12))
    zeros = [b.fadd(zero, _floats(_RAISED_BY)) for zero in zeros]
    levels = zip(_channels(code, source), zeros, scales, strict=True)
    _store_channels(code, [b.fmul(b.fsub(level, zero), scale) for level, zero, scale in levels], out)


@instruction(types.void, _ADDRESS, _ADDRESS, types.int64)
def find_range(code: Code, extremes: Value, source: Value, blocks: Value) -> None:
    """Of ``blocks`` times 96 bytes, the lowest at each of the 96 places, then the highest: twice 96 at ``extremes``."""
    b, row = code.b, ir.VectorType(I8, 32)
    lows, highs = ([cgutils.alloca_once_value(b, constant(I8, [end] * 32)) for _ in range(3)] for end in (255, 0))
    with cgutils.for_range(b, blocks) as loop:
        block = code.at(source, b.mul(loop.index, blocks.type(RANGE_BYTES)))
        for i in range(3):
            levels = code.load(code.at(block, 32 * i), row)
            for total, than in ((lows[i], "<"), (highs[i], ">")):
                before = b.load(total)
                b.store(b.select(b.icmp_unsigned(than, levels, before), levels, before), total)
    for i, total in enumerate([*lows, *highs]):
        code.store(b.load(total), code.at(extremes, 32 * i))


@instruction(types.void, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS)
def add_three(code: Code, out: Value, above: Value, middle: Value, below: Value) -> None:
    """The sums of 16 bytes of three rows, int16."""
    rows = [code.extended(code.load(row, ir.VectorType(I8, 16)), I16, signed=False) for row in (above, middle, below)]
    code.store(code.b.add(code.b.add(rows[0], rows[1]), rows[2]), out)


@instruction(types.void, _ADDRESS, _ADDRESS, _ADDRESS, types.float32, types.float32)
def sharpen_bytes(code: Code, out: Value, source: Value, sums: Value, ratio: Value, rest: Value) -> None:
    """16 bytes: ``ratio`` times each, and ``rest`` times the blur of its 3 × 3 neighbours, of weights 1 and 5.

    sums: address of the int16 of ``add_three`` for the first one; those of a pixel before and one behind are read, too.
    """
    b = code.b
    shorts = ir.VectorType(I16, 16)
    own = code.extended(code.load(source, ir.VectorType(I8, 16)), I16, signed=False)
    left, here, right = (code.load(code.at(sums, at), shorts) for at in (-6, 0, 6))
    # The sum of all nine and six, which is half of 13; 13 is odd, so there are no ties. The quotient is exact up to
    # 13 * 255.
    total = b.add(b.add(left, right), b.add(here, constant(I16, [6] * 16)))
    total = b.add(total, b.shl(own, constant(I16, [2] * 16)))
    blurred = code.high_product(total, constant(I16, [5042] * 16), signed=False)
    ratios, rests = code.splat(ratio, 8), code.splat(rest, 8)
    # Two 16-bit lanes, the level and the upper half of 2**23 as a float32, are a raised level.
    raise_ = constant(I16, [0x4B00] * 16)
    levels, blurs = ([b.bitcast(half, _EIGHT_FLOATS) for half in code.pairs(part, raise_)] for part in (own, blurred))
    low, high = (
        b.fptosi(b.fadd(_scaled(code, ratios, level), _scaled(code, rests, blur)), _EIGHT_INTS)
        for level, blur in zip(levels, blurs, strict=True)
    )
    shorts_out = code.narrow(low, high)
    longs = b.bitcast(code.saturated(shorts_out, shorts_out), ir.VectorType(I64, 4))
    code.store(code.shuffle(longs, longs, [0, 2]), out)
