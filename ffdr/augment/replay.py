"""Replay: an image's pixels and a view record become the pixels of the view.

Order: crop-resize with flip, first operation, second operation, erase; then mixup and cutmix with the partner's view.
Nothing is drawn and nothing is allocated here; equal inputs give equal bytes on every machine.
"""

from __future__ import annotations

import numpy as np

from ffdr.augment.check import BAD_SIZE, OK, SHORT_SCRATCH, STATUS_TEXT, WRONG_REGION, check_view
from ffdr.augment.geometry import output_span, view_region
from ffdr.augment.ops import IMAGE_SLACK, apply_op, op_bytes
from ffdr.augment.resize import ALIGNMENT, padded, resize_bytes, resize_view
from ffdr.augment.view import FRACTION, VIEW_DTYPE, WIDE
from ffdr.jit.kernel import address_of, bytes_at, kernel

_MIX_BITS = 15


@kernel
def _image_bytes(out_h: int, out_w: int) -> int:
    return padded(3 * np.int64(out_h) * np.int64(out_w) + IMAGE_SLACK)


@kernel
def scratch_bytes(max_width: int, max_height: int, out_h: int, out_w: int) -> int:
    """Scratch that ``replay_view`` needs for images up to this size, bytes. It grows with every argument."""
    work = max(resize_bytes(max_width, max_height, out_h, out_w), op_bytes(out_w))
    return 2 * _image_bytes(out_h, out_w) + padded(work) + ALIGNMENT


@kernel
def _erase(views: np.ndarray, row: int, column: int, out: np.ndarray) -> None:
    """Blacken the erased box of a view in ``out``, uint8 (h, w, 3)."""
    view = views[row, column]
    if view.erase_h == 0:
        return
    y0, y1 = output_span(view.erase_y, view.erase_h, out.shape[0])
    x0, x1 = output_span(view.erase_x, view.erase_w, out.shape[1])
    pixels = bytes_at(address_of(out), out.size)
    stride = 3 * np.int64(out.shape[1])
    for y in range(y0, y1):
        for i in range(np.uint64(y * stride + 3 * x0), np.uint64(y * stride + 3 * x1)):
            pixels[i] = 0


@kernel
def _render(
    pixels: np.ndarray,
    left: int,
    top: int,
    width: int,
    height: int,
    region: tuple,
    views: np.ndarray,
    row: int,
    column: int,
    out: np.uint64,
    out_h: int,
    out_w: int,
    scratch: np.uint64,
) -> None:
    """Resize and operations. Every step but the last goes to scratch, so that the last one needs no copy."""
    view = views[row, column]
    wide = view.flags & WIDE != 0
    first = scratch
    second = first + np.uint64(_image_bytes(out_h, out_w))
    work = second + np.uint64(_image_bytes(out_h, out_w))
    op0, level0 = np.int64(view.op0), np.int64(view.level0)
    op1, level1 = np.int64(view.op1), np.int64(view.level1)
    if op0 == 0:
        op0, level0, op1, level1 = op1, level1, np.int64(0), np.int64(0)
    resized = first if op0 != 0 else out
    resize_view(pixels, left, top, width, height, region, views, row, column, resized, out_h, out_w, work)
    if op0 == 0:
        return
    if op1 == 0:
        apply_op(op0, level0, view.bins, wide, first, out, out_h, out_w, work)
        return
    apply_op(op0, level0, view.bins, wide, first, second, out_h, out_w, work)
    apply_op(op1, level1, view.bins, wide, second, out, out_h, out_w, work)


@kernel
def replay_view(
    pixels: np.ndarray,
    left: int,
    top: int,
    width: int,
    height: int,
    views: np.ndarray,
    row: int,
    column: int,
    out: np.ndarray,
    scratch: np.ndarray,
) -> int:
    """Make the view ``views[row, column]`` of an image in ``out``; returns ``OK`` or the status that tells why not.

    pixels: uint8 (h, w, 3), C-contiguous: the part of the image, width × height pixels in all, whose upper left pixel
    is (left, top); it must hold the pixels that ``view_region`` names. views: ``VIEW_DTYPE`` (B, 2). out: uint8
    (out_h, out_w, 3), C-contiguous; untouched unless the status is ``OK``. scratch: uint8, at least
    ``scratch_bytes`` long, its contents are of no meaning.
    """
    out_h, out_w = out.shape[0], out.shape[1]
    if pixels.shape[2] != 3 or out.shape[2] != 3:
        return BAD_SIZE
    left, top, width, height = np.int64(left), np.int64(top), np.int64(width), np.int64(height)
    status = check_view(views, row, column, width, height, out_h, out_w)
    if status != OK:
        return status
    if scratch.size < scratch_bytes(width, height, out_h, out_w):
        return SHORT_SCRATCH
    region = view_region(views, row, column, width, height, out_h, out_w)
    x0, y0, x1, y1 = region
    if x0 < left or y0 < top or x1 > left + pixels.shape[1] or y1 > top + pixels.shape[0]:
        return WRONG_REGION
    begin = (address_of(scratch) + np.uint64(ALIGNMENT - 1)) & ~np.uint64(ALIGNMENT - 1)
    _render(pixels, left, top, width, height, region, views, row, column, address_of(out), out_h, out_w, begin)
    _erase(views, row, column, out)
    return OK


@kernel
def _weights(mixes: np.ndarray, row: int) -> tuple[int, int]:
    """Mixup's weights of both images in units of 2**-15, int32; they sum to 2**15."""
    first = np.int32((np.int64(mixes[row].mixup) * (1 << _MIX_BITS) + FRACTION // 2) // FRACTION)
    return first, np.int32((1 << _MIX_BITS) - first)


@kernel
def visible(mixes: np.ndarray, row: int) -> tuple[bool, bool]:
    """Whether a byte of the mixed view can depend on the first image, and on the partner.

    A weight that moves no pixel by half a level leaves every pixel as the other image has it, exactly; such weights are
    common (every third draw from Beta(0.2, 0.2)), and an image that is not seen need not be decoded.
    """
    first, second = _weights(mixes, row)
    half = np.int32(1 << (_MIX_BITS - 1))
    return 255 * first >= half, 255 * second >= half or mixes[row].cut_h != 0


@kernel
def mix_into(out: np.ndarray, partner: np.ndarray, mixes: np.ndarray, row: int) -> int:
    """Mix the partner's view into ``out``, both uint8 (h, w, 3) and C-contiguous: mixup, then the cutmix box.

    The record must have passed ``check_mix``. Mixup is rounded to the nearest level, its weight to 1/32768. Returns
    ``OK``, or ``BAD_SIZE`` when the two differ in shape.
    """
    if out.shape != partner.shape:
        return BAD_SIZE
    mix = mixes[row]
    weight, rest = _weights(mixes, row)
    first, second = bytes_at(address_of(out), out.size), bytes_at(address_of(partner), out.size)
    if rest != 0:
        half = np.int32(1 << (_MIX_BITS - 1))
        for i in range(np.uint64(out.size)):
            total = np.int32(np.int32(first[i]) * weight) + np.int32(np.int32(second[i]) * rest)
            first[i] = np.uint8(np.int32(total + half) >> np.int32(_MIX_BITS))
    if mix.cut_h != 0:
        y0, y1 = output_span(mix.cut_y, mix.cut_h, out.shape[0])
        x0, x1 = output_span(mix.cut_x, mix.cut_w, out.shape[1])
        stride = 3 * np.int64(out.shape[1])
        for y in range(y0, y1):
            for i in range(np.uint64(y * stride + 3 * x0), np.uint64(y * stride + 3 * x1)):
                first[i] = second[i]
    return OK


def render(image: np.ndarray, view: np.ndarray, resolution: int | tuple[int, int]) -> np.ndarray:
    """One view of a whole image, uint8 (height, width, 3) to uint8 (resolution or (h, w), 3); for notebooks and tests.

    ``view`` is a scalar or 0-d array of ``VIEW_DTYPE``.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: uint8 (height, width, 3) wanted, got {image.dtype} {image.shape}")
    out_h, out_w = (resolution, resolution) if isinstance(resolution, int) else resolution
    height, width, _ = image.shape
    views = np.zeros((1, 2), VIEW_DTYPE)
    views[0, 0] = view
    status = check_view(views, 0, 0, width, height, out_h, out_w)
    if status == OK:
        out = np.empty((out_h, out_w, 3), np.uint8)
        scratch = np.empty(scratch_bytes(width, height, out_h, out_w), np.uint8)
        status = replay_view(np.ascontiguousarray(image), 0, 0, width, height, views, 0, 0, out, scratch)
    if status != OK:
        raise ValueError(f"view cannot be replayed: {STATUS_TEXT[status]}")
    return out
