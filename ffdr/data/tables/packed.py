"""Sources whose images are encoded files within larger ones: tar shards, Parquet files."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ffdr.data.rgb import cause_of, decode_rgb
from ffdr.data.source import Names, ReadError
from ffdr.data.tables.paths import relative_names
from ffdr.util.errors import UserError
from ffdr.util.foreign import open_regular
from ffdr.util.text import first_few, printable

MOST_IMAGE_BYTES = 1 << 30
"""Of one encoded image: whoever claims more is not believed."""
_MOST_OPEN = 16


class PackedFiles:
    """The files that images lie in, opened when they are needed, a few at a time; for several threads and processes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.names = list(paths), relative_names(paths)
        self.states = np.array([_state(os.stat(path)) for path in paths], np.int64).reshape(-1, 2)
        """(F, 2) size and time of the last change"""
        self._forget()

    def _forget(self) -> None:
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "names": self.names, "states": self.states}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def check_unchanged(self, number: int, descriptor: int | None = None) -> None:
        """Raise OSError where a file is no longer the one that was looked at."""
        status = os.stat(self.paths[number]) if descriptor is None else os.fstat(descriptor)
        if _state(status) != self.states[number].tolist():
            raise OSError(f"{self.names[number]} has changed while it was read")

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of a file. Raises OSError or UserError where they can't be read."""
        handle, parts = self.opened(number), []
        while size:  # a call reads 2 GiB at most, and may read less
            part = os.pread(handle.descriptor, size, offset)
            if not part:
                raise OSError(f"{self.names[number]} ends early")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def opened(self, number: int) -> OpenFile:
        """A file, open as long as the result is kept. Raises OSError or UserError where it can't be, or has changed."""
        with self._lock:
            handle = self._open.pop(number, None)
            if handle is None:
                handle = OpenFile(self.paths[number])
                self.check_unchanged(number, handle.descriptor)
            self._open[number] = handle
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)  # closes when the last thread that reads from it is done
        return handle


class OpenFile:
    """An open file, closed with the last reference to it; threads share its ``descriptor``, to be read by position."""

    def __init__(self, path: Path) -> None:
        self._file = open_regular(path)
        self.descriptor = self._file.fileno()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns]


class PackedSource:
    """Base of the sources whose N images lie in ``files``. Subclasses add ``file_bytes`` and ``where``."""

    def __init__(self, files: PackedFiles, origins: Names, labels: np.ndarray, class_names: list[str]) -> None:
        self.class_names, self.labels = class_names, labels
        self.files, self._origins = files, origins

    def __len__(self) -> int:
        return len(self.labels)

    def origin(self, i: int) -> str:
        """As the files name the image, see ``choose_origins``."""
        return self._origins[i]

    @abstractmethod
    def file_bytes(self, i: int) -> bytes:
        """The encoded file of image i, whatever it holds. Raises ReadError."""

    @abstractmethod
    def where(self, i: int) -> str:
        """What messages call image i: its file, and which one of it."""

    def place(self, origin: str) -> str:
        """The file that holds the image, and which one of it."""
        found = self._origins.find(origin)
        return origin if found is None else self.where(found)

    def read(self, i: int) -> Image.Image:
        """What Pillow finds in the encoded file, whatever its name says."""
        data = self.file_bytes(i)
        try:
            return decode_rgb(io.BytesIO(data))
        except Exception as error:  # Pillow's decoders raise many kinds; all mean that the image can't be read
            raise self._read_error(i, error) from error

    def _read_error(self, i: int, error: Exception) -> ReadError:
        origin = self._origins[i]
        return ReadError(origin, cause_of(error, Path(origin)), self.where(i))

    def state(self, index: np.ndarray) -> str:
        """Of sizes and times of all files."""
        return hashlib.sha256(self.files.states.tobytes()).hexdigest()


def choose_origins(files: PackedFiles, own: Names, qualified: Iterable[str]) -> Names:
    """The names that images have in their files, or where two are the same or one is no relative path, the
    ``qualified`` ones, which name the files, too.

    Raises:
        UserError: those are not unique, either.
    """
    if own.find_twins() is None and all(map(_is_relative, own)):
        return own
    names = Names(qualified)
    twins = names.find_twins()
    if twins is not None:
        raise UserError(f"write.path: {first_few(files.names, 3)}: two images are called {printable(names[twins[0]])}")
    return names


def _is_relative(name: str) -> bool:
    return bool(name) and name[0] != "/" and "\0" not in name and ".." not in name.split("/")
