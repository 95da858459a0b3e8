"""Single images in Python, for notebooks, inspection and tests; training goes through ``decode.py``."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ffdr.beton.layout import RAW
from ffdr.errors import UserError

if TYPE_CHECKING:
    from ffdr.beton.read import ImageBeton


def decode_image(beton: ImageBeton, i: int) -> np.ndarray:
    """Image i as (H, W, 3) uint8 RGB, decoded by the library that FFCV's loader uses, so that the pixels are equal.

    Raises:
        IndexError: there is no such image.
        UserError: the image is corrupt; names the file and the sample.
    """
    if not 0 <= i < beton.num_images:
        raise IndexError(f"image {i}: {beton.path} has {beton.num_images}")
    width, height = (int(side) for side in beton.sizes[i])
    data = beton.data(i)
    if beton.modes[i] == RAW:
        return np.array(data).reshape(height, width, 3)
    if jpeg_size(data) != (width, height):
        raise UserError(f"{beton.path}: sample {i}: its JPEG is not {width}×{height} pixels")
    pixels = np.empty((height, width, 3), np.uint8)
    status = _imdecode()(
        data.ctypes.data, data.size, height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False
    )
    if status != 0:
        raise UserError(f"{beton.path}: sample {i}: its JPEG is corrupt")
    return pixels


def jpeg_size(data: np.ndarray) -> tuple[int, int] | None:
    """Width and height that the frame header of a JPEG states, or None where (bytes,) uint8 data has none.

    The decoder writes as many pixels as the frame says, so it must be asked before memory is handed over.
    """
    at, end = 2, len(data)
    if end < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return None
    while at + 9 <= end and data[at] == 0xFF:
        marker = int(data[at + 1])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            high, low, wide, narrow = (int(byte) for byte in data[at + 5 : at + 9])
            return wide << 8 | narrow, high << 8 | low
        at += 2 + (int(data[at + 2]) << 8 | int(data[at + 3]))
    return None


@lru_cache(maxsize=1)
def _imdecode() -> ctypes._CFuncPtr:
    """libffcv's imdecode; its return code is TurboJPEG's, 0 for success. Importing FFCV takes seconds: on first use."""
    from ffcv.libffcv import ctypes_imdecode

    return ctypes_imdecode
