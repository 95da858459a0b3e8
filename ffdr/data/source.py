"""What a source dataset is, how one is opened, and how any image file becomes RGB."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from ffdr.util.errors import UserError, nearest

_STATING, _STATS_AT_ONCE = 16, 4096
"""Threads that look at files, and files that one of them looks at in a row."""
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
"""What a file may hold, whatever its name says. Pillow knows many more, some of which run programs, or ran off their
buffers in versions that are admitted."""
_WITH_SCANS = ("JPEG", "MPO")
_SOS = b"\xff\xda"
_MOST_SEARCHED = 1 << 28
"""Bytes of a JPEG that are looked through."""
_USUAL_SCANS = 16
"""A JPEG of more is looked at closer: encoders that look for the best scans make no more."""


class Source(Protocol):
    """A labelled set of images in a fixed order. Pickles cheaply, so that worker processes can read from it."""

    class_names: list[str]
    """Name of each class; labels index it."""
    labels: np.ndarray
    """(N,) int64 class of each image."""

    def __len__(self) -> int:
        """N, the number of images."""
        ...

    def origin(self, i: int) -> str:
        """Relative path that names image i for good, whatever folder the source lies in. Slashes separate."""
        ...

    def place(self, origin: str) -> str:
        """Where the image of that origin lies, for messages: a path that leads to it if it has a file of its own."""
        ...

    def read(self, i: int) -> Image.Image:
        """Image i in mode RGB, as ``to_rgb`` makes it; EXIF orientation is ignored, as in torchvision.

        Raises:
            ReadError: the image can't be read; names it and the cause.
        """
        ...

    def file_bytes(self, i: int) -> bytes | None:
        """The file of image i as it is; None where the image has no file of its own.

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


_OPENERS = {
    "digits": "ffdr.data.digits",
    "imagefolder": "ffdr.data.folder",
    "cifar100": "ffdr.data.cifar",
    "flowers102": "ffdr.data.flowers",
    "food101": "ffdr.data.food",
}


def open_source(name: str, path: str = "", split: str = "train") -> Source:
    """Open a source dataset.

    Args:
        name: digits, imagefolder, cifar100, flowers102 or food101.
        path: folder it lies in; for torchvision's datasets the ``root`` they were downloaded to. digits needs none.
        split: train, val or test, as far as the dataset has them; for imagefolder a subfolder, or empty.

    Raises:
        UserError: no such source, folder or split; a folder that does not hold what it should.
    """
    if name not in _OPENERS:
        raise UserError(f"write.source: {name!r} is not one of {', '.join(_OPENERS)}{nearest(name, _OPENERS)}")
    opener: Callable[[Path, str], Source] = import_module(_OPENERS[name]).open_split
    return opener(Path(path).expanduser(), split)


def check_split(name: str, split: str, allowed: Iterable[str]) -> None:
    """Refuse a split that the source does not have."""
    allowed = list(allowed)
    if split not in allowed:
        raise UserError(f"write.split: {name} has {', '.join(allowed)}, not {split!r}{nearest(split, allowed)}")


def need_files(path: Path, files: Iterable[str], title: str, dataset: str) -> None:
    """Refuse a root folder of a torchvision dataset in which a file is missing, saying how to get it."""
    for file in files:
        if not (path / file).exists():
            raise UserError(
                f"write.path: no {title} in {path} ({file} is missing); get it with "
                f"torchvision.datasets.{dataset}({str(path)!r}, download=True)"
            )


def read_rgb(path: Path, origin: str) -> Image.Image:
    """The image in a file, in mode RGB.

    Raises:
        ReadError: whatever is wrong with it.
    """
    try:
        with path.open("rb") as file:
            image = Image.open(file, formats=_FORMATS)
            if image.format in _WITH_SCANS:
                _check_scans(file, image)
            return to_rgb(image)
    except Exception as error:  # Pillow's decoders raise many kinds; all mean that the image can't be read
        raise ReadError(origin, tell(error, path), str(path)) from error


def _check_scans(file: BinaryIO, image: Image.Image) -> None:
    """Raise ValueError for a JPEG of scan upon scan, over which Pillow would sit for minutes."""
    at = file.tell()
    file.seek(0)
    data = file.read(_MOST_SEARCHED)
    file.seek(at)
    if data.count(_SOS) > _USUAL_SCANS:
        from ffdr.codec.jpeg.markers import has_wasteful_scans  # imports Numba, which few images need

        if has_wasteful_scans(np.frombuffer(data, np.uint8), image.width * image.height):
            raise ValueError("more scans than its bytes and its pixels explain")


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, as Pillow's ``convert("RGB")`` gives it, but for grey pixels of more than 8 bits.

    Pillow cuts those off at 255, which makes most of them white. Of 16 bits the high byte counts, as Pillow has it for
    16-bit colour, so that a picture looks the same whether it was saved in grey or in colour.

    Raises:
        ValueError: grey pixels of 32 bits, integer or floating, whose black and white nobody knows.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # "I" there holds 16
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"grey pixels of 32 bits (Pillow's mode {image.mode}) have no known range; save 8 or 16 bits")
    return image.convert("RGB")


def tell(error: BaseException, path: Path) -> str:
    """What went wrong, in one line, without the path: the caller names the image by its origin."""
    if isinstance(error, UnidentifiedImageError):  # it names a Python object
        text = "cannot identify image file"
    else:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.replace(str(path), path.name).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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


class FileSource:
    """A source whose images are files below one folder; the base of most sources."""

    def __init__(self, root: Path, names: Iterable[str], labels: Iterable[int], class_names: list[str]) -> None:
        """``names`` are relative to ``root`` and are the origins."""
        self.root = root
        self.class_names = class_names
        self.labels = np.array(list(labels), np.int64)
        self._names = Names(names)

    def __len__(self) -> int:
        return len(self._names)

    def origin(self, i: int) -> str:
        """See :class:`Source`."""
        return self._names[i]

    def place(self, origin: str) -> str:
        """See :class:`Source`."""
        return str(self.root / origin)

    def read(self, i: int) -> Image.Image:
        """See :class:`Source`."""
        return read_rgb(self.root / self._names[i], self._names[i])

    def state(self, index: np.ndarray) -> str:
        """See :class:`Source`. Missing files count as such."""
        portions = np.array_split(index, -(-len(index) // _STATS_AT_ONCE)) if len(index) else []
        with ThreadPoolExecutor(_STATING) as pool:  # on a network each question takes long
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

    def file_bytes(self, i: int) -> bytes:
        """See :class:`Source`."""
        path = self.root / self._names[i]
        try:
            return path.read_bytes()
        except OSError as error:
            raise ReadError(self._names[i], tell(error, path), str(path)) from error
