"""Ways to damage a beton of any kind, with checksums made right again as an attacker would, and its manifest."""

import json
import re
import zlib

import numpy as np

from ffdr.beton import layout
from ffdr.beton.layout import DCT, FIELD_DTYPE, HEADER_DTYPE, SECTION_DTYPE
from ffdr.beton.tables import read_tables
from ffdr.codec.dct.format import ENTRIES, RECORD_DTYPE

N = 20
"""Samples of the files that are damaged."""
EXTREMES = [0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]
OPEN, TABLES, ALL = range(3)
"""Which checksums are made right again: none, that of the tables, those of the samples, too."""


class Whole:
    """An undamaged file: its bytes and where each kind of them lies."""

    def __init__(self, path):
        self.data = path.read_bytes()
        tables = read_tables(path)
        self.specs = specs = tables.specs
        names = [spec.name for spec in specs]
        self.has_images, self.has_views = "image" in names, "aug_params" in names
        self.views_at = 24 + FIELD_DTYPE.itemsize * names.index("aug_params") if self.has_views else 0
        header = np.frombuffer(self.data[:24], HEADER_DTYPE)[0]
        self.metadata_type = layout.metadata_dtype(specs)
        self.head = 24 + len(specs) * FIELD_DTYPE.itemsize
        self.metadata = self.head + N * self.metadata_type.itemsize
        self.alloc = int(header["alloc_table_ptr"])
        self.sums, self.has_sums = tables.data_end, tables.checksums is not None
        sums_bytes = layout.checksum_bytes(N) if self.has_sums else 0
        self.index = self.sums + sums_bytes  # the coding, if there is one, then the origin index
        self.regions = tables.all_regions()
        self.coding = self.index + SECTION_DTYPE.itemsize if tables.coding else 0
        modes = tables.metadata["image"]["mode"] if self.has_images else np.zeros(N)
        self.coded = np.flatnonzero(modes == DCT)
        self.numbers = [*self._numbers()]

    def _numbers(self):
        """(position, bytes) of every number in header, metadata, sections and allocation table, header first."""
        yield from ((int(HEADER_DTYPE.fields[name][1]), HEADER_DTYPE[name].itemsize) for name in HEADER_DTYPE.names)
        fields = []
        for name, (kind, at) in self.metadata_type.fields.items():
            inner = kind.fields.items() if kind.fields else [(name, (kind, 0))]
            fields += [(at + offset, number.itemsize) for _, (number, offset) in inner]
        for i in range(N):
            yield from ((self.head + i * self.metadata_type.itemsize + at, size) for at, size in fields)
        yield from ((at, 8) for at in range(self.alloc, len(self.data), 8))
        yield from ((at, 8) for at in range(self.index, self.alloc, 8))
        if self.has_sums:
            yield from ((self.sums + 8, 8), (self.sums, 8))

    def sealed(self, data, seal=TABLES):
        """The bytes with checksums made right again, as an attacker would."""
        if len(data) != len(self.data) or seal == OPEN or not self.has_sums:
            return data
        if seal == ALL:
            for i in range(N):
                crc = 0
                for region in self.regions:
                    start = int(region.pointers[i])
                    crc = zlib.crc32(data[start : start + int(region.sizes[i])], crc)
                data[self.sums + 16 + 4 * i : self.sums + 20 + 4 * i] = crc.to_bytes(4, "little")
        crc = zlib.crc32(data[self.index : self.alloc], zlib.crc32(data[: self.metadata]))
        at = self.sums + 16 + 4 * N
        data[at : at + 4] = zlib.crc32(data[self.alloc :], crc).to_bytes(4, "little")
        return data


def cut(whole, data, rng):
    """End at any byte, or shortly before the end."""
    del data[int(rng.integers(len(data))) if rng.integers(2) else len(data) - int(rng.integers(1, 600)) :]


def flip(whole, data, rng):
    """Change single bits anywhere."""
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def scribble(whole, data, rng):
    """Random bytes over a piece of a table, a descriptor or a sample."""
    spans = [(0, 24), (24, 24 + 64), (1065, 1065 + 600), (whole.head, whole.metadata), (whole.sums, len(data))]
    start, end = [*spans, (whole.metadata, whole.sums)][rng.integers(len(spans) + 1)]
    at, size = int(rng.integers(start, end)), int(rng.integers(1, 65))
    data[at : min(at + size, end)] = rng.bytes(min(at + size, end) - at)


def blank(whole, data, rng):
    """Zeros over a region of any size, often a whole descriptor or section."""
    starts = [0, 24, 24 + FIELD_DTYPE.itemsize, whole.views_at, whole.head, whole.sums, whole.index, whole.alloc]
    at = starts[rng.integers(len(starts))] if rng.integers(2) else int(rng.integers(len(data)))
    size = min(int(rng.choice([8, 64, 512, FIELD_DTYPE.itemsize, 4096])), len(data) - at)
    data[at : at + size] = bytes(size)


def put(data, at, size, value):
    data[at : at + size] = (value % 256**size).to_bytes(size, "little")


def exaggerate(whole, data, rng):
    """An extreme value in one number, the five of the header as often as all others."""
    at, size = whole.numbers[rng.integers(5) if rng.integers(2) else rng.integers(len(whole.numbers))]
    values = [*EXTREMES, len(data), len(data) - 8, 4096]
    value = values[rng.integers(len(values))]
    if not rng.integers(4):  # near to what is there
        value = int.from_bytes(data[at : at + size], "little") + int(rng.integers(-24, 25))
    put(data, at, size, value)


def swap(whole, data, rng):
    """Exchange two numbers of equal size."""
    (a, size), (b, other) = (whole.numbers[i] for i in rng.integers(5, len(whole.numbers), 2))
    if size == other:
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def borrow(whole, data, rng):
    """A sample's pointer leads to another one's data, of this field or another, or into the middle of its own."""
    fields = [spec.name for spec in whole.specs if spec.type_id not in (layout.INT, layout.FLOAT)]
    name, i = fields[rng.integers(len(fields))], int(rng.integers(N))
    kind, at = whole.metadata_type.fields[name]
    if kind.fields:
        at += next(kind.fields[key][1] for key in ("data_ptr", "ptr") if key in kind.fields)
    at += whole.head + i * whole.metadata_type.itemsize
    region = whole.regions[rng.integers(len(whole.regions))]
    put(data, at, 8, int(region.pointers[rng.integers(N)]) + int(rng.choice([0, 0, 8, 1])))


def corrupt(whole, data, rng):
    """Bytes of samples: pixels, JPEG markers, records, logits."""
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(whole.metadata, whole.sums))
        data[at] = [0, 255, 128, int(rng.integers(256))][rng.integers(4)]


def lie(whole, data, rng):
    """Something that is well-formed but not true: of an image, of a coefficient image, of the coding, of the views."""
    kinds = [lie_of_image] * whole.has_images + [lie_of_views] * whole.has_views
    kinds += [lie_of_rows, lie_of_rows, lie_of_coding] * bool(whole.coding)
    kinds[rng.integers(len(kinds))](whole, data, rng)


def lie_of_image(whole, data, rng):
    """An image of any size in any mode."""
    at = whole.head + int(rng.integers(N)) * whole.metadata_type.itemsize
    sides = np.array(rng.choice([1, 32, 5000, 65535], 2), "<u2")
    data[at : at + 5] = bytes([int(rng.integers(3))]) + sides.tobytes()


def lie_of_rows(whole, data, rng):
    """Another record, row table, or heads and codes, of a coefficient image."""
    i = int(rng.choice(whole.coded))
    start, size = int(whole.regions[0].pointers[i]), int(whole.regions[0].sizes[i])
    if not rng.integers(3):
        data[start + int(rng.integers(RECORD_DTYPE.itemsize))] = int(rng.choice([0, 1, 2, 3, 4, 254, 255]))
        return
    for _ in range(int(rng.integers(1, 4))):
        at = start + int(rng.integers(RECORD_DTYPE.itemsize, min(size - 4, 80)))
        width = int(rng.choice([1, 2, 4]))
        values = [*EXTREMES, int.from_bytes(data[at : at + width], "little") + int(rng.integers(-8, 9))]
        put(data, at, width, values[rng.integers(len(values))])


def lie_of_coding(whole, data, rng):
    """Another codebook, number of quantisation tables, first entry with a ``high`` byte, or length of the coding."""
    at, end = whole.coding, whole.coding + int.from_bytes(data[whole.coding - 8 : whole.coding], "little")
    what = rng.integers(4)
    if what == 0:
        data[at : at + 4] = int(rng.choice([0, 1, 255, 256, 300, 65535])).to_bytes(2, "little") + bytes(
            [data[at + 2], 0]
        )
    elif what == 1:
        put(data, at + 2, 1, int(rng.integers(256)))
    elif what == 2:  # types 0 to 13 are known
        for _ in range(int(rng.integers(1, 400))):
            data[at + 4 + int(rng.integers(16 * ENTRIES))] = int(rng.integers(15 if rng.integers(9) else 14))
    else:
        size = end - at + int(rng.integers(-16, 17))
        for place in (whole.coding - 8, 24 + 17 + 8):  # of the section, and of the field's arguments
            if rng.integers(3):
                put(data, place, 8, size)


def lie_of_views(whole, data, rng):
    """Another text in the JSON that describes both fields."""
    start, width = whole.views_at, FIELD_DTYPE.itemsize
    numbers = [*re.finditer(rb"\d+|true|false|\[|\]|\"", data[start + 27 : start + width].rstrip(b"\0"))]
    found = numbers[rng.integers(len(numbers))]
    texts = [b"9" * 19, b"0", b"-1", b"null", b"1e9", b"[]", b"NaN", b"1e999", bytes(rng.integers(48, 58, 19).tolist())]
    text = texts[rng.integers(len(texts))][: found.end() - found.start()].ljust(found.end() - found.start())
    if not rng.integers(8):  # as deep as there is room
        depth = (FIELD_DTYPE["arguments"].shape[0] - 40) // 2
        whole_text = b'{"views":1,"policy":{"x":' + b"[" * depth + b"]" * depth
        text, found_at = len(whole_text).to_bytes(2, "little") + whole_text, 25
    else:
        found_at = 27 + found.start()
    for field in (start, start + width):
        data[field + found_at : field + found_at + len(text)] = text


MUTATIONS = [cut, flip, scribble, blank, exaggerate, swap, borrow, lie, lie, corrupt]


VALUES = [
    None, True, -1, 0, 1 << 40, 1 << 64, 10**4000, 1.5, 1e308, float("nan"), float("inf"), "", "\x1b[31mred", "\ud800",
    "a" * 5000, [], {}, ["x"] * 300, [[]], {"a": {"b": [1]}}, ["\u202e", "\0"], [0.5] * 3, "0" * 32, [*range(70000)],
]  # fmt: skip


def change_manifest(text, rng):
    """Another value of some key, a key more or less, or damage to the text. Returns bytes."""
    manifest, data = json.loads(text), bytearray(text)
    key = [*manifest, "more"][rng.integers(len(manifest) + 1)]
    value = VALUES[rng.integers(len(VALUES))]
    what = rng.integers(8)
    if what < 3:
        return json.dumps(manifest | {key: value}).encode()
    if what == 3 and isinstance(manifest.get(key), list | dict) and manifest[key]:
        inner = manifest[key]
        inner[rng.integers(len(inner)) if isinstance(inner, list) else next(iter(inner))] = value
        return json.dumps(manifest).encode()
    if what == 4:
        manifest.pop(key, None)
        return json.dumps(manifest).encode()
    if what == 5:
        depth = int(rng.choice([5, 9, 100, 900, 100_000]))
        return text.rstrip()[:-1] + b',"more":' + b"[" * depth + b"]" * depth + b"}"
    if what == 6:
        return bytes(data[: rng.integers(len(data))])
    for _ in range(int(rng.integers(1, 20))):
        data[rng.integers(len(data))] = int(rng.integers(256))
    return bytes(data)
