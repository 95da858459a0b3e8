"""Cropped decoding: the pixels of a full decode, whatever the region; and no bytes that crash it or fool it.

The fuzzing runs in a child process, with every array laid against a page that must not be touched.
"""

import ctypes
import json
import mmap
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from betons import MIXING, PLAIN
from offset_table import read_offset_table
from PIL import Image
from sklearn.datasets import load_sample_images

from ffdr import ReinforcedLoader
from ffdr.beton.read import ImageBeton
from ffdr.codec.jpeg import segments as jpeg
from ffdr.codec.jpeg.libjpeg import decode_jpeg
from ffdr.codec.jpeg.segments import TABLE_DTYPE, encode_jpeg
from ffdr.codec.jpeg.splice import splice
from ffdr.config.files import WriteOptions
from ffdr.write.images import write_images

TRAILER = TABLE_DTYPE.itemsize


def photo(width, height):
    """Photograph with noise, so that every pixel's neighbours matter: (height, width, 3) uint8."""
    pixels = np.asarray(Image.fromarray(load_sample_images().images[0]).resize((width, height))).astype(np.int16)
    noise = np.random.default_rng(width * 1000 + height).integers(-60, 60, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def decode(data, width, height):
    """Whether all went well, and the pixels that were filled in."""
    pixels = np.zeros((height, width, 3), np.uint8)
    return decode_jpeg(data, pixels), pixels


def spliced(data, width, height, region):
    """JPEG bytes and ``Crop`` of what ``splice`` makes of the region; None: decode the whole image."""
    out = np.full(len(data), 0xAA, np.uint8)
    size, crop = splice(data, width, height, region, out)
    if size == 0:
        assert crop == (0, 0, width, height)
        return None
    check_crop(crop, width, height, region)
    return out[:size].copy(), crop


def check_crop(crop, width, height, region):
    """It lies inside the image and holds the region."""
    x0, y0, x1, y1 = region
    assert 0 <= crop.left <= x0 < x1 <= crop.left + crop.width <= width
    assert 0 <= crop.top <= y0 < y1 <= crop.top + crop.height <= height


def regions_of(width, height, rng, count):
    """Single pixels, small boxes and large ones, at random; then boxes that begin or end at each of many columns."""
    for turn in range(count):
        x0, y0 = int(rng.integers(width)), int(rng.integers(height))
        w, h = rng.integers(1, (2, 40, 1000)[turn % 3], 2)
        yield x0, y0, min(x0 + int(w), width), min(y0 + int(h), height)
    for edge in {*range(min(width, 70)), *range(max(width - 40, 0), width)}:
        yield edge, 0, edge + 1, height
        yield edge, 0, width, height
    for edge in range(min(height, 40)):
        yield 0, edge, width, edge + 1


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two betons of the same photographs, same coefficients: with row tables, and without markers and tables."""
    folder = tmp_path_factory.mktemp("twins")
    paths = []
    for number in range(6):
        (folder / "photos" / "one").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(300 + 16 * number, 200)).save(folder / "photos" / "one" / f"{number}.png")
    for name, growth in (("tables", 1.02), ("plain", 1.0)):
        out = folder / f"{name}.beton"
        options = WriteOptions("imagefolder", str(folder / "photos"), "", str(out), workers=1, growth=growth)
        write_images(options, progress=False)
        paths.append(out)
    return paths


@pytest.mark.parametrize("policy", [PLAIN, MIXING, None], ids=["plain", "mixing", "evaluation"])
def test_batches_are_the_same_with_and_without_tables(twins, policy):
    tables = [[read_offset_table(np.array(beton.data(i))) for i in range(6)] for beton in map(ImageBeton.open, twins)]
    assert all(table is not None for table in tables[0])
    assert all(table is None for table in tables[1])
    options = {"batch_size": 6, "resolution": 64, "workers": 1}
    with_tables, without = (ReinforcedLoader(path, policy=policy, **options) for path in twins)
    for _ in range(5):
        for (a, targets_a, index_a), (b, targets_b, index_b) in zip(list(with_tables), list(without), strict=True):
            assert np.array_equal(index_a, index_b)
            assert np.array_equal(a, b)
            assert np.array_equal(targets_a.log_probs, targets_b.log_probs)


def needs_all(table, width, height, region):
    """Whether the region with one pixel around it lies on the first and the last segment, and row, of the image."""
    x0, y0, x1, y1 = region
    segments, step = table.segments.shape[1], 16 * table.interval
    first = x0 <= step or (segments == 2 and width - step < 5)  # never less than 5 pixels wide
    last = min(x1 + 1, width) > (segments - 1) * step
    return first and last and y0 <= 16 and min(y1 + 1, height) > (table.mcu_rows - 1) * 16


SIZES = [(1, 1), (15, 17), (3, 70), (33, 250), (36, 100), (64, 31), (250, 188), (497, 50), (498, 33), (500, 375)]


@pytest.mark.parametrize("interval", [1, 2, 8])
@pytest.mark.parametrize("size", [*SIZES, (464, 90)])
def test_the_region_is_that_of_a_full_decode(monkeypatch, size, interval):
    """4:2:0, and 464 is 29 MCUs wide, a prime number: one segment per row, unless the interval is 1."""
    monkeypatch.setattr(jpeg, "MIN_INTERVAL", interval)
    width, height = size
    data = np.frombuffer(bytearray(encode_jpeg(photo(width, height), 90, growth=2.0)), np.uint8)
    fine, full = decode(data, width, height)
    assert fine
    table = read_offset_table(data)
    for region in regions_of(width, height, np.random.default_rng(0), 60):
        x0, y0, x1, y1 = region
        found = spliced(data, width, height, region)
        assert (found is None) == (table is None or needs_all(table, width, height, region)), region
        if found is None:
            continue
        part, crop = found
        fine, pixels = decode(part, crop.width, crop.height)
        assert fine
        here = pixels[y0 - crop.top : y1 - crop.top, x0 - crop.left : x1 - crop.left]
        assert np.array_equal(here, full[y0:y1, x0:x1]), region
    assert spliced(data, width, height, (0, 0, width, height)) is None


def test_only_the_segments_under_the_region_are_copied(monkeypatch):
    monkeypatch.setattr(jpeg, "MIN_INTERVAL", 2)
    data = np.frombuffer(bytearray(encode_jpeg(photo(500, 375), 90, growth=2.0)), np.uint8)
    table = read_offset_table(data)
    part, place = spliced(data, 500, 375, (65, 33, 95, 47))  # touches neither edge of segment 2, row 2
    assert place == (64, 32, 32, 16)
    start, end = table.segments[2, 2], table.ends[2, 2]
    assert part[table.scan_start :].tobytes() == data[start:end].tobytes() + b"\xff\xd9"
    part, place = spliced(data, 500, 375, (64, 33, 95, 48))  # touches its left and lower edge: margin
    assert place == (32, 32, 64, 32)
    cuts = read_offset_table(data).segments[2:4, 1:3].ravel()
    ends = read_offset_table(data).ends[2:4, 1:3].ravel()
    pieces = [data[a:b].tobytes() + bytes([0xFF, 0xD0 + n]) for n, (a, b) in enumerate(zip(cuts, ends, strict=True))]
    assert part[table.scan_start :].tobytes() == b"".join(pieces)[:-2] + b"\xff\xd9"


def stored_photo():
    """A JPEG of 250×188 pixels with the shortest segments, as a writable array."""
    return np.frombuffer(bytearray(encode_jpeg(photo(250, 188), 80, growth=2.0)), np.uint8)


def frame_of(data):
    return data.tobytes().index(b"\xff\xc0")


def change(at, value):
    def edit(data):
        data[at(data) if callable(at) else at] = value

    return edit


def exchange_rows(data):
    """Row lengths 2 and 3: their sum stays what it was."""
    at = len(data) - TRAILER - 2 * 12
    rows = data[at : at + 24].view("<u2")
    rows[2], rows[3] = rows[3] - 1, rows[2] + 1


def add_marker(data):
    """In the last segment of row 4."""
    at = read_offset_table(data.copy()).segments[4, 7] + 20
    data[at : at + 2] = 0xFF, 0xD7


UNFIT = {
    "a marker too many": add_marker,
    "magic": change(-12, ord("G")),
    "scan start": change(-8, 1),
    "interval": change(-6, 4),
    "interval 0": change(-6, 0),
    "MCUs a row": change(-4, 14),
    "MCU rows": change(-2, 11),
    "row lengths": exchange_rows,
    "a row longer": change(-TRAILER - 24, 0xFF),
    "EOI": change(-TRAILER - 25, 0xD8),
    "restart interval": change(lambda data: data.tobytes().index(b"\xff\xdd") + 5, 4),
    "width": change(lambda data: frame_of(data) + 8, 249),
    "height": change(lambda data: frame_of(data) + 6, 187),
    "sampling": change(lambda data: frame_of(data) + 11, 0x21),
    "chroma sampling": change(lambda data: frame_of(data) + 14, 0x21),
    "components": change(lambda data: frame_of(data) + 9, 1),
    "progressive": change(lambda data: frame_of(data) + 1, 0xC2),
    "precision": change(lambda data: frame_of(data) + 4, 12),
    "marker's number": change(lambda data: read_offset_table(data.copy()).segments[3, 1] - 1, 0xD7),
    "marker gone": change(lambda data: read_offset_table(data.copy()).segments[3, 1] - 2, 0xFE),
    "marker before the rows": change(lambda data: read_offset_table(data.copy()).segments[2, 0] - 1, 0xD3),
    "marker behind the rows": change(lambda data: read_offset_table(data.copy()).segments[7, 0] - 1, 0xD3),
    "start of image": change(1, 0xD9),
    "not a marker": change(2, 0),
    "a header's length": change(4, 0xFF),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_decoded_whole(name):
    data = stored_photo()
    region = (40, 40, 240, 100)  # rows 2 to 6, and the last segment of each
    assert spliced(data, 250, 188, region) is not None
    UNFIT[name](data)
    assert spliced(data, 250, 188, region) is None


def test_no_table_no_room_and_other_samplings_are_decoded_whole():
    region = (40, 40, 100, 100)
    data = stored_photo()
    assert spliced(data[:-1].copy(), 250, 188, region) is None
    assert spliced(data[:5].copy(), 250, 188, region) is None
    assert spliced(data[:0].copy(), 250, 188, region) is None
    assert spliced(data, 188, 250, region) is None
    assert splice(data, 250, 188, region, np.zeros(len(data) - 1, np.uint8))[0] == 0
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    other = cv2.imencode(".jpg", photo(256, 192), options)[1].tobytes()  # as many restart markers as 4:2:0 at 512×384
    table = jpeg._pack_table(other, 2, 32, 24)
    forged = np.frombuffer(bytearray(other + table), np.uint8)
    assert spliced(forged, 256, 192, region) is None


def guarded(count):
    """(count,) uint8 whose last byte lies right before a page that must not be touched."""
    page = mmap.PAGESIZE
    whole = -(-count // page) * page
    memory = np.frombuffer(mmap.mmap(-1, whole + page), np.uint8)
    beyond = ctypes.c_void_p(memory.ctypes.data + whole)
    assert ctypes.CDLL(None).mprotect(beyond, ctypes.c_size_t(page), 0) == 0
    return memory[whole - count : whole]


def guarded_copy(data):
    copy = guarded(len(data))
    copy[:] = data
    return copy


def damaged(good, rng, turn):
    """One of many ways to spoil a stored JPEG: flips anywhere, in the table, in the headers; numbers; cuts."""
    data = good.copy()
    table, scan_start = len(data) - TRAILER - 24, read_offset_table(good).scan_start
    low, high = [(0, len(data)), (table, len(data)), (0, scan_start), (scan_start, table)][turn % 4]
    for _ in range(1 + turn % 3):
        at = int(rng.integers(low, high))
        data[at] = rng.choice([data[at] ^ (1 << rng.integers(8)), 0, 0xFF, rng.integers(256), 0xD0 + rng.integers(10)])
    if turn % 11 == 0:
        data = data[: int(rng.integers(len(data)))]
    if turn % 11 == 1:
        data = np.concatenate([data[: int(rng.integers(len(data)))], good[table:]])  # a valid table behind less
    return data


def fuzz(rounds):
    """Damage, splice, decode. Counts: spliced, and how often the cropped and the full decode complained."""
    rng, good = np.random.default_rng(0), stored_photo()
    done = {"spliced": 0, "cropped": 0, "full": 0, "compared": 0}
    out = guarded(len(good))
    for turn in range(rounds):
        data = guarded_copy(damaged(good, rng, turn))
        x0, y0 = int(rng.integers(249)), int(rng.integers(187))
        region = (x0, y0, int(rng.integers(x0 + 1, 251)), int(rng.integers(y0 + 1, 189)))
        size, crop = splice(data, 250, 188, region, out)
        assert size <= len(data)
        check_crop(crop, 250, 188, region)
        if not size:
            continue
        part = guarded_copy(out[:size])
        pixels = guarded(3 * crop.width * crop.height).reshape(crop.height, crop.width, 3)
        cropped = decode_jpeg(part, pixels)
        fine, full = decode(data, 250, 188)
        if fine:  # nothing to complain about in the whole: nothing in the part, and the same pixels
            assert cropped
            here = pixels[y0 - crop.top : region[3] - crop.top, x0 - crop.left : region[2] - crop.left]
            assert np.array_equal(here, full[y0 : region[3], x0 : region[2]]), turn
        done["spliced"] += 1
        done["cropped"] += not cropped
        done["full"] += not fine
        done["compared"] += fine
    return done


CHILD = f"""
import json, os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2] / "helpers")]!r}
from test_splice import fuzz
print(json.dumps(fuzz(int(os.environ.get("FFDR_FUZZ_ROUNDS", 1500)))))
"""


def test_no_damage_crashes_it_or_reads_outside():
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=1200)
    assert child.returncode == 0, child.stderr[-2000:]
    done = json.loads(child.stdout.splitlines()[-1])
    assert done["spliced"] > 400
    assert done["compared"] > 100
    assert done["full"] >= done["cropped"] > 100
