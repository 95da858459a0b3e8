"""Numba's types of what this room's units take."""

from __future__ import annotations

from numba import from_dtype, types

from ffdr.augment.picture import ImagePart, Output
from ffdr.augment.view import EFFECT_DTYPE, MIX_DTYPE, VIEW_DTYPE
from ffdr.jit.arguments import array_of, named

VIEW_TYPE = from_dtype(VIEW_DTYPE)
MIX_TYPE = from_dtype(MIX_DTYPE)
EFFECTS = array_of(from_dtype(EFFECT_DTYPE), 1)
"""Of one view."""
PICTURE = array_of(types.uint8, 3)
PART = named(ImagePart, pixels=PICTURE)
OUTPUT = named(Output)
REGION = types.UniTuple(types.int64, 4)
SCRATCH = array_of(types.uint8, 1)
INDEX = array_of(types.int64, 1, writable=False)
"""Numbers of images, and the epochs beside them."""
