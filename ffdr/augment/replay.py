"""Replay: an image's pixels and a view record become the pixels of the view.

Order: crop-resize with flips, first operation, second operation, effects, erase; then mixup and cutmix with the
partner's view.
Nothing is drawn and nothing is allocated here; equal inputs give equal bytes on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from ffdr.augment.check import BAD_SIZE, OK, SHORT_SCRATCH, STATUS_TEXT, WRONG_REGION, check_effects, check_view
from ffdr.augment.geometry import output_span, view_region
from ffdr.augment.laps import ERASE, OPERATIONS, RESIZE, lap
from ffdr.augment.ops.apply import IMAGE_SLACK, apply_op, op_bytes
from ffdr.augment.ops.effects import apply_effect, effect_count
from ffdr.augment.ops.magnitude import OpStep
from ffdr.augment.picture import ImagePart, Output
from ffdr.augment.resize import ALIGNMENT, padded, resize_bytes, resize_view
from ffdr.augment.types import EFFECTS, MIX_TYPE, PART, PICTURE, SCRATCH, VIEW_TYPE
from ffdr.augment.view import EFFECT_DTYPE, FRACTION, MOST_EFFECTS, WIDE, MixRecord, ViewRecord, blank_effects
from ffdr.jit.arguments import ADDRESS
from ffdr.jit.kernel import address_of, bytes_at, kernel
from ffdr.jit.pixels import BYTES, mix_bytes
from ffdr.jit.unit import unit

_MIX_BITS = 15
_KERNELS_WANT: Final = ("C", "A", "W")
"""Contiguous, aligned, writable arrays; views into a file may be none of these."""


@kernel
def _picture_bytes(out_h: int, out_w: int) -> int:
    """A picture in scratch, bytes: with the slack that operations read from there."""
    return padded(3 * np.int64(out_h) * np.int64(out_w) + IMAGE_SLACK)


@kernel
def scratch_bytes(max_width: int, max_height: int, out_h: int, out_w: int) -> int:
    """Scratch that ``replay_view`` needs for images up to this size, bytes. It grows with every argument."""
    work = max(resize_bytes(max_width, max_height, out_h, out_w), op_bytes(out_w))
    return 2 * _picture_bytes(out_h, out_w) + padded(work) + ALIGNMENT


@kernel
def erase(view: ViewRecord, out: np.ndarray) -> None:
    """Blacken the erased box of a view in ``out``, uint8 (h, w, 3)."""
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
def step_count(view: ViewRecord, effects: np.ndarray) -> int:
    """Operations and effects of a view, Identity not counted."""
    return effect_count(effects) + np.int64(view.op0 != 0) + np.int64(view.op1 != 0)


@kernel
def apply_ops(
    view: ViewRecord, effects: np.ndarray, first: np.uint64, second: np.uint64, out: Output, work: np.uint64
) -> None:
    """The operations of a view, then its effects, on the picture at ``first``, to ``out``; without any, nothing.

    Parameters
    ----------
    view
        ``VIEW_DTYPE``; has passed ``check_view``.
    effects
        (``MOST_EFFECTS``,) ``EFFECT_DTYPE``; have passed ``check_effects``.
    first, second
        Addresses of pictures of the size of ``out``, each followed by ``IMAGE_SLACK`` bytes; both are overwritten. They
        take turns in holding what a step makes; the last one writes to ``out``, without a copy.
    work
        Address of ``op_bytes`` bytes.
    """
    left, place = step_count(view, effects), np.int64(0)
    source, spare = first, second
    while left > 0:
        op, level = (view.op0, view.level0) if place == 0 else (view.op1, view.level1)
        if place >= 2 or op != 0:
            left -= 1
            target = Output(out.address if left == 0 else spare, out.height, out.width)
            if place < 2:
                step = OpStep(np.int64(op), np.int64(level), np.int64(view.bins), view.flags & WIDE != 0)
                apply_op(step, source, target, work)
            else:
                effect = effects[place - 2]
                apply_effect(np.int64(effect.kind), np.int64(effect.value), source, target, work)
            source, spare = target.address, source
        place += 1


@unit(types.int64, PART, VIEW_TYPE, EFFECTS, PICTURE, SCRATCH, ADDRESS)
def replay_view(
    part: ImagePart,
    view: ViewRecord,
    effects: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
    laps: np.uint64,
) -> int:
    """Make a view of an image.

    Scratch memory, from the first aligned address on::

        ├ picture, slack ─────┼ picture, slack ─────┼ work ─────────────────────────┤
          resized; after the    after the first       tables and rows of the resize;
          second step …         step, the third …     afterwards, of an operation

    Parameters
    ----------
    part
        At least the pixels that ``view_region`` names.
    view
        ``VIEW_DTYPE``, any bytes.
    effects
        (``MOST_EFFECTS``,) ``EFFECT_DTYPE``, any bytes.
    out
        (out_h, out_w, 3) uint8, C-contiguous. Untouched unless the status is ``OK``.
    scratch
        uint8, at least ``scratch_bytes`` long; its contents have no meaning.
    laps
        Address of laps, see ``lap``; or 0.

    Returns
    -------
    int
        ``OK``, or the status that says why the view can't be made, a key of ``STATUS_TEXT``.
    """
    out_h, out_w = out.shape[0], out.shape[1]
    if part.pixels.shape[2] != 3 or out.shape[2] != 3:
        return BAD_SIZE
    status = check_view(view, part.width, part.height, out_h, out_w)
    if status == OK:
        status = check_effects(effects)
    if status != OK:
        return status
    if scratch.size < scratch_bytes(part.width, part.height, out_h, out_w):
        return SHORT_SCRATCH
    region = view_region(view, part.width, part.height, out_h, out_w)
    x0, y0, x1, y1 = region
    right, bottom = part.left + part.pixels.shape[1], part.top + part.pixels.shape[0]
    if x0 < part.left or y0 < part.top or x1 > right or y1 > bottom:
        return WRONG_REGION
    first = (address_of(scratch) + np.uint64(ALIGNMENT - 1)) & ~np.uint64(ALIGNMENT - 1)
    second = first + np.uint64(_picture_bytes(out_h, out_w))
    work = second + np.uint64(_picture_bytes(out_h, out_w))
    target = Output(address_of(out), out_h, out_w)
    # Every step but the last one writes to scratch, so that the last one needs no copy.
    resized = target if step_count(view, effects) == 0 else Output(first, out_h, out_w)
    resize_view(part, region, view, resized, work)
    lap(laps, RESIZE)
    apply_ops(view, effects, first, second, target, work)
    lap(laps, OPERATIONS)
    erase(view, out)
    lap(laps, ERASE)
    return OK


@kernel
def _weights(mix: MixRecord) -> tuple[int, int]:
    """Mixup's weights of both images in units of 2**-15, int32; they sum to 2**15."""
    first = np.int32((np.int64(mix.mixup) * (1 << _MIX_BITS) + FRACTION // 2) // FRACTION)
    return first, np.int32((1 << _MIX_BITS) - first)


@kernel
def visible(mix: MixRecord) -> tuple[bool, bool]:
    """Whether a byte of a mixed view (``MIX_DTYPE``) can depend on the first image, and on the partner.

    A weight that moves no pixel by half a level leaves every pixel as the other image has it, exactly; such weights are
    common (every third draw from Beta(0.2, 0.2)), and an image that is not seen need not be decoded.
    """
    first, second = _weights(mix)
    half = np.int32(1 << (_MIX_BITS - 1))
    return 255 * first >= half, 255 * second >= half or mix.cut_h != 0


@unit(types.int64, PICTURE, PICTURE, MIX_TYPE)
def mix_into(out: np.ndarray, partner: np.ndarray, mix: MixRecord) -> int:
    """Mix the partner's view into an image's: mixup, then the cutmix box.

    Mixup is rounded to the nearest level, its weight to 1/32768.

    Parameters
    ----------
    out, partner
        (h, w, 3) uint8, C-contiguous.
    mix
        ``MIX_DTYPE``; has passed ``check_mix``.

    Returns
    -------
    int
        ``OK``, or ``BAD_SIZE`` when the two differ in shape.
    """
    if out.shape != partner.shape:
        return BAD_SIZE
    weight, rest = _weights(mix)
    to, from_ = address_of(out), address_of(partner)
    first, second = bytes_at(to, out.size), bytes_at(from_, out.size)
    if rest != 0:
        half = np.int32(1 << (_MIX_BITS - 1))
        # Vector code takes less than the whole weight, which has no place in 16 bits with a sign.
        blocks = out.size // BYTES if weight != 0 else np.int64(0)
        for at in range(0, blocks * BYTES, BYTES):
            mix_bytes(to + np.uint64(at), from_ + np.uint64(at), rest)
        for i in range(np.uint64(blocks * BYTES), np.uint64(out.size)):
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


def render(
    image: np.ndarray, view: np.ndarray, resolution: int | tuple[int, int], effects: np.ndarray | None = None
) -> np.ndarray:
    """One view of a whole image, uint8 (height, width, 3) to uint8 (resolution or (h, w), 3); for notebooks and tests.

    ``view`` is a scalar or 0-d array of ``VIEW_DTYPE``, ``effects`` (``MOST_EFFECTS``,) ``EFFECT_DTYPE``; None: none.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: uint8 (height, width, 3) wanted, got {image.dtype} {image.shape}")
    out_h, out_w = (resolution, resolution) if isinstance(resolution, int) else resolution
    height, width, _ = image.shape
    record = np.asarray(view)[()]
    row = np.require(blank_effects(1)[0, 0] if effects is None else effects, requirements=_KERNELS_WANT)
    if row.shape != (MOST_EFFECTS,) or row.dtype != EFFECT_DTYPE:
        raise ValueError(f"effects: {MOST_EFFECTS} of EFFECT_DTYPE wanted, got {row.dtype} {row.shape}")
    status = check_view(record, width, height, out_h, out_w)
    if status == OK:
        out = np.empty((out_h, out_w, 3), np.uint8)
        scratch = np.empty(scratch_bytes(width, height, out_h, out_w), np.uint8)
        part = ImagePart(np.require(image, requirements=_KERNELS_WANT), 0, 0, width, height)
        status = replay_view(part, record, row, out, scratch, 0)
    if status != OK:
        raise ValueError(f"view cannot be replayed: {STATUS_TEXT[status]}")
    return out
