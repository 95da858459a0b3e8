"""RandAugment's fourteen operations on one uint8 RGB image, equal to torchvision's uint8 tensor operations."""

from __future__ import annotations

import numpy as np
from numba import types

from ffdr.augment.ops import magnitude as m
from ffdr.augment.ops.blur import blur_bytes
from ffdr.augment.ops.magnitude import OpStep, magnitude
from ffdr.augment.ops.tone import (
    autocontrast,
    autocontrast_bytes,
    brightness,
    color,
    contrast,
    equalize,
    equalize_bytes,
    posterize,
    sharpness,
    sharpness_bytes,
    solarize,
)
from ffdr.augment.ops.warp import translate, warp, warp_bytes
from ffdr.augment.picture import Output, copy_small, room_for
from ffdr.augment.types import OUTPUT
from ffdr.augment.view import DEFAULT_BINS, OP_NUMBER
from ffdr.jit.arguments import ADDRESS, named
from ffdr.jit.kernel import kernel
from ffdr.jit.pixels import BYTES
from ffdr.jit.unit import unit

IMAGE_SLACK = 64
"""Bytes behind an image that an operation may overwrite when it reads that image."""

_IDENTITY = OP_NUMBER["Identity"]


@kernel
def op_bytes(out_w: int) -> int:
    """Scratch that ``apply_op`` and ``apply_effect`` need, bytes."""
    work = max(warp_bytes(out_w), autocontrast_bytes(), sharpness_bytes(out_w))
    return BYTES + max(work, equalize_bytes(), blur_bytes(out_w))


@unit(types.void, named(OpStep), ADDRESS, OUTPUT, ADDRESS)
def apply_op(step: OpStep, source: np.uint64, out: Output, scratch: np.uint64) -> None:
    """One operation other than Identity, from a picture at address ``source`` to another one of the same size.

    ``source`` is followed by ``IMAGE_SLACK`` bytes that may be overwritten; nothing behind ``out`` is touched. scratch:
    address of ``op_bytes`` bytes.
    """
    _, out_h, out_w = out
    pixels = np.int64(out_h) * np.int64(out_w)
    target, work = room_for(out, scratch)
    op, size = step.op, magnitude(step, out_h, out_w)
    if op in (m.SHEAR_X, m.SHEAR_Y, m.ROTATE):
        warp(op, size, source, target, out_h, out_w, work)
    elif op in (m.TRANSLATE_X, m.TRANSLATE_Y):
        translate(op, size, source, target, out_h, out_w)
    elif op == m.BRIGHTNESS:
        brightness(1.0 + size, source, target, 3 * pixels)
    elif op == m.COLOR:
        color(1.0 + size, source, target, pixels)
    elif op == m.CONTRAST:
        contrast(1.0 + size, source, target, pixels)
    elif op == m.SHARPNESS:
        sharpness(1.0 + size, source, target, out_h, out_w, work)
    elif op == m.POSTERIZE:
        posterize(np.int64(size), source, target, 3 * pixels)
    elif op == m.SOLARIZE:
        solarize(size, source, target, 3 * pixels)
    elif op == m.AUTOCONTRAST:
        autocontrast(source, target, pixels, work)
    elif op == m.EQUALIZE:
        equalize(source, target, pixels, work)
    copy_small(out, target)


def augment(image: np.ndarray, op: str, level: int = 0, bins: int = DEFAULT_BINS, wide: bool = False) -> np.ndarray:
    """One operation by name on a uint8 (height, width, 3) image; for notebooks and tests."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image: uint8 (height, width, 3) wanted, got {image.dtype} {image.shape}")
    if op not in OP_NUMBER or bins < 2 or abs(level) >= bins:
        raise ValueError(f"no operation {op!r} at level {level} of {bins}")
    height, width, _ = image.shape
    out = np.empty_like(image, order="C")
    if OP_NUMBER[op] == _IDENTITY:
        out[...] = image
        return out
    source = np.empty(image.size + IMAGE_SLACK, np.uint8)
    source[: image.size] = image.reshape(-1)
    scratch = np.empty(op_bytes(width), np.uint8)
    step, target = OpStep(OP_NUMBER[op], level, bins, wide), Output(np.uint64(out.ctypes.data), height, width)
    apply_op(step, source.ctypes.data, target, scratch.ctypes.data)
    return out
