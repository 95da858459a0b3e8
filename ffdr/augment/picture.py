"""What the kernels of a replay hand each other: pixels that are there, and where pixels go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdr.jit.instructions import copy_bytes
from ffdr.jit.kernel import kernel
from ffdr.jit.pixels import BYTES


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


@kernel
def room_for(out: Output, scratch: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Where vector code, which writes ``BYTES`` at least, makes a picture: ``out``, or the begin of scratch where that
    is smaller. And the scratch behind."""
    small = 3 * np.int64(out.height) * np.int64(out.width) < BYTES
    return scratch if small else out.address, scratch + np.uint64(BYTES)


@kernel
def copy_small(out: Output, made: np.uint64) -> None:
    """To ``out`` what ``room_for`` let be made elsewhere."""
    if made != out.address:
        copy_bytes(out.address, made, 3 * np.int64(out.height) * np.int64(out.width))
