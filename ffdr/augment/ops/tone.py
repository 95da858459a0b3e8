"""Operations on colours: torchvision's uint8 tensor versions, bit by bit.

Blends are float32 sums of two products, each step rounded on its own, clamped to 0..255 and cut to whole levels, as
torchvision's ``_blend`` computes them. Images are flat uint8 RGB at an address; source and target may be the same
except for ``sharpness``.
"""

from __future__ import annotations

import numpy as np

from ffdr.jit.kernel import bytes_at, int32_at, kernel

_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_TOP = np.float32(255.0)
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
"""Unsigned, because a signed index makes Numba look for a negative one, and a load becomes a gather."""
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
def brightness(factor: float, source: np.uint64, target: np.uint64, count: int) -> None:
    """Every one of ``count`` bytes times ``factor``."""
    ratio = np.float32(factor)
    from_, to = bytes_at(source, count), bytes_at(target, count)
    for i in range(np.uint64(count)):
        to[i] = _clamped(ratio * np.float32(from_[i]))


@kernel
def color(factor: float, source: np.uint64, target: np.uint64, pixels: int) -> None:
    """Blend with the grey image, ``pixels`` pixels."""
    ratio, rest = np.float32(factor), np.float32(1.0 - factor)
    from_, to = bytes_at(source, 3 * pixels), bytes_at(target, 3 * pixels)
    for pixel in range(np.uint64(pixels)):
        i = pixel * _THREE
        red, green, blue = from_[i], from_[i + _ONE], from_[i + _TWO]
        grey = rest * _grey(red, green, blue)
        to[i] = _clamped(ratio * np.float32(red) + grey)
        to[i + _ONE] = _clamped(ratio * np.float32(green) + grey)
        to[i + _TWO] = _clamped(ratio * np.float32(blue) + grey)


@kernel
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
    from_ = bytes_at(source, 3 * pixels)
    total = np.int64(0)
    for pixel in range(np.uint64(pixels)):
        i = pixel * _THREE
        value = (_RED * np.float32(from_[i]) + _GREEN * np.float32(from_[i + _ONE])) + _BLUE * np.float32(
            from_[i + _TWO]
        )
        total += np.int32(value)
    return np.float32(np.float32(total) / np.float32(pixels))


@kernel
def contrast(factor: float, source: np.uint64, target: np.uint64, pixels: int) -> None:
    """Blend with the mean of the grey image."""
    ratio = np.float32(factor)
    rest = np.float32(1.0 - factor) * _mean_grey(source, pixels)
    from_, to = bytes_at(source, 3 * pixels), bytes_at(target, 3 * pixels)
    for i in range(np.uint64(3 * pixels)):
        to[i] = _clamped(ratio * np.float32(from_[i]) + rest)


@kernel
def _sharpen(
    ratio: np.float32, rest: np.float32, from_: np.ndarray, to: np.ndarray, begin: int, end: int, stride: int
) -> None:
    """Bytes [begin, end): blend with the blur of their 3 × 3 neighbours, weights 1 and, in the middle, 5."""
    right, below = np.uint64(3), np.uint64(stride)
    for i in range(np.uint64(begin), np.uint64(end)):
        above, under = i - below, i + below
        total = np.int32(from_[above - right]) + np.int32(from_[above]) + np.int32(from_[above + right])
        total += np.int32(from_[i - right]) + np.int32(5) * np.int32(from_[i]) + np.int32(from_[i + right])
        total += np.int32(from_[under - right]) + np.int32(from_[under]) + np.int32(from_[under + right])
        # total / 13 rounded to the nearest: 13 is odd, so there are no ties; exact for totals up to 13 * 255.
        blurred = np.int32((np.int32(total) + np.int32(6)) * np.int32(5042)) >> np.int32(16)
        to[i] = _clamped(ratio * np.float32(from_[i]) + rest * np.float32(np.int32(blurred)))


@kernel
def _blend_with_itself(
    ratio: np.float32, rest: np.float32, from_: np.ndarray, to: np.ndarray, begin: int, end: int
) -> None:
    """Bytes [begin, end) of the border, which torchvision does not blur but blends all the same."""
    for i in range(np.uint64(begin), np.uint64(end)):
        own = np.float32(from_[i])
        to[i] = _clamped(ratio * own + rest * own)


@kernel
def sharpness(factor: float, source: np.uint64, target: np.uint64, out_h: int, out_w: int) -> None:
    """Blend with the blurred image; images of at most 2 pixels on a side are only copied."""
    ratio, rest = np.float32(factor), np.float32(1.0 - factor)
    stride = 3 * np.int64(out_w)
    count = stride * out_h
    from_, to = bytes_at(source, count), bytes_at(target, count)
    if out_h <= 2 or out_w <= 2:
        for i in range(np.uint64(count)):
            to[i] = from_[i]
        return
    # All inner rows in one go, as if each ran on into the next; the border is put right afterwards.
    _sharpen(ratio, rest, from_, to, stride + 3, count - stride - 3, stride)
    _blend_with_itself(ratio, rest, from_, to, np.int64(0), stride + 3)
    for end in range(2 * stride, count - stride, stride):
        _blend_with_itself(ratio, rest, from_, to, end - 3, end + 3)
    _blend_with_itself(ratio, rest, from_, to, count - stride - 3, count)


@kernel
def posterize(bits: int, source: np.uint64, target: np.uint64, count: int) -> None:
    """Keep the upper ``bits`` bits (0 to 8) of every byte."""
    mask = np.uint8((0xFF00 >> bits) & 0xFF)
    from_, to = bytes_at(source, count), bytes_at(target, count)
    for i in range(np.uint64(count)):
        to[i] = from_[i] & mask


@kernel
def solarize(threshold: float, source: np.uint64, target: np.uint64, count: int) -> None:
    """Invert the bytes that reach ``threshold``, 0 to 255."""
    whole = np.uint8(np.ceil(threshold))  # a whole level reaches the threshold where it reaches the next whole level
    from_, to = bytes_at(source, count), bytes_at(target, count)
    for i in range(np.uint64(count)):
        value = from_[i]
        to[i] = value ^ np.uint8(255) if value >= whole else value


@kernel
def _channel_ranges(source: np.uint64, pixels: int) -> tuple:
    """(lowest, highest) of red, green and blue in turn, int32."""
    from_ = bytes_at(source, 3 * pixels)
    low_r = low_g = low_b = np.uint8(255)
    high_r = high_g = high_b = np.uint8(0)
    for pixel in range(np.uint64(pixels)):
        i = pixel * _THREE
        red, green, blue = from_[i], from_[i + _ONE], from_[i + _TWO]
        low_r, high_r = min(low_r, red), max(high_r, red)
        low_g, high_g = min(low_g, green), max(high_g, green)
        low_b, high_b = min(low_b, blue), max(high_b, blue)
    return low_r, high_r, low_g, high_g, low_b, high_b


@kernel
def _stretch(low: np.uint8, high: np.uint8) -> tuple:
    """(minimum, scale), float32, of one channel. The scale is 1 / range times 255, in torch's order."""
    if low == high:
        return np.float32(0.0), np.float32(1.0)
    span = np.float32(high) - np.float32(low)
    return np.float32(low), (np.float32(1.0) / span) * _TOP


@kernel
def autocontrast(source: np.uint64, target: np.uint64, pixels: int) -> None:
    """Stretch every channel to the full range."""
    low_r, high_r, low_g, high_g, low_b, high_b = _channel_ranges(source, pixels)
    zero_r, scale_r = _stretch(low_r, high_r)
    zero_g, scale_g = _stretch(low_g, high_g)
    zero_b, scale_b = _stretch(low_b, high_b)
    from_, to = bytes_at(source, 3 * pixels), bytes_at(target, 3 * pixels)
    for pixel in range(np.uint64(pixels)):
        i = pixel * _THREE
        to[i] = _clamped((np.float32(from_[i]) - zero_r) * scale_r)
        to[i + _ONE] = _clamped((np.float32(from_[i + _ONE]) - zero_g) * scale_g)
        to[i + _TWO] = _clamped((np.float32(from_[i + _TWO]) - zero_b) * scale_b)


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


@kernel
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
