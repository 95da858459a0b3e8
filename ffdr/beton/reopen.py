"""Opened files in other processes: by path, not by address.

What an opened beton holds is a map of the file into this process's memory, so no copy may take it along.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.util.errors import UserError


class Reopened(ABC):
    """Base of an immutable, opened beton: it pickles as its path, and opens the file anew where it is unpickled.

    There it raises UserError if that is no longer the same file. A copy in this process is the object itself.
    """

    path: Path
    checksums: np.ndarray | None
    memmap: np.ndarray

    @classmethod
    @abstractmethod
    def open(cls, path: str | Path) -> Reopened:
        """Open and check."""

    @property
    def stamp(self) -> tuple:
        """Stands for all that is in the file: its bytes, and the CRC-32 of its samples' checksums (0: it has none)."""
        return len(self.memmap), 0 if self.checksums is None else zlib.crc32(self.checksums.data)

    def __copy__(self) -> Reopened:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Reopened:
        return self

    def __reduce__(self) -> tuple:
        return _reopen, (type(self), os.path.abspath(self.path), self.stamp)


def _reopen(kind: type[Reopened], path: str, stamp: tuple) -> Reopened:
    beton = kind.open(path)
    if beton.stamp != stamp:
        raise UserError(f"{path}: is another file than the one that was opened where this was pickled; open it anew")
    return beton
