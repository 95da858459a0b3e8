"""docs/format.md: a reader made from that page alone agrees with ffdr; its tables and example are those of the code."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from betons import EFFECTS, FLIPPED, MIXING, MIXING_EFFECTS, PLAIN, put
from page_reader import Reader

DOC = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def flat(record):
    """A record's numbers, nested ones too."""
    parts = (part.tolist() if isinstance(part, np.ndarray) else part for part in record)
    return sum((flat(part) if isinstance(part, tuple | list) else (part,) for part in parts), ())


def check_images(reader, path):
    from ffdr.beton.read import ImageBeton

    images = ImageBeton.open(path)
    assert reader.count == len(images)
    for i in range(len(images)):
        mode, width, height, _ = reader.entry("image", i, "BHHQ")
        assert (mode, width, height) == (images.modes[i], *images.sizes[i])
        assert reader.region("image", i) == images.data(i).tobytes()
        assert reader.entry("label", i, "q")[0] == images.labels[i]
        assert reader.origin(i) == tuple(images.origins[i])
    assert reader.fingerprint() == images.fingerprint


def check_reinforcement(reader, path):
    from ffdr.beton.read import ReinforcedBeton

    reinforced = ReinforcedBeton.open(path)
    header = reader.header()
    for name, value in header.items():
        assert getattr(reinforced.header, name) == (tuple(value) if name == "teachers" else value)
    for i in range(len(reinforced)):
        assert reader.views(i) == [flat(view) for view in reinforced.views(i).tolist()]
        assert [list(map(list, part)) for part in reader.logits(i)] == [part.tolist() for part in reinforced.logits(i)]


@pytest.mark.parametrize(
    ("which", "policy"),
    [("digits", PLAIN), ("photos", MIXING), ("digits", FLIPPED), ("digits", EFFECTS), ("photos", MIXING_EFFECTS)],
)
def test_a_reader_made_from_the_page_agrees(which, policy, digits, photos, reinforce, tmp_path):
    from ffdr.config.files import PackOptions
    from ffdr.write.copy.merge import pack

    images = {"digits": digits, "photos": photos}[which]
    reinforced = reinforce(images, policy)
    merged = pack(PackOptions(str(images), str(reinforced), str(tmp_path / "merged.beton")), progress=False)
    for path, names in (
        (images, ("image", "label", "origin")),
        (reinforced, ("aug_params", "logits")),
        (merged, ("image", "label", "origin", "aug_params", "logits")),
    ):
        reader = Reader(path)
        assert tuple(reader.fields) == names
        reader.check()
        if "image" in names:
            check_images(reader, path)
        if "logits" in names:
            check_reinforcement(reader, path)


def test_coefficients_are_those_of_the_page(tmp_path):
    """All samplings, with quantisation tables of the coding and of the image's own."""
    from jpegs import make_files

    from ffdr.beton.read import ImageBeton
    from ffdr.codec.dct import learn
    from ffdr.codec.dct.pack import unpack
    from ffdr.config.files import WriteOptions
    from ffdr.write.images import write_images

    files = make_files(tmp_path / "files")
    options = WriteOptions(
        source="imagefolder", path=str(files), split="", out=str(tmp_path / "x.beton"), mode="dct", workers=1
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learn, "MAX_QUANTS", 2)
        images = ImageBeton.open(write_images(options, progress=False))
    reader = Reader(images.path)
    reader.check()
    check_images(reader, images.path)
    samplings = set()
    for i in range(len(images)):
        sampling, quant, planes = reader.coefficients(i)
        found = unpack(images.data(i), images.coding, *images.sizes[i].tolist())
        samplings.add((sampling, reader.region("image", i)[1] == 255))
        assert sampling == found.sampling
        assert np.array_equal(np.broadcast_to(found.quant, (3, 64)), quant)
        for blocks, plane in zip(planes, found.planes, strict=True):
            assert len(blocks) == plane.shape[0] * plane.shape[1]
            assert all(block == plane[place].tolist() for place, block in blocks.items())
    assert {sampling for sampling, _ in samplings} == {0, 1, 2, 3}
    assert {own for _, own in samplings} == {True, False}


def test_jpegs_have_the_table_of_the_page(photos):
    from offset_table import read_offset_table

    reader = Reader(photos)
    for i in range(3):
        stored = reader.region("image", i)
        magic, scan_start, interval, mcus_per_row, rows = struct.unpack("<4sHHHH", stored[-12:])
        assert magic == b"FFR1"
        table = read_offset_table(np.frombuffer(stored, np.uint8))
        assert (scan_start, interval, mcus_per_row, rows) == (
            table.scan_start, table.interval, table.mcus_per_row, table.mcu_rows
        )  # fmt: skip
        row_bytes = struct.unpack(f"<{rows}H", stored[-12 - 2 * rows : -12])
        end = len(stored) - 12 - 2 * rows
        assert stored[end - 2 : end] == b"\xff\xd9"
        assert scan_start + sum(row_bytes) == end - 2


def documented(name):
    """(field, type, offset) of the page's table of that name."""
    table = re.search(rf"^\| {name} \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOC, re.MULTILINE).group(1)
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    fields = []
    for field, kind, offset, *_ in rows:
        code, repeat = re.fullmatch(r"`([^`]+)`(?:, (\d+) of them)?", kind).groups()
        fields.append((field, np.dtype((code, (int(repeat),))) if repeat else np.dtype(code), int(offset)))
    return fields


@pytest.mark.parametrize(
    ("module", "name", "size"),
    [
        ("ffdr.beton.layout", "HEADER_DTYPE", 24),
        ("ffdr.beton.layout", "FIELD_DTYPE", 1041),
        ("ffdr.beton.layout", "ALLOC_DTYPE", 24),
        ("ffdr.beton.layout", "SECTION_DTYPE", 16),
        ("ffdr.codec.jpeg.segments", "TABLE_DTYPE", 12),
        ("ffdr.codec.dct.format", "RECORD_DTYPE", 8),
        ("ffdr.augment.view", "VIEW_DTYPE", 24),
        ("ffdr.augment.view", "MIX_DTYPE", 14),
        ("ffdr.augment.view", "EFFECT_DTYPE", 4),
    ],
)
def test_tables_of_the_page_are_those_of_the_code(module, name, size):
    import importlib

    dtype = getattr(importlib.import_module(module), name)
    assert dtype.itemsize == size
    assert documented(name) == [(field, *dtype.fields[field][:2]) for field in dtype.names]


def test_numbers_of_the_page_are_those_of_the_code():
    from ffdr.augment import view
    from ffdr.augment.random import PICK
    from ffdr.beton import header, layout
    from ffdr.write import parts

    operations = ", ".join(f"{number} {name}" for number, name in enumerate(view.OPS))
    assert operations in DOC.replace("\n", " ")
    flags = (view.FLIP, view.CENTER, view.WIDE, view.PLACED)
    words = ("mirror left to right", "centre view", "levels of TrivialAugmentWide", "placed")
    assert ", ".join(f"{flag} {word}" for flag, word in zip(flags, words, strict=True)) in DOC
    for text in (
        f"usually {layout.PAGE_SIZE};",
        f"multiple of {layout.DATA_ALIGNMENT} behind",
        f"in units of 1/{view.FRACTION}",
        f"at most {header._MOST_TEXT}:",
        f"{int(-header.UNUSED)}, the lowest finite float16",
        f"`{header.HEADER_MAGIC.decode()}` or `{header.HEADER_MAGIC_2.decode()}`",
        f"{view.VERTICAL_FLIP} mirror top to bottom",
        f"`{layout.CHECKSUM_MAGIC.decode()}` checksums",
        f"`{layout.ORIGIN_MAGIC.decode()}` origin index",
        f"`{layout.CODING_MAGIC.decode()}` coding",
        f"{layout.INT} integer, {layout.IMAGE} image, {layout.ARRAY} array, {layout.CUSTOM} custom",
        f"(round, {PICK}, e div K, i)",
    ):
        assert text in DOC, text
    custom = (layout.FieldSpec("aug_params", layout.CUSTOM), layout.FieldSpec("logits", layout.CUSTOM))
    for specs, size in ((parts.IMAGE_SPECS, 32), (parts.IMAGE_SPECS + custom, 48), (custom, 16)):
        assert layout.metadata_dtype(specs).itemsize == size
    for mixes in (False, True):
        for effects, said in ((False, "absent or false"), (True, "true")):
            size = view.record_dtype(mixes, effects).itemsize
            assert f"| {str(mixes).lower()} | {said} | {size} |" in DOC


def test_effects_of_the_page_are_those_of_the_code():
    from ffdr.augment.view import EFFECTS, LARGEST_VALUES, SMALLEST_VALUES
    from ffdr.beton.records import EFFECT_UNITS

    rows = re.findall(r"^\| (\d) \| (\w+) \| (.*) \|$", DOC, re.MULTILINE)
    assert [name for _, name, _ in rows] == list(EFFECTS)
    said = ""
    for number, name, text in rows:
        said = said if text == "the same" else text
        low, high = SMALLEST_VALUES[int(number)], LARGEST_VALUES[int(number)]
        assert (f"{low} to {high}".replace("-", "−") if high else "0") in said, name
        assert EFFECT_UNITS.get(name, 1) == 1 or f"1/{EFFECT_UNITS[name]}" in said, name


def test_the_page_names_all_keys(digits, reinforced_digits):
    keys = [*Reader(reinforced_digits).header(), *json.loads(digits.with_suffix(".json").read_text())]
    for key in keys:
        assert f"`{key}`" in DOC, key


def test_the_choice_of_a_view_is_that_of_the_page():
    """Section 10 in Python's whole numbers."""
    from ffdr.augment.pick import pick_views

    def philox(key, counters):
        x, (k0, k1) = list(counters), (key & 0xFFFFFFFF, key >> 32)
        for _ in range(10):
            a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
            x = [(b >> 32) ^ x[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ x[3] ^ k1, a & 0xFFFFFFFF]
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        return x

    def mix(w):
        w = (w ^ w >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        return (w ^ w >> 27) * 0x94D049BB133111EB % 2**64

    for seed, epoch, image, K in ((0, 0, 0, 1), (5, 3, 7, 10), (2**40 + 1, 1234, 999_999, 400), (9, 70_000, 3, 65535)):
        x = epoch % K
        for round_ in range(32):
            w0, w1, w2, _ = philox(seed, (round_, 5, epoch // K, image))
            other = ((w0 * K >> 32) - x) % K
            word = (w1 << 32 | w2) ^ max(x, other) * 0x9E3779B97F4A7C15 % 2**64
            if mix(word) >> 40 & 1:
                x = other
        picked = np.empty(1, np.uint64)
        pick_views(np.uint64(seed), np.array([epoch]), np.array([image]), K, picked)
        assert picked[0] == x


def test_the_example_is_what_ffdr_writes(tmp_path):
    data = make_example(tmp_path).read_bytes()
    lines = re.findall(r"^([0-9a-f]{6})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})  ", DOC, re.MULTILINE)
    assert len(lines) > 30
    for position, shown in lines:
        at, expected = int(position, 16), bytes.fromhex(shown)
        assert data[at : at + len(expected)].hex(" ") == expected.hex(" "), position
    assert f"{Reader(tmp_path / 'p.beton').sums:06x}" in {position for position, _ in lines}


def make_example(folder):
    """The merged beton of section 12."""
    from PIL import Image

    from ffdr.augment.view import VIEW_DTYPE
    from ffdr.beton.header import ReinforcedHeader
    from ffdr.beton.read import ImageBeton
    from ffdr.config.files import PackOptions, WriteOptions
    from ffdr.write.copy.merge import pack
    from ffdr.write.images import write_images
    from ffdr.write.reinforced import ReinforcedWriter

    for name, pixels in (("a/1.png", [(1, 2, 3), (4, 5, 6)]), ("b/2.png", [(250, 251, 252), (253, 254, 255)])):
        (folder / "s" / name).parent.mkdir(parents=True)
        Image.fromarray(np.array([pixels], np.uint8)).save(folder / "s" / name)
    out = {name: str(folder / f"{name}.beton") for name in "irp"}
    options = WriteOptions(
        source="imagefolder", path=str(folder / "s"), split="", out=out["i"], mode="raw", workers=1
    )  # fmt: skip
    images = ImageBeton.open(write_images(options, progress=False))
    header = ReinforcedHeader(1, 2, 2, 2, images.fingerprint, False, {}, ("t",), 32, 7)
    views = np.zeros((2, 1), VIEW_DTYPE)
    views["crop_w"] = views["crop_h"] = 65535
    views["bins"] = 31
    views["flags"][0], views["op0"][0], views["level0"][0] = 1, 5, -9
    ids = np.array([[[0, 1]], [[1, 0]]], np.uint16)
    log_probs = np.log([[[0.75, 0.25]], [[1, 1e-9]]]).astype(np.float16)
    with ReinforcedWriter(out["r"], header, images) as writer:
        for i in range(2):
            put(writer, i, views[i], ids[i], log_probs[i])
        writer.finish()
    return pack(PackOptions(out["i"], out["r"], out["p"]), progress=False)
