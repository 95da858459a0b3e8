"""Codings survive storage, and nothing else is taken for one."""

from dataclasses import replace

import numpy as np
import pytest
from coefficients import TYPES, random_coefficients

from ffdr.codec.dct.coding import Coding, block_levels, serves
from ffdr.codec.dct.format import BIASES, GROUPS, WIDTHS
from ffdr.codec.dct.learn import learn
from ffdr.codec.dct.pack import pack, unpack


def random_coding(rng, quants=3):
    """Types at random, the first of the last entries serving everything."""
    low, high, chroma = (rng.integers(0, 14, (256, groups)).astype(np.uint8) for groups in (4, 4, 8))
    low[250], high[7], chroma[255] = 11, 11, 11
    quant = rng.integers(1, 65536, (quants, 3, 64)).astype(np.uint16)
    return Coding(low, int(rng.integers(0, 251)), high, chroma, quant)


def equal(first, second):
    names = ("low", "high", "chroma", "quant")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    same = all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
    return same and first.first_with_high == second.first_with_high


@pytest.mark.parametrize("quants", [0, 1, 255])
def test_coding_survives_storage(quants):
    coding = random_coding(np.random.default_rng(quants), quants)
    data = coding.pack()
    assert len(data) == 4 + 256 * 16 + 384 * quants
    assert equal(Coding.unpack(data), coding)
    assert equal(Coding.unpack(np.frombuffer(data, np.uint8)), coding)


def test_stored_bytes_are_those_described():
    coding = random_coding(np.random.default_rng(0))
    data = coding.pack()
    assert int.from_bytes(data[:2], "little") == coding.first_with_high
    assert data[2:4] == b"\x03\x00"
    assert data[4 + 4 * 9 : 4 + 4 * 10] == bytes(coding.low[9])
    assert data[1028 + 4 * 9 : 1028 + 4 * 10] == bytes(coding.high[9])
    assert data[2052 + 8 * 9 : 2052 + 8 * 10] == bytes(coding.chroma[9])
    at = 4100 + 2 * (2 * 192 + 64 + 5)
    assert int.from_bytes(data[at : at + 2], "little") == coding.quant[2, 1, 5]


@pytest.mark.parametrize("seed", range(3))
def test_any_valid_coding_packs_and_unpacks(seed):
    """Books in no order, with doubles, whatever their entries."""
    rng = np.random.default_rng(seed)
    coding = random_coding(rng)
    for sampling in range(4):
        image = random_coefficients(rng, sampling, 50, 33)
        read = unpack(pack(image, coding), coding, 50, 33)
        assert all(np.array_equal(a, b) for a, b in zip(read.planes, image.planes, strict=True))


def test_books_tell_payload_and_order():
    coding = random_coding(np.random.default_rng(1))
    widths = np.array([width for width, _ in TYPES])
    for name, book in coding.books._asdict().items():
        types = getattr(coding, name)
        assert np.array_equal(book.bytes, widths[types].sum(axis=1))
        assert np.array_equal(book.types[:, : types.shape[1]], types)
        cost = book.bytes.astype(int)
        if name == "low":
            assert np.array_equal(book.types[:, 4], np.arange(256) >= coding.first_with_high)
            cost += book.types[:, 4]
        assert book.order.tolist() == sorted(range(256), key=lambda entry, cost=cost: (cost[entry], entry))


def test_levels_say_which_type_serves_which_values():
    """Against the ranges of the types, for every lowest and highest value near a power of two."""
    powers = sorted({min(max(p + d, 0), 2047) for p in 2 ** np.arange(12) for d in (-2, -1, 0, 1)} | {0})
    coding = random_coding(np.random.default_rng(0))
    chroma = np.zeros((256, 8), np.uint8)
    chroma[:14], chroma[14] = np.arange(14)[:, None], 11
    book = replace(coding, chroma=chroma).books.chroma
    least = BIASES - (1 << WIDTHS.astype(int) >> 1)
    most = np.maximum((1 << WIDTHS.astype(int) >> 1) - 1, 0) + BIASES
    place = {entry: i for i, entry in enumerate(book.order.tolist())}
    for low in [-p for p in powers] + [-2048]:
        for high in powers:
            block = np.zeros(64, np.int16)
            block[GROUPS[5, 2]], block[GROUPS[5, 6]] = low, high
            below, above = block_levels.py_func(block)
            for kind in range(14):
                i = place[kind]
                fits = serves.py_func(book.below[i], below) and serves.py_func(book.above[i], above)
                assert fits == (least[kind] <= low and high <= most[kind]), (kind, low, high)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda c: replace(c, low=c.low[:255]), "low is uint8"),
        (lambda c: replace(c, high=c.high.astype(np.int64)), "high is int64"),
        (lambda c: replace(c, chroma=np.where(c.chroma == 3, 14, c.chroma).astype(np.uint8)), "chroma has type 14"),
        (lambda c: replace(c, chroma=np.minimum(c.chroma, 10)), "chroma has no entry"),
        (lambda c: replace(c, high=np.minimum(c.high, 10)), "high has no entry"),
        (lambda c: replace(c, low=np.minimum(c.low, 10)), "low has no entry"),
        (lambda c: replace(c, first_with_high=251), "low has no entry"),
        (lambda c: replace(c, first_with_high=256), "first_with_high is 256"),
        (lambda c: replace(c, quant=c.quant * np.uint16(0)), "divisor of 0"),
        (lambda c: replace(c, quant=np.ones((256, 3, 64), np.uint16)), "256 sets"),
        (lambda c: replace(c, quant=np.ones((2, 64), np.uint16)), "quant is"),
    ],
)
def test_each_fault_is_named(change, cause):
    coding = random_coding(np.random.default_rng(0))
    # The random books hold 11 by chance in no other whole entry.
    with pytest.raises(ValueError, match=cause):
        change(coding)


def test_any_bytes_are_a_coding_or_an_error():
    rng = np.random.default_rng(4)
    whole = learn([random_coefficients(rng, 3, 60, 60)]).pack()
    image = random_coefficients(rng, 3, 20, 20)
    taken = 0
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 3)):
            at = int(rng.integers(0, 8 if rng.random() < 0.5 else len(data)))
            match rng.integers(0, 4):
                case 0:
                    data[at] ^= 1 << int(rng.integers(0, 8))
                case 1:
                    data[at] = int(rng.integers(0, 256))
                case 2:
                    del data[at : at + int(rng.integers(1, 600))]
                case 3:
                    data[at:at] = rng.bytes(int(rng.integers(1, 600)))
        try:
            coding = Coding.unpack(bytes(data))
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        read = unpack(pack(image, coding), coding, 20, 20)
        assert all(np.array_equal(a, b) for a, b in zip(read.planes, image.planes, strict=True))
        taken += 1
    assert 100 < taken < 1500
