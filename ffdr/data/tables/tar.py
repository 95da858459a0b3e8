"""What a tar archive of strangers holds, and where: names and places of its files, read from the headers alone.

Python's ``tarfile`` does not walk here: damage behind the first member ends its walk as an end would, negative sizes
send it back, it reads names of any length into memory, and takes three times as long. Its constants name the types.
The fields of a header are those of POSIX's ustar, with GNU's long names and large numbers::

    0 name  100 mode  124 size  136 mtime  148 checksum  156 type  157 link  257 magic  345 prefix  500 ┊ 512
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from ffdr.util.text import byte_size, printable

_BLOCK, _AHEAD = tarfile.BLOCKSIZE, 4096
_USTAR = b"ustar\0"
_END = bytes(_BLOCK)
_MOST_EXTRA = 1 << 20
"""Bytes of a long name, or of the records that go before a header."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_RECORDS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_REFUSED = {
    tarfile.SYMTYPE: "a link; GNU tar stores the file itself with --dereference",
    tarfile.LNKTYPE: "a link; GNU tar stores the file itself with --hard-dereference",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    """relative path without ``./`` before it"""
    offset: int
    """of its first byte"""
    size: int
    """in bytes; all of them lie in the archive"""


def walk(descriptor: int) -> Iterator[Member]:
    """The regular files of an open archive, in its order; folders are passed over.

    Raises:
        ValueError: damage, an end that is missing, what is no regular file, a name that leads out of the archive.
        OSError: the archive can't be read.
    """
    length, at, name, size = os.fstat(descriptor).st_size, 0, "", -1
    archive = _Window(descriptor)
    while (block := archive.read(at, _BLOCK)) != _END:
        header = _header(block, at)
        here, at = at, at + _BLOCK
        if header.type == tarfile.DIRTYPE:
            name, size = "", -1
            continue
        count = header.size if size < 0 or header.type in _RECORDS else size
        if count < 0 or at + count > length:
            raise ValueError(f"{_called(name or header.name)}: its {count:,} bytes from byte {at:,} on are not there")
        if header.type in _FILES:
            yield Member(_checked(name or header.name), at, count)
            name, size = "", -1
        elif header.type in _RECORDS:
            records = _records(_extra(archive, at, count), here)
            if header.type == tarfile.XGLTYPE:
                records.pop(b"comment", None)
                if records.keys() & {b"path", b"size"}:
                    raise ValueError(f"the header at byte {here:,} names all that follow")
            name, size = _overrides(records, name, size)
        elif header.type == tarfile.GNUTYPE_LONGNAME:
            name = os.fsdecode(_extra(archive, at, count).split(b"\0")[0])
        elif header.type != tarfile.GNUTYPE_LONGLINK:
            what = _REFUSED.get(header.type, f"of the unknown type {printable(repr(header.type))}")
            raise ValueError(f"{_called(name or header.name)}: is {what}")
        at += -(-count // _BLOCK) * _BLOCK


class _Window:
    """A file that is read in small pieces, most of which lie behind each other."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._start, self._data = descriptor, 0, b""

    def read(self, at: int, count: int) -> bytes:
        """Bytes from ``at`` on; fewer at the end of the file."""
        start = at - self._start
        if not 0 <= start <= len(self._data) - count:
            self._data, self._start, start = os.pread(self._descriptor, max(count, _AHEAD), at), at, 0
        return self._data[start : start + count]


class _Header(NamedTuple):
    name: str
    type: bytes
    size: int


def _header(block: bytes, at: int) -> _Header:
    if len(block) < _BLOCK:
        raise ValueError(f"ends at byte {at + len(block):,} without the mark of an end: cut off, or no tar archive")
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != _number(block[148:156]):
        raise ValueError(f"what begins at byte {at:,} is no tar header: its checksum is another")
    name, kind = block[:100].partition(b"\0")[0], block[156:157]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == _USTAR else b""  # GNU has other fields there
    if kind == tarfile.AREGTYPE and name.endswith(b"/"):  # from before POSIX
        kind = tarfile.DIRTYPE
    return _Header(os.fsdecode(prefix + b"/" + name if prefix else name), kind, _number(block[124:136]))


def _number(field: bytes) -> int:
    """A number in octal digits, or where the highest bit is set in GNU's binary; −1: it is none."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if not digits.strip(b"01234567") else -1


def _extra(archive: _Window, at: int, count: int) -> bytes:
    if count > _MOST_EXTRA:
        raise ValueError(f"the header before byte {at:,} has {byte_size(count)} of names, more than are believed")
    return archive.read(at, count)


def _records(data: bytes, at: int) -> dict[bytes, bytes]:
    """The records of a pax header: each is its own length, a space, ``key=value`` and a newline."""
    records, start = {}, 0
    while start < len(data):
        digits, space, _ = data[start : start + 20].partition(b" ")
        end = start + int(digits) if space and digits.isdigit() else 0
        if not start + len(digits) < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError(f"the pax header at byte {at:,} is damaged")
        key, _, value = data[start + len(digits) + 1 : end - 1].partition(b"=")
        if key.startswith(b"GNU.sparse."):
            raise ValueError(f"the pax header at byte {at:,} is that of a sparse file")
        records[key], start = value, end
    return records


def _overrides(records: dict[bytes, bytes], name: str, size: int) -> tuple[str, int]:
    """Name and size that take the place of those of the next header."""
    if b"path" in records:
        name = os.fsdecode(records[b"path"])
    if b"size" in records:
        text = records[b"size"]
        if not text.isdigit() or len(text) > 18:
            raise ValueError(f"{_called(name)}: {printable(repr(text))} is no size")
        size = int(text)
    return name, size


def _checked(name: str) -> str:
    name = name.removeprefix("./")
    if not name or name[0] == "/" or "\0" in name or ".." in name.split("/"):
        raise ValueError(f"{_called(name)}: is no relative path within the archive")
    return name


def _called(name: str) -> str:
    return f"member {printable(name)}" if name else "a member without a name"
