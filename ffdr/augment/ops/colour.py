"""Hue: torchvision's ``adjust_hue`` on a uint8 tensor, bit by bit. As everywhere in this room, the functions meant are
those of ``torchvision.transforms.functional``; those of its v2 round some steps otherwise, and few pixels by a level.

torchvision computes a hue in float32: levels / 255 to hue, saturation and value, the hue turned, and back to levels.
Every one of its roundings is kept here, but what it computes for all channels is computed once: with

    max, mid, min     a pixel's channels in order, divided by 255
    k = 1, m = (max - mid) / (max - min)

one of torchvision's (rc, gc, bc) is 0, that of the largest channel; one is (max - min) / (max - min), which is 1; and
the last one is m. Of its three products p, q, t the back-transformation shows p and one of the others. What it clamps
lies in [0, 1] already. All is done by selects, so that the loop becomes SIMD code.

Images are flat uint8 RGB at an address; source and target may be the same.
"""

from __future__ import annotations

import numpy as np
from numba import types

from ffdr.jit.arguments import ADDRESS
from ffdr.jit.instructions import fused
from ffdr.jit.kernel import bytes_at, inlined_kernel
from ffdr.jit.unit import unit

_ZERO, _ONE, _TWO, _FOUR, _SIX = (np.float32(value) for value in (0.0, 1.0, 2.0, 4.0, 6.0))
_TOP, _TO_BYTE = np.float32(255.0), np.float32(255.999)
_PER_TOP, _PER_SIX = np.float32(1 / 255), np.float32(1 / 6)
_SECOND, _THIRD, _STEP = np.uint64(1), np.uint64(2), np.uint64(3)
"""Unsigned, because a signed index makes Numba look for a negative one, and a load becomes a gather."""


@inlined_kernel
def _quotient(value: np.float32, divisor: np.float32, inverse: np.float32) -> np.float32:
    """value / divisor, correctly rounded, from the divisor's rounded inverse (Markstein 1990): faster than dividing."""
    guess = value * inverse
    return fused(fused(-divisor, guess, value), inverse, guess)


@inlined_kernel
def _turned(red: np.int32, green: np.int32, blue: np.int32, turn: np.float32) -> tuple[np.int32, np.int32, np.int32]:
    """One pixel's levels, its hue turned."""
    most, least = max(red, green, blue), min(red, green, blue)
    value = _quotient(np.float32(most), _TOP, _PER_TOP)
    middle = _quotient(np.float32(red + green + blue - most - least), _TOP, _PER_TOP)
    spread = value - _quotient(np.float32(least), _TOP, _PER_TOP)
    grey = most == least
    m = (value - middle) / (_ONE if grey else spread)
    k = _ZERO if grey else _ONE
    saturation = spread / (_ONE if grey else value)
    is_red = red == most
    is_green = (green == most) & ~is_red
    plus = blue if is_red else (red if is_green else green)
    minus = green if is_red else (blue if is_green else red)
    base = _ZERO if is_red else (_TWO if is_green else _FOUR)
    less = plus <= minus
    sixths = (base + (k if less else m)) - (m if less else k)
    hue = _quotient(sixths, _SIX, _PER_SIX) + _ONE
    hue = (hue - _ONE if hue >= _ONE else hue) + turn
    hue = hue - _ONE if hue >= _ONE else hue
    hue = (hue + _ONE if hue < _ZERO else hue) * _SIX
    whole = np.int32(hue)
    part = hue - np.float32(whole)
    whole = np.int32(0) if whole > np.int32(5) else whole  # a hue just below 0 is rounded up to a whole turn
    odd = (whole & np.int32(1)) == np.int32(1)
    low = np.int32((value * (_ONE - saturation)) * _TO_BYTE)
    between = np.int32((value * (_ONE - saturation * (part if odd else _ONE - part))) * _TO_BYTE)
    zero, one, two, three, four = whole == 0, whole == 1, whole == 2, whole == 3, whole == 4
    five = whole == 5
    new_red = most if zero | five else (low if two | three else between)
    new_green = most if one | two else (low if four | five else between)
    new_blue = most if three | four else (low if zero | one else between)
    return new_red, new_green, new_blue


@unit(types.void, types.float64, ADDRESS, ADDRESS, types.int64)
def hue(turn: float, source: np.uint64, target: np.uint64, pixels: int) -> None:
    """Turn the hues of ``pixels`` pixels by ``turn`` of the colour circle, -0.5 to 0.5."""
    by = np.float32(turn)
    from_, to = bytes_at(source, 3 * pixels), bytes_at(target, 3 * pixels)
    for pixel in range(np.uint64(pixels)):
        i = pixel * _STEP
        red, green, blue = _turned(np.int32(from_[i]), np.int32(from_[i + _SECOND]), np.int32(from_[i + _THIRD]), by)
        to[i] = np.uint8(red)
        to[i + _SECOND] = np.uint8(green)
        to[i + _THIRD] = np.uint8(blue)
