"""A kilobyte that describes more than a machine can hold is refused at once, whoever would have walked through it."""

from __future__ import annotations

import copy
import gzip
import os
import pickle
import struct
import tarfile

import archive_oracle as oracle
import numpy as np
import pytest
from archive_oracle import MIX, POLICIES, config_of, make_entries
from bounded import bounded, bounded_memory
from imports import run, sizes_of

from ffdr.archive.torch_zip import EntryError, pickle_in, zip_around
from ffdr.archive.unpickle import loads
from ffdr.mldr.entries import Schema, check_entry, from_entries
from ffdr.mldr.format import Format
from ffdr.util.errors import UserError

loads(pickle.dumps(1, 4))  # compiles, which is no part of the times below

LEVELS, REFERENCES = 26, 10


def nested(make, levels=LEVELS):
    """``levels`` values, each of ten references to the one before."""
    value = "x"
    for _ in range(levels):
        value = make([value] * REFERENCES)
    return value


def outside_in():
    """Each list is filled after it was named ten times in the one before."""
    code = b"\x80\x04(" + b"".join(b"]q" + bytes([n]) for n in range(LEVELS)) + b"t"
    for n in range(LEVELS - 1):
        code += b"h" + bytes([n]) + b"(" + (b"h" + bytes([n + 1])) * REFERENCES + b"e"
    return code + b"t."


def inside_out_of_open():
    """Named while it is open, and filled when those that hold it are done."""
    return b"\x80\x04]q\x00(]q\x01(" + b"h\x00" * REFERENCES + b"e" + b"h\x01" * REFERENCES + b"e."


def colliding(count=1000):
    """Keys of one hash: 2^61 - 1 times so much."""
    keys = b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, count))
    return b"\x80\x04}(" + keys + b"u."


BOMBS = {
    "lists": pickle.dumps(nested(list), 4),
    "lists, protocol 2": pickle.dumps(nested(list), 2),
    "tuples": pickle.dumps(nested(tuple), 4),
    "dictionaries": pickle.dumps(nested(lambda parts: {str(n): part for n, part in enumerate(parts)}), 4),
    "mixed": pickle.dumps(nested(lambda parts: [tuple(parts)], 13), 4),
    "key": b"\x80\x04}" + pickle.dumps(nested(tuple), 4)[2:-1] + b"Ns.",
    "keys": b"\x80\x04}(" + pickle.dumps(nested(tuple), 4)[2:-1] + b"Nu.",
    "outside in": outside_in(),
    "open": inside_out_of_open(),
    "cycle": b"\x80\x04]q\x00(" + b"h\x00" * 10 + b"e.",
    "cycle of dictionaries": b"\x80\x04}q\x00(\x8c\x01ah\x00u.",
    "depth": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "keys of one hash": colliding(),
    "empty lists": b"\x80\x04](" + b"]" * 100_000 + b"e.",
    "empty dictionaries": b"\x80\x04(" + b"}" * 100_000 + b"t.",
    "one long list, often": b"\x80\x04(](" + b"N" * 50_000 + b"e\x94" + b"h\x00" * 5_000 + b"t.",
    "arguments of a call": b"\x80\x04cnumpy\ndtype\n" + pickle.dumps(nested(tuple), 4)[2:-1] + b"\x85R.",
    "state": b"\x80\x04cnumpy\ndtype\n\x8c\x02i8\x85R" + pickle.dumps(nested(tuple), 4)[2:-1] + b"b.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_pickle_says_far_more_than_its_size(name):
    with bounded(seconds=5), bounded_memory(megabytes=100), pytest.raises(EntryError, match="far more than its size"):
        loads(BOMBS[name])


def test_what_honest_pickles_share_is_read():
    """Texts, constants, NumPy's types: named again, as pickle does it."""
    none, box = (None, None), (-1, 0, 0, 0)
    value = (3, [{"params": {"a": none, "b": none, "c": [box, box]}, "prob": ([0.5], [3])} for _ in range(500)])
    assert loads(pickle.dumps(value, 4)) == value
    assert loads(pickle.dumps(value, 2)) == value
    flags = [np.bool_(n % 2) for n in range(1000)]
    assert loads(pickle.dumps(flags, 4)) == [bool(n % 2) for n in range(1000)]
    assert loads(pickle.dumps({1: "a", 300: "b", "c": 2}, 4)) == {1: "a", 300: "b", "c": 2}


def spliced(value, raw):
    """The pickle of a value in which the text @ stands for another pickle's value."""
    mark = b"\x8c\x01@\x94"
    data = pickle.dumps(value, 4)
    assert data.count(mark) == 1
    frame = 2 + 9
    body = data[frame:] if data[2:3] == b"\x95" else data[2:]
    return zip_around(b"\x80\x04" + body.replace(mark, raw))


WIDE = b"](" + b"N" * 5000 + b"e"  # as plain as a value can be, and wrong in every place
TEXT = b"X" + struct.pack("<I", 1 << 20) + b"1" * (1 << 20)
NUMBER = b"\x8a\xff" + b"\x7f" * 255
NAN, INFINITE = b"G" + struct.pack(">d", float("nan")), b"G" + struct.pack(">d", float("inf"))
DEEP = b"]" * 20 + b"a" * 19
WRONG = {
    "list": WIDE,
    "text": TEXT,
    "number": NUMBER,
    "negative": b"J" + struct.pack("<i", -5),
    "nan": NAN,
    "infinite": INFINITE,
    "deep": DEEP,
    "dictionary": b"}",
    "bytes": b"C\x02ab",
    "empty": b")",
    "true": b"\x88",
}
AUGMENT = {name: dict(arguments) for name, arguments in (POLICIES["+RA/RE"] | MIX).items()}
CONFIG_PLACES = {
    "size": {"random_resized_crop": {"size": "@"}},
    "scale": {"random_resized_crop": {"size": 48, "scale": "@"}},
    "a scale's end": {"random_resized_crop": {"size": 48, "scale": [0.5, "@"]}},
    "interpolation": {"random_resized_crop": {"size": 48, "interpolation": "@"}},
    "flip": {"random_horizontal_flip": {"p": "@"}},
    "operations": {"rand_augment": {"num_ops": "@"}},
    "bins": {"rand_augment": {"num_magnitude_bins": "@"}},
    "fill": {"rand_augment": {"fill": "@"}},
    "mixup": {"mixup": {"alpha": "@"}},
    "transform": {"rand_augment": "@"},
}


@pytest.mark.parametrize("place", CONFIG_PLACES)
def test_values_of_a_config_are_known_by_their_kinds(place):
    """Each is refused in one short line, or is one that the place may have."""
    for name, raw in WRONG.items():
        config = config_of(AUGMENT | CONFIG_PLACES[place])
        value = loads(pickle_in(spliced(config, raw)))
        with bounded(seconds=5):
            try:
                Format.of_config(value)
            except EntryError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000, name
            else:
                assert (place, name) == ("transform", "dictionary")


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    "place", ["crop", "crop's part", "flip", "ops", "op", "erase", "probs", "prob", "ids", "params"]
)
def test_values_of_an_entry_are_known_by_their_kinds(small, place, name):
    """Before NumPy makes arrays of them: a text of a megabyte in one row would make gigabytes of all."""
    entries = make_entries(POLICIES["+RA/RE"], sizes_of(small))[:50]
    sample = entries[5][1][2]
    params, (probs, ids) = sample["params"], sample["prob"]
    put = {
        "crop": lambda: params.__setitem__(0, "@"),
        "crop's part": lambda: params.__setitem__(0, (0, "@", 3, 3)),
        "flip": lambda: params.__setitem__(1, "@"),
        "ops": lambda: params.__setitem__(2, "@"),
        "op": lambda: params.__setitem__(2, [(1, "@"), (0, 0.0)]),
        "erase": lambda: params.__setitem__(3, "@"),
        "probs": lambda: sample.update(prob=("@", ids)),
        "prob": lambda: probs.__setitem__(1, "@"),
        "ids": lambda: sample.update(prob=(probs, "@")),
        "params": lambda: sample.update(params="@"),
    }
    put[place]()
    entries[5] = loads(pickle_in(spliced(entries[5], WRONG[name])))
    form = Format.of_config(config_of(POLICIES["+RA/RE"]))
    schema = Schema(form, 3, 3, 10, small.original_sizes)
    with bounded(seconds=5), bounded_memory(megabytes=300):
        try:
            from_entries([check_entry(entry, n, 3) for n, entry in enumerate(entries)], schema)
        except EntryError as error:
            assert "5.pth.tar" in str(error) or "a file near it" in str(error)
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert (place, name) in {("flip", "true"), ("params", "dictionary")}


def test_boxes_whose_ends_wrap_around_are_refused(small):
    entries = make_entries(POLICIES["+RA/RE"], sizes_of(small))[:1]
    schema = Schema(Format.of_config(config_of(POLICIES["+RA/RE"])), 3, 3, 10, small.original_sizes)
    for place, box in ((0, (0, 2**62, 3, 2**62)), (0, (2**62, 0, 2**62, 3)), (3, (2**62, 0, 2**62, 3))):
        changed = copy.deepcopy(entries)
        changed[0][1][1]["params"][place] = box
        with pytest.raises(EntryError, match="is not inside"):
            from_entries(changed, schema)


def tar_of(path, members, mode="w:gz"):
    """Members (name, type, claimed size, bytes), as given."""
    with gzip.open(path, "wb", compresslevel=1) if mode.endswith("gz") else open(path, "wb") as file:
        for name, kind, size, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, size
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.write(data if isinstance(data, bytes) else b"")
            for _ in range(0 if isinstance(data, bytes) else data):
                file.write(bytes(1 << 20))
        file.write(bytes(1024))
    return path


def test_no_archive_that_never_ends_is_read(small, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path / "link"):
        with bounded(seconds=5), pytest.raises(UserError, match="not a regular file"):
            run(small, tmp_path / "out.beton", path)
    folder = oracle.write_folder(tmp_path / "folder", {})
    for name in ("config.pth.tar", "0.pth.tar"):
        (folder / name).symlink_to("/dev/zero")
    with bounded(seconds=5), pytest.raises(UserError, match="not a regular file"):
        run(small, tmp_path / "out.beton", folder)


def test_holes_of_a_tar_file_are_not_read(small, tmp_path):
    """Sparse files, of a terabyte each and a kilobyte on the disk."""
    for number, names in enumerate(((), ("readme",) * 100)):
        path = tmp_path / f"{number}.tar"
        with path.open("wb") as file:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = (8 << 30) - 512
                file.write(info.tobuf(tarfile.USTAR_FORMAT))
                file.seek(info.size, os.SEEK_CUR)
            file.truncate(1 << 40)
        with bounded(seconds=5), pytest.raises(UserError, match=r"holds no entry such as 0\.pth\.tar"):
            run(small, tmp_path / "out.beton", path)
    with path.open("r+b") as file:
        file.truncate((8 << 30) - 512)
    with bounded(seconds=5), pytest.raises(UserError, match="cut off or damaged"):
        run(small, tmp_path / "out.beton", path)


def test_tar_files_that_grow_are_refused(small, tmp_path):
    """Zeros by the gigabyte; headers of names and attributes that are longer than any; sparse files of terabytes; a
    million files."""
    long = 384 << 20
    for number, (members, text) in enumerate(
        {
            "zeros": ([("readme", b"0", long, 384)], "unzip to more than"),
            "a long name": ([("././@LongLink", b"L", long, 384)], "unzip to more than"),
            "attributes": ([("pax", b"x", long, 384)], "unzip to more than"),
            "sparse": ([("0.pth.tar", b"S", (8 << 30) - 1, b"")], "cut off or damaged"),
            "behind the end": ([("", b"0", 0, b""), ("", b"0", 0, 384)], None),
        }.values()
    ):
        path = tar_of(tmp_path / f"{number}.tar.gz", members)
        with bounded(seconds=20), bounded_memory(megabytes=200), pytest.raises(UserError, match=text) as error:
            run(small, tmp_path / "out.beton", path)
        assert "\n" not in str(error.value)
    many = tar_of(tmp_path / "many.tar.gz", [("a", b"0", 0, b"")] * 12_000)
    with bounded(seconds=20), pytest.raises(UserError, match="holds more than 10,800 files, too many for its images"):
        run(small, tmp_path / "out.beton", many)
    plain = tar_of(tmp_path / "plain.tar", [("0.pth.tar", b"0", (8 << 30) - 1, b"")], "w")
    with bounded(seconds=5), pytest.raises(UserError, match="no file of an archive has more than"):
        run(small, tmp_path / "out.beton", plain)
