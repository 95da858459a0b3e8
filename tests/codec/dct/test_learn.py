"""Learned codebooks save bytes, always the same ones, whatever the sample."""

import io

import numpy as np
import pytest
from coefficients import random_coefficients, same
from PIL import Image

from ffdr.bench.corpus import make_photos
from ffdr.codec.dct import learn as module
from ffdr.codec.dct.format import GREY, YUV420
from ffdr.codec.dct.learn import learn
from ffdr.codec.dct.pack import pack, unpack
from ffdr.codec.jpeg.read import read_jpeg


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """By quality: (coefficients, bytes of the JPEG with Huffman tables of its own) of 16 photographs."""
    paths = sorted(make_photos(tmp_path_factory.mktemp("photographs"), 16, seed=3, width=320, height=240).glob("*/*"))
    found = {}
    for quality in (80, 90):
        jpegs = []
        for path in paths:
            out = io.BytesIO()
            Image.open(path).save(out, "jpeg", quality=quality, optimize=True)
            jpegs.append(out.getvalue())
        found[quality] = [(read_jpeg(jpeg)[0], len(jpeg)) for jpeg in jpegs]
    return found


def packed_bytes(images, coding):
    return sum(len(pack(image, coding)) for image in images)


@pytest.mark.parametrize(("quality", "most"), [(90, 1.18), (80, 1.28)])
def test_photographs_take_little_more_than_their_jpegs(quality, most, photographs):
    """With a coding learned from other photographs."""
    pairs = photographs[quality]
    coding = learn(image for image, _ in pairs[:8])
    images, sizes = zip(*pairs[8:], strict=True)
    assert packed_bytes(images, coding) < most * sum(sizes)
    for image in images:
        assert same(unpack(pack(image, coding), coding, image.width, image.height), image)


def test_learned_books_beat_the_generic_ones(photographs):
    """Also on photographs that were not learned from; and those of a quality beat those of another one."""
    images = {quality: [image for image, _ in pairs] for quality, pairs in photographs.items()}
    fine, coarse, generic = learn(images[90][:8]), learn(images[80][:8]), learn([])
    rest = images[90][8:]
    assert packed_bytes(rest, fine) < packed_bytes(rest, coarse) < packed_bytes(rest, generic)
    assert packed_bytes(rest, fine) < 0.85 * packed_bytes(rest, generic)


def test_same_sample_same_bytes(photographs):
    images = [image for image, _ in photographs[80]]
    assert learn(images).pack() == learn(iter(images)).pack() == learn(images[::-1]).pack()
    assert learn(images).pack() != learn(images[1:]).pack()


def test_entries_with_a_high_byte_come_last(photographs):
    coding = learn(image for image, _ in photographs[90])
    assert 0 < coding.first_with_high < 256
    cost = coding.books.low.bytes.astype(int)
    for part in (cost[: coding.first_with_high], cost[coding.first_with_high :]):
        assert (np.diff(part) >= 0).all()


def test_frequent_demands_have_entries_of_their_own():
    """Two kinds of blocks only: each is served by what it takes and no byte more."""
    image = random_coefficients(np.random.default_rng(0), GREY, 800, 800, spread=0.0)
    image.planes[0][:] = 0
    image.planes[0][::2, :, 1], image.planes[0][1::2, :, 2] = -3, 1
    image.planes[0][1::2, :, 63] = 100
    # 100 rows of 13 heads, 100 entries and a high byte in each second row; 3 bits, or 1 + 8.
    payload = 100 * (2 + 26 + 100) + 50 * (100 * 3) + 50 * (100 + 100 * (1 + 8))
    assert len(pack(image, learn([image]))) == 8 + payload + 16


def test_one_step_on_either_side_takes_two_bits():
    """[-1, 1] is served by two types, [-2, 1] and [-1, 2] by one of them each."""
    image = random_coefficients(np.random.default_rng(0), GREY, 240, 80, spread=0.0)
    image.planes[0][:] = 0
    for column, (low, high) in enumerate([(-1, 1), (-2, 1), (-1, 2)]):
        image.planes[0][:, column::3, 1], image.planes[0][:, column::3, 2] = low, high
    size = 8 + 10 * (2 + 2 * 4 + 30 + 30 * 2) + 16
    assert len(pack(image, learn([image]))) == size
    image.planes[0][..., 1], image.planes[0][..., 2] = -1, 1
    assert len(pack(image, learn([image]))) == size


def test_demands_are_the_least_that_serve():
    """By steps below and above zero, as far as a type of two bits reaches; beyond, widths are even."""
    expected = [[0, 12, 13], [1, module._BOTH, 13], [2, 2, 3]]
    assert module._DEMAND_OF[:3, :3].tolist() == expected
    for below, above in np.ndindex(12, 12):
        if max(below, above) > 2:
            assert module._DEMAND_OF[below, above] == max(below, above)


@pytest.mark.parametrize("sampling", range(4))
def test_any_sample_gives_a_coding_for_any_image(sampling):
    """Grey ones only, tiny ones only, none at all."""
    rng = np.random.default_rng(sampling)
    target = random_coefficients(rng, sampling, 70, 50, spread=300.0)
    for sample in ([], [(GREY, 90, 90)], [(YUV420, 1, 1)], [(sampling, 2, 1)]):
        coding = learn(random_coefficients(rng, *size) for size in sample)
        assert len(coding.quant) == len(sample)
        assert same(unpack(pack(target, coding), coding, 70, 50), target)


def test_the_most_frequent_tables_are_kept():
    rng = np.random.default_rng(0)
    quants = [np.full((1, 64), i + 1, np.uint16) for i in range(300)]
    images = [random_coefficients(rng, GREY, 1, 1, quant=quant) for quant in [*quants, *quants[40:]]]
    kept = learn(images).quant
    assert len(kept) == 255
    assert (kept == kept[:, :1, :1]).all()
    twice = sorted(range(41, 301), key=lambda value: value.to_bytes(2, "little"))
    assert kept[:, 0, 0].tolist() == twice[:255]


def test_limits_bound_what_is_kept(monkeypatch):
    """A sample of noise, far beyond limits made small: fewer keys are kept, and the coding still serves everything."""
    for name, limit in {"_MOST_PENDING": 100, "_MOST_COUNTED": 300, "_MOST_SERVED": 200}.items():
        monkeypatch.setattr(module, name, limit)
    rng = np.random.default_rng(0)
    images = [random_coefficients(rng, YUV420, 64, 64, spread=40.0) for _ in range(8)]
    counts = module._Counts()
    for image in images:
        for row in image.planes[0]:
            counts.add(module._keys(row))
            assert len(counts._keys) <= 300 and counts._waiting <= 100
    coding = learn(images)
    assert same(unpack(pack(images[0], coding), coding, 64, 64), images[0])


def test_counts_are_exact_below_the_limits(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PENDING", 50)
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 40, 1000).astype(np.uint32)
    counts = module._Counts()
    for part in np.array_split(keys, 37):
        counts.add(part)
    found, times = counts.result()
    expected, expected_times = np.unique(keys, return_counts=True)
    assert np.array_equal(found, expected) and np.array_equal(times, expected_times)
