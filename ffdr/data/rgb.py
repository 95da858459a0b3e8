"""How any image file becomes RGB."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
"""What a file may hold, whatever its name says. Pillow knows many more, some of which run programs, or ran off their
buffers in versions that are admitted."""
_WITH_SCANS = ("JPEG", "MPO")
_SOS = b"\xff\xda"
_MOST_SEARCHED = 1 << 28
"""Bytes of a JPEG that are searched for scans."""
_USUAL_SCANS = 16
"""A JPEG of more is looked at closer: encoders that look for the best scans make no more."""


def read_rgb(path: Path) -> Image.Image:
    """The image in a file, in mode RGB; EXIF orientation is ignored.

    Raises:
        Exception: of any kind, as Pillow's decoders do; ``cause_of`` makes one line of it.
    """
    with path.open("rb") as file:
        return decode_rgb(file)


def decode_rgb(file: BinaryIO) -> Image.Image:
    """The image that an open file holds, or bytes in memory (``io.BytesIO``), as ``read_rgb`` gives it."""
    image = Image.open(file, formats=_FORMATS)
    if image.format in _WITH_SCANS:
        _check_scans(file, image)
    return to_rgb(image)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of the image in a file, as ``read_rgb`` would give it, from its header alone.

    Raises:
        Exception: as ``read_rgb``.
    """
    with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
        return image.size


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


def cause_of(error: BaseException, path: Path | None = None) -> str:
    """Why an image could not be read, in one line, without its folder: the caller names it by its origin.

    path: its file, if it has one.
    """
    if isinstance(error, UnidentifiedImageError):  # its text names a Python object
        text = "cannot identify image file"
    else:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join((text.replace(str(path), path.name) if path else text).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
