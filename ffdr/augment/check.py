"""Is this record safe to replay? Statuses instead of exceptions, because the answer is needed inside kernels.

A record is any 24 (or 62) bytes, and 32 for the effects of a view: whatever they say, they are either replayed within
the bounds of all arrays or refused.
"""

from __future__ import annotations

import numpy as np
from numba import types

from ffdr.augment.geometry import MAX_SIDE
from ffdr.augment.types import VIEW_TYPE
from ffdr.augment.view import (
    CENTER,
    EFFECTS,
    FLIP,
    FRACTION,
    LARGEST_VALUES,
    MOST_EFFECTS,
    OPS,
    PLACED,
    SMALLEST_VALUES,
    VERTICAL_FLIP,
    WIDE,
    MixRecord,
    ViewRecord,
)
from ffdr.jit.kernel import kernel
from ffdr.jit.unit import unit

OK = 0
BAD_SIZE = 1
EMPTY_CROP = 2
CROP_OUTSIDE = 3
UNKNOWN_FLAG = 4
CENTER_WITH_BORDER = 5
BAD_BINS = 6
UNKNOWN_OP = 7
BAD_LEVEL = 8
ERASE_OUTSIDE = 9
PARTNER_MISSING = 10
CUT_OUTSIDE = 11
WRONG_REGION = 12
SHORT_SCRATCH = 13
BAD_EFFECT = 14

STATUS_TEXT = {
    OK: "fine",
    BAD_SIZE: f"image or output has a side that is not between 1 and {MAX_SIDE} pixels, or the output 2 GiB",
    EMPTY_CROP: "crop box has no width or no height",
    CROP_OUTSIDE: "crop box reaches beyond the image and its border",
    UNKNOWN_FLAG: "unknown flag, or one that needs another",
    CENTER_WITH_BORDER: "centre view with a border but no place in it",
    BAD_BINS: "fewer than 2 magnitude bins",
    UNKNOWN_OP: f"operation number is not below {len(OPS)}",
    BAD_LEVEL: "magnitude level is not below the number of bins",
    ERASE_OUTSIDE: "erased box reaches beyond the output",
    PARTNER_MISSING: "partner's index is not below the number of images",
    CUT_OUTSIDE: "box taken from the partner reaches beyond the output",
    WRONG_REGION: "the decoded pixels do not hold what the view reads",
    SHORT_SCRATCH: "scratch memory is too small",
    BAD_EFFECT: f"effect's number is not below {len(EFFECTS)}, its value out of range, or one stands behind none",
}
"""What each status means, for messages."""

# A start and a size, each rounded to the nearest fraction, may exceed the whole by one unit; the replay clamps.
_WHOLE = FRACTION + 1
_FLAGS = FLIP | CENTER | WIDE | PLACED | VERTICAL_FLIP
_OP_COUNT = len(OPS)
_EFFECT_COUNT = len(EFFECTS)
_MOST_BYTES = 2**31 - 4  # kernels hold offsets into an output in int32


@kernel
def _check_crop(view: ViewRecord) -> int:
    if view.flags & ~np.uint8(_FLAGS) or view.flags & (CENTER | PLACED) == PLACED:
        return UNKNOWN_FLAG
    if view.crop_w == 0 or view.crop_h == 0:
        return EMPTY_CROP
    if view.flags & CENTER:
        return CENTER_WITH_BORDER if view.pad != 0 and not view.flags & PLACED else OK
    if np.int64(view.crop_x) + view.crop_w > _WHOLE or np.int64(view.crop_y) + view.crop_h > _WHOLE:
        return CROP_OUTSIDE
    return OK


@kernel
def _check_ops(view: ViewRecord) -> int:
    if view.bins < 2:
        return BAD_BINS
    if view.op0 >= _OP_COUNT or view.op1 >= _OP_COUNT:
        return UNKNOWN_OP
    if abs(np.int64(view.level0)) >= view.bins or abs(np.int64(view.level1)) >= view.bins:
        return BAD_LEVEL
    return OK


@unit(types.int64, VIEW_TYPE, types.int64, types.int64, types.int64, types.int64)
def check_view(view: ViewRecord, width: int, height: int, out_h: int, out_w: int) -> int:
    """Whether a view (``VIEW_DTYPE``) can be replayed on an image of width × height pixels: ``OK`` or why not."""
    shortest = min(min(np.int64(width), np.int64(height)), min(np.int64(out_h), np.int64(out_w)))
    longest = max(max(np.int64(width), np.int64(height)), max(np.int64(out_h), np.int64(out_w)))
    if shortest < 1 or longest > MAX_SIDE or 3 * np.int64(out_h) * np.int64(out_w) > _MOST_BYTES:
        return BAD_SIZE
    status = _check_crop(view)
    if status == OK:
        status = _check_ops(view)
    outside = np.int64(view.erase_x) + view.erase_w > _WHOLE or np.int64(view.erase_y) + view.erase_h > _WHOLE
    if status == OK and view.erase_h != 0 and outside:
        return ERASE_OUTSIDE
    return status


@kernel
def check_effects(effects: np.ndarray) -> int:
    """Whether effects, (``MOST_EFFECTS``,) ``EFFECT_DTYPE``, can be replayed: ``OK`` or ``BAD_EFFECT``."""
    ended = False
    for i in range(MOST_EFFECTS):
        kind, value = np.int64(effects[i].kind), np.int64(effects[i].value)
        if kind >= _EFFECT_COUNT or (ended and kind != 0):
            return BAD_EFFECT
        if value < SMALLEST_VALUES[kind] or value > LARGEST_VALUES[kind]:
            return BAD_EFFECT
        ended = kind == 0
    return OK


@kernel
def check_mix(mix: MixRecord, images: int) -> int:
    """Whether a mixing record (``MIX_DTYPE``) can be replayed with ``images`` images: ``OK`` or why not."""
    if mix.partner >= np.uint32(images):
        return PARTNER_MISSING
    outside = np.int64(mix.cut_x) + mix.cut_w > _WHOLE or np.int64(mix.cut_y) + mix.cut_h > _WHOLE
    if mix.cut_h != 0 and outside:
        return CUT_OUTSIDE
    return OK
