"""Which part of a stored image has been decoded."""

from __future__ import annotations

from typing import NamedTuple

from numba import types

from ffdr.jit.arguments import array_of, named


class Crop(NamedTuple):
    """A rectangle of pixels, at least one, inside a stored image; all in pixels of the whole image.

    Decoders cut on their own grid, so they return a crop that holds the region they were asked for. Its pixels then
    lie densely, ``height`` rows of ``width``, at the beginning of the decoder's output.
    """

    left: int
    top: int
    width: int
    height: int


# Numba's types of what the decoders take.
CROP = named(Crop)
REGION = types.UniTuple(types.int64, 4)
BYTES = array_of(types.uint8, 1, writable=False)
MEMORY = array_of(types.uint8, 1)
