"""Single images in Python, for notebooks, inspection and tests; training goes through ``ffdr.loader.replay``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ffdr.beton.layout import DCT, RAW
from ffdr.util.errors import UserError

if TYPE_CHECKING:
    from ffdr.beton.read import ImageBeton


def decode_image(beton: ImageBeton, i: int) -> np.ndarray:
    """Image i as (H, W, 3) uint8 RGB, decoded as the loader decodes it, so that the pixels are equal.

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
    if beton.modes[i] == DCT:
        from ffdr.codec.dct import decode  # compiles its kernels

        assert beton.coding is not None  # opening refuses this mode without one
        try:
            return decode.decode_image(data, beton.coding, width, height)
        except ValueError as error:
            raise UserError(f"{beton.path}: sample {i}: its coefficients are corrupt: {error}") from None
    from ffdr.codec.jpeg.libjpeg import decode_jpeg  # imports FFCV, which takes seconds

    pixels = np.empty((height, width, 3), np.uint8)
    if not decode_jpeg(data, pixels):
        raise UserError(f"{beton.path}: sample {i}: its JPEG is corrupt, or not {width}×{height} pixels")
    return pixels
