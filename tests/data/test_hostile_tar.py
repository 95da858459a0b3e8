"""Damaged, truncated and hostile tar shards: one line with the shard, quick, in little memory."""

import io
import os
import tarfile

import numpy as np
import pytest
from bounded import bounded, bounded_memory

from ffdr.data import open_source
from ffdr.data.tables import tar
from ffdr.util.errors import UserError

BLOCK = 512


def header(name=b"1.jpg", size=b"%011o\0" % 4, kind=b"0", prefix=b"", checksum=None):
    """A ustar header, after POSIX."""
    block = bytearray(BLOCK)
    for at, field in ((0, name), (100, b"0000644\0"), (124, size), (156, kind), (257, b"ustar\00000"), (345, prefix)):
        block[at : at + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    return bytes(block)


def member(name, data, kind=b"0", **fields):
    return header(name, b"%011o\0" % len(data), kind, **fields) + data + bytes(-len(data) % BLOCK)


def record(key, value):
    for length in range(len(key) + len(value) + 3, len(key) + len(value) + 24):
        text = b"%d %s=%s\n" % (length, key, value)
        if len(text) == length:
            return text
    raise AssertionError


def pax(*records, kind=b"x"):
    return member(b"pax", b"".join(record(key, value) for key, value in records), kind)


GOOD = member(b"0.jpg", b"abcd") + member(b"0.cls", b"0")
END = bytes(2 * BLOCK)


def binary(number):
    """A size in GNU's binary."""
    return (number % (1 << 96)).to_bytes(12, "big") if number < 0 else b"\x80" + number.to_bytes(11, "big")


def opened(folder, data):
    (folder / "x.tar").write_bytes(data)
    return open_source("webdataset", str(folder / "x.tar"))


HOSTILE = {
    "nothing": (b"", "ends at byte 0 without the mark of an end: cut off, or no tar archive"),
    "no samples": (END, "no samples"),
    "no archive": (b"PK\3\4" + bytes(2000), "what begins at byte 0 is no tar header"),
    "cut at a member": (GOOD, "ends at byte 2,048 without the mark of an end"),
    "cut in a header": (GOOD + header()[:100], "ends at byte 2,148 without the mark"),
    "cut in an image": (GOOD + header(size=b"00000777777\0") + b"x", r"1.jpg: its 262,143 bytes .* are not there"),
    "damage behind samples": (GOOD + b"\1" * BLOCK + END, "what begins at byte 2,048 is no tar header"),
    "checksum": (GOOD + header(checksum=b"000001\0 ") + END, "byte 2,048 is no tar header"),
    "negative size": (GOOD + header(size=binary(-1024)) + END, "member 1.jpg: its -1 bytes"),
    "pax negative size": (GOOD + pax((b"size", b"-512")) + header() + END, "is no size"),
    "pax large size": (GOOD + pax((b"size", b"9" * 18)) + header() + END, "bytes from byte 3,584 on are not there"),
    "pax size of digits": (GOOD + pax((b"size", b"9" * 5000)) + header() + END, "is no size"),
    "huge size": (GOOD + header(size=binary(1 << 80)) + END, "are not there"),
    "no number": (GOOD + header(size=b"8888") + END, "its -1 bytes"),
    "symbolic link": (GOOD + header(kind=b"2", size=b"0") + END, "member 1.jpg: is a link; GNU tar stores"),
    "hard link": (GOOD + header(kind=b"1", size=b"0") + END, "with --hard-dereference"),
    "device": (GOOD + header(kind=b"3", size=b"0") + END, "is a device"),
    "pipe": (GOOD + header(kind=b"6", size=b"0") + END, "is a pipe"),
    "sparse": (GOOD + header(kind=b"S") + END + END, "is a sparse file"),
    "pax sparse": (GOOD + pax((b"GNU.sparse.major", b"1")) + member(b"1.jpg", b"abcd") + END, "that of a sparse file"),
    "unknown type": (GOOD + header(kind=b"M") + END, "of the unknown type b'M'"),
    "absolute name": (member(b"/etc/0.jpg", b"abcd") + END, "member /etc/0.jpg: is no relative path within"),
    "name upwards": (member(b"a/../../0.jpg", b"abcd") + END, "is no relative path"),
    "pax absolute name": (pax((b"path", b"/0.jpg")) + member(b"0.jpg", b"abcd") + END, "is no relative path"),
    "null in a name": (pax((b"path", b"a\0.jpg")) + member(b"0.jpg", b"abcd") + END, "is no relative path"),
    "no name": (member(b"", b"abcd") + END, "a member without a name"),
    "global name": (pax((b"path", b"0.jpg"), kind=b"g") + GOOD + END, "byte 0 names all that follow"),
    "pax cut": (member(b"pax", b"30 path=x\n", b"x") + GOOD + END, "the pax header at byte 0 is damaged"),
    "pax of no length": (member(b"pax", b"path=x\n", b"x") + GOOD + END, "pax header at byte 0 is damaged"),
    "pax of length 0": (member(b"pax", b"0 path=x\n", b"x") + GOOD + END, "pax header at byte 0 is damaged"),
    "pax of length 2": (member(b"pax", b"2 path=x\n", b"x") + GOOD + END, "pax header at byte 0 is damaged"),
    "large pax": (member(b"pax", bytes(2 << 20), b"x") + GOOD + END, "has 2.0 MiB of names"),
    "large name": (member(b"long", b"a" * (2 << 20), b"L") + GOOD + END, "has 2.0 MiB of names"),
    "two of a kind": (GOOD + member(b"0.JPG", b"x") + END, "sample 0: has two members .jpg"),
    "escapes": (member(b"\x1b[2J.jpg", b"abcd") + END, r"sample \\x1b\[2J: has no member .cls"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(tmp_path, name):
    data, message = HOSTILE[name]
    with bounded(5), bounded_memory(200), pytest.raises(UserError, match=message) as caught:
        opened(tmp_path, data)
    assert "x.tar" in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_archives_of_these_tests_are_good_but_for_one_thing(tmp_path):
    """What the handmade ones have in common, tarfile reads, and so do we."""
    data = pax((b"comment", b"c"), kind=b"g") + GOOD + pax((b"path", b"\xc3\xa9/1.jpg")) + member(b"x", b"efgh")
    data += member(b"long", b"n" * 120 + b"/1.cls\0", b"L") + member(b"x", b"1") + header(b"2.jpg", binary(4)) + b"ijkl"
    data += bytes(BLOCK - 4) + member(b"2.cls", b"2", prefix=b"p" * 155) + END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(each.name, each.offset_data, each.size) for each in archive if each.isreg()]
    (tmp_path / "x.tar").write_bytes(data)
    with (tmp_path / "x.tar").open("rb") as file:
        assert [tuple(each) for each in tar.walk(file.fileno())] == expected
    assert len(expected) == 6


def test_many_headers_of_headers(tmp_path):
    """tarfile calls itself for each."""
    data = 20_000 * member(b"long", b"name.jpg", b"L") + GOOD + END
    (tmp_path / "x.tar").write_bytes(data)
    with bounded(10), (tmp_path / "x.tar").open("rb") as file:
        names = [each.name for each in tar.walk(file.fileno())]
    assert names == ["name.jpg", "0.cls"]


def test_a_size_that_only_a_sparse_file_has(tmp_path):
    """An image of 4 TiB of zeros, which take no room on the disk."""
    (tmp_path / "x.tar").write_bytes(header(size=binary(1 << 42)))
    os.truncate(tmp_path / "x.tar", BLOCK + (1 << 42))
    with (tmp_path / "x.tar").open("ab") as file:
        file.write(member(b"1.cls", b"0") + END)
    with bounded(5), bounded_memory(200), pytest.raises(UserError, match=r"sample 1: its image has 4,096.0 GiB"):
        open_source("webdataset", str(tmp_path / "x.tar"))


def test_too_many_classes(tmp_path, monkeypatch):
    monkeypatch.setattr("ffdr.data.tables.labels.MOST_CLASSES", 3)
    data = b"".join(member(b"%d.jpg" % i, b"x") + member(b"%d.txt" % i, b"name%d" % i) for i in range(4))
    (tmp_path / "x.tar").write_bytes(data + END)
    with pytest.raises(UserError, match="sample 3: its label 'name3' is the 4th different one"):
        open_source("webdataset", str(tmp_path / "x.tar"), "", ("jpg", "txt"))


def test_flipped_bytes_never_do_worse_than_a_line(tmp_path):
    draw, good = (
        np.random.default_rng(0),
        pax((b"path", b"0.jpg")) + member(b"x", b"abcd") + member(b"0.cls", b"1") + END,
    )
    for _ in range(500):
        data = bytearray(good)
        for at in draw.integers(0, len(good), draw.integers(1, 4)).tolist():
            data[at] = draw.integers(256)
        data = data[: draw.integers(1, len(data))] if draw.random() < 0.2 else data
        with bounded(5):
            try:
                source = opened(tmp_path, bytes(data))
            except UserError as error:
                assert str(error).isprintable()
            else:
                assert len(source.file_bytes(0)) == 4
