"""Effects by kind and value: what is done to a view behind its two operations, equal to torchvision's functions."""

from __future__ import annotations

import numpy as np
from numba import types

from ffdr.augment.ops.blur import blur
from ffdr.augment.ops.colour import hue
from ffdr.augment.ops.tone import brightness, color, contrast, grayscale, solarize
from ffdr.augment.picture import Output, copy_small, room_for
from ffdr.augment.types import OUTPUT
from ffdr.augment.view import EFFECT_NUMBER, FACTOR_ONE, HUE_TURN, MOST_EFFECTS
from ffdr.jit.arguments import ADDRESS
from ffdr.jit.kernel import kernel
from ffdr.jit.unit import unit

BRIGHTNESS = EFFECT_NUMBER["Brightness"]
CONTRAST = EFFECT_NUMBER["Contrast"]
SATURATION = EFFECT_NUMBER["Saturation"]
HUE = EFFECT_NUMBER["Hue"]
GRAYSCALE = EFFECT_NUMBER["Grayscale"]
BLUR = EFFECT_NUMBER["Blur"]
SOLARIZE = EFFECT_NUMBER["Solarize"]


@kernel
def effect_count(effects: np.ndarray) -> int:
    """How many there are, of (``MOST_EFFECTS``,) ``EFFECT_DTYPE`` that have passed ``check_effects``."""
    count = np.int64(0)
    while count < MOST_EFFECTS and effects[count].kind != 0:
        count += 1
    return count


@unit(types.void, types.int64, types.int64, ADDRESS, OUTPUT, ADDRESS)
def apply_effect(kind: int, value: int, source: np.uint64, out: Output, scratch: np.uint64) -> None:
    """One effect other than None, from a picture at address ``source`` to another one of the same size.

    kind, value: of ``EFFECT_DTYPE``, int64, and have passed ``check_effects``. scratch: address of ``op_bytes`` bytes.
    """
    _, out_h, out_w = out
    pixels = np.int64(out_h) * np.int64(out_w)
    target, work = room_for(out, scratch)
    factor = value / FACTOR_ONE
    if kind == BRIGHTNESS:
        brightness(factor, source, target, 3 * pixels)
    elif kind == CONTRAST:
        contrast(factor, source, target, pixels)
    elif kind == SATURATION:
        color(factor, source, target, pixels)
    elif kind == HUE:
        hue(value / HUE_TURN, source, target, pixels)
    elif kind == GRAYSCALE:
        grayscale(source, target, pixels)
    elif kind == BLUR:
        blur(value, source, target, out_h, out_w, work)
    elif kind == SOLARIZE:
        solarize(np.float64(value), source, target, 3 * pixels)
    copy_small(out, target)
