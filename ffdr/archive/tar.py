"""A tar file of strangers, read from beginning to end and never unpacked.

Its names are only ever compared with those that an archive has; nothing is opened or written under one.
"""

from __future__ import annotations

import gzip
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ffdr.util.errors import UserError
from ffdr.util.foreign import open_regular
from ffdr.util.text import byte_size, printable, reason

MOST_BYTES = 16 << 20
"""Longest file of an archive; 8,000 views with the best 20 classes each need a sixth of it, 500 with a thousand classes
each as float32 a fifth."""
_MOST_RATIO = 100
"""Bytes that may come out of one byte of a gzip file; pickles give three, zeros a thousand."""
_FREE_BYTES = 64 << 20
"""Bytes that may come out of any gzip file."""
_FILES_PER_IMAGE, _FREE_FILES = 8, 10_000
"""Files that an archive may hold: each entry may have headers of its own, and a Mac adds some."""
_MOST_NAME = 1 << 16
"""Bytes of a header that holds a long name; a longer one is passed over, and the name cut off."""
_BLOCK = 512
_REGULAR = b"0\0"
"""Type flags of regular files, the old one too."""

Key = TypeVar("Key")


def most_files(images: int) -> int:
    """How many files are looked at in an archive for so many images."""
    return _FREE_FILES + _FILES_PER_IMAGE * images


class Tar:
    """The files of a tar file, zipped or not, in the order in which they lie."""

    def __init__(self, path: Path, images: int) -> None:
        """images: how many the archive is for, which bounds how many files are looked at.

        Raises UserError unless ``path`` is a file that can be opened.
        """
        self.path, self._most_files = path, most_files(images)
        open_regular(path).close()

    def files(self, wanted: Callable[[str], Key | None]) -> Iterator[tuple[Key, bytes]]:
        """What ``wanted`` makes of a name, and the bytes, of each regular file of which it makes something.

        A tar file is blocks of 512 bytes: for each file a header and its padded content, at last blocks of zeros. A
        name of more than 100 bytes lies in the header's second part, or in a file of its own before.

        Raises UserError for a damaged file, one that unzips to far too much or holds far too many files, and for a
        wanted file that is too long to be one of an archive.
        """
        with failures_named(self.path), _TarStream(self.path) as stream:
            long_name = ""
            for number in itertools.count():
                header = stream.read(_BLOCK)
                if not any(header):
                    break
                if number == self._most_files:
                    raise UserError(f"{self.path}: holds more than {number:,} files, too many for its images")
                if len(header) < _BLOCK:
                    raise EOFError
                name, kind, size = self._parse(header)
                padded = -(-size // _BLOCK) * _BLOCK
                if kind in b"Lx" and size <= _MOST_NAME:
                    long_name = _long_name(kind, self._content(stream, padded)[:size]) or long_name
                    continue
                name, long_name = long_name or name, ""
                key = wanted(name) if kind in _REGULAR else None
                if key is None:
                    stream.skip(padded)
                    continue
                check_size(self.path, name, size)
                yield key, self._content(stream, padded)[:size]
            stream.finish()

    def _content(self, stream: _TarStream, padded: int) -> bytes:
        content = stream.read(padded)
        if len(content) < padded:
            raise EOFError
        return content

    def _parse(self, header: bytes) -> tuple[str, bytes, int]:
        """Name, type flag and size of a tar header, whose checksum must be right."""
        try:
            size, checksum = (int(header[at:end].strip(b" \0") or b"0", 8) for at, end in ((124, 136), (148, 156)))
        except ValueError:
            size, checksum = -1, -1
        if size < 0 or sum(header) - sum(header[148:156]) + 8 * 0x20 != checksum:
            raise UserError(f"{self.path}: not a tar file, or damaged")
        name = header[:100].split(b"\0")[0]
        if header[257:263] == b"ustar\0":  # the standard's form; GNU's has times there
            before = header[345:500].split(b"\0")[0]
            name = before + b"/" + name if before else name
        return name.decode("latin-1"), header[156:157], size


def _long_name(kind: bytes, content: bytes) -> str:
    """The name of the next file, out of GNU's or the standard's header for it; empty if it holds none."""
    if kind == b"L":
        return content.split(b"\0")[0].decode("latin-1")
    # Records "length path=name\n": the length counts itself. One that does not fit ends the search.
    while content:
        length, _, rest = content.partition(b" ")
        end = int(length) if length.isdigit() and len(length) < 6 else 0
        if not len(length) + 1 < end <= len(content):
            return ""
        key, _, value = rest[: end - len(length) - 1].partition(b"=")
        if key == b"path":
            return value.rstrip(b"\n").decode("latin-1")
        content = content[end:]
    return ""


def check_size(archive: Path, name: str, size: int) -> None:
    """Raise UserError for a file that is too long to be one of an archive."""
    if size > MOST_BYTES:
        most = f"no file of an archive has more than {MOST_BYTES}"
        raise UserError(f"{archive}: {printable(name)} has {size} bytes; {most}")


class _TarStream:
    """The bytes of a tar file, unzipped where need be."""

    def __init__(self, path: Path) -> None:
        self._path, self._given = path, 0
        self._file = open_regular(path)
        self._is_zipped = self._file.read(2) == b"\x1f\x8b"
        self._size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        self._unzipped = gzip.GzipFile(fileobj=self._file) if self._is_zipped else self._file

    def __enter__(self) -> _TarStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._unzipped.close()
        self._file.close()

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end. Raises UserError for a file made to grow when it is unzipped."""
        data = self._unzipped.read(size)
        self._given += len(data)
        if self._given > _FREE_BYTES + _MOST_RATIO * self._file.tell():
            said = f"its first {byte_size(self._file.tell())} unzip to more than {byte_size(self._given - 1)}"
            raise UserError(f"{self._path}: {said}; no archive does")
        return data

    def skip(self, size: int) -> None:
        """Go past bytes that are of no interest. Raises EOFError where there are fewer."""
        if not self._is_zipped:  # a file of holes takes no time then, however large it is
            if self._file.seek(size, os.SEEK_CUR) > self._size:
                raise EOFError
            return
        while size > 0:
            read = len(self.read(min(size, 1 << 20)))
            if not read:
                raise EOFError
            size -= read

    def finish(self) -> None:
        """Read on to the end, where a gzip file has its checksum."""
        while self._is_zipped and self.read(1 << 20):
            pass


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Report a failure to read in one line."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: cut off or damaged") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or reason(error)}") from None
