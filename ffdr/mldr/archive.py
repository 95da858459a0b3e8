"""The files of an archive: in a folder, or in a tar file.

Names are only ever compared with the two forms that an archive has, ``config.pth.tar`` and ``{index}.pth.tar``.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ffdr.archive.tar import MOST_BYTES, Tar, check_size, failures_named
from ffdr.util.foreign import read_bytes

CONFIG = -1
"""Stands for the index of ``config.pth.tar``."""
_NAME = re.compile(r"(?:[^\0]*/)?(?:(config)|(0|[1-9]\d{0,9}))\.pth\.tar")


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
        with failures_named(self.path):
            is_folder = self.path.is_dir()
            status = self.path.stat()
        self.identity = f"{self.path.resolve()} {status.st_size} {status.st_mtime_ns}"
        """Unlike that of any other archive, and of this one after a change."""
        self._files = self._list() if is_folder else Tar(self.path, images)

    @property
    def listed(self) -> np.ndarray | None:
        """Sorted indices of a folder's files; None for a tar file, which must be read to know."""
        return None if isinstance(self._files, Tar) else self._files

    def __iter__(self) -> Iterator[ArchiveFile]:
        """Raises UserError for what ``Tar.files`` refuses."""
        if isinstance(self._files, Tar):
            return itertools.starmap(ArchiveFile, self._files.files(index_of))
        return (ArchiveFile(index, self.path / name_of(index)) for index in self._files.tolist())

    def _list(self) -> np.ndarray:
        with failures_named(self.path), os.scandir(self.path) as entries:
            found = (index_of(entry.name) for entry in entries)
            return np.sort(np.fromiter((index for index in found if index is not None), np.int64))


def name_of(index: int) -> str:
    """The name of an archive's file."""
    return "config.pth.tar" if index == CONFIG else f"{index}.pth.tar"


def index_of(name: str) -> int | None:
    """The image that a file belongs to, ``CONFIG``, or None for a file that is none of an archive's."""
    match = _NAME.fullmatch(name)
    return None if match is None else CONFIG if match[1] else int(match[2])
