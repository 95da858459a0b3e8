"""From RandAugment levels to magnitudes, with torchvision's own rounding.

torchvision takes magnitudes from ``torch.linspace`` in float32, which counts from both ends and, on processors with
fused multiply-add, rounds each value once. The same is done here in float64, whose product is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdr.augment.view import OP_NUMBER
from ffdr.jit.kernel import kernel

SHEAR_X = OP_NUMBER["ShearX"]
SHEAR_Y = OP_NUMBER["ShearY"]
TRANSLATE_X = OP_NUMBER["TranslateX"]
TRANSLATE_Y = OP_NUMBER["TranslateY"]
ROTATE = OP_NUMBER["Rotate"]
BRIGHTNESS = OP_NUMBER["Brightness"]
COLOR = OP_NUMBER["Color"]
CONTRAST = OP_NUMBER["Contrast"]
SHARPNESS = OP_NUMBER["Sharpness"]
POSTERIZE = OP_NUMBER["Posterize"]
SOLARIZE = OP_NUMBER["Solarize"]
AUTOCONTRAST = OP_NUMBER["AutoContrast"]
EQUALIZE = OP_NUMBER["Equalize"]


class OpStep(NamedTuple):
    """One operation of a view."""

    op: int
    """number, see ``view.OPS``"""
    level: int
    """signed, |level| < bins; the sign counts for the signed operations only"""
    bins: int
    """at least 2"""
    wide: bool
    """whether in TrivialAugmentWide's ranges instead of RandAugment's"""


@kernel
def linspace(start: float, end: float, index: int, count: int) -> float:
    """``torch.linspace(start, end, count)[index]`` in float32, as a float64; count >= 2."""
    first, last = np.float32(start), np.float32(end)
    step = np.float64(np.float32(np.float32(last - first) / np.float32(count - 1)))
    if index < count // 2:
        return np.float64(np.float32(np.float64(first) + step * index))
    return np.float64(np.float32(np.float64(last) - step * (count - index - 1)))


@kernel
def _limit(op: int, wide: bool, out_h: int, out_w: int) -> float:
    """Largest magnitude of a signed operation; translations in pixels, rotations in degrees."""
    if op in (SHEAR_X, SHEAR_Y):
        return 0.99 if wide else 0.3
    if op == TRANSLATE_X:
        return 32.0 if wide else 150.0 / 331.0 * out_w
    if op == TRANSLATE_Y:
        return 32.0 if wide else 150.0 / 331.0 * out_h
    if op == ROTATE:
        return 135.0 if wide else 30.0
    return 0.99 if wide else 0.9


@kernel
def magnitude(step: OpStep, out_h: int, out_w: int) -> float:
    """Magnitude of an operation on a picture of these sides.

    Kept bits for Posterize, the threshold for Solarize, 0 for operations without one.
    """
    op, level, bins, wide = step
    index = abs(np.int64(level))
    if op == POSTERIZE:
        divisor = np.float32(np.float64(bins - 1) / (6.0 if wide else 4.0))
        return 8.0 - np.rint(np.float64(np.float32(np.float32(index) / divisor)))
    if op == SOLARIZE:
        return linspace(255.0, 0.0, index, bins)
    if op < SHEAR_X or op > SHARPNESS:
        return 0.0
    size = linspace(0.0, _limit(op, wide, out_h, out_w), index, bins)
    return -size if level < 0 else size
