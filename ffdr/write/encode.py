"""What a worker process of ``ffdr write`` does: read the images of a dataset, encode them as they lie in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from ffdr.beton.layout import DCT, JPG, MAX_PAGE_SIZE, RAW, origin_key
from ffdr.codec.dct.format import Coefficients
from ffdr.codec.jpeg import coefficients
from ffdr.codec.jpeg.segments import encode_jpeg
from ffdr.config.files import WriteOptions
from ffdr.data import Item, ReadError
from ffdr.write.parts import STORED_DTYPE, checksum, joined
from ffdr.write.pixel_sums import add_pixels

if TYPE_CHECKING:
    from ffdr.codec.dct.coding import Coding


@dataclass
class Chunk:
    """The images of a few consecutive positions, n of which could be read."""

    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, STORED_DTYPE))
    """(n,) ``STORED_DTYPE``"""
    data: list[bytes] = field(default_factory=list)
    """n stored samples: the image, zeros up to a multiple of 8, the origin."""
    sums: np.ndarray = field(default_factory=lambda: np.zeros((2, 3), np.uint64))
    """(2, 3) uint64: per channel the sum of all pixels and of their squares."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Origin and cause of each image that could not be read."""
    how: Counter[str] = field(default_factory=Counter)
    """Of how many images the coefficients were had in which way (``coefficients.HOW``)."""
    digest: str = ""
    """Stands for what was read, where that can't be had again but by reading all before it."""

    def add(self, image: bytes, mode: int, size: Sequence[int], label: int, origin: Sequence[int]) -> None:
        """An image as it is to be stored: its bytes, how they are to be read, width and height, class, origin."""
        stored_origin = np.array(origin, "<i8").tobytes()
        crc = checksum(image, stored_origin)
        sample = np.array([(label, tuple(origin), len(image), crc, *size, mode)], STORED_DTYPE)
        self.samples = np.append(self.samples, sample)
        self.data.append(joined(image, stored_origin))


class Encoder:
    """Encodes items of a dataset as the options say."""

    def __init__(self, item_of: Callable[[Any], Item], options: WriteOptions, coding: Coding | None = None) -> None:
        """item_of: gives an item for what the portions hold, such as its number. coding: in mode dct."""
        self.item_of, self.options, self.coding = item_of, options, coding

    def __call__(self, portion: Sequence[Any]) -> Chunk:
        """The images of a portion, in this order."""
        chunk = Chunk()
        for item in map(self.item_of, portion):
            try:
                self._encode(item, chunk)
            except ReadError as error:
                chunk.skipped.append((error.origin, error.cause))
            except UNUSABLE as error:
                chunk.skipped.append((item.origin, " ".join(f"{type(error).__name__}: {error}".split())))
        return chunk

    def _encode(self, item: Item, chunk: Chunk) -> None:
        """Add an image to the chunk, its pixels to the sums."""
        original, pixels = read_pixels(item, self.options)
        key = origin_key(item.origin)
        mode = self._mode(key)
        if mode == DCT:
            from ffdr.codec.dct.pack import pack  # imports Numba

            assert self.coding is not None
            found, how = find_coefficients(item, original, pixels, self.options)
            stored = pack(found, self.coding)
            chunk.how[how] += 1
        elif mode == JPG:
            stored = encode_jpeg(pixels, self.options.quality, self.options.growth)
        else:
            stored = pixels.tobytes()
        add_pixels(pixels, chunk.sums)
        chunk.add(stored, mode, pixels.shape[1::-1], item.label, (*original, key))

    def _mode(self, key: int) -> int:
        """In mode proportion the key, a hash, decides: a number in [0, 1) below the share is a JPEG."""
        if self.options.mode == "proportion":
            return JPG if (key % (1 << 64)) / (1 << 64) < self.options.proportion else RAW
        return {"jpg": JPG, "raw": RAW, "dct": DCT}[self.options.mode]


class Sampler:
    """Hands out the coefficients that an ``Encoder`` would pack, for the codebooks to be learned from."""

    def __init__(self, item_of: Callable[[Any], Item], options: WriteOptions) -> None:
        self.item_of, self.options = item_of, options

    def __call__(self, portion: Sequence[Any]) -> list[Coefficients]:
        """Of those images of a portion that can be read."""
        found = []
        for item in map(self.item_of, portion):
            try:
                original, pixels = read_pixels(item, self.options)
                found.append(find_coefficients(item, original, pixels, self.options)[0])
            except (ReadError, *UNUSABLE):
                continue  # the encoder will meet it again, and report it
        return found


UNUSABLE = (ValueError, MemoryError, cv2.error)
"""What an image raises that is read and can't be encoded."""


def read_pixels(item: Item, options: WriteOptions) -> tuple[tuple[int, int], np.ndarray]:
    """Original width and height of an image, and its (H, W, 3) uint8 RGB pixels as they are to be stored."""
    image = item.read()
    pixels = np.ascontiguousarray(_shrink(image, options.max_resolution))
    height, width = pixels.shape[:2]
    if not pixels.size:  # no file has such an image, but Python code may
        raise ValueError(f"{width}×{height} pixels are none")
    if max(width, height) > 0xFFFF or pixels.nbytes > MAX_PAGE_SIZE // 2:
        raise ValueError(f"{width}×{height} pixels are too many; --write.max_resolution shrinks images")
    return image.size, pixels


def find_coefficients(
    item: Item, original: tuple[int, int], pixels: np.ndarray, options: WriteOptions
) -> tuple[Coefficients, str]:
    """Coefficients of an image, and how they were had. original, pixels: as ``read_pixels`` gave them."""
    if pixels.shape[1::-1] != original:
        return coefficients.from_pixels(pixels, options.quality), coefficients.SHRUNK
    file = item.file_bytes()
    if file is None or not file.startswith(b"\xff\xd8"):
        return coefficients.from_pixels(pixels, options.quality), coefficients.NO_JPEG
    return coefficients.from_jpeg(file, original, lambda: pixels, options.quality)


def _shrink(image: Image.Image, longest: int) -> Image.Image:
    """The image with no side longer than ``longest`` pixels (0: any), its aspect kept; never enlarged."""
    if not longest or max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
