"""JPEGs of given coefficients: byte for byte libjpeg's where it optimises, the same coefficients and pixels always."""

import io

import numpy as np
import pytest
from coefficients import same
from PIL import Image
from variants import SIZES, all_variants, canonical, opencv, picture, pillow

from ffdr.codec.dct.format import GREY, SAMPLING_NAMES, YUV420, YUV422, YUV444, Coefficients, block_grid
from ffdr.codec.jpeg.libjpeg import decode_jpeg
from ffdr.codec.jpeg.read import read_jpeg
from ffdr.codec.jpeg.write import write_jpeg

SAMPLINGS = [GREY, YUV444, YUV422, YUV420]
every_sampling = pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)


def random_coefficients(sampling, width, height, seed=0, low=-2048, high=2048, density=0.3):
    rng = np.random.default_rng(seed)
    count = 1 if sampling == GREY else 3
    planes = []
    for plane in range(count):
        shape = (*block_grid(sampling, width, height, plane), 64)
        planes.append((rng.integers(low, high, shape) * (rng.random(shape) < density)).astype(np.int16))
    return Coefficients(sampling, width, height, rng.integers(1, 65536, (count, 64)).astype(np.uint16), tuple(planes))


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@every_sampling
def test_coefficients_tables_and_pixels_are_kept(sampling):
    for turn, (name, size, data) in enumerate(all_variants(sampling)):
        coefficients, _ = read_jpeg(data)
        written = write_jpeg(coefficients, turn % 4)
        assert canonical(written) == canonical(data), (name, size)
        assert same(read_jpeg(written)[0], coefficients), (name, size)
        assert np.array_equal(pixels_of(written), pixels_of(data)), (name, size)


@every_sampling
def test_bytes_are_those_of_libjpeg_when_it_optimises(sampling):
    for turn, size in enumerate(SIZES):
        pixels, quality = picture(size), 8 * turn + 9
        data = pillow(pixels, sampling, quality=quality, optimize=True)
        assert write_jpeg(read_jpeg(data)[0]) == data, (size, quality)
        for interval in (1, 2, 7):
            data = opencv(pixels, sampling, quality, interval, optimise=1)
            assert write_jpeg(read_jpeg(data)[0], interval) == data, (size, quality, interval)


@every_sampling
def test_any_coefficients_and_tables(sampling):
    """Each plane has another table; differences of DC take 12 bits, values of AC, too."""
    for interval in (0, 1, 5):
        coefficients = random_coefficients(sampling, 45, 70, seed=interval)
        data = write_jpeg(coefficients, interval)
        assert same(read_jpeg(data)[0], coefficients)
        pixels = np.zeros((70, 45, 3), np.uint8)
        assert decode_jpeg(np.frombuffer(data, np.uint8), pixels)  # libjpeg has nothing to complain about


@every_sampling
def test_small_coefficients_and_wide_tables_as_libjpeg_reads_them(sampling):
    coefficients = random_coefficients(sampling, 45, 70, low=-300, high=300, density=0.1)
    data = write_jpeg(coefficients)
    assert b"\xff\xc1\x00" in data
    assert canonical(write_jpeg(coefficients, 2)) == canonical(data)
    _, factors, tables, _ = canonical(data)
    assert factors == {GREY: b"\x11", YUV444: b"\x11" * 3, YUV422: b"\x21\x11\x11", YUV420: b"\x22\x11\x11"}[sampling]
    zigzag = np.array([0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5])
    for plane, table in enumerate(tables):
        assert np.array_equal(np.frombuffer(table, ">u2")[:16], coefficients.quant[plane][zigzag])


def test_codes_never_exceed_16_bits():
    """Symbols that come as often as Fibonacci's numbers would get codes of up to 23 bits."""
    often = [1, 2]
    while len(often) < 22:
        often.append(often[-1] + often[-2])
    side = 274
    assert sum(often) <= side * side
    plane = np.zeros((side * side, 64), np.int16)
    symbols = np.repeat(np.arange(22), often)
    rank = np.array([1, 8, 16])[symbols // 10]  # behind 0, 1, 2 zeros in zig-zag order
    plane[np.arange(len(symbols)), rank] = 1 << symbols % 10
    coefficients = Coefficients(GREY, 8 * side, 8 * side, np.ones((1, 64), np.uint16), (plane.reshape(side, side, 64),))
    data = write_jpeg(coefficients)
    assert same(read_jpeg(data)[0], coefficients)
    assert decode_jpeg(np.frombuffer(data, np.uint8), np.zeros((8 * side, 8 * side, 3), np.uint8))


@pytest.mark.parametrize("size", [(65535, 1), (1, 65535), (65500, 9)])
def test_longest_sides(size):
    coefficients = random_coefficients(YUV420, *size, low=-20, high=20)
    data = write_jpeg(coefficients)
    assert same(read_jpeg(data)[0], coefficients)
    decodable = decode_jpeg(np.frombuffer(data, np.uint8), np.zeros((size[1], size[0], 3), np.uint8))
    assert decodable == (max(size) <= 65500)


def test_what_does_not_fit_is_refused():
    good = random_coefficients(YUV420, 33, 20)
    sizes = (good.sampling, good.width, good.height)
    large = good.planes[0].copy()
    large[1, 2, 5] = 2048
    low = good.planes[0].copy()
    low[1, 2, 0] = -2049
    quant = good.quant.copy()
    quant[1, 7] = 0
    for image, interval, reason in [
        (Coefficients(*sizes, good.quant, (large, *good.planes[1:])), 0, r"outside of \[-2048, 2047\]"),
        (Coefficients(*sizes, good.quant, (low, *good.planes[1:])), 0, r"outside of \[-2048, 2047\]"),
        (Coefficients(*sizes, quant, good.planes), 0, "quant"),
        (Coefficients(*sizes, good.quant[:2], good.planes), 0, "quant"),
        (Coefficients(*sizes, good.quant, good.planes[:2]), 0, "2 planes, must be 3"),
        (Coefficients(YUV444, 33, 20, good.quant, good.planes), 0, "plane 1 is .* must be"),
        (Coefficients(GREY, 33, 20, good.quant, good.planes), 0, "3 planes, must be 1"),
        (Coefficients(4, 33, 20, good.quant, good.planes), 0, "sampling 4 is unknown"),
        (Coefficients(YUV420, 0, 20, good.quant, good.planes), 0, "0×20 pixels"),
        (good, 65536, "interval of 65536"),
    ]:
        with pytest.raises(ValueError, match=reason):
            write_jpeg(image, interval)
