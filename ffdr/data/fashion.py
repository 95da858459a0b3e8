"""Fashion-MNIST from the files that torchvision downloads (``root/FashionMNIST/raw``), or from their folder."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image

from ffdr.data.files import need_files
from ffdr.data.source import ArraySource
from ffdr.util.errors import UserError
from ffdr.util.foreign import open_regular
from ffdr.util.text import printable, reason

FOLDER = "FashionMNIST/raw"
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
_PREFIXES = {"train": "train", "test": "t10k"}
_SIDE, _MOST = 28, 60_000
_IMAGES, _LABELS = 0x0803, 0x0801
"""With what the files begin: bytes, of three dimensions and of one."""


class FashionMnist(ArraySource):
    """28×28 grey images of ten classes of clothes; the array is (N, 28, 28) uint8."""

    def __init__(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__(images, labels, list(CLASSES))
        self._split = split

    def origin(self, i: int) -> str:
        """``train/00042``: the images have no names, but for their positions."""
        return f"{self._split}/{i:05d}"

    def read(self, i: int) -> Image.Image:
        """The grey in all three channels."""
        return Image.fromarray(self._images[i]).convert("RGB")


def open_split(path: Path, split: str) -> FashionMnist:
    """A split of Fashion-MNIST, train (60,000 images) or test (10,000); files may be gzipped or not."""
    files = [f"{_PREFIXES[split]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    folder = path
    if not all(_existing(path / file) for file in files):
        for file in files:
            if not _existing(path / FOLDER / file):
                need_files(path, FOLDER, [f"{file}.gz"], "Fashion-MNIST", "FashionMNIST")
        folder = path / FOLDER
    images, labels = (_existing(folder / file) or folder / file for file in files)
    with _idx(images, _IMAGES) as (handle, count):
        height, width = struct.unpack(">II", _read(handle, 8))
        if (height, width) != (_SIDE, _SIDE):
            raise ValueError(f"its images have {width}×{height} pixels, not {_SIDE}×{_SIDE}")
        pixels = np.frombuffer(_rest(handle, count * _SIDE * _SIDE), np.uint8).reshape(count, _SIDE, _SIDE)
    with _idx(labels, _LABELS) as (handle, found):
        if found != count:
            raise ValueError(f"it has {found:,} labels for {count:,} images")
        ids = np.frombuffer(_rest(handle, found), np.uint8)
        if ids.max() >= len(CLASSES):
            raise ValueError(f"it has a label {ids.max()}, but 0 to {len(CLASSES) - 1} are the classes")
    return FashionMnist(split, pixels, ids)


def _existing(path: Path) -> Path | None:
    """The file itself, or else the gzipped one."""
    return next((file for file in (path, path.with_name(f"{path.name}.gz")) if file.exists()), None)


@contextmanager
def _idx(path: Path, magic: int) -> Iterator[tuple[BinaryIO, int]]:
    """An IDX file behind its first two numbers, and the second of them, the number of entries.

    Raises:
        UserError: whatever else goes wrong with the file, in one line; that in the body of the ``with``, too.
    """
    with open_regular(path) as raw:
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        try:
            found, count = struct.unpack(">II", _read(file, 8))
            if found != magic or not 0 < count <= _MOST:
                raise ValueError(f"it begins with {found:#010x} and {count:,} entries")
            yield file, count
        except (ValueError, OSError, EOFError, zlib.error) as error:
            what = "not a readable file of Fashion-MNIST"
            raise UserError(f"write.path: {printable(str(path))}: {what}: {reason(error)}") from None


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("it ends early")
    return data


def _rest(file: BinaryIO, count: int) -> bytes:
    """The last bytes of a file."""
    data = _read(file, count)
    if file.read(1):
        raise ValueError(f"it goes on behind the {count:,} bytes that it speaks of")
    return data
