"""The view record: what one augmented version of an image is, in a fixed number of bytes.

Everything is stored as a fraction (uint16, in units of 1/65535) or as a signed augmentation level, so one record
replays at any resolution and on an image stored at any size. Absence is explicit and finite: an operation is
``Identity``, an erased or pasted box has height 0, mixup's weight is the whole.

Writer, decoder, importer and tests share the dtypes of this module; all fields are little endian.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

FRACTION = 65535
"""Denominator of every stored fraction."""

# Bits of VIEW_DTYPE["flags"].
FLIP = 1
"""Mirror left to right after the crop."""
CENTER = 2
"""Evaluation view: resize the short side to resolution / (crop_w / FRACTION), then cut the centre.

The resolution is the longer side of the output; the other crop fields and ``pad`` do not count."""
PLACED = 8
"""With CENTER: cut elsewhere than in the centre, and perhaps beyond the resized image, where all is black.

The resized image has a border of ``pad`` of the output's side around it; crop_x and crop_y say where on it the
output lies, 0: upper left, FRACTION: lower right."""
WIDE = 4
"""Levels count in TrivialAugmentWide's ranges instead of RandAugment's."""
VERTICAL_FLIP = 16
"""Mirror top to bottom after the crop."""

VIEW_DTYPE = np.dtype(
    [
        # The crop box as fractions of the canvas: the image with `pad` of its width (height) added on either side.
        ("crop_x", "<u2"),
        ("crop_y", "<u2"),
        ("crop_w", "<u2"),
        ("crop_h", "<u2"),
        ("pad", "<u2"),  # black border on each side, as a fraction of the image's width (height); see PLACED
        ("flags", "<u1"),
        ("bins", "<u1"),  # number of magnitude bins the levels count in (RandAugment: 31)
        ("op0", "<u1"),
        ("level0", "<i1"),  # signed bin index, smaller than bins; unsigned operations ignore the sign
        ("op1", "<u1"),
        ("level1", "<i1"),
        # The erased box as fractions of the output; erase_h == 0: nothing is erased.
        ("erase_x", "<u2"),
        ("erase_y", "<u2"),
        ("erase_w", "<u2"),
        ("erase_h", "<u2"),
    ]
)
"""One view of one image, 24 bytes. See ``MIXED_DTYPE`` for views that combine two images."""

MIX_DTYPE = np.dtype(
    [
        # Index of the second image, which may be the image itself, in another view. Without mixup and cutmix: itself.
        ("partner", "<u4"),
        ("mixup", "<u2"),  # weight of the first image; FRACTION: no mixup
        # The box taken from the partner, as fractions of the output; cut_h == 0: no cutmix. Applied after mixup.
        ("cut_x", "<u2"),
        ("cut_y", "<u2"),
        ("cut_w", "<u2"),
        ("cut_h", "<u2"),
    ]
)
"""How the views of two images become one."""

MIXED_DTYPE = np.dtype([("first", VIEW_DTYPE), ("mix", MIX_DTYPE), ("second", VIEW_DTYPE)])
"""A stored view of a policy that mixes images, 62 bytes; without mixing only ``VIEW_DTYPE`` is stored."""


EFFECTS = ("None", "Brightness", "Contrast", "Saturation", "Hue", "Grayscale", "Blur", "Solarize")
"""Effects by number, for ever: torchvision's functions of these names. None: no effect, and none behind it."""

EFFECT_NUMBER = {name: number for number, name in enumerate(EFFECTS)}
"""Effect number by name."""

# What the value of an effect counts in; that of None and Grayscale is 0.
FACTOR_ONE = 8192
"""Brightness, contrast, saturation: the factor 1. Factors lie in [0, 4)."""
HUE_TURN = 65534
"""Hue: a whole turn of the colour circle. Turns lie in [-1/2, 1/2]."""
SIGMA_ONE = 4096
"""Blur: a standard deviation of one pixel of a view whose shorter side is ``SIGMA_SIDE``; it grows with that side.
Above 0, below 8 pixels."""
SIGMA_SIDE = 224
"""Shorter side, in pixels, of the views that the standard deviation of a blur is given for."""
SMALLEST_VALUES = (0, 0, 0, 0, -32767, 0, 1, 0)
LARGEST_VALUES = (0, 32767, 32767, 32767, 32767, 0, 32767, 255)
"""Of each kind. That of Solarize is the threshold, in grey levels: levels from it on are inverted."""

MOST_EFFECTS = 8
"""Of one view."""

EFFECT_DTYPE = np.dtype([("kind", "<u2"), ("value", "<i2")])
"""One more operation on a view's pixels: a number of ``EFFECTS``, and how strong it is."""

EFFECTS_DTYPE = np.dtype((EFFECT_DTYPE, (MOST_EFFECTS,)))
"""What is done to a view between its operations and its erased box, in this order, 32 bytes; all zero: nothing. Only
policies that draw effects store them, behind the records above: see ``record_dtype``."""


def record_dtype(mixes: bool, effects: bool) -> np.dtype:
    """A stored view: ``VIEW_DTYPE`` or ``MIXED_DTYPE`` where it has no effects, else with them behind it.

    first_effects are those of the first image's view, second_effects of the partner's.
    """
    if not effects:
        return MIXED_DTYPE if mixes else VIEW_DTYPE
    if not mixes:
        return np.dtype([("first", VIEW_DTYPE), ("first_effects", EFFECTS_DTYPE)])
    names = MIXED_DTYPE.descr
    return np.dtype([*names, ("first_effects", EFFECTS_DTYPE), ("second_effects", EFFECTS_DTYPE)])


class ViewRecord(Protocol):
    """One record of ``VIEW_DTYPE``, as kernels take it: ``views[row, column]``, which they may also write."""

    crop_x: int
    crop_y: int
    crop_w: int
    crop_h: int
    pad: int
    flags: int
    bins: int
    op0: int
    level0: int
    op1: int
    level1: int
    erase_x: int
    erase_y: int
    erase_w: int
    erase_h: int


class EffectRecord(Protocol):
    """One record of ``EFFECT_DTYPE``, likewise."""

    kind: int
    value: int


class MixRecord(Protocol):
    """One record of ``MIX_DTYPE``, likewise."""

    partner: int
    mixup: int
    cut_x: int
    cut_y: int
    cut_w: int
    cut_h: int


OPS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""Operation names by number: torchvision's order in RandAugment, and that of the published ImageNet+ archives."""

OP_NUMBER = {name: number for number, name in enumerate(OPS)}
"""Operation number by name."""

DEFAULT_BINS = 31
"""Magnitude bins of RandAugment in torchvision; views without operations hold this too."""


def to_fraction(coordinate: np.ndarray | float, length: np.ndarray | int) -> np.ndarray:
    """Coordinates on a side of ``length`` pixels (at most 65535) as stored fractions (uint16), nearest, half up.

    A whole coordinate comes back exactly at the same length, see ``geometry.from_fraction``.
    """
    units = np.asarray(coordinate, np.float64) / np.asarray(length, np.float64) * FRACTION
    return np.clip(np.floor(units + 0.5), 0, FRACTION).astype(np.uint16)


def box_to_fractions(start: np.ndarray | int, size: np.ndarray | int, length: np.ndarray | int) -> tuple:
    """One axis of a pixel box as stored (start, size), both uint16; their sum never exceeds ``FRACTION``.

    The start is rounded half up and the size half down, so that a box that touches the far edge still fits.
    """
    units = np.asarray(size, np.float64) / np.asarray(length, np.float64) * FRACTION
    return to_fraction(start, length), np.clip(np.ceil(units - 0.5), 0, FRACTION).astype(np.uint16)


def blank_effects(count: int) -> np.ndarray:
    """No effects, for ``count`` views and their partners': (count, 2, ``MOST_EFFECTS``) ``EFFECT_DTYPE``."""
    return np.zeros((count, 2, MOST_EFFECTS), EFFECT_DTYPE)


def plain_view() -> np.ndarray:
    """The whole image, nothing else: a 0-d array of ``VIEW_DTYPE``."""
    view = np.zeros((), VIEW_DTYPE)
    view["crop_w"] = view["crop_h"] = FRACTION
    view["bins"] = DEFAULT_BINS
    return view


def center_view(ratio: float = 0.875) -> np.ndarray:
    """Resize the short side to resolution / ratio, then crop the centre: a 0-d array of ``VIEW_DTYPE``.

    0.875 is 224 out of 256; 1.0 resizes the short side to the resolution itself.
    """
    if not 1e-3 <= ratio <= 1.0:
        raise ValueError(f"ratio of a centre view: {ratio} is not between 0.001 and 1")
    view = plain_view()
    view["crop_w"] = view["crop_h"] = to_fraction(ratio, 1)
    view["flags"] = CENTER
    return view


def unmixed(image: int) -> np.ndarray:
    """The mixing record of an image that is not mixed: a 0-d array of ``MIX_DTYPE``."""
    mix = np.zeros((), MIX_DTYPE)
    mix["partner"] = image
    mix["mixup"] = FRACTION
    return mix


def share_of_first(mixes: np.ndarray) -> np.ndarray:
    """Share of the first image in mixed views, float64 in [0, 1], shape of ``mixes`` (``MIX_DTYPE``).

    It is the weight of the first image's label: its mixup weight, times what cutmix leaves of it.
    """
    cut_area = mixes["cut_w"].astype(np.float64) * mixes["cut_h"] / FRACTION**2
    return mixes["mixup"] / FRACTION * (1.0 - cut_area)
