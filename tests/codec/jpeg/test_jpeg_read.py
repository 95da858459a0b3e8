"""The coefficients are those that libjpeg-turbo finds; what is damaged or can't be kept is told apart; no crash.

The fuzzing runs in a child process, with every array laid against a page that must not be touched.
"""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from coefficients import same
from guarded import Numpy
from PIL import Image
from variants import (
    FACTORS,
    all_variants,
    arithmetic,
    canonical,
    is_rgb_to_libjpeg,
    join,
    opencv,
    picture,
    pillow,
    planes_by_libjpeg,
    planes_by_scipy,
    segments,
)

from ffdr.codec.dct.format import GREY, SAMPLING_NAMES, YUV420, YUV422, YUV444, Coefficients, block_grid
from ffdr.codec.jpeg import read as jpeg_read
from ffdr.codec.jpeg.read import Unsupported, read_jpeg
from ffdr.codec.jpeg.scan import SLACK, TABLE, TRUNCATED, ScanLayout, build_table, decode_scan
from ffdr.codec.jpeg.write import write_jpeg

SAMPLINGS = [GREY, YUV444, YUV422, YUV420]
every_sampling = pytest.mark.parametrize("sampling", SAMPLINGS, ids=SAMPLING_NAMES)


@every_sampling
def test_samples_are_those_of_libjpeg(sampling):
    """Its inverse DCT of the stored blocks, against one in floating point of those that were read."""
    for name, size, data in all_variants(sampling):
        coefficients, how = read_jpeg(data)
        assert how == ("transformed" if "progressive" in name else "baseline"), (name, size)
        assert (coefficients.sampling, coefficients.width, coefficients.height) == (sampling, *size), name
        expected = planes_by_libjpeg(data, coefficients)
        for plane, (mine, theirs) in enumerate(zip(planes_by_scipy(coefficients), expected, strict=True)):
            grid = block_grid(sampling, *size, plane)
            assert coefficients.planes[plane].shape == (*grid, 64)
            assert coefficients.planes[plane].dtype == np.int16
            h, v = FACTORS[sampling] if plane else (1, 1)
            rows, columns = -(-size[1] // v), -(-size[0] // h)
            assert np.abs(mine[:rows, :columns] - theirs[:rows, :columns]).max() < 1.5, (name, size, plane)


@pytest.mark.parametrize("progressive", ["0", "1"])
@every_sampling
def test_arithmetic_coding_makes_no_difference(sampling, progressive, monkeypatch):
    data = arithmetic(picture((61, 45)), sampling, monkeypatch, progressive)
    assert bytes([0xFF, 0xCA if progressive == "1" else 0xC9]) in data
    coefficients, how = read_jpeg(data)
    assert how == "transformed"
    assert canonical(write_jpeg(coefficients)) == canonical(data)


def in_scans(coefficients, order, interval=0, between=b""):
    """A sequential JPEG with a scan for each component: a grey image's, with tables of its own, always number 0."""
    whole, _ = segments(write_jpeg(coefficients))
    head = [(m, s) for m, s in whole if m not in (0xC4, 0xDA, 0xDD)]
    parts = []
    for plane in order:
        h, v = FACTORS[coefficients.sampling] if plane else (1, 1)
        width, height = -(-coefficients.width // h), -(-coefficients.height // v)
        tables, blocks = coefficients.quant[plane : plane + 1], (coefficients.planes[plane],)
        single, scan = segments(write_jpeg(Coefficients(GREY, width, height, tables, blocks), interval * (plane + 1)))
        parts += [s for m, s in single if m in (0xC4, 0xDD)]
        parts.append(b"\xff\xda\x00\x08\x01" + bytes([plane + 1, 0, 0, 63, 0]) + scan[:-2] + between)
    return join(head, b"".join(parts) + b"\xff\xd9")


@pytest.mark.parametrize("interval", [0, 1, 2])
@every_sampling
def test_scans_of_single_components(sampling, interval):
    for size in [(1, 1), (17, 16), (33, 50), (70, 9)]:
        coefficients, _ = read_jpeg(pillow(picture(size), sampling, quality=80))
        for order in [(0,)] if sampling == GREY else [(0, 1, 2), (2, 0, 1)]:
            data = in_scans(coefficients, order, interval)
            assert canonical(data) == canonical(write_jpeg(coefficients))
            assert same(read_jpeg(data)[0], coefficients)


def test_a_quantisation_table_counts_from_the_first_scan_of_its_component():
    coefficients, _ = read_jpeg(pillow(picture((33, 50)), YUV420, quality=80))
    other = b"\xff\xdb\x00\x43\x00" + bytes([77] * 64)
    data = in_scans(coefficients, (0, 1, 2), between=other)  # overwrites the table of Y behind its scan
    assert data.count(other) == 3
    assert same(read_jpeg(data)[0], coefficients)


def test_grey_of_any_factors_and_colour_of_factors_in_the_same_ratio():
    for sampling, old, new in [(GREY, "11", "22"), (GREY, "11", "41"), (YUV444, "11", "21"), (YUV444, "11", "12")]:
        coefficients, _ = read_jpeg(pillow(picture((33, 50)), sampling, quality=80))
        data = in_scans(coefficients, (0,) if sampling == GREY else (0, 1, 2))
        found, rest = segments(data)
        frame = next(s for m, s in found if m == 0xC0)
        ends = range(11, len(frame), 3)
        changed = bytes(int(new, 16) if i in ends and byte == int(old, 16) else byte for i, byte in enumerate(frame))
        assert changed != frame
        data = join([(m, changed if m == 0xC0 else s) for m, s in found], rest)
        assert same(read_jpeg(data)[0], coefficients)
        assert canonical(data)  # libjpeg takes it, too


def test_bytes_that_do_not_matter():
    data = opencv(picture((33, 50)), YUV420, 80, interval=2)
    expected, _ = read_jpeg(data)
    found, rest = segments(data)
    comment, app = b"\xff\xfe\x00\x05abc", b"\xff\xe1\x00\x06Exif"
    filled = [(0xFE, comment)] + [(m, b"\xff\xff" + s) for m, s in found[:-1]] + [(0xE1, app), found[-1]]
    for n in range(8):
        rest = rest.replace(bytes([0xFF, 0xD0 + n]), bytes([0xFF, 0xFF, 0xFF, 0xD0 + n]))
    changed = join(filled, rest[:-2] + b"\xff\xff\xd9") + b"\xff\xd8 and whatever follows"
    assert len(changed) > len(data) + 60
    assert same(read_jpeg(changed)[0], expected)
    assert same(read_jpeg(np.frombuffer(changed, np.uint8))[0], expected)
    assert same(read_jpeg(np.frombuffer(changed + changed, np.uint8)[: len(changed)])[0], expected)


@pytest.mark.parametrize("adobe", [None, 0, 1])
@pytest.mark.parametrize("jfif", [False, True])
@pytest.mark.parametrize("names", [b"\1\2\3", b"RGB", b"\5\6\7", b"BGR"])
def test_colour_space_is_guessed_as_libjpeg_does(names, jfif, adobe):
    found, rest = segments(pillow(picture((33, 50)), YUV444, quality=80))
    found = [[m, bytearray(s)] for m, s in found]
    for i, name in enumerate(names):
        next(s for m, s in found if m == 0xC0)[10 + 3 * i] = name
        found[-1][1][5 + 2 * i] = name
    head = [(m, s) for m, s in found if jfif or m != 0xE0]
    if adobe is not None:
        head.insert(0, (0xEE, b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([adobe])))
    data = join(head, rest)
    if is_rgb_to_libjpeg(data):
        with pytest.raises(Unsupported, match="RGB"):
            read_jpeg(data)
    else:
        assert read_jpeg(data)[0].sampling == YUV444


def test_what_packed_coefficients_cannot_hold():
    pixels = picture((33, 50))
    plain = pillow(pixels, YUV420, quality=80)
    frame = plain.index(b"\xff\xc0")

    def edited(at, value, progressive=False):
        data = pillow(pixels, YUV420, quality=80, progressive=True) if progressive else plain
        where = (data.index(b"\xff\xc2") if progressive else frame) + at
        return data[:where] + bytes([value]) + data[where + 1 :]

    cmyk = BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "jpeg")
    for data, reason in [
        (cmyk.getvalue(), "4 colour components"),
        (opencv(pixels, YUV444, factors=440), "1×2, 1×1, 1×1"),
        (opencv(pixels, YUV444, factors=411, progressive=1), "4×1, 1×1, 1×1"),
        (edited(14, 0x21), "2×2, 2×1, 1×1"),
        (edited(4, 12), "12 bits"),
        (edited(4, 12, progressive=True), "12 bits"),
        (edited(1, 0xC3), "SOF3"),
    ]:
        with pytest.raises(Unsupported, match=reason):
            read_jpeg(data)


EOB, ZRL = 0x00, 0xF0


def tiny(bits, dc=(11, 0), ac=(EOB, ZRL, 0x01, 0x0C), blocks=1, scan=(0, 63, 0), dc_counts=(1, 1)):
    """A grey JPEG, 8 pixels high, made by hand; the two DC codes are 0, 10, the four AC codes 00, 01, 10, 110."""
    data = b"\xff\xd8\xff\xdb\x00\x43\x00" + bytes([1] * 64)
    data += b"\xff\xc0\x00\x0b\x08\x00\x08" + (8 * blocks).to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    data += b"\xff\xc4\x00\x15\x00" + bytes([*dc_counts] + [0] * 14) + bytes(dc)
    data += b"\xff\xc4\x00\x17\x10" + bytes([0, 3, 1] + [0] * 13) + bytes(ac)
    data += b"\xff\xda\x00\x08\x01\x01\x00" + bytes(scan)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return data + coded + b"\xff\xd9"


ELEVEN = "0" + "1" * 11  # a DC difference of 2047
NOUGHT = "10"  # a DC difference of 0


def test_coefficients_by_hand():
    coefficients, _ = read_jpeg(tiny(ELEVEN + "01" + "01" + "101" + "00"))
    block = coefficients.planes[0][0, 0]
    assert coefficients.planes[0].shape == (1, 1, 64)
    assert np.flatnonzero(block).tolist() == [0, 42]  # rank 33 in zig-zag order: row 5, column 2
    assert block[[0, 42]].tolist() == [2047, 1]
    last, _ = read_jpeg(tiny(NOUGHT + "100" * 63))  # 63 times −1, no end of block
    assert last.planes[0].ravel().tolist() == [0] + [-1] * 63


@pytest.mark.parametrize(
    ("error", "reason", "bits", "options"),
    [
        (Unsupported, "more than 12 bits", (ELEVEN + "00") * 2, {"blocks": 2}),
        (Unsupported, "more than 12 bits", NOUGHT + "110" + "1" * 12 + "00", {}),
        (ValueError, "behind the 63rd", NOUGHT + "01" * 4 + "101", {}),
        (ValueError, "behind the 63rd", NOUGHT + "01" * 3 + "101", {"ac": (EOB, ZRL, 0xF1, 2)}),
        (ValueError, "invalid Huffman code", NOUGHT + "111" + "0" * 30, {}),
        (ValueError, "invalid Huffman code", "11" + "0" * 30, {}),
        (ValueError, "invalid Huffman code", NOUGHT + "01" + "0" * 30, {"ac": (EOB, 0x20, 1, 2)}),
        (ValueError, "left over", NOUGHT + "00" + "1" * 12, {}),
        (ValueError, "end early", (NOUGHT + "00") * 2, {"blocks": 4}),
        (ValueError, "too few", NOUGHT + "00", {"blocks": 4000}),
        (ValueError, "no code", NOUGHT + "00", {"dc_counts": (2, 0)}),  # 1 is all ones
        (ValueError, "more than 15 bits", NOUGHT + "00", {"dc": (11, 16)}),
        (ValueError, "a part of the coefficients", NOUGHT + "00", {"scan": (0, 5, 0)}),
    ],
)
def test_reasons_by_hand(error, reason, bits, options):
    data = tiny(bits, **options)
    with pytest.raises(ValueError, match=reason) as caught:
        read_jpeg(data)
    assert caught.type is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"progressive": 1}, {"interval": 1}], ids=str)
def test_no_beginning_of_a_jpeg_is_one(options):
    data = opencv(picture((33, 50)), YUV420, 40, **options)
    for end in range(len(data)):
        with pytest.raises(ValueError) as caught:
            read_jpeg(data[:end])
        assert caught.type is ValueError, end


def test_what_is_missing_is_told():
    data = opencv(picture((33, 50)), YUV420, 80, interval=2)
    found, rest = segments(data)

    def without(*markers):
        return join([(m, s) for m, s in found if m not in markers], rest)

    swapped = rest.replace(b"\xff\xd1", b"\xff\xd2", 1)
    coefficients, _ = read_jpeg(data)
    progressive = pillow(picture((33, 50)), YUV420, quality=80, progressive=True)
    cut = progressive.rindex(b"\xff\xda")
    for damaged, reason in [
        (without(0xDB), "quantisation table 0 is missing"),
        (without(0xC4), "Huffman table 0 for DC is missing"),
        (without(0xC0), "before the frame header"),
        (without(0xDD), "end early"),
        (join(found, swapped), "restart marker is missing"),
        (in_scans(coefficients, (0, 1)), "1 of 3 components are missing"),
        (in_scans(coefficients, (0, 1, 1)), "coded twice"),
        (progressive[:cut] + b"\xff\xd9", "scans are missing"),
        (b"\xff\xd8\xff\xd9", "no scan"),
        (b"PNG", "no JPEG"),
        (b"", "no JPEG"),
        (data[:2] + b"\0" + data[2:], "byte 00 where a marker is due"),
    ]:
        with pytest.raises(ValueError, match=reason) as caught:
            read_jpeg(damaged)
        assert caught.type is ValueError, reason


def mutated(data, rng):
    """A JPEG with damage of one of several kinds."""
    data, kind = bytearray(data), rng.integers(6)
    head = data.index(b"\xff\xda")
    if kind == 0:  # bits of the headers
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(2, head)] ^= 1 << rng.integers(8)
    elif kind == 1:  # bits of the scans
        for _ in range(rng.integers(1, 9)):
            data[rng.integers(head, len(data))] ^= 1 << rng.integers(8)
    elif kind == 2:
        del data[rng.integers(2, len(data)) :]
        data += b"\xff\xd9" * int(rng.integers(2))
    elif kind == 3:  # another marker
        places = [i for i in range(2, len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]
        data[rng.choice(places) + 1] = rng.integers(0xC0, 0xFF)
    elif kind == 4:  # bytes lost or doubled
        start = rng.integers(2, len(data))
        end = start + rng.integers(1, 12)
        data[start:end] = data[start:end] * int(2 * rng.integers(2))
    else:  # another size
        frame = next(data.find(bytes([0xFF, marker])) for marker in (0xC0, 0xC1, 0xC2) if bytes([0xFF, marker]) in data)
        data[frame + 5 + rng.integers(4)] = rng.integers(256)
    return bytes(data)


def decode_far_beyond_the_end(memory):
    """A scan of no byte but a few, of which zeros behind make a block of 63 codes of 16 bits with 11 more each."""
    table = memory.zeros((2, TABLE), np.int32)
    for each in table:
        assert build_table(np.array([0] * 15 + [1], np.uint8), np.array([11], np.uint8), each)
    layout = ScanLayout(1, 1, 0, np.array([[1, 1, 1, 1, 0, 0, 1]]), table)
    for size in range(20):
        clean, blocks = memory.empty(size + SLACK, np.uint8), memory.zeros((2, 64), np.int16)
        status, at = decode_scan(memory.zeros(size, np.uint8), 0, layout, blocks, clean)
        assert (status, at) == (TRUNCATED, size)


def fuzz(count):
    """Read ``count`` damaged JPEGs; whatever is taken, libjpeg must take without a warning, and see the same."""
    jpeg_read.np = memory = Numpy()
    decode_far_beyond_the_end(memory)
    rng = np.random.default_rng(5)
    sources = [data for sampling in SAMPLINGS for _, size, data in all_variants(sampling) if max(size) in (33, 50, 100)]
    done = {"read": 0, "refused": 0, "unsupported": 0}
    for turn in range(count):
        data = mutated(sources[rng.integers(len(sources))], rng)
        try:
            coefficients, _ = read_jpeg(data)
        except Unsupported:
            done["unsupported"] += 1
            continue
        except ValueError as error:
            assert "\n" not in str(error)
            done["refused"] += 1
            continue
        done["read"] += 1
        if max(coefficients.width, coefficients.height) <= 65500 and within_baseline(coefficients):
            assert canonical(write_jpeg(coefficients)) == canonical(data), turn
    return done


def within_baseline(coefficients):
    """Whether the standard's Huffman tables have codes for everything."""
    largest = max(np.abs(plane[..., 1:].astype(np.int32)).max(initial=0) for plane in coefficients.planes)
    return largest < 1024 and all(np.abs(plane[..., 0]).max() < 1024 for plane in coefficients.planes)


CHILD = f"""
import json, os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2] / "helpers")]!r}
from test_jpeg_read import fuzz
print(json.dumps(fuzz(int(os.environ.get("FFDR_FUZZ_ROUNDS", 2500)))))
"""


def test_no_damage_crashes_it_or_reads_outside():
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=1200)
    assert child.returncode == 0, child.stderr[-2000:]
    done = json.loads(child.stdout.splitlines()[-1])
    assert done["read"] > 100
    assert done["refused"] > 1000
    assert done["unsupported"] > 20
