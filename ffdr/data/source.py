"""What a source dataset is, how one is opened by name, and the two bases: images in files, images in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ffdr.data.rgb import cause_of, read_rgb
from ffdr.util.errors import UserError, nearest

_THREADS, _STATS_AT_ONCE = 16, 4096
"""Threads that look at files, and files that one of them looks at in a row."""


class Source(Protocol):
    """N labelled images in a fixed order: all that ``ffdr write`` and evaluation ask of a dataset.

    Images are numbered from 0 to N - 1; methods take these numbers as Python ints. A source must

    - be pickled at little cost: worker processes get a copy each, so it holds paths or an array, not open files;
    - be read by several threads at once;
    - give the same images in the same order whenever it is opened anew, or a killed run is not resumed.

    ``FileSource`` and ``ArraySource`` are bases that leave little to write; the types need not inherit from this one.
    """

    class_names: list[str]
    """Name of each class; labels index it."""
    labels: np.ndarray
    """(N,) int64 class of each image, from 0 up."""

    def __len__(self) -> int:
        """N, the number of images."""
        ...

    def origin(self, i: int) -> str:
        """Relative path that identifies image i for good, unlike any other's, whatever folder the source lies in.

        Slashes separate. Its hash is stored with the image and is part of the beton's fingerprint.
        """
        ...

    def place(self, origin: str) -> str:
        """Where the image of that origin lies, for messages: a path that leads to it if it has a file of its own."""
        ...

    def read(self, i: int) -> Image.Image:
        """Image i in mode RGB, as ``rgb.to_rgb`` makes it; EXIF orientation is ignored, as in torchvision.

        Raises:
            ReadError: the image can't be read; names it and the cause. Such images may be skipped.
        """
        ...

    def file_bytes(self, i: int) -> bytes | None:
        """The encoded file of image i as it is, whose JPEG coefficients may be kept; None where there is no such file.

        Raises:
            ReadError: the file can't be read.
        """
        ...

    def state(self, index: np.ndarray) -> str:
        """A digest that changes with the contents of images (M,) int64; of files, with their sizes and times."""
        ...


class ReadError(UserError):
    """An image of a source that can't be read: its relative path, the cause, and where it lies."""

    def __init__(self, origin: str, cause: str, place: str = "") -> None:
        super().__init__(f"{place or origin}: {cause}")
        self.origin, self.cause, self.place = origin, cause, place

    def __reduce__(self) -> tuple:
        # By default pickle would call it with the message alone.
        return (ReadError, (self.origin, self.cause, self.place))


_SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "digits": ("digits", ("train", "val", "test")),
    "imagefolder": ("folder", ()),
    "cifar100": ("cifar", ("train", "test")),
    "flowers102": ("flowers", ("train", "val", "test")),
    "food101": ("food", ("train", "test")),
}
"""Module of each, whose ``open_split(path, split)`` opens it, and its splits; without any, the module checks them."""


def open_source(name: str, path: str = "", split: str = "train") -> Source:
    """Open a source dataset.

    Args:
        name: digits, imagefolder, cifar100, flowers102 or food101.
        path: folder it lies in; for torchvision's datasets the ``root`` they were downloaded to. digits needs none.
        split: train, val or test, as far as the dataset has them; for imagefolder a subfolder, or empty.

    Raises:
        UserError: no such source, folder or split; a folder that does not hold what it should.
    """
    if name not in _SOURCES:
        raise UserError(f"write.source: {name!r} is not one of {', '.join(_SOURCES)}{nearest(name, _SOURCES)}")
    module, splits = _SOURCES[name]
    if splits and split not in splits:
        raise UserError(f"write.split: {name} has {', '.join(splits)}, not {split!r}{nearest(split, splits)}")
    opener: Callable[[Path, str], Source] = import_module(f"ffdr.data.{module}").open_split
    return opener(Path(path).expanduser(), split)


class ArraySource:
    """A source whose images lie in memory, in an array (N, ...). Subclasses add ``origin`` and ``read``."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: list[str]) -> None:
        self.class_names, self.labels = class_names, labels.astype(np.int64)
        self._images = images

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, origin: str) -> str:
        """The origin itself: no path leads to the image."""
        return origin

    def file_bytes(self, i: int) -> None:
        """None: the image has no file of its own."""

    def state(self, index: np.ndarray) -> str:
        """Of the pixels."""
        return hashlib.sha256(self._images[index]).hexdigest()


class FileSource:
    """A source whose images are files below one folder; the base of most sources."""

    def __init__(
        self, root: Path, names: Iterable[str], labels: Sequence[int] | np.ndarray, class_names: list[str]
    ) -> None:
        """``names`` are relative to ``root`` and are the origins."""
        self.root = root
        self.class_names = class_names
        self.labels = np.array(labels, np.int64)
        self._names = Names(names)

    def __len__(self) -> int:
        return len(self._names)

    def origin(self, i: int) -> str:
        """The file's path from the root."""
        return self._names[i]

    def place(self, origin: str) -> str:
        """The file's path."""
        return str(self.root / origin)

    def read(self, i: int) -> Image.Image:
        """What Pillow finds in the file, whatever its name says."""
        path = self.root / self._names[i]
        try:
            return read_rgb(path)
        except Exception as error:  # Pillow's decoders raise many kinds; all mean that the image can't be read
            raise ReadError(self._names[i], cause_of(error, path), str(path)) from error

    def file_bytes(self, i: int) -> bytes:
        """The file, whatever it holds."""
        path = self.root / self._names[i]
        try:
            return path.read_bytes()
        except OSError as error:
            raise ReadError(self._names[i], cause_of(error, path), str(path)) from error

    def state(self, index: np.ndarray) -> str:
        """Of sizes and times; missing files count as such."""
        portions = np.array_split(index, -(-len(index) // _STATS_AT_ONCE)) if len(index) else []
        with ThreadPoolExecutor(_THREADS) as pool:  # on a network each question takes long
            states = b"".join(pool.map(self._states, portions))
        return hashlib.sha256(states).hexdigest()

    def _states(self, index: np.ndarray) -> bytes:
        lines = []
        for i in index.tolist():
            try:
                status = os.stat(self.root / self._names[i])
                lines.append(b"%d %d\n" % (status.st_size, status.st_mtime_ns))
            except OSError:
                lines.append(b"missing\n")
        return b"".join(lines)


class Names:
    """N strings in two buffers. A list of a million paths costs 100 MB and as much again in every worker process."""

    def __init__(self, names: Iterable[str]) -> None:
        parts = [os.fsencode(name) for name in names]
        self._bytes = b"".join(parts)
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return os.fsdecode(self._bytes[self._ends[i] : self._ends[i + 1]])
