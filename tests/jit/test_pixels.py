"""Vector code of the operations on pictures: it gives what NumPy's float32 arithmetic gives."""

import numpy as np
import pytest

from ffdr.jit.kernel import address_of, kernel
from ffdr.jit.pixels import (
    RANGE_BYTES,
    SUMS,
    blend_bytes,
    blend_with_grey,
    find_range,
    mix_bytes,
    sharpen_bytes,
    stretch_pixels,
    sum_grey,
)

RNG = np.random.default_rng(5)
BYTES = RNG.integers(0, 256, 64).astype(np.uint8)
PIXELS = BYTES[:24].reshape(8, 3).astype(np.float32)
RATIOS = [(1.27, 0.0), (0.1, 117.4), (1.9, -160.3), (-0.3, 255.0), (1.0, 0.0)]


def levels(values):
    """Cut to whole levels and clamped."""
    return np.clip(np.trunc(values), 0, 255).astype(np.uint8).ravel()


def grey(pixels):
    red, green, blue = (np.float32(weight) * pixels[:, c] for c, weight in enumerate((0.2989, 0.587, 0.114)))
    return np.trunc((red + green) + blue)


@kernel
def _blend(out, source, ratio, rest):
    blend_bytes(address_of(out), address_of(source), ratio, rest)


@kernel
def _blend_grey(out, source, ratio, rest):
    blend_with_grey(address_of(out), address_of(source), ratio, rest)


@kernel
def _mix(first, second, weight):
    mix_bytes(address_of(first), address_of(second), weight)


@kernel
def _stretch(out, source, ranges):
    stretch_pixels(address_of(out), address_of(source), address_of(ranges))


@kernel
def _sharpen(out, source, sums, ratio, rest):
    sharpen_bytes(address_of(out), address_of(source), address_of(sums) + np.uint64(6), ratio, rest)


@kernel
def _sum_grey(source, groups):
    return sum_grey(address_of(source), groups)


@kernel
def _find_range(extremes, source, blocks):
    find_range(address_of(extremes), address_of(source), blocks)


def made(function, *arguments, count):
    """What it writes; nothing behind that."""
    out = np.full(64, 77, np.uint8)
    function(out, *arguments)
    assert (out[count:] == 77).all()
    return out[:count]


@pytest.mark.parametrize(("ratio", "rest"), RATIOS)
def test_blends(ratio, rest):
    ratio, rest = np.float32(ratio), np.float32(rest)
    expected = levels(ratio * BYTES[:32].astype(np.float32) + rest)
    assert np.array_equal(made(_blend, BYTES, ratio, rest, count=32), expected)
    rest /= np.float32(255)
    expected = levels(ratio * PIXELS + (rest * grey(PIXELS))[:, None])
    assert np.array_equal(made(_blend_grey, BYTES, ratio, rest, count=24), expected)


def test_mixing():
    """Every pair of levels, with weights that have ties."""
    first, second = (side.ravel() for side in np.mgrid[:256, :256])
    for weight in (0, 1, 64, 8192, 16384, 16385, 21845, 32704, 32767):
        expected = (first * (32768 - weight) + second * weight + 16384) >> 15
        out, other = first.astype(np.uint8), second.astype(np.uint8)
        for at in range(0, 1 << 16, 32):
            _mix(out[at:], other[at:], weight)
        assert np.array_equal(out, expected), weight


def test_ranges():
    ranges = np.array([[3, 17, 100], [255 / 252, 1.9, 255 / 11]], np.float32)
    expected = levels((PIXELS - ranges[0]) * ranges[1])
    assert np.array_equal(made(_stretch, BYTES, ranges.ravel(), count=24), expected)


@pytest.mark.parametrize(("ratio", "rest"), RATIOS)
def test_blurs_of_every_total(ratio, rest):
    """Sums of three rows of three bytes each, and four times the middle: all totals from 0 to 13 * 255."""
    ratio, rest = np.float32(ratio), np.float32(rest / 255)
    for total in range(0, 13 * 255 + 1, SUMS):
        wanted = np.minimum(total + np.arange(SUMS), 13 * 255)
        middle = wanted // 13
        sums = np.zeros(SUMS + 6, np.int16)
        sums[3:-3] = wanted - 4 * middle
        expected = levels(ratio * middle.astype(np.float32) + rest * ((2 * wanted + 13) // 26).astype(np.float32))
        # Each sum stands in the middle of its three alone.
        for lane in range(SUMS):
            alone = np.zeros_like(sums)
            alone[3 + lane] = sums[3 + lane]
            out = made(_sharpen, middle.astype(np.uint8), alone, ratio, rest, count=SUMS)
            assert out[lane] == expected[lane], wanted[lane]


def test_greys_are_summed():
    pixels = RNG.integers(0, 256, (8 * 50, 3)).astype(np.uint8)
    padded = np.append(pixels.ravel(), np.full(4, 255, np.uint8))
    assert _sum_grey(padded, 50) == grey(pixels.astype(np.float32)).sum()
    assert _sum_grey(padded, 0) == 0


def test_extremes_are_found():
    blocks = RNG.integers(1, 255, (5, RANGE_BYTES)).astype(np.uint8)
    extremes = np.zeros((2, RANGE_BYTES), np.uint8)
    _find_range(extremes, blocks, 5)
    assert np.array_equal(extremes, [blocks.min(0), blocks.max(0)])
    _find_range(extremes, blocks, 0)
    assert (extremes[0] == 255).all() and (extremes[1] == 0).all()
