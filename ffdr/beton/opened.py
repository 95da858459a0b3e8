"""A file that stays the one that was opened, whatever its name is given to afterwards."""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from pathlib import Path

import numpy as np

from ffdr.util.errors import UserError


class OpenFile:
    """A regular file, open for reading; closed with the last reference to it. Threads and forks may share one.

    Raises:
        OSError: it can't be opened.
        UserError: a folder, a pipe or a device.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A pipe nobody writes to would be waited for.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe or device"
            raise UserError(f"{path}: a {kind}, not a file")
        self.size = status.st_size
        """Bytes, when it was opened."""
        self.changed = status.st_mtime_ns
        """Nanoseconds: when it was changed last, as of then."""

    def read(self, at: int, size: int) -> bytes:
        """``size`` bytes from byte ``at`` on, or fewer where the file ends."""
        parts = []
        while size > 0:
            part = os.pread(self.descriptor, size, at)
            if not part:
                break
            parts.append(part)
            at, size = at + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def map(self) -> np.ndarray:
        """The whole file as it is in memory: (bytes,) uint8, read-only.

        Raises:
            UserError: it has become shorter.
        """
        try:
            return np.ndarray(self.size, np.uint8, mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_READ))
        except ValueError:
            self.check_size()
            raise

    def check_size(self) -> None:
        """Raise UserError if the file has become shorter: to read what its map has lost would end the process."""
        size = os.fstat(self.descriptor).st_size
        if size < self.size:
            raise UserError(f"{self.path}: was cut from {self.size} to {size} bytes while it was open")
