"""Decoding of restart segments: libjpeg-turbo's pixels, whatever the region; nothing that crashes it or fools it.

The fuzzing runs in a child process, with every array between pages that must not be touched.
"""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from coefficients import random_coefficients
from guarded import guarded
from offset_table import read_offset_table
from test_splice import check_crop, damaged, decode, frame_of, photo, regions_of, stored_photo

from ffdr.codec.dct.format import YUV420
from ffdr.codec.dct.pixels import CANVAS_SLACK
from ffdr.codec.jpeg import segments as jpeg
from ffdr.codec.jpeg.entropy import CLEAN_SLACK
from ffdr.codec.jpeg.libjpeg import lib
from ffdr.codec.jpeg.region import decode_segments, segments_scratch_bytes
from ffdr.codec.jpeg.segments import cut_jpeg, encode_jpeg, encode_plain
from ffdr.codec.jpeg.splice import splice
from ffdr.codec.jpeg.write import write_jpeg

WIDTH, HEIGHT = 250, 188
REGION = 40, 40, 100, 100


class Decoder:
    """Decodes regions of images of one size, with all memory between forbidden pages."""

    def __init__(self, width, height, most_bytes):
        self.size = width, height
        self.clean = guarded(most_bytes + CLEAN_SLACK, np.uint8)
        self.scratch = guarded(segments_scratch_bytes(width), np.uint8)
        self.canvas = guarded(3 * width * height + CANVAS_SLACK, np.uint8)

    def __call__(self, data, region):
        """The region's pixels and some to the left, and where they lie; None if it was handed back."""
        for memory in (self.clean, self.scratch, self.canvas):
            memory[...] = 0xA5  # what was there before must not matter
        done, crop = decode_segments(data, *self.size, region, self.clean, self.scratch, self.canvas)
        check_crop(crop, *self.size, region)
        pixels = self.canvas[: 3 * crop.width * crop.height].reshape(crop.height, crop.width, 3)
        return (pixels, crop) if done else None


def at_guard(data):
    array = guarded(len(data), np.uint8)
    array[...] = np.frombuffer(data, np.uint8)
    return array


def part_of(full, crop):
    return full[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def check_regions(data, width, height, seed, count):
    """All against libjpeg's decode of the whole image."""
    data, decoder = at_guard(data), Decoder(width, height, len(data))
    fine, full = decode(data, width, height)
    assert fine
    for region in [(0, 0, width, height), *regions_of(width, height, np.random.default_rng(seed), count)]:
        pixels, crop = decoder(data, region)
        assert np.array_equal(pixels, part_of(full, crop)), region


def tabled(bgr, interval=1, change=lambda data: data):
    """A JPEG with the row table of a 4:2:0 image, changed before the table is made."""
    data = change(bytearray(encode_plain(bgr, 90, interval)))
    return bytes(data) + jpeg._pack_table(bytes(data), interval, *(-(-side // 16) for side in bgr.shape[1::-1]))


SIZES = [(5, 1), (6, 17), (7, 70), (16, 16), (17, 33), (33, 250), (64, 31), (250, 188), (464, 90), (498, 33)]


@pytest.mark.parametrize("interval", [1, 2, 8])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_a_full_decode(size, interval):
    """Segments as long as that at most."""
    mcus = -(-size[0] // 16)
    interval = max(count for count in range(1, interval + 1) if mcus % count == 0)
    check_regions(tabled(photo(*size)[..., ::-1].copy(), interval), *size, seed=0, count=40)


@pytest.mark.parametrize("blur", [0, 1, 8])
@pytest.mark.parametrize("quality", [1, 30, 50, 75, 95, 100])
def test_whatever_the_quality_and_however_smooth(quality, blur):
    """Long codes and blocks of 63 coefficients at one end, blocks of nothing but DC at the other."""
    width, height = 131, 93
    pixels = cv2.GaussianBlur(photo(width, height), (0, 0), blur) if blur else photo(width, height)
    check_regions(encode_jpeg(pixels, quality, growth=3.0), width, height, quality, 40)


def test_the_largest_coefficients_are_libjpeg_s():
    """Where sums leave 16 bits, decoders differ: such blocks are handed back, and all others are the same."""
    rng, done = np.random.default_rng(0), 0
    for turn in range(60):
        spread, limit = (6, 40, 400)[turn % 3], (2, 5, 255)[turn // 3 % 3]
        quant = rng.integers(1, limit + 1, (3, 64)).astype(np.uint16)
        image = random_coefficients(rng, YUV420, 70, 50, spread, quant)
        for plane in image.planes:
            plane[..., 1:] = plane[..., 1:].clip(-1023, 1023)
        data = cut_jpeg(lambda interval, image=image: write_jpeg(image, interval), 70, 50, 3.0)
        fine, full = decode(np.frombuffer(data, np.uint8), 70, 50)
        found = Decoder(70, 50, len(data))(at_guard(data), (0, 0, 70, 50))
        assert fine
        done += found is not None
        assert found is None or np.array_equal(found[0], full)
    assert 15 <= done < 45


def as_adobe(data):
    """Adobe's marker, which says that the components are red, green and blue, in place of JFIF's."""
    body = b"Adobe\0\x64\0\0\0\0\0"
    end = 4 + int.from_bytes(data[4:6], "big")
    return data[:2] + b"\xff\xee" + (len(body) + 2).to_bytes(2, "big") + body + data[end:]


def wide_quants(data):
    """Every quantisation table of 8 bits becomes one of 16."""
    at = data.index(b"\xff\xdb")
    while (at := data.find(b"\xff\xdb", at)) >= 0:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = b"".join(
            bytes([0x10 | data[i], *(byte for value in data[i + 1 : i + 65] for byte in (0, value))])
            for i in range(at + 4, at + 2 + length, 65)
        )
        data[at : at + 2 + length] = b"\xff\xdb" + (len(body) + 2).to_bytes(2, "big") + body
        at += 4 + len(body)
    return data


def components_one_further(data):
    scan = data.index(b"\xff\xda")
    for at in (*range(frame_of_bytes(data) + 10, frame_of_bytes(data) + 19, 3), *range(scan + 5, scan + 10, 2)):
        data[at] += 1
    return data


def frame_of_bytes(data):
    return bytes(data).index(b"\xff\xc0")


UNUSUAL = {
    "Adobe's marker: RGB": as_adobe,
    "quantisation of 16 bits": wide_quants,
    "component numbers": components_one_further,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_left_to_libjpeg(name):
    bgr = photo(WIDTH, HEIGHT)[..., ::-1].copy()
    usual, unusual = tabled(bgr), tabled(bgr, change=UNUSUAL[name])
    assert Decoder(WIDTH, HEIGHT, len(usual))(at_guard(usual), REGION) is not None
    fine, pixels = decode(np.frombuffer(unusual, np.uint8), WIDTH, HEIGHT)
    assert fine
    assert np.array_equal(pixels, decode(np.frombuffer(usual, np.uint8), WIDTH, HEIGHT)[1]) == ("RGB" not in name)
    assert Decoder(WIDTH, HEIGHT, len(unusual))(at_guard(unusual), REGION) is None


def test_no_table_too_narrow_and_no_room_are_handed_back():
    data = stored_photo()
    decoder = Decoder(WIDTH, HEIGHT, len(data))
    assert decoder(data, REGION) is not None
    assert decoder(at_guard(data[:-1]), REGION) is None
    assert decoder(at_guard(data[:0]), REGION) is None
    assert Decoder(HEIGHT, WIDTH, len(data))(data, REGION) is None
    assert Decoder(WIDTH, HEIGHT, 0)(data, REGION) is None
    decoder.scratch = decoder.scratch[1:]
    assert decoder(data, REGION) is None
    narrow = tabled(photo(4, 40)[..., ::-1].copy())
    assert Decoder(4, 40, len(narrow))(at_guard(narrow), (0, 0, 4, 40)) is None


HEADERS = {
    "frame": lambda data: frame_of(data) + 11,
    "quantisation table of Y": lambda data: frame_of(data) + 12,
    "Huffman table of Cb": lambda data: data.tobytes().index(b"\xff\xda") + 8,
    "first coefficient": lambda data: data.tobytes().index(b"\xff\xda") + 11,
    "last coefficient": lambda data: data.tobytes().index(b"\xff\xda") + 12,
    "number of codes": lambda data: data.tobytes().index(b"\xff\xc4") + 5,
    "kind of codes": lambda data: data.tobytes().index(b"\xff\xc4") + 4,
    "kind of quantisation": lambda data: data.tobytes().index(b"\xff\xdb") + 4,
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_do_not_fit_are_handed_back(name):
    data = stored_photo()
    data[HEADERS[name](data)] ^= 0x23
    assert Decoder(WIDTH, HEIGHT, len(data))(at_guard(data), REGION) is None


def tolerant(data, width, height):
    """libjpeg's pixels of a damaged JPEG, made up where it has to."""
    handle, pixels = lib.tjInitDecompress(), np.zeros((height, width, 3), np.uint8)
    try:
        lib.tjDecompress2(handle, data.ctypes.data, data.size, pixels.ctypes.data, width, 0, height, 0, 4096)
    finally:
        lib.tjDestroy(ctypes.c_void_p(handle))
    return pixels


def fuzz(rounds):
    """Damage, decode. Counts: decoded here; of these libjpeg complains of the whole image, of the region's segments."""
    rng, good = np.random.default_rng(0), stored_photo()
    done = {"decoded": 0, "full": 0, "spliced": 0}
    decoder, out = Decoder(WIDTH, HEIGHT, len(good)), np.zeros(2 * len(good), np.uint8)
    for turn in range(rounds):
        data = at_guard(damaged(good, rng, turn))
        x0, y0 = int(rng.integers(WIDTH - 1)), int(rng.integers(HEIGHT - 1))
        region = (x0, y0, int(rng.integers(x0 + 1, WIDTH + 1)), int(rng.integers(y0 + 1, HEIGHT + 1)))
        found = decoder(data, region)
        if found is None:
            continue
        pixels, crop = found
        fine, full = decode(data, WIDTH, HEIGHT)
        done["decoded"] += 1
        done["full"] += not fine
        if fine:
            assert np.array_equal(pixels, part_of(full, crop)), turn
            continue
        size, whole = splice(data, WIDTH, HEIGHT, region, out)
        part = out[:size].copy() if size else data
        fine, _ = decode(part, whole.width, whole.height)
        done["spliced"] += not fine
        # Whether it complains or not, it makes the same of the MCUs that were needed.
        here = tolerant(part, whole.width, whole.height)[region[1] - whole.top :, region[0] - whole.left :]
        pixels = pixels[:, region[0] - crop.left :]
        assert np.array_equal(pixels, here[: pixels.shape[0], : pixels.shape[1]]), turn
    return done


CHILD = f"""
import json, os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2] / "helpers")]!r}
from test_region import fuzz
print(json.dumps(fuzz(int(os.environ.get("FFDR_FUZZ_ROUNDS", 1500)))))
"""


def test_no_damage_crashes_it_or_reads_outside():
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=1200)
    assert child.returncode == 0, child.stderr[-2000:]
    done = json.loads(child.stdout.splitlines()[-1])
    rounds = int(os.environ.get("FFDR_FUZZ_ROUNDS", 1500))
    assert done["decoded"] > 0.25 * rounds
    assert 0.02 * rounds < done["full"] < 0.5 * rounds
    assert done["spliced"] < 0.1 * rounds


def test_every_byte_of_a_segment_counts():
    """An image of one MCU: whatever is done to its data, libjpeg's pixels or nothing."""
    data = np.frombuffer(tabled(photo(16, 16)[..., ::-1].copy()), np.uint8)
    table = read_offset_table(data)
    decoder, refused = Decoder(16, 16, len(data)), 0
    for at in range(table.scan_start, table.row_starts[-1]):
        for value in (0, 0xFF, *(int(data[at]) ^ (1 << bit) for bit in range(8))):
            changed = at_guard(data)
            changed[at] = value
            found = decoder(changed, (0, 0, 16, 16))
            fine, full = decode(changed, 16, 16)
            refused += found is None
            assert found is None or (fine and np.array_equal(found[0], full))
    assert refused > 100
