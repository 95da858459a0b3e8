"""What a source dataset is, how one is opened by name, and the two bases: images in files, images in memory.

There are two kinds: a ``Source`` knows all labels and origins before an image is read; of ``Items`` each brings its
own. Encoders see an ``Item`` of either.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from ffdr.config.choices import PYTHON, TORCHVISION
from ffdr.data.rgb import cause_of, read_rgb
from ffdr.data.tables.labels import Columns
from ffdr.data.tables.paths import named_paths, split_paths
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


class Item(Protocol):
    """One image with its label, as an encoder takes it from whatever dataset."""

    origin: str
    """Relative path that identifies it, see ``Source.origin``."""
    label: int
    """Its class."""

    def read(self) -> Image.Image:
        """The image in mode RGB; see ``Source.read``."""
        ...

    def file_bytes(self) -> bytes | None:
        """Its encoded file; see ``Source.file_bytes``."""
        ...


class SourceItem:
    """Image i of a source."""

    def __init__(self, source: Source, i: int) -> None:
        self.source, self.i = source, i
        self.origin, self.label = source.origin(i), int(source.labels[i])

    def read(self) -> Image.Image:
        """As the source reads it."""
        return self.source.read(self.i)

    def file_bytes(self) -> bytes | None:
        """As the source has it."""
        return self.source.file_bytes(self.i)


class Items(ABC):
    """Labelled images in a fixed order whose labels are known only once they are read; there may be any number."""

    names: list[str] | None
    """Name of each class; None: nobody has named them."""
    length: int | None
    """How many there are, each to be had by its number; None: one has to go through them to know."""

    @abstractmethod
    def item(self, i: int) -> Item:
        """Image i, where the length is known. UserError where it is none; one that can't be read says so later."""

    @abstractmethod
    def items(self) -> Iterator[Any]:
        """All of them, as ``item`` gives them, read in this process. May be had once."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What is known of them without reading any, by words that a message may use: values as JSON has them."""


class ReadError(UserError):
    """An image of a source that can't be read: its relative path, the cause, and where it lies."""

    def __init__(self, origin: str, cause: str, place: str = "") -> None:
        super().__init__(f"{place or origin}: {cause}")
        self.origin, self.cause, self.place = origin, cause, place

    def __reduce__(self) -> tuple:
        # By default pickle would call it with the message alone.
        return (ReadError, (self.origin, self.cause, self.place))


class _Kind(NamedTuple):
    """What there is to know of a source before its module is imported."""

    module: str
    """whose ``open_split(path, split)`` opens it, with a ``Columns`` and the path as it was given if it has columns"""
    splits: tuple[str, ...] = ()
    """without any, the module checks them"""
    has_columns: bool = False
    """whether its files name images and labels as they like: it takes ``write.columns`` and ``write.classes``, and
    several files as its path"""


_SOURCES: dict[str, _Kind] = {
    "digits": _Kind("digits", ("train", "val", "test")),
    "imagefolder": _Kind("folder"),
    "cifar100": _Kind("cifar", ("train", "test")),
    "flowers102": _Kind("flowers", ("train", "val", "test")),
    "food101": _Kind("food", ("train", "test")),
    "fashionmnist": _Kind("fashion", ("train", "test")),
    "webdataset": _Kind("tables.shards", has_columns=True),
    "parquet": _Kind("tables.parquet", has_columns=True),
    "csv": _Kind("tables.listing", has_columns=True),
}


def open_source(
    name: str, path: str = "", split: str = "train", columns: Sequence[str] = (), classes: str = ""
) -> Source | Items:
    """Open a source dataset.

    Args:
        name: digits, imagefolder, cifar100, flowers102, food101, fashionmnist, webdataset, parquet, csv, or
            torchvision:NAME.
        path: folder it lies in; for torchvision's datasets the ``root`` they were downloaded to. digits needs none.
            For webdataset and parquet files, as ``paths.find_files`` finds them; for csv the file.
        split: train, val or test, as far as the dataset has them; for imagefolder a subfolder, or empty; for
            webdataset and parquet which files of a folder, for csv which rows.
        columns: names of the image's and the label's column, for webdataset, parquet and csv; empty: guessed.
        classes: file of class names for these, and for torchvision's, as ``read_class_names`` reads it; empty: none.

    Raises:
        UserError: no such source, folder or split; a folder that does not hold what it should.
    """
    if name == PYTHON:
        raise UserError("write.source: python stands for the dataset of a call, ffdr.write(dataset, out)")
    is_torchvisions = name.startswith(TORCHVISION)
    for key, value, taken in (("columns", columns, False), ("classes", classes, is_torchvisions)):
        if value and not taken and not _has_columns(name):
            takers = [*filter(_has_columns, _SOURCES), *([f"{TORCHVISION}NAME"] if key == "classes" else [])]
            raise UserError(f"write.{key}: source {name} has its own; leave it out, it is for {', '.join(takers)}")
    if is_torchvisions:
        open_set: Callable[..., Source | Items] = import_module("ffdr.data.torchvision_sets").open_set
        return open_set(name.removeprefix(TORCHVISION), path, split, classes)
    if name not in _SOURCES:
        raise UserError(f"write.source: {name!r} is not one of {', '.join(_SOURCES)}{nearest(name, _SOURCES)}")
    kind = _SOURCES[name]
    if kind.splits and split not in kind.splits:
        raise UserError(f"write.split: {name} has {', '.join(kind.splits)}, not {split!r}{nearest(split, kind.splits)}")
    opener: Callable[..., Source] = import_module(f"ffdr.data.{kind.module}").open_split
    if kind.has_columns:
        return opener(path, split, Columns.of(columns, classes))
    return opener(Path(path).expanduser(), split)


def _has_columns(name: str) -> bool:
    return name in _SOURCES and _SOURCES[name].has_columns


def absolute_path(name: str, path: str) -> str:
    """The path of a source as it is called from any folder."""
    parts = split_paths(path) if _has_columns(name) else [path]
    return ",".join(os.path.abspath(os.path.expanduser(part)) for part in parts)


def read_paths(name: str, path: str) -> list[Path]:
    """Files and folders that a source reads."""
    if _has_columns(name):
        return named_paths(path)
    return [Path(path).expanduser()] if path else []


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

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add one."""
        self._bytes += os.fsencode(name)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return os.fsdecode(bytes(self._bytes[self._ends[i] : self._ends[i + 1]]))

    def find(self, name: str) -> int | None:
        """Number of the first one that is this; None: none is."""
        return next((i for i, other in enumerate(self) if other == name), None)

    def find_twins(self) -> tuple[int, int] | None:
        """Numbers of the first two that are the same; None: there are none."""
        hashes = np.fromiter(map(hash, self), np.int64, len(self))
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(np.diff(hashes[order]) == 0)
        pairs = zip(order[alike].tolist(), order[alike + 1].tolist(), strict=True)
        return min((pair for pair in pairs if self[pair[0]] == self[pair[1]]), default=None)
