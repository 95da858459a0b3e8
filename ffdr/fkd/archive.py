"""The files of an archive: below a folder, or in a tar file. Those that end in ``.tar`` count, by class and name."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ffdr.archive.tar import MOST_BYTES, Tar, check_size, failures_named, most_files
from ffdr.fkd.names import name_of
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_bytes
from ffdr.write.receipt import state

_ENDING = ".tar"
_OF_ML_DR = re.compile(r"(?:.*/)?(?:config|\d+)\.pth\.tar", re.DOTALL)
"""Files of the other format: without them, what a message says is wrong is the format."""
_MOST_DEPTH = 16
"""Folders within folders; an archive has imagenet/train/class."""


class ArchiveFile(NamedTuple):
    """One file of an archive."""

    name: str
    """class/name"""
    content: bytes | Path
    """the bytes, or the file below a folder that has them"""

    def read(self) -> bytes:
        """The bytes. Raises UserError for a file that can't be read, or is too long to be one of an archive."""
        if isinstance(self.content, bytes):
            return self.content
        path = self.content
        with failures_named(path):
            check_size(path.parent, path.name, path.stat().st_size)
            return read_bytes(path, MOST_BYTES)


class Archive:
    """The files of an archive, in whatever order they lie. Iterating again begins again."""

    def __init__(self, path: str | Path, images: int) -> None:
        """images: how many the archive is for, which bounds how many files are looked at.

        Raises UserError unless ``path`` is a folder or a file that can be opened.
        """
        self.path = Path(path)
        self._most_files = most_files(images)
        with failures_named(self.path):
            status = self.path.stat()
            self._tar = None if self.path.is_dir() else Tar(self.path, images)
        self.identity = f"{self.path.resolve()} {status.st_size} {status.st_mtime_ns}"
        """Unlike that of any other archive."""

    @property
    def is_listed(self) -> bool:
        """Whether the names are known without reading the files."""
        return self._tar is None

    def __iter__(self) -> Iterator[ArchiveFile]:
        """Raises UserError for what ``Tar.files`` refuses, and for a folder of far too many files."""
        if self._tar is not None:
            return (ArchiveFile(*file) for file in self._tar.files(_wanted))
        return self._in_folder()

    def _in_folder(self) -> Iterator[ArchiveFile]:
        left = self._most_files
        for _, paths in folders_below(self.path):
            for path in paths:
                left -= 1
                if left < 0:
                    raise UserError(f"{self.path}: holds more than {self._most_files:,} files, too many for its images")
                if _is_one(path.name):
                    yield ArchiveFile(name_of(path.as_posix()), path)


def _wanted(name: str) -> str | None:
    """class/name of a file in a tar file, if it is one of an archive's; latin-1, as ``Tar`` reads names."""
    if not _is_one(name) or "/" not in name or "\0" in name:
        return None
    return name_of(os.fsdecode(name.encode("latin-1")))


def _is_one(name: str) -> bool:
    return name.endswith(_ENDING) and _OF_ML_DR.fullmatch(name) is None


def folders_below(path: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder, the first one too, with its files sorted by name; links to folders are not followed."""
    waiting = [(path, 0)]
    while waiting:
        folder, depth = waiting.pop()
        with failures_named(folder), os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        below = [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
        yield folder, [Path(entry.path) for entry in found if not entry.is_dir()]
        waiting += [(one, depth + 1) for one in reversed(below) if depth < _MOST_DEPTH]


def state_of(path: Path) -> str:
    """Stands for an archive: for a tar file, or for the names and files of all folders below one."""
    if not path.is_dir():
        return state(path)
    digest = hashlib.sha256()
    for folder, _ in folders_below(path):
        digest.update(os.fsencode(folder.relative_to(path)) + b"\0" + state(folder).encode() + b"\0")
    return digest.hexdigest()
