"""Restart markers and offset table: where they say, at what cost, and unseen by decoders."""

import io

import cv2
import numpy as np
import pytest
from offset_table import read_offset_table
from PIL import Image
from sklearn.datasets import load_sample_images

from ffdr.codec.jpeg import segments as jpeg
from ffdr.codec.jpeg.segments import TABLE_DTYPE, encode_jpeg

PHOTOS = [np.asarray(Image.fromarray(photo).resize((500, 333))) for photo in load_sample_images().images]


def plain_jpeg(pixels, quality):
    """The same JPEG by OpenCV, Huffman tables optimised, without restart markers."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), options)[1].tobytes()


def cv2_decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def ffcv_decode(data, shape):
    from ffcv.libffcv import imdecode

    pixels = np.zeros(shape, np.uint8)
    height, width = shape[:2]
    assert imdecode(np.frombuffer(data, np.uint8), pixels, height, width, height, width) == 0
    return pixels


@pytest.mark.parametrize("quality", [75, 90, 100])
@pytest.mark.parametrize("photo", [0, 1])
def test_decoders_see_the_plain_jpeg(photo, quality):
    pixels = PHOTOS[photo]
    plain, stored = plain_jpeg(pixels, quality), encode_jpeg(pixels, quality)
    assert read_offset_table(stored) is not None
    expected = cv2_decode(plain)
    assert np.array_equal(cv2_decode(stored), expected)
    assert np.array_equal(ffcv_decode(stored, pixels.shape), ffcv_decode(plain, pixels.shape))
    pillow = [np.asarray(Image.open(io.BytesIO(data))) for data in (stored, plain)]
    assert np.array_equal(*pillow)


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
@pytest.mark.parametrize("size", [(500, 333), (333, 500), (256, 192), (464, 348), (40, 40), (17, 300)])
def test_no_image_grows_by_more_than_one_percent(size, quality):
    for photo in PHOTOS:
        pixels = np.asarray(Image.fromarray(photo).resize(size))
        assert len(encode_jpeg(pixels, quality)) <= 1.01 * len(plain_jpeg(pixels, quality))


def test_segments_are_short_where_the_bytes_allow_it():
    noise = np.random.default_rng(0).integers(0, 256, (320, 480, 3), np.uint8)
    assert read_offset_table(encode_jpeg(noise, 95)).interval == jpeg.MIN_INTERVAL
    assert read_offset_table(encode_jpeg(PHOTOS[0], 90)).interval <= 8
    assert read_offset_table(encode_jpeg(PHOTOS[0], 90, growth=1.03)).interval <= 2


@pytest.mark.parametrize("size", [(500, 333), (464, 300), (250, 188), (16, 200), (1000, 100)])
def test_each_segment_lies_where_the_table_says(size):
    """Cut every segment out and decode it as an image of its own: it must show that part of the whole."""
    pixels = np.asarray(Image.fromarray(PHOTOS[0]).resize(size))
    stored = encode_jpeg(pixels, 95, growth=1.05)
    table = read_offset_table(stored)
    assert table.mcus_per_row == -(-size[0] // 16)
    assert table.mcu_rows == -(-size[1] // 16)
    assert table.segments.shape == (table.mcu_rows, table.mcus_per_row // table.interval)
    whole = np.zeros((table.mcu_rows * 16, table.mcus_per_row * 16, 3), np.int16)
    whole[: size[1], : size[0]] = cv2_decode(stored)
    header = bytearray(stored[: table.scan_start])
    frame = header.index(b"\xff\xc0")
    width = 16 * table.interval
    header[frame + 5 : frame + 9] = (16).to_bytes(2, "big") + width.to_bytes(2, "big")
    for row in range(table.mcu_rows):
        for column in range(table.segments.shape[1]):
            start, end = table.segments[row, column], table.ends[row, column]
            part = cv2_decode(bytes(header) + stored[start:end] + b"\xff\xd9").astype(np.int16)
            there = whole[row * 16 : row * 16 + 16, column * width : (column + 1) * width]
            rows, columns = min(16, size[1] - row * 16), min(width, size[0] - column * width)
            # Away from the edges, where the upsampling of chroma looks at the neighbours, pixels are the same.
            inner = np.s_[1 : rows - 1, 1 : columns - 1]
            assert np.array_equal(part[inner], there[inner])


def test_positions_are_those_of_the_markers():
    stored = encode_jpeg(PHOTOS[1], 90)
    table = read_offset_table(np.frombuffer(stored, np.uint8))
    before = [stored[start - 2 : start] for start in table.segments.ravel()[1:]]
    assert before == [bytes([0xFF, 0xD0 + n % 8]) for n in range(len(before))]
    assert table.row_starts.tolist()[:-1] == table.segments[:, 0].tolist()
    assert stored[table.row_starts[-1] :][:2] == b"\xff\xd9"
    assert int.from_bytes(stored[stored.index(b"\xff\xdd") + 4 :][:2], "big") == table.interval


def test_no_table_where_there_is_none():
    flat = np.full((300, 464, 3), 128, np.uint8)  # 29 MCUs a row, next to no bytes
    assert encode_jpeg(flat, 90) == plain_jpeg(flat, 90)
    assert read_offset_table(encode_jpeg(flat, 90)) is None
    assert read_offset_table(b"") is None
    assert read_offset_table(b"\xff\xd8\xff\xd9") is None
    with pytest.raises(ValueError, match="65501"):
        encode_jpeg(np.zeros((1, 65501, 3), np.uint8), 90)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (8000, 16)])
def test_extreme_shapes(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stored = encode_jpeg(pixels, 95)
    assert np.array_equal(cv2_decode(stored), cv2_decode(plain_jpeg(pixels, 95)))
    table = read_offset_table(stored)
    assert table is None or table.row_starts[-1] < len(stored)


def test_a_damaged_table_is_none_or_harmless():
    stored = encode_jpeg(PHOTOS[0], 90)
    table = read_offset_table(stored)
    size = TABLE_DTYPE.itemsize + 2 * table.mcu_rows
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = np.frombuffer(stored, np.uint8).copy()
        where = len(damaged) - 1 - rng.integers(size) if rng.random() < 0.7 else rng.integers(len(damaged))
        damaged[where] ^= 1 << rng.integers(8)
        found = read_offset_table(damaged[: len(damaged) - rng.integers(3)])
        if found is not None:
            assert found.segments.min() > 0
            assert found.ends.max() < len(damaged)
            assert (found.segments <= found.ends).all()
            assert np.array_equal(found.segments, table.segments)
