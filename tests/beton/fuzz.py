"""Damages a beton in thousands of ways and uses each result; run by test_hostile.py in a child process.

``python fuzz.py FOLDER images|packed|reinforced SEED ROUNDS`` prints one JSON object: how many damaged files could be
used to the end, how many samples claimed to be intact but were not, and the different errors.
"""

import json
import re
import resource
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from ffdr.beton import layout
from ffdr.beton.decode import Replayer, blank_views
from ffdr.beton.layout import FIELD_DTYPE, HEADER_DTYPE
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.tables import read_tables
from ffdr.beton.views import StoredViews
from ffdr.errors import UserError

N = 20
"""Samples of the files that are damaged."""
SIDE = 32
MEMORY = 1 << 28
"""What using a small file may add to the process."""
EXTREMES = [0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]


class Whole:
    """An undamaged file: its bytes and where each kind of them lies."""

    def __init__(self, path):
        self.data = path.read_bytes()
        self.is_images = not path.name.startswith("reinforced")
        tables = read_tables(path)
        specs = tables.specs
        header = np.frombuffer(self.data[:24], HEADER_DTYPE)[0]
        self.metadata_type = layout.metadata_dtype(specs)
        self.head = 24 + len(specs) * FIELD_DTYPE.itemsize
        self.metadata = self.head + N * self.metadata_type.itemsize
        self.alloc = int(header["alloc_table_ptr"])
        self.sums = tables.data_end
        self.index = self.sums + layout.checksum_bytes(N)  # the coding, if there is one, then the origin index
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
        yield from ((self.sums + 8, 8), (self.sums, 8))

    def sealed(self, data):
        """The bytes with the checksum of the tables made right again, as an attacker would."""
        if len(data) != len(self.data):
            return data
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


def exaggerate(whole, data, rng):
    """An extreme value in one number, the five of the header as often as all others."""
    at, size = whole.numbers[rng.integers(5) if rng.integers(2) else rng.integers(len(whole.numbers))]
    values = [*EXTREMES, len(data), len(data) - 8, 4096]
    value = values[rng.integers(len(values))]
    if not rng.integers(4):  # near to what is there
        value = int.from_bytes(data[at : at + size], "little") + int(rng.integers(-24, 25))
    data[at : at + size] = (value % 256**size).to_bytes(size, "little")


def swap(whole, data, rng):
    """Exchange two numbers of equal size."""
    (a, size), (b, other) = (whole.numbers[i] for i in rng.integers(5, len(whole.numbers), 2))
    if size == other:
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def lie(whole, data, rng):
    """An image of any size in any mode; for views, another text in the JSON that describes both fields."""
    if whole.is_images:
        at = whole.head + int(rng.integers(N)) * whole.metadata_type.itemsize
        sides = np.array(rng.choice([1, 32, 5000, 65535], 2), "<u2")
        data[at : at + 5] = bytes([int(rng.integers(3))]) + sides.tobytes()
        return
    numbers = [*re.finditer(rb"\d+|true|false|\[|\]|\"", data[: 24 + FIELD_DTYPE.itemsize])]
    found = numbers[rng.integers(len(numbers))]
    texts = [b"9" * 19, b"0", b"-1", b"null", b"1e9", b"[]", bytes(rng.integers(48, 58, 19).astype(np.uint8))]
    text = texts[rng.integers(len(texts))][: found.end() - found.start()].ljust(found.end() - found.start())
    for start in (0, FIELD_DTYPE.itemsize):
        data[start + found.start() : start + found.end()] = text


def corrupt(whole, data, rng):
    """Bytes of samples: pixels, JPEG markers, records, logits."""
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(whole.metadata, whole.sums))
        data[at] = [0, 255, 128, int(rng.integers(256))][rng.integers(4)]


MUTATIONS = [cut, flip, scribble, exaggerate, swap, lie, corrupt]


class User:
    """Opens files and touches everything in them, next to undamaged ones."""

    def __init__(self, folder, kind):
        self.images = ImageBeton.open(folder / ("packed.beton" if kind == "packed" else "images.beton"))
        self.reinforced = ReinforcedBeton.open(folder / "reinforced.beton")
        self.pixels = [decode_image(self.images, i) for i in range(N)]

    def use_images(self, path, replay):
        """Returns the number of samples that say they are intact but are not."""
        beton = ImageBeton.open(path)
        wrong = 0
        for i in range(len(beton)):
            if not beton.is_intact(i):
                tolerate(decode_image, beton, i)
            else:
                wrong += not np.array_equal(decode_image(beton, i), self.pixels[i])
        if replay:
            self.replay(beton, self.reinforced, min(N, len(beton)))
        return wrong

    def use_reinforced(self, path, replay):
        """Likewise."""
        beton = ReinforcedBeton.open(path)
        wrong = 0
        for i in range(len(beton)):
            if not beton.is_intact(i):
                tolerate(beton.views, i)
                tolerate(beton.logits, i)
            else:
                pairs = zip(self.parts(beton, i), self.parts(self.reinforced, i), strict=True)
                wrong += any(a.tobytes() != b.tobytes() for a, b in pairs)
        if replay:
            self.replay(self.images, beton, min(N, len(beton)))
        return wrong

    @staticmethod
    def parts(beton, i):
        return beton.views(i), *beton.logits(i)

    @staticmethod
    def replay(images, reinforced, count):
        """A batch, as the loader replays it."""
        source = StoredViews(reinforced, seed=0)
        index = np.arange(count)
        views, mixes = blank_views(count)
        ids, log_probs = np.empty((count, source.entries), np.int32), np.empty((count, source.entries), np.float32)
        source.fill(0, index, views, mixes, ids, log_probs)
        replayer = Replayer(images, SIDE, threads=1)
        replayer(replayer.spans(index), views, mixes, np.empty((count, *replayer.shape), np.uint8))


def tolerate(function, *arguments):
    """What is known to be damaged may be refused."""
    with suppress(UserError):
        function(*arguments)


def fuzz(folder, kind, seed, rounds):
    """Returns the report that is printed."""
    whole, user = Whole(folder / f"{kind}.beton"), User(folder, kind)
    use = user.use_images if whole.is_images else user.use_reinforced
    assert use(folder / f"{kind}.beton", True) == 0  # also compiles all kernels
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    path = folder / f"{kind}_damaged.beton"
    rng = np.random.default_rng(seed)
    report = {"used": 0, "wrong": 0, "lines": {}, "refused": 0}
    for turn in range(rounds):
        data = bytearray(whole.data)
        mutation = MUTATIONS[turn % len(MUTATIONS)]
        mutation(whole, data, rng)
        seal = turn // len(MUTATIONS) % 2 == 1
        path.write_bytes(whole.sealed(data) if seal else data)
        try:
            wrong = use(path, turn % 3 == 0)
            report["wrong"] += 0 if seal else wrong
            report["used"] += 1
        except UserError as error:
            report["refused"] += 1
            kind_of_error = re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", str(error).split(".beton: ", 1)[-1])[:45]
            report["lines"].setdefault(kind_of_error, str(error))
    return report


if __name__ == "__main__":
    print(json.dumps(fuzz(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
