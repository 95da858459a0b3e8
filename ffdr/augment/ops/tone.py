"""Operations on colours: torchvision's uint8 tensor versions, bit by bit.

Blends are float32 sums of two products, each step rounded on its own, clamped to 0..255 and cut to whole levels, as
torchvision's ``_blend`` computes them. The vector code is in ``ffdr/jit/pixels.py``.

Images are flat uint8 RGB at an address. Whole blocks are made at a time, the last one over a part of the one before it,
so a target is written from its begin to its end and no further, or to ``BYTES`` where it is shorter; of a source as
many bytes behind its end are read, with no effect.
"""

from __future__ import annotations

import numpy as np
from numba import types

from ffdr.jit.arguments import ADDRESS
from ffdr.jit.instructions import copy_bytes
from ffdr.jit.kernel import address_of, bytes_at, float32_at, int32_at, kernel
from ffdr.jit.pixels import (
    BYTES,
    GROUP,
    MOST_GROUPS,
    RANGE_BYTES,
    SUMS,
    add_three,
    blend_bytes,
    blend_with_grey,
    find_range,
    sharpen_bytes,
    stretch_pixels,
    sum_grey,
)
from ffdr.jit.unit import unit

_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_TOP = np.float32(255.0)
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
"""Unsigned, because a signed index makes Numba look for a negative one, and a load becomes a gather."""
_GROUP_BYTES = 3 * GROUP
_LANES = 4
"""Histograms kept side by side, so that a run of equal pixels does not wait for its own counts."""


@kernel
def _clamped(value: np.float32) -> np.uint8:
    """A float32 cut to a whole level and clamped to 0..255; the same as clamped first, and cheaper."""
    return np.uint8(min(max(np.int32(value), np.int32(0)), np.int32(255)))


@kernel
def _grey(red: np.uint8, green: np.uint8, blue: np.uint8) -> np.float32:
    """torchvision's ``rgb_to_grayscale`` of one pixel: a whole level, as float32."""
    value = (_RED * np.float32(red) + _GREEN * np.float32(green)) + _BLUE * np.float32(blue)
    return np.float32(np.int32(value))


@kernel
def _blend(ratio: np.float32, rest: np.float32, source: np.uint64, target: np.uint64, count: int) -> None:
    """``ratio`` times every one of ``count`` bytes and ``rest``."""
    last, i = max(count - BYTES, 0), np.int64(0)
    while i < count:
        at = np.uint64(min(i, last))
        blend_bytes(target + at, source + at, ratio, rest)
        i += BYTES


@unit(types.void, types.float64, ADDRESS, ADDRESS, types.int64)
def brightness(factor: float, source: np.uint64, target: np.uint64, count: int) -> None:
    """Every one of ``count`` bytes times ``factor``."""
    _blend(np.float32(factor), np.float32(0.0), source, target, count)


@unit(types.void, types.float64, ADDRESS, ADDRESS, types.int64)
def color(factor: float, source: np.uint64, target: np.uint64, pixels: int) -> None:
    """Blend with the grey image, ``pixels`` pixels."""
    ratio, rest = np.float32(factor), np.float32(1.0 - factor)
    last, i = 3 * max(pixels - GROUP, 0), np.int64(0)
    while i < 3 * pixels:
        at = np.uint64(min(i, last))
        blend_with_grey(target + at, source + at, ratio, rest)
        i += _GROUP_BYTES


@unit(types.void, ADDRESS, ADDRESS, types.int64)
def grayscale(source: np.uint64, target: np.uint64, pixels: int) -> None:
    """The grey image, in all three channels."""
    from_, to = bytes_at(source, 3 * pixels), bytes_at(target, 3 * pixels)
    for pixel in range(np.uint64(pixels)):
        i = pixel * _THREE
        grey = np.uint8(np.int32(_grey(from_[i], from_[i + _ONE], from_[i + _TWO])))
        to[i], to[i + _ONE], to[i + _TWO] = grey, grey, grey


@kernel
def _mean_grey(source: np.uint64, pixels: int) -> np.float32:
    """Mean of the grey image, float32.

    torch adds in float32, which is exact up to 2**24, the sum of a white image of 256 × 256. Beyond it torch's result
    depends on its number of threads; here the exact sum is rounded once.
    """
    groups, total = pixels // GROUP, np.int64(0)
    for begin in range(0, groups, MOST_GROUPS):
        total += sum_grey(source + np.uint64(_GROUP_BYTES * begin), min(groups - begin, MOST_GROUPS))
    from_ = bytes_at(source, 3 * pixels)
    for pixel in range(np.uint64(groups * GROUP), np.uint64(pixels)):
        i = pixel * _THREE
        total += np.int64(_grey(from_[i], from_[i + _ONE], from_[i + _TWO]))
    return np.float32(np.float32(total) / np.float32(pixels))


@unit(types.void, types.float64, ADDRESS, ADDRESS, types.int64)
def contrast(factor: float, source: np.uint64, target: np.uint64, pixels: int) -> None:
    """Blend with the mean of the grey image."""
    rest = np.float32(1.0 - factor) * _mean_grey(source, pixels)
    _blend(np.float32(factor), rest, source, target, 3 * pixels)


@kernel
def sharpness_bytes(out_w: int) -> int:
    """Scratch that ``sharpness`` needs, bytes."""
    return 2 * (3 * np.int64(out_w) + 2 * SUMS)  # a row of sums; a block on either side is room for a pixel


@kernel
def _sharpen_row(
    ratio: np.float32, rest: np.float32, source: np.uint64, target: np.uint64, stride: int, sums: np.uint64
) -> None:
    """Blend a row of ``stride`` bytes, 9 at least, with the blur of their 3 × 3 neighbours, weights 1 and, in the
    middle, 5; the first and the last pixel's are noise."""
    last, i = max(stride - SUMS, 0), np.int64(0)
    while i < stride:
        at = np.uint64(min(i, last))
        middle = source + at
        add_three(sums + at + at, middle - np.uint64(stride), middle, middle + np.uint64(stride))
        i += SUMS
    i = np.int64(0)
    while i < stride:
        at = np.uint64(min(i, last))
        sharpen_bytes(target + at, source + at, sums + at + at, ratio, rest)
        i += SUMS


@kernel
def _blend_with_itself(
    ratio: np.float32, rest: np.float32, from_: np.ndarray, to: np.ndarray, begin: int, end: int
) -> None:
    """Bytes [begin, end) of the border, which torchvision does not blur but blends all the same."""
    for i in range(np.uint64(begin), np.uint64(end)):
        own = np.float32(from_[i])
        to[i] = _clamped(ratio * own + rest * own)


@unit(types.void, types.float64, ADDRESS, ADDRESS, types.int64, types.int64, ADDRESS)
def sharpness(factor: float, source: np.uint64, target: np.uint64, out_h: int, out_w: int, scratch: np.uint64) -> None:
    """Blend with the blurred image; images of at most 2 pixels on a side are only copied."""
    ratio, rest = np.float32(factor), np.float32(1.0 - factor)
    stride = 3 * np.int64(out_w)
    count = stride * out_h
    if out_h <= 2 or out_w <= 2:
        copy_bytes(target, source, count)
        return
    sums = scratch + np.uint64(2 * SUMS)
    for begin in range(stride, count - stride, stride):
        _sharpen_row(ratio, rest, source + np.uint64(begin), target + np.uint64(begin), stride, sums)
    # The border, with what the last inner row wrote too much; then the ends of each row and the begins of the next.
    from_, to = bytes_at(source, count), bytes_at(target, count)
    _blend_with_itself(ratio, rest, from_, to, np.int64(0), stride + 3)
    for end in range(2 * stride, count - stride, stride):
        _blend_with_itself(ratio, rest, from_, to, end - 3, end + 3)
    _blend_with_itself(ratio, rest, from_, to, count - stride - 3, count)


@unit(types.void, types.int64, ADDRESS, ADDRESS, types.int64)
def posterize(bits: int, source: np.uint64, target: np.uint64, count: int) -> None:
    """Keep the upper ``bits`` bits (0 to 8) of every byte."""
    mask = np.uint8((0xFF00 >> bits) & 0xFF)
    from_, to = bytes_at(source, count), bytes_at(target, count)
    for i in range(np.uint64(count)):
        to[i] = from_[i] & mask


@unit(types.void, types.float64, ADDRESS, ADDRESS, types.int64)
def solarize(threshold: float, source: np.uint64, target: np.uint64, count: int) -> None:
    """Invert the bytes that reach ``threshold``, 0 to 255."""
    whole = np.uint8(np.ceil(threshold))  # a whole level reaches the threshold where it reaches the next whole level
    from_, to = bytes_at(source, count), bytes_at(target, count)
    for i in range(np.uint64(count)):
        value = from_[i]
        to[i] = value ^ np.uint8(255) if value >= whole else value


@kernel
def autocontrast_bytes() -> int:
    """Scratch that ``autocontrast`` needs, bytes."""
    return np.int64(24 + 2 * RANGE_BYTES)


@kernel
def _find_extremes(source: np.uint64, count: int, extremes: np.ndarray) -> None:
    """Lowest levels of every 96th byte of ``count``, then the highest: (2 * ``RANGE_BYTES``,) uint8."""
    blocks = count // RANGE_BYTES
    find_range(address_of(extremes), source, blocks)
    from_ = bytes_at(source + np.uint64(blocks * RANGE_BYTES), count % RANGE_BYTES)
    for i in range(len(from_)):
        high = RANGE_BYTES + i
        extremes[i], extremes[high] = min(extremes[i], from_[i]), max(extremes[high], from_[i])


@kernel
def _stretch(low: np.uint8, high: np.uint8) -> tuple:
    """(minimum, scale), float32, of one channel. The scale is 1 / range times 255, in torch's order."""
    if low == high:
        return np.float32(0.0), np.float32(1.0)
    span = np.float32(high) - np.float32(low)
    return np.float32(low), (np.float32(1.0) / span) * _TOP


@unit(types.void, ADDRESS, ADDRESS, types.int64, ADDRESS)
def autocontrast(source: np.uint64, target: np.uint64, pixels: int, scratch: np.uint64) -> None:
    """Stretch every channel to the full range."""
    ranges, extremes = float32_at(scratch, 6), bytes_at(scratch + np.uint64(24), 2 * RANGE_BYTES)
    _find_extremes(source, 3 * pixels, extremes)
    for channel in range(3):
        low, high = np.uint8(255), np.uint8(0)
        for i in range(channel, RANGE_BYTES, 3):
            low, high = min(low, extremes[i]), max(high, extremes[RANGE_BYTES + i])
        ranges[channel], ranges[3 + channel] = _stretch(low, high)
    last, i = 3 * max(pixels - GROUP, 0), np.int64(0)
    while i < 3 * pixels:
        at = np.uint64(min(i, last))
        stretch_pixels(target + at, source + at, scratch)
        i += _GROUP_BYTES


@kernel
def equalize_bytes() -> int:
    """Scratch that ``equalize`` needs, bytes."""
    return np.int64(4 * _LANES * 3 * 256 + 3 * 256)


@kernel
def _count_levels(source: np.uint64, pixels: int, counts: np.ndarray) -> None:
    """Histograms (int32, lanes × 3 × 256) of the three channels, neighbouring pixels in different lanes."""
    from_ = bytes_at(source, 3 * pixels)
    for i in range(np.uint64(_LANES * 768)):
        counts[i] = 0
    for pixel in range(np.uint64(pixels)):
        i = pixel * np.uint64(3)
        lane = (pixel % np.uint64(_LANES)) * np.uint64(768)
        counts[lane + np.uint64(from_[i])] += 1
        counts[lane + np.uint64(256) + np.uint64(from_[i + np.uint64(1)])] += 1
        counts[lane + np.uint64(512) + np.uint64(from_[i + np.uint64(2)])] += 1


@kernel
def _level_table(counts: np.ndarray, channel: int, pixels: int, table: np.ndarray) -> None:
    """The 256 new levels (uint8) of one channel, from its histogram."""
    last = np.int64(0)  # count of the highest level there is, which torchvision leaves out of the step
    for level in range(256):
        total = np.int64(0)
        for lane in range(_LANES):
            total += counts[lane * 768 + channel * 256 + level]
        counts[channel * 256 + level] = total
        if total > 0:
            last = total
    step = (np.int64(pixels) - last) // 255
    below = np.int64(0)
    for level in range(256):
        table[channel * 256 + level] = level if step == 0 else min((below + step // 2) // step, 255)
        below += counts[channel * 256 + level]


@unit(types.void, ADDRESS, ADDRESS, types.int64, ADDRESS)
def equalize(source: np.uint64, target: np.uint64, pixels: int, scratch: np.uint64) -> None:
    """Flatten the histogram of every channel."""
    counts = int32_at(scratch, _LANES * 768)
    table = bytes_at(scratch + np.uint64(4 * _LANES * 768), 768)
    _count_levels(source, pixels, counts)
    for channel in range(3):
        _level_table(counts, channel, pixels, table)
    from_, to = bytes_at(source, 3 * pixels), bytes_at(target, 3 * pixels)
    for pixel in range(np.uint64(pixels)):
        i = pixel * _THREE
        to[i] = table[np.uint64(from_[i])]
        to[i + _ONE] = table[np.uint64(256) + np.uint64(from_[i + _ONE])]
        to[i + _TWO] = table[np.uint64(512) + np.uint64(from_[i + _TWO])]
