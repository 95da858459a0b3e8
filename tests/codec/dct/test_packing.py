"""Coefficient images against a plain reading of their format, and that nothing else is taken for one."""

from dataclasses import replace

import numpy as np
import pytest
from coefficients import LANES, random_coefficients, read_packed, same
from guarded import Numpy

from ffdr.codec.dct import pack as module
from ffdr.codec.dct.coding import Coding
from ffdr.codec.dct.format import GREY, SAMPLING_NAMES, TRAILER, YUV420, YUV422, YUV444
from ffdr.codec.dct.learn import learn
from ffdr.codec.dct.pack import pack, unpack

SIZES = [(1, 1), (8, 8), (9, 17), (16, 24), (33, 8), (131, 77), (64, 65)]
SAMPLINGS = [GREY, YUV444, YUV422, YUV420]


@pytest.fixture(scope="module")
def generic():
    return learn([])


def round_trip(image, coding):
    """The packed bytes, which must give the same image again."""
    data = pack(image, coding)
    assert same(unpack(data, coding, image.width, image.height), image)
    return data


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)
def test_bytes_are_those_of_the_format(sampling, generic):
    for number, (width, height) in enumerate(SIZES):
        rng = np.random.default_rng([sampling, width, height])
        image = random_coefficients(rng, sampling, width, height, spread=2.0**number)
        own = learn([image])
        for coding in (generic, own):
            data = round_trip(image, coding)
            assert same(read_packed(data, coding), image)
            assert data[1] == (0 if coding is own else 255)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)
@pytest.mark.parametrize(("ac", "dc"), [(-2048, 2047), (2047, -2048), (0, 0), (1, -1), (-1, 1)])
def test_extremes_survive(ac, dc, sampling, generic):
    image = random_coefficients(np.random.default_rng(0), sampling, 90, 43)
    for plane in image.planes:
        plane[...] = ac
        plane[..., ::2, 0], plane[..., 1::2, 0] = dc, -1 - dc if dc else 0
    assert same(read_packed(round_trip(image, generic), generic), image)


@pytest.mark.parametrize("width", [*range(1, 11), 12])
@pytest.mark.parametrize("sign", [-1, 1])
def test_every_width_takes_its_whole_range_and_no_more(width, sign, generic):
    """A group with the last value of a width's range takes as many bytes as bits; with the next value, more."""
    image = random_coefficients(np.random.default_rng(0), GREY, 8, 8, spread=0.0)
    empty = len(pack(image, generic))
    uneven = sign > 0 and width > 2  # biased, one and two bits reach as far above zero as below it
    largest = (1 << width - 1) - uneven
    image.planes[0][..., 1] = sign * largest
    assert len(round_trip(image, generic)) == empty + width
    if width < 12:
        image.planes[0][..., 1] = sign * (largest + 1)
        assert len(round_trip(image, generic)) > empty + width


def test_each_block_takes_the_cheapest_entries_that_serve_it(generic):
    """No other entries of the books hold the same values in fewer bytes."""
    image = random_coefficients(np.random.default_rng(3), YUV420, 40, 24, spread=9.0)
    coding = learn([image, random_coefficients(np.random.default_rng(4), YUV420, 90, 90)])
    widths = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 1, 2])
    least = -(1 << widths >> 1) + (np.arange(14) > 11)
    most = np.maximum((1 << widths >> 1) - 1, 0) + (np.arange(14) > 11)
    groups = [list(lanes.values()) for lanes in LANES]

    def cost(book, block, first, allowed):
        fits = np.broadcast_to(allowed, len(book)).copy()
        for group in range(book.shape[1]):
            values = block[groups[first + group]]
            fits &= (least[book[:, group]] <= values.min()) & (most[book[:, group]] >= values.max())
        return np.where(fits, widths[book].sum(axis=1), 999)

    payload = 0
    for plane, blocks in enumerate(image.planes):
        for block in blocks.reshape(-1, 64):
            if plane:
                payload += 1 + cost(coding.chroma, block, 0, True).min()
                continue
            has_high = any(block[group].any() for group in groups[4:])
            with_high = np.arange(256) >= coding.first_with_high
            low = cost(coding.low, block, 0, with_high | (not has_high)) + with_high
            payload += 1 + low.min()
            if with_high[low.argmin()]:
                payload += cost(coding.high, block, 4, True).min()
    dc = 0
    for plane in image.planes:
        for row in plane[..., 0].astype(int):
            for at in range(0, len(row), 8):
                bits = int(np.ptp(row[at : at + 8])).bit_length()
                dc += 2 + (12 if bits == 11 else bits)
    rows = sum(2 * len(plane) for plane in image.planes) + (2 * (len(image.planes[0]) % 2))
    assert len(pack(image, coding)) == 8 + rows + payload + dc + TRAILER


def test_wide_images(generic):
    image = random_coefficients(np.random.default_rng(1), YUV420, 9000, 24)
    data = round_trip(image, generic)
    assert data[2] == 0
    image.planes[0][1] = 2047  # 1125 blocks of 96 bytes and more: a row's length takes more than 16 bits
    data = round_trip(image, generic)
    assert data[2] == 1
    assert same(read_packed(data, generic), image)


def test_quantisation_tables_are_found_in_the_coding():
    rng = np.random.default_rng(5)
    images = [random_coefficients(rng, sampling, 20, 20) for sampling in (YUV420, GREY, YUV444)]
    coding = learn(images)
    numbers = []
    for image in images:
        data = round_trip(image, coding)
        numbers.append(data[1])
        assert np.array_equal(coding.quant[data[1]][: len(image.quant)], image.quant)
    assert sorted(numbers) == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"sampling": 4}, "sampling 4"),
        ({"sampling": YUV444}, "plane 1"),
        ({"width": 0}, "0×40"),
        ({"height": 65536}, "65536"),
        ({"quant": np.zeros((3, 64), np.uint16)}, "quant"),
        ({"quant": np.ones((1, 64), np.uint16)}, "quant"),
        ({"planes": ()}, "0 planes"),
    ],
)
def test_what_can_not_be_packed_is_refused(change, cause, generic):
    image = random_coefficients(np.random.default_rng(0), YUV420, 40, 40)
    with pytest.raises(ValueError, match=cause):
        pack(replace(image, **change), generic)


@pytest.mark.parametrize("value", [-2049, 2048])
def test_values_of_more_than_12_bits_are_refused(value, generic):
    image = random_coefficients(np.random.default_rng(0), GREY, 40, 40)
    image.planes[0][2, 3, 5] = value
    with pytest.raises(ValueError, match="plane 0"):
        pack(image, generic)
    with pytest.raises(ValueError, match="plane 0"):
        learn([image])


def packed(sampling=YUV420, **options):
    image = random_coefficients(np.random.default_rng(0), sampling, 20, 20, **options)
    coding = learn([image])
    return bytearray(pack(image, coding)), coding


# Of ``packed()``: 8 bytes of record, rows Y Y Cb Cr Y - Cb Cr at 2 bytes each, then the first row: one head, 3 entries.
TABLE, ROW = 8, 24


@pytest.mark.parametrize(
    ("at", "value", "cause"),
    [
        (0, 4, "sampling 4"),
        (1, 1, "set 1"),
        (2, 2, "flag"),
        (3, 1, "reserved"),
        (4, 21, "21×20"),
        (TABLE + 10, 1, "end at"),
        (-1, 1, "last bytes"),
        (ROW, 11, "width"),
        (ROW, 15, "width"),
    ],
)
def test_each_fault_is_named(at, value, cause):
    data, coding = packed()
    data[at] = value
    with pytest.raises(ValueError, match=cause):
        unpack(data, coding, 20, 20)


def test_lengths_must_be_used_up():
    """A byte moved from one row to the next, or added behind both, keeps the sum but not the rows."""
    data, coding = packed()
    data[TABLE] += 1
    data[TABLE + 2] -= 1
    with pytest.raises(ValueError, match="block row 0 is not as long"):
        unpack(data, coding, 20, 20)
    data, coding = packed()
    data[TABLE + 10] = 1
    data.insert(len(data) - TRAILER, 0)
    with pytest.raises(ValueError, match="fit its blocks"):
        unpack(data, coding, 20, 20)


def test_dc_beyond_its_range_or_its_blocks_is_refused():
    coding = learn([])
    image = random_coefficients(np.random.default_rng(0), GREY, 8, 8, spread=0.0)
    image.planes[0][..., 0] = 2047
    plain = pack(image, coding)
    row = 8 + 384 + 2
    for first, cause in ((1, "too large"), (2, "behind its last block")):
        data = bytearray(plain)
        data[row] |= 1  # a width of one bit, and the byte that it takes, behind the head and the entry
        data.insert(row + 3, first)
        data[row - 2] += 1
        with pytest.raises(ValueError, match=cause):
            unpack(data, coding, 8, 8)


def test_the_lane_that_stays_0_must():
    coding = learn([])
    image = random_coefficients(np.random.default_rng(0), GREY, 8, 8, spread=0.0)
    image.planes[0][..., 63] = 5
    data = bytearray(pack(image, coding))
    lane = next(lane for lane in range(8) if lane not in LANES[7])
    last = len(data) - TRAILER - 4  # 4 bits a value: the last group takes the last 4 bytes
    data[last + lane // 2] |= 1 << 4 * (lane % 2)
    with pytest.raises(ValueError, match="lane"):
        unpack(data, coding, 8, 8)


@pytest.mark.parametrize("divisor", [0, 7])
def test_inline_tables_are_checked(divisor):
    data, coding = bytearray(pack(random_coefficients(np.random.default_rng(0), GREY, 8, 8), learn([]))), learn([])
    data[8 + 128 : 8 + 130] = divisor, 0
    with pytest.raises(ValueError, match="divisor of 0" if divisor == 0 else "differ"):
        unpack(data, coding, 8, 8)


def mutate(rng, data):
    """Bytes changed, cut off, put in, doubled or zeroed, more often where there is structure."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, min(len(data), 60 if rng.random() < 0.5 else len(data))))
        match rng.integers(0, 5):
            case 0:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at] = int(rng.integers(0, 256))
            case 2:
                del data[at : at + int(rng.integers(1, 30))]
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 30)))
            case 4:
                data[at : at + 2] = b"\xff\xff"
        if not data:
            break
    return bytes(data)


def test_any_bytes_are_coefficients_or_an_error(monkeypatch):
    """Data and blocks end at forbidden pages."""
    monkeypatch.setattr(module, "np", Numpy())
    rng = np.random.default_rng(9)
    images = [random_coefficients(rng, sampling, 41, 27, spread=8.0) for sampling in SAMPLINGS]
    coding = learn(images[1:])
    whole = [pack(image, coding) for image in images]
    taken = refused = 0
    for trial in range(4000):
        data = mutate(rng, whole[trial % len(whole)])
        try:
            image = unpack(data, coding, 41, 27)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert same(unpack(pack(image, coding), coding, 41, 27), image)
            assert same(read_packed(data, coding), image)
            taken += 1
    assert taken > 100 and refused > 1000


def test_a_row_that_ends_in_its_entries_is_not_read_beyond(monkeypatch):
    """Its entries ask for more ``high`` bytes than there is data."""
    monkeypatch.setattr(module, "np", Numpy())
    coding = learn([])
    blocks = 8192
    row = bytes(2 * blocks // 8) + b"\xff" * blocks
    data = bytes([GREY, 255, 0, 0]) + np.array([65535, 8], "<u2").tobytes() + b"\x01\x00" * 192
    data += len(row).to_bytes(2, "little") + row + bytes(TRAILER)
    with pytest.raises(ValueError, match="not as long"):
        unpack(data, coding, 65535, 8)


def test_large_sizes_with_few_bytes_take_no_memory():
    """The data of a hostile record is too short for its blocks, which is seen before they are made room for."""
    data = bytes([YUV444, 255, 1, 0]) + b"\xff" * 4 + b"\x01\x00" * 192 + bytes(8192 * 3 * 4 + TRAILER)
    with pytest.raises(ValueError, match="fit its blocks"):
        unpack(data, learn([]), 65535, 65535)


def test_empty_data_is_refused(generic):
    with pytest.raises(ValueError, match="0 bytes"):
        unpack(b"", generic, 8, 8)


def test_rebuilt_coding_reads_the_same(generic):
    image = random_coefficients(np.random.default_rng(2), YUV422, 50, 50)
    data = pack(image, generic)
    assert same(unpack(data, Coding.unpack(generic.pack()), 50, 50), image)
