"""The coefficients of an image: kept from its JPEG wherever that can be, else made from its pixels."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ffdr.codec.dct.format import Coefficients
from ffdr.codec.jpeg.segments import MAX_SIDE, MCU, encode_plain

KEPT, TRANSFORMED = "kept", "transformed"
"""How an image's coefficients were had without loss: straight from its JPEG, or after a lossless transformation of a
progressive or arithmetic one."""
UNSUPPORTED, DAMAGED, NO_JPEG, SHRUNK = "unsupported JPEG", "damaged JPEG", "no JPEG", "shrunk"
"""Why they were made from pixels instead."""
HOW = (KEPT, TRANSFORMED, UNSUPPORTED, DAMAGED, NO_JPEG, SHRUNK)

SAMPLED = 256
"""Images at most from which codebooks are learned."""

_TILE = MAX_SIDE // MCU * MCU


def spread(count: int) -> np.ndarray:
    """Evenly spaced positions below ``count``, ``SAMPLED`` at most: (n,) int64, ascending."""
    sampled = min(count, SAMPLED)
    return np.arange(sampled) * count // sampled


def from_jpeg(
    data: bytes | np.ndarray, size: tuple[int, int], pixels: Callable[[], np.ndarray], quality: int
) -> tuple[Coefficients, str]:
    """Those of a JPEG, and how they were had.

    Args:
        data: the JPEG, bytes or (bytes,) uint8.
        size: width and height in pixels that it must have.
        pixels: makes its (height, width, 3) uint8 RGB pixels, asked for only where they are needed.
        quality: libjpeg's, where it must be encoded again.
    """
    from ffdr.codec.jpeg.read import Unsupported, read_jpeg  # imports Numba

    try:
        found, how = read_jpeg(data, size)
        return found, KEPT if how == "baseline" else TRANSFORMED
    except Unsupported:
        how = UNSUPPORTED
    except ValueError:
        how = DAMAGED
    return from_pixels(pixels(), quality), how


def from_pixels(pixels: np.ndarray, quality: int) -> Coefficients:
    """Those of a 4:2:0 JPEG of (H, W, 3) uint8 RGB pixels; H and W from 1 to 65535.

    What is larger than libjpeg takes is encoded in tiles of whole MCUs, which do not know of each other.
    """
    height, width = pixels.shape[:2]
    rows = [
        [_encode(pixels[top : top + _TILE, left : left + _TILE], quality) for left in range(0, width, _TILE)]
        for top in range(0, height, _TILE)
    ]
    first = rows[0][0]
    planes = tuple(
        np.concatenate([np.concatenate([tile.planes[plane] for tile in row], axis=1) for row in rows])
        for plane in range(len(first.planes))
    )
    return Coefficients(first.sampling, width, height, first.quant, planes)


def _encode(pixels: np.ndarray, quality: int) -> Coefficients:
    from ffdr.codec.jpeg.read import read_jpeg  # imports Numba

    return read_jpeg(encode_plain(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality, 0))[0]
