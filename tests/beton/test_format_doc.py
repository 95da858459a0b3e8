"""docs/format.md: a reader made from that page alone agrees with ffdr; its tables and example are those of the code."""

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from betons import MIXING, PLAIN, put

DOC = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


class Reader:
    """A reader of any beton of ours: written from the page with struct and zlib, without a look at ffdr."""

    def __init__(self, path):
        self.data = data = path.read_bytes()
        version, fields, self.page_size, self.count, self.alloc = struct.unpack_from("<HHIQQ", data)
        assert version == 2
        self.fields = {}
        for n in range(fields):
            type_id, name = struct.unpack_from("<B16s", data, 24 + 1041 * n)
            arguments = data[24 + 1041 * n + 17 : 24 + 1041 * (n + 1)]
            self.fields[name.rstrip(b"\0").decode()] = type_id, arguments
        self.head = 24 + 1041 * fields
        entries = [struct.unpack_from("<QQQ", data, at) for at in range(self.alloc, len(data), 24)]
        self.sizes = {pointer: size for _, pointer, size in entries}
        self.sample_of = {pointer: sample for sample, pointer, _ in entries}
        assert [pointer for _, pointer, _ in entries] == sorted(self.sizes)
        self.record, self.offsets = 0, {}
        for name in self.fields:
            alignment, size = (1, 13) if name == "image" else (8, 8)
            self.record += -self.record % alignment
            self.offsets[name] = self.record
            self.record += size
        self.record += -self.record % 8
        self.index = self.alloc - (16 + 24 * self.count if "image" in self.fields else 0)
        self.coding = self.index
        if self.fields.get("image", (2,))[0] == 255:
            magic, size = struct.unpack_from("<8sQ", self.fields["image"][1])
            assert magic == b"FFDRDCT1"
            self.coding -= 16 + size + -size % 8
            assert struct.unpack_from("<8sQ", data, self.coding) == (magic, size)
        sums = 16 + 4 * (self.count + 1)
        self.sums = self.coding - (sums + -sums % 8)

    def entry(self, name, i, code):
        return struct.unpack_from("<" + code, self.data, self.head + i * self.record + self.offsets[name])

    def region(self, name, i):
        pointer = self.entry(name, i, "BHHQ" if name == "image" else "Q")[-1]
        assert self.sample_of[pointer] == i
        return self.data[pointer : pointer + self.sizes[pointer]]

    def header(self):
        (_, first), (_, second) = self.fields["aug_params"], self.fields["logits"]
        assert first == second
        assert first[:8] == b"FFDRRNF1"
        return json.loads(first[10 : 10 + int.from_bytes(first[8:10], "little")])

    def views(self, i):
        """Records as tuples of numbers."""
        one = "5HBBBbBb4H"
        code = f"<{one}I5H{one}" if self.header()["mixes"] else f"<{one}"
        return list(struct.iter_unpack(code, self.region("aug_params", i)))

    def logits(self, i):
        header, raw = self.header(), self.region("logits", i)
        entries = header["topk"]
        rows = [struct.unpack_from(f"<{entries}H{entries}e", raw, 4 * entries * k) for k in range(header["views"])]
        return [row[:entries] for row in rows], [row[entries:] for row in rows]

    def origin(self, i):
        return struct.unpack("<qqq", self.region("origin", i))

    def fingerprint(self):
        digest = hashlib.sha256(b"ffdr images 1\0")
        for i in range(self.count):
            digest.update(struct.pack("<qqq", *self.origin(i)))
        for i in range(self.count):
            digest.update(struct.pack("<q", *self.entry("label", i, "q")))
        return digest.hexdigest()[:32]

    def check(self):
        """Compare all checksums."""
        assert struct.unpack_from("<8sQ", self.data, self.sums) == (b"FFDRCRC1", self.count)
        *stored, tables = struct.unpack_from(f"<{self.count + 1}I", self.data, self.sums + 16)
        for i in range(self.count):
            regions = [self.region(name, i) for name in self.fields if name != "label"]
            assert stored[i] == zlib.crc32(b"".join(regions))
        before = self.data[: self.head + self.count * self.record]
        assert tables == zlib.crc32(before + self.data[self.coding :])
        if "image" in self.fields:
            assert struct.unpack_from("<8sQ", self.data, self.index) == (b"FFDRORG1", self.count)
            origins = [struct.unpack_from("<qqq", self.data, self.index + 16 + 24 * i) for i in range(self.count)]
            assert origins == [self.origin(i) for i in range(self.count)]

    def packed(self, i):
        """An image of mode 2: sampling, three quantisation tables, planes {(block row, block): 64 coefficients}."""
        data, coding = self.region("image", i), self.coding + 16
        sampling, quant, flags, _, width, height = struct.unpack_from("<BBBBHH", data)
        at = 8 + (384 if quant == 255 else 0)
        tables = (data, 8) if quant == 255 else (self.data, coding + 4100 + 384 * quant)
        h, v = ((1, 1), (1, 1), (2, 1), (2, 2))[sampling]
        sides = [(width, height), *[(-(-width // h), -(-height // v))] * (2 if sampling else 0)]
        order = []
        for mcu in range(-(-height // (8 * v))):
            order += [(0, mcu * v + row) for row in range(v)] + [(plane, mcu) for plane in range(1, len(sides))]
        row_bytes = struct.unpack_from(f"<{len(order)}{'I' if flags & 1 else 'H'}", data, at)
        at += len(order) * (4 if flags & 1 else 2)
        planes = [{} for _ in sides]
        for (plane, row), size in zip(order, row_bytes, strict=True):
            if 8 * row >= sides[plane][1]:
                assert size == 0
                continue
            count = -(-sides[plane][0] // 8)
            blocks = self.block_row(data[at : at + size], count, plane)
            planes[plane].update({(row, column): block for column, block in enumerate(blocks)})
            at += size
        assert data[at:] == bytes(16)
        return sampling, [struct.unpack_from("<64H", tables[0], tables[1] + 128 * plane) for plane in range(3)], planes

    def block_row(self, data, count, plane):
        """The blocks of a row."""
        coding, heads = self.coding + 16, -(-count // 8)
        first_with_high = int.from_bytes(self.data[coding : coding + 2], "little")
        entries = data[2 * heads : 2 * heads + count]
        at, types = 2 * heads + count, []
        for entry in entries:
            if plane:
                types.append(self.data[coding + 2052 + 8 * entry :][:8])
                continue
            low, high = self.data[coding + 4 + 4 * entry :][:4], bytes(4)
            if entry >= first_with_high:
                high, at = self.data[coding + 1028 + 4 * data[at] :][:4], at + 1
            types.append(low + high)
        levels = []
        for head in struct.unpack_from(f"<{heads}H", data):
            width = head & 15
            levels += [(head >> 4) - 2048 + value for value in integers(data[at : at + width], width)]
            at += width
        assert not any(value - ((head >> 4) - 2048) for value in levels[count:])
        blocks = []
        for dc, kinds in zip(levels, types, strict=False):
            block = [dc] + [0] * 63
            for group, kind in enumerate(kinds):
                width, bias = (kind - 11, 1) if kind > 11 else (12 if kind == 11 else kind, 0)
                values = integers(data[at : at + width], width)
                at += width
                for lane, position in enumerate(lanes(group)):
                    value = values[lane] - (values[lane] >> width - 1 << width if width else 0) + bias
                    assert position is not None or value == 0
                    if position is not None:
                        block[position] = value
            blocks.append(block)
        assert at == len(data)
        return blocks


def integers(data, width):
    """Eight unsigned integers."""
    word = int.from_bytes(data, "little")
    return [word >> width * lane & (1 << width) - 1 for lane in range(8)]


def lanes(group):
    """Natural-order position of the coefficient in each lane of a group; None where there is none."""
    diagonals = [[(r, d - r) for r in range(8) if 0 <= d - r < 8] for d in range(15)]
    zigzag = [8 * r + c for d, cells in enumerate(diagonals) for r, c in (cells if d % 2 else cells[::-1])]
    members, taken = zigzag[1 + 8 * group : 9 + 8 * group], {}
    for position in members:
        taken.setdefault(position % 8, position)
    for position in members:
        if position not in taken.values():
            taken[min(set(range(8)) - set(taken))] = position
    return [taken.get(lane) for lane in range(8)]


# ------------------------------------------------------------------------- ffdr enters


def flat(record):
    """A record's numbers, nested ones too."""
    return sum((flat(part) if isinstance(part, tuple) else (part,) for part in record), ())


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


@pytest.mark.parametrize(("which", "policy"), [("digits", PLAIN), ("photos", MIXING)])
def test_a_reader_made_from_the_page_agrees(which, policy, digits, photos, reinforce, tmp_path):
    from ffdr.beton.pack import pack
    from ffdr.options import PackOptions

    images = {"digits": digits, "photos": photos}[which]
    reinforced = reinforce(images, policy)
    packed = pack(PackOptions(str(images), str(reinforced), str(tmp_path / "packed.beton")), progress=False)
    for path, names in (
        (images, ("image", "label", "origin")),
        (reinforced, ("aug_params", "logits")),
        (packed, ("image", "label", "origin", "aug_params", "logits")),
    ):
        reader = Reader(path)
        assert tuple(reader.fields) == names
        reader.check()
        if "image" in names:
            check_images(reader, path)
        if "logits" in names:
            check_reinforcement(reader, path)


def test_packed_coefficients_are_those_of_the_page(tmp_path):
    """All samplings, with quantisation tables of the coding and of the image's own."""
    from jpegs import make_files

    from ffdr.beton.read import ImageBeton
    from ffdr.beton.write import write_images
    from ffdr.dct import learn
    from ffdr.dct.pack import unpack
    from ffdr.options import WriteOptions

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
        sampling, quant, planes = reader.packed(i)
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
    from ffdr.beton.jpeg import read_offset_table

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
        ("ffdr.beton.jpeg", "TABLE_DTYPE", 12),
        ("ffdr.dct.format", "RECORD_DTYPE", 8),
        ("ffdr.augment.view", "VIEW_DTYPE", 24),
        ("ffdr.augment.view", "MIX_DTYPE", 14),
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
    from ffdr.beton import header, layout, parts

    operations = ", ".join(f"{number} {name}" for number, name in enumerate(view.OPS))
    assert operations in DOC.replace("\n", " ")
    flags = (view.FLIP, view.CENTER, view.WIDE, view.PLACED)
    words = ("mirror left to right", "centre view", "levels of TrivialAugmentWide", "placed")
    assert ", ".join(f"{flag} {word}" for flag, word in zip(flags, words, strict=True)) in DOC
    for text in (
        f"usually {layout.PAGE_SIZE};",
        f"multiple of {layout.DATA_ALIGNMENT} behind",
        f"in units of 1/{view.FRACTION}",
        f"at most {header._ROOM}:",
        f"{int(-header.UNUSED)}, the lowest finite float16",
        f"`{header.HEADER_MAGIC.decode()}`",
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
    assert view.MIXED_DTYPE.itemsize == 62


def test_the_page_names_all_keys(digits, reinforced_digits):
    keys = [*Reader(reinforced_digits).header(), *json.loads(digits.with_suffix(".json").read_text())]
    for key in keys:
        assert f"`{key}`" in DOC, key


def test_the_choice_of_a_view_is_that_of_the_page():
    """Section 10 in Python's whole numbers."""
    from ffdr.augment.pick import pick_view

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
        assert pick_view(np.uint64(seed), epoch, image, K) == x


def test_the_example_is_what_ffdr_writes(tmp_path):
    data = make_example(tmp_path).read_bytes()
    lines = re.findall(r"^([0-9a-f]{6})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})  ", DOC, re.MULTILINE)
    assert len(lines) > 30
    for position, shown in lines:
        at, expected = int(position, 16), bytes.fromhex(shown)
        assert data[at : at + len(expected)].hex(" ") == expected.hex(" "), position
    assert f"{Reader(tmp_path / 'p.beton').sums:06x}" in {position for position, _ in lines}


def make_example(folder):
    """The packed beton of section 12."""
    from PIL import Image

    from ffdr.augment.view import VIEW_DTYPE
    from ffdr.beton.header import ReinforcedHeader
    from ffdr.beton.pack import pack
    from ffdr.beton.read import ImageBeton
    from ffdr.beton.reinforced import ReinforcedWriter
    from ffdr.beton.write import write_images
    from ffdr.options import PackOptions, WriteOptions

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
