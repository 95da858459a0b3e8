"""What the kernels of a replay hand each other: pixels that are there, and where pixels go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ImagePart(NamedTuple):
    """The decoded part of an image, at least the pixels that a view reads (``geometry.view_region``)."""

    pixels: np.ndarray
    """(h, w, 3) uint8, C-contiguous"""
    left: int
    """of the first pixel, in the image"""
    top: int
    width: int
    """of the whole image, pixels"""
    height: int


class Output(NamedTuple):
    """Memory for one picture: height × width × 3 bytes, RGB, row by row."""

    address: np.uint64
    height: int
    width: int
