"""What Python code hands over as an image with its label, and what becomes of it.

An image may be a PIL image, uint8 pixels, an encoded file's bytes or a path. It is kept as one of three plain things,
pixels, bytes or a path, which are the same in every process.
"""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ffdr.data.class_names import MOST_CLASSES
from ffdr.data.rgb import cause_of, decode_rgb, read_rgb, to_rgb
from ffdr.data.source import ReadError
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, first_few

PlainImage = np.ndarray | bytes | Path
"""(H, W, 3) or (H, W) uint8 pixels, the bytes of an encoded file, or where one lies."""
_WANTED = (
    "an image is wanted: a PIL image, uint8 pixels of shape (H, W, 3) or (H, W) (a tensor's may be (3, H, W)), "
    "the bytes of an encoded file, or a path"
)
UNREAD = -1
"""Label of an item that the dataset could not hand out."""


class ObjectItem:
    """An image with its label (``source.Item``), read already or to be read."""

    def __init__(self, origin: str, label: int, image: PlainImage | None, cause: str = "") -> None:
        """cause: why there is no image."""
        self.origin, self.label, self.image, self.cause = origin, label, image, cause

    @property
    def place(self) -> str:
        """What messages call it."""
        return place(self.origin)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the image takes, about."""
        return (
            self.image.nbytes
            if isinstance(self.image, np.ndarray)
            else len(self.image)
            if isinstance(self.image, bytes)
            else 0
        )

    def read(self) -> Image.Image:
        """The image in mode RGB. Raises ReadError where it can't be read."""
        if self.image is None:
            raise ReadError(self.origin, self.cause, self.place)
        if isinstance(self.image, np.ndarray):
            return Image.fromarray(self.image).convert("RGB")
        try:
            return read_rgb(self.image) if isinstance(self.image, Path) else decode_rgb(BytesIO(self.image))
        except Exception as error:  # Pillow's decoders raise many kinds; all mean that the image can't be read
            raise ReadError(self.origin, cause_of(error, self._path), self.place) from error

    def file_bytes(self) -> bytes | None:
        """The encoded file; None where there are only pixels. Raises ReadError where it can't be read."""
        if not isinstance(self.image, Path):
            return self.image if isinstance(self.image, bytes) else None
        try:
            return self.image.read_bytes()
        except OSError as error:
            raise ReadError(self.origin, cause_of(error, self._path), self.place) from error

    @property
    def _path(self) -> Path | None:
        return self.image if isinstance(self.image, Path) else None


def digest_of(items: Sequence[ObjectItem]) -> str:
    """Stands for what some items hold; of a file that is named by its path, for its size and time of change."""
    digest = hashlib.blake2b(digest_size=16)
    for item in items:
        image = item.image
        if isinstance(image, np.ndarray):
            kind, content = str(image.shape), np.ascontiguousarray(image).data
        elif isinstance(image, Path):
            kind, content = "file", memoryview(_state(image).encode(errors="surrogatepass"))
        else:
            kind, content = "bytes", memoryview(item.cause.encode() if image is None else image)
        head = f"{item.origin}\0{item.label}\0{kind}\0{content.nbytes}\0"
        digest.update(head.encode(errors="surrogatepass"))
        digest.update(content)
    return digest.hexdigest()


def place(origin: str) -> str:
    """What messages call the image of that origin."""
    return f"item {origin}"


def image_and_label(item: Any, columns: tuple[str, str], where: str) -> tuple[Any, Any]:
    """The two of them in what a dataset hands out: a pair, or a mapping of columns.

    Raises:
        UserError: it is neither, or lacks a column. where: what names the item in messages.
    """
    if isinstance(item, Mapping):
        for column in columns:
            if column not in item:
                found = [str(key) for key in item]
                raise UserError(
                    f"{where}: no column {column!r}, only {first_few(found)}{nearest(column, found)}; "
                    "columns=(image, label) names them"
                )
        return item[columns[0]], item[columns[1]]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    what = f"a {type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else brief(item, 60)
    raise UserError(f"{where}: {what}, but (image, label) is wanted, or a mapping with columns=(image, label)")


def path_of(value: Any) -> str:
    """The path that came with an image, or is the image; empty: none."""
    if isinstance(value, Mapping):
        value = value.get("path")
    return os.fspath(value) if isinstance(value, str | os.PathLike) else ""


def plain_image(value: Any, where: str) -> PlainImage:
    """An image of any kind as a plain one.

    Raises:
        UserError: it is no image at all, or one that is not in uint8. where: what names the item in messages.
        Exception: of any other kind: the image can't be read.
    """
    if isinstance(value, Mapping) and "bytes" in value:  # Hugging Face's, which is not decoded
        value = value["bytes"] or value.get("path")
        if value is None:
            raise ValueError("the row has neither bytes nor a path")
        if isinstance(value, str) and "://" in value:
            import fsspec  # torch needs it, too

            with fsspec.open(value, "rb") as file:
                return bytes(file.read())
    if isinstance(value, Image.Image):
        return np.asarray(to_rgb(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | os.PathLike):
        return Path(os.path.abspath(os.fspath(value)))  # wherever another process may stand
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _pixels(value, where)
    raise UserError(f"{where}: {brief(value, 60)}, but {_WANTED}")


def _pixels(value: Any, where: str) -> np.ndarray:
    """(H, W, 3) or (H, W) uint8 pixels of an array or a tensor."""
    shape, kind = tuple(value.shape), str(value.dtype).removeprefix("torch.")
    if kind != "uint8":
        raise UserError(
            f"{where}: pixels of type {kind}, but uint8 from 0 to 255 is wanted: leave out the transform that makes "
            "them, or convert them"
        )
    is_tensor = hasattr(value, "detach")
    pixels = np.asarray(value.detach().cpu().numpy() if is_tensor else value)
    if is_tensor and len(shape) == 3 and shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise UserError(f"{where}: pixels of shape {shape}, but {_WANTED}")
    return np.ascontiguousarray(pixels)


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except (OSError, ValueError):  # no system has a file of such a name
        return f"{path} missing"
    return f"{path} {status.st_size} {status.st_mtime_ns}"


class Labels:
    """Makes class numbers of what stands for a class in a dataset."""

    def __init__(self, names: list[str] | None) -> None:
        """names: of the classes; None: nobody has named them."""
        self.names = names
        self._numbers = {name: number for number, name in enumerate(names or ())}

    def __call__(self, value: Any, where: str) -> int:
        """The number of a class: that of its name, or an integer of any type, also one as ASCII bytes (of tar shards).

        Raises:
            UserError: it is neither, or there is no such class. where: what names the item in messages.
        """
        if isinstance(value, bytes):
            value = value.decode(errors="replace").strip()
            value = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
        if isinstance(value, str):
            return self._named(value, where)
        try:
            number = operator.index(value)
        except (TypeError, ValueError, RuntimeError):  # torch's own are the latter two
            number = None
        if number is None or isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
            raise UserError(f"{where}: label {brief(value, 60)}, but an integer is wanted, or the name of a class")
        if not 0 <= number < (len(self.names) if self.names else MOST_CLASSES):
            of = f"of the {len(self.names)} classes" if self.names else f"from 0 to {MOST_CLASSES - 1}"
            raise UserError(f"{where}: label {number} is none {of}")
        return number

    def _named(self, name: str, where: str) -> int:
        if not self.names:
            raise UserError(f"{where}: label {brief(name, 60)} is a text; classes=[…] names the classes in their order")
        if name not in self._numbers:
            raise UserError(f"{where}: label {brief(name, 60)} is none of the classes{nearest(name, self.names)}")
        return self._numbers[name]
