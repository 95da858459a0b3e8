"""Pixels of coefficient images are those of libjpeg-turbo, bit by bit, and no bytes lead outside of the arrays."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from coefficients import random_coefficients
from guarded import guarded
from variants import all_variants, opencv, pillow

from ffdr.codec.dct.blocks import make_tables
from ffdr.codec.dct.decode import decode_coefficients, decode_image, scratch_bytes
from ffdr.codec.dct.format import GREY, INLINE, SAMPLING_NAMES, WIDE_ROWS, YUV420, YUV422, YUV444
from ffdr.codec.dct.learn import learn
from ffdr.codec.dct.pack import pack
from ffdr.codec.dct.pixels import CANVAS_SLACK
from ffdr.codec.jpeg.libjpeg import decode_jpeg
from ffdr.codec.jpeg.read import read_jpeg
from ffdr.codec.jpeg.write import write_jpeg

SAMPLINGS = [GREY, YUV444, YUV422, YUV420]


class Decoder:
    """Decodes regions of images of one size, with all memory between forbidden pages."""

    def __init__(self, coding, width, height):
        self.tables = make_tables(coding)
        self.size = width, height
        self.scratch = guarded(scratch_bytes(width), np.uint8)
        self.canvas = guarded(3 * width * height + CANVAS_SLACK, np.uint8)

    def __call__(self, data, region):
        """Left, top and pixels of what was decoded; None if it was refused."""
        self.scratch[...] = 0xA5  # what was there before must not matter
        done, (left, top, width, height) = decode_coefficients(
            data, *self.size, region, self.tables, self.scratch, self.canvas
        )
        return (left, top, self.canvas[: 3 * width * height].reshape(height, width, 3).copy()) if done else None


def at_guard(data):
    """The bytes right before a forbidden page."""
    array = guarded(len(data), np.uint8)
    array[...] = np.frombuffer(data, np.uint8)
    return array


def by_libjpeg(jpeg, width, height):
    pixels = np.empty((height, width, 3), np.uint8)
    assert decode_jpeg(np.frombuffer(jpeg, np.uint8), pixels)
    return pixels


def regions(rng, width, height, count):
    """The whole image, its last pixel, and some at random."""
    yield 0, 0, width, height
    yield width - 1, height - 1, width, height
    for _ in range(count):
        (x0, x1), (y0, y1) = (sorted(rng.choice(side + 1, 2, replace=False).tolist()) for side in (width, height))
        yield x0, y0, x1, y1


def check_pixels(jpeg, coding, rng, count=2):
    """All against libjpeg's decode of the whole image. Returns the image's bytes."""
    image, _ = read_jpeg(jpeg)
    width, height = image.width, image.height
    packed = pack(image, coding)
    data, whole, decoder = at_guard(packed), by_libjpeg(jpeg, width, height), Decoder(coding, width, height)
    for region in regions(rng, width, height, count):
        left, top, pixels = decoder(data, region)
        assert left <= region[0] < left + 2
        assert top == region[1]
        assert left + pixels.shape[1] == region[2]
        assert top + pixels.shape[0] == region[3]
        assert np.array_equal(pixels, whole[top : region[3], left : region[2]])
    return packed


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)
def test_pixels_are_those_of_libjpeg(sampling):
    """132 JPEGs of a sampling: three encoders, qualities from 5 to 100, sides from 1 to 161 pixels."""
    found = all_variants(sampling)
    coding = learn(read_jpeg(data)[0] for _, _, data in found[::9])
    rng = np.random.default_rng(sampling)
    inline = [check_pixels(data, coding, rng)[1] == INLINE for _, _, data in found]
    assert len(found) == 132
    assert 0 < sum(inline) < 132  # tables of the coding, and an image's own


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)
def test_hard_pictures(sampling):
    """Noise, black and white, one colour: the extremes of all coefficients; and shapes that have no middle."""
    rng = np.random.default_rng(sampling)
    coding = learn([])
    for width, height in ((1, 1), (2, 2), (3, 3), (4, 60), (5, 33), (130, 71), (700, 9), (9, 300)):
        shape = (height, width, 3)
        pictures = [rng.integers(0, 256, shape), rng.integers(0, 2, shape) * 255, np.full(shape, rng.integers(256))]
        for pixels in pictures:
            check_pixels(pillow(pixels.astype(np.uint8), sampling, quality=int(rng.choice([30, 90, 100]))), coding, rng)


def test_long_rows():
    """Rows whose bytes take 32 bits."""
    pixels = np.random.default_rng(0).integers(0, 256, (17, 9000, 3), dtype=np.uint8)
    packed = check_pixels(opencv(pixels, YUV444, 100), learn([]), np.random.default_rng(0))
    assert packed[2] == WIDE_ROWS


SEEN = {
    GREY: ("d932919f5cf95a96", "6730a1c40726f4c0"),
    YUV444: ("6a1903f9910613d0", "be917bcec3a03cdc"),
    YUV422: ("c609c3ccf1f793d4", "63fd1f6d3abcbf1f"),
    YUV420: ("31975d192a2a4a34", "d7f7d4569e6e2137"),
}
"""What damaged images, and coefficients that no picture has, look like on every processor: digests of the pixels."""


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)
def test_coefficients_that_no_picture_has_look_the_same_everywhere(sampling):
    rng, digest = np.random.default_rng(sampling), hashlib.sha256()
    for spread in (1.0, 40.0, 3000.0):
        image = random_coefficients(rng, sampling, 57, 43, spread)
        data, decoder = at_guard(pack(image, learn([]))), Decoder(learn([]), 57, 43)
        for region in regions(rng, 57, 43, 3):
            *place, pixels = decoder(data, region)
            digest.update(repr(place).encode() + pixels.tobytes())
    assert digest.hexdigest()[:16] == SEEN[sampling][0]


def test_other_sizes_are_refused():
    image, _ = read_jpeg(pillow(np.zeros((20, 30, 3), np.uint8), YUV420))
    coding = learn([image])
    data = np.frombuffer(pack(image, coding), np.uint8)
    assert (decode_image(data, coding, 30, 20) == 0).all()
    for size in ((20, 30), (30, 21), (31, 20)):
        with pytest.raises(ValueError, match=f"not {size[0]}×{size[1]} pixels"):
            decode_image(data, coding, *size)
    with pytest.raises(ValueError, match="not 30×20"):
        decode_image(data[:-1], coding, 30, 20)


def mutated(data, rng):
    """Damage of one kind: bits, a run of bytes, an extreme number near the beginning, the end cut off, a hole."""
    data, at = bytearray(data), int(rng.integers(len(data)))
    kind = rng.integers(5)
    if kind == 0:
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[at : at + 16] = rng.bytes(min(16, len(data) - at))
    elif kind == 2:
        at = int(rng.integers(min(len(data) - 4, 480)))
        size = int(rng.choice([1, 2, 4]))
        data[at : at + size] = int(rng.choice([0, 255, 65535, 2**31, 2**32 - 1]) % 256**size).to_bytes(size, "little")
    elif kind == 3:
        del data[at:]
    else:
        del data[at : at + int(rng.integers(1, 9))]
    return bytes(data) or b"\0"


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)
def test_no_damage_crashes_it_or_reads_outside(sampling):
    """1,500 damaged images of a sampling: what is decoded at all looks the same everywhere."""
    rng = np.random.default_rng([7, sampling])
    width, height = 61, 45
    pictures = [random_coefficients(rng, sampling, width, height, spread) for spread in (3.0, 30.0)]
    coding = learn(pictures[:1])  # the other one brings its own tables
    whole = [pack(picture, coding) for picture in pictures]
    decoder, digest = Decoder(coding, width, height), hashlib.sha256()
    decoded = 0
    for turn in range(1500):
        data = at_guard(mutated(whole[turn % 2], rng))
        region = (0, 0, width, height) if turn % 3 else tuple(next(iter([*regions(rng, width, height, 1)][2:])))
        found = decoder(data, region)
        if found is not None:
            digest.update(found[2].tobytes())
            decoded += 1
    assert 150 < decoded < 1350
    assert digest.hexdigest()[:16] == SEEN[sampling][1]


def test_cb_and_cr_have_tables_of_their_own():
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    image, _ = read_jpeg(pillow(pixels, YUV420, quality=90))
    quant = np.stack([image.quant[0], image.quant[1], 3 * image.quant[2]]).astype(np.uint16)
    jpeg = write_jpeg(replace(image, quant=quant))
    for coding in (learn([]), learn([read_jpeg(jpeg)[0]])):  # tables of the image's own, and of the coding
        check_pixels(jpeg, coding, np.random.default_rng(0))


def test_sets_of_tables_that_the_coding_lacks_are_refused():
    image = random_coefficients(np.random.default_rng(0), YUV420, 30, 20, quant=np.ones((3, 64), np.uint16))
    coding = learn([image])
    data, decoder = np.frombuffer(pack(image, coding), np.uint8).copy(), Decoder(coding, 30, 20)
    assert data[1] == len(coding.quant) - 1 == 0
    for number in range(1, INLINE):
        data[1] = number
        assert decoder(data, (0, 0, 30, 20)) is None


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)
def test_rows_too_short_for_their_heads_are_not_read(sampling):
    """Of an image with longer rows than a page, where all rows are said to be empty."""
    width = 40000
    image = random_coefficients(np.random.default_rng(0), sampling, width, 5)
    data = bytearray(pack(image, learn([])))
    rows = 1 if sampling == GREY else 3 + (sampling == YUV420)
    entry = 4 if data[2] == WIDE_ROWS else 2
    end = 8 + 384 + rows * entry  # the record, its own tables of quantisation, the row table
    data[8 + 384 : end] = bytes(rows * entry)
    data, decoder = at_guard(bytes(data[:end]) + bytes(16)), Decoder(learn([]), width, 5)
    assert decoder(data, (0, 0, width, 5)) is None
