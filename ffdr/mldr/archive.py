"""The files of an archive: in a folder, or in a tar file that is read from beginning to end and never unpacked.

Names are only ever compared with the two forms that an archive has, ``config.pth.tar`` and ``{index}.pth.tar``; nothing
is opened or written under a name that a tar file gives.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ffdr.util.errors import UserError
from ffdr.util.foreign import open_regular, read_bytes
from ffdr.util.text import byte_size, printable, reason

CONFIG = -1
"""Stands for the index of ``config.pth.tar``."""
MOST_BYTES = 16 << 20
"""Longest file of an archive; 8,000 views with the best 20 classes each need a sixth of it."""
_MOST_RATIO = 100
"""Bytes that may come out of one byte of a gzip file; pickles give three, zeros a thousand."""
_FREE_BYTES = 64 << 20
"""Bytes that may come out of any gzip file."""
_FILES_PER_IMAGE, _FREE_FILES = 8, 10_000
"""Files that a tar file may hold: each entry may have headers of its own, and a Mac adds some."""
_NAME = re.compile(r"(?:[^\0]*/)?(?:(config)|(0|[1-9]\d{0,9}))\.pth\.tar")
_BLOCK = 512
_REGULAR = b"0\0"
"""Type flags of regular files, the old one too."""


class ArchiveFile(NamedTuple):
    """One file of an archive."""

    image: int
    """number of its image, or ``CONFIG``"""
    content: bytes | Path
    """the bytes, or the file of a folder that has them"""

    def read(self) -> bytes:
        """The bytes. Raises UserError for a file that can't be read, or is too long to be one of an archive."""
        if isinstance(self.content, bytes):
            return self.content
        path = self.content
        with _failures_named(path):
            _check_size(path.parent, path.name, path.stat().st_size)
            return read_bytes(path, MOST_BYTES)


class Archive:
    """The files of an archive, in whatever order they lie. Iterating again begins again."""

    def __init__(self, path: str | Path, images: int) -> None:
        """images: how many the archive is for, which bounds how many files are looked at.

        Raises UserError unless ``path`` is a folder or a file that can be opened.
        """
        self.path = Path(path)
        self._most_files = _FREE_FILES + _FILES_PER_IMAGE * images
        with _failures_named(self.path):
            is_folder = self.path.is_dir()
            status = self.path.stat()
        if not is_folder:
            open_regular(self.path).close()
        self.identity = f"{self.path.resolve()} {status.st_size} {status.st_mtime_ns}"
        """Unlike that of any other archive, and of this one after a change."""
        self.listed = self._list() if is_folder else None
        """Sorted indices of a folder's files; None for a tar file, which must be read to know."""

    def __iter__(self) -> Iterator[ArchiveFile]:
        """Raises UserError for a damaged tar file, one that unzips to far too much or holds far too many files, and for
        a file that is too long to be one of an archive."""
        if self.listed is None:
            return self._in_tar()
        return (ArchiveFile(index, self.path / name_of(index)) for index in self.listed.tolist())

    def _list(self) -> np.ndarray:
        with _failures_named(self.path), os.scandir(self.path) as entries:
            found = (index_of(entry.name) for entry in entries)
            return np.sort(np.fromiter((index for index in found if index is not None), np.int64))

    def _in_tar(self) -> Iterator[ArchiveFile]:
        """A tar file is blocks of 512 bytes: for each file a header and its padded content, at last blocks of zeros."""
        with _failures_named(self.path), _TarStream(self.path) as stream:
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
                index = index_of(name) if kind in _REGULAR else None
                if index is None:
                    stream.skip(padded)
                    continue
                _check_size(self.path, name, size)
                content = stream.read(padded)
                if len(content) < padded:
                    raise EOFError
                yield ArchiveFile(index, content[:size])
            stream.finish()

    def _parse(self, header: bytes) -> tuple[str, bytes, int]:
        """Name, type flag and size of a tar header, whose checksum must be right."""
        try:
            size, checksum = (int(header[at:end].strip(b" \0") or b"0", 8) for at, end in ((124, 136), (148, 156)))
        except ValueError:
            size, checksum = -1, -1
        if size < 0 or sum(header) - sum(header[148:156]) + 8 * 0x20 != checksum:
            raise UserError(f"{self.path}: not a tar file, or damaged")
        return header[:100].split(b"\0")[0].decode("latin-1"), header[156:157], size


def _check_size(archive: Path, name: str, size: int) -> None:
    if size > MOST_BYTES:
        most = f"no file of an archive has more than {MOST_BYTES}"
        raise UserError(f"{archive}: {printable(name)} has {size} bytes; {most}")


def name_of(index: int) -> str:
    """The name of an archive's file."""
    return "config.pth.tar" if index == CONFIG else f"{index}.pth.tar"


def index_of(name: str) -> int | None:
    """The image that a file belongs to, ``CONFIG``, or None for a file that is none of an archive's."""
    match = _NAME.fullmatch(name)
    return None if match is None else CONFIG if match[1] else int(match[2])


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
def _failures_named(path: Path) -> Iterator[None]:
    """Report a failure to read in one line."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: cut off or damaged") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or reason(error)}") from None
