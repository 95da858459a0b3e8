"""From stored fractions to pixels: where a view lies on its image, and which pixels it reads.

Pure integer and float64 arithmetic on one axis at a time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import types

from ffdr.augment.types import REGION, VIEW_TYPE
from ffdr.augment.view import CENTER, FRACTION, PLACED, ViewRecord
from ffdr.jit.arguments import named
from ffdr.jit.kernel import kernel
from ffdr.jit.unit import unit

MAX_SIDE = 65535
"""Longest side of an image or an output; beyond it whole pixels could not be told apart in a fraction."""


class AxisPlan(NamedTuple):
    """What one axis of an output is made of, in pixels of the stored image::

        image          0 ├───────────────────────────────────────────────┤ length
        interval           begin ├─────┬─────┬─────┬─────┬─────┤ end        divided into ``steps`` output pixels
        wanted                         first ├─────┬─────┤                  those from ``first`` on
        filter               low ├───────────────────────────┤ high         sees these pixels only

    The border of a padded view is negative, or beyond the image. Wanted pixels before the first step or after the last
    are black.
    """

    begin: float
    end: float
    steps: int
    first: int
    low: int
    high: int


PLAN = named(AxisPlan)


@kernel
def from_fraction(fraction: int, length: int) -> float:
    """A stored fraction as a coordinate on a side of ``length`` pixels, float64.

    A coordinate within half a unit of the stored resolution of a whole pixel is that pixel. So a whole coordinate p
    stored as round(p / length * 65535) comes back exactly, and on images of another size it stays fractional.
    """
    scaled = np.int64(fraction) * np.int64(length)
    whole = (2 * scaled + FRACTION) // (2 * FRACTION)
    if 2 * abs(scaled - whole * FRACTION) <= length:
        return np.float64(whole)
    return scaled / FRACTION


@kernel
def whole_pixels(fraction: int, length: int) -> int:
    """A stored fraction of ``length`` pixels, rounded to whole pixels (half up)."""
    return (2 * np.int64(fraction) * np.int64(length) + FRACTION) // (2 * FRACTION)


@kernel
def output_span(start: int, size: int, length: int) -> tuple[int, int]:
    """One axis of an erased or pasted box on an output of ``length`` pixels: first pixel, and one past the last."""
    begin = min(whole_pixels(start, length), np.int64(length))
    return begin, min(begin + whole_pixels(size, length), np.int64(length))


@kernel
def _crop_axis(start: int, size: int, pad: int, length: int, out_length: int) -> AxisPlan:
    """Plan of a random crop: fractions ``start`` and ``size`` of the image with ``pad`` on either side."""
    border = whole_pixels(pad, length)
    canvas = np.int64(length) + 2 * border
    extent = from_fraction(size, canvas)
    begin = min(from_fraction(start, canvas), canvas - extent)
    end = begin + extent
    nearest = math.floor(end + 0.5)
    # Start and size are each off by half a unit at most. A box of one unit keeps its extent.
    if nearest > begin and abs(end - nearest) * FRACTION <= canvas:
        end = np.float64(nearest)
    end = min(end, np.float64(canvas))
    low = np.int64(math.floor(begin)) - border
    high = np.int64(math.ceil(end)) - border
    return AxisPlan(begin - border, end - border, np.int64(out_length), np.int64(0), low, high)


@kernel
def _center_axis(length: int, resized: int, out_length: int) -> AxisPlan:
    """Plan of the evaluation view: the whole side resized to ``resized`` pixels, its centre wanted."""
    spare = np.int64(resized) - np.int64(out_length)
    first = spare // 2
    if spare % 2 == 1 and first % 2 == 1:  # torchvision: int(round(spare / 2.0)), and Python rounds half to even
        first += 1
    return AxisPlan(0.0, np.float64(length), np.int64(resized), first, np.int64(0), np.int64(length))


@kernel
def _placed_axis(place: int, pad: int, length: int, resized: int, out_length: int) -> AxisPlan:
    """Plan of a cut from the whole side resized to ``resized`` pixels, with a border around it."""
    border = whole_pixels(pad, out_length)
    first = whole_pixels(place, np.int64(resized) + 2 * border - np.int64(out_length)) - border
    return AxisPlan(0.0, np.float64(length), np.int64(resized), first, np.int64(0), np.int64(length))


@kernel
def resized_sides(share: int, width: int, height: int, resolution: int) -> tuple[int, int]:
    """Width and height after torchvision's Resize(resolution / share), share in units of 1/65535."""
    short = np.int64(np.rint(np.int64(resolution) * np.float64(FRACTION) / np.float64(share)))
    if width <= height:
        return short, np.int64(np.float64(short * np.int64(height)) / np.float64(width))
    return np.int64(np.float64(short * np.int64(width)) / np.float64(height)), short


@unit(types.UniTuple(PLAN, 2), VIEW_TYPE, types.int64, types.int64, types.int64, types.int64)
def axis_plans(view: ViewRecord, width: int, height: int, out_h: int, out_w: int) -> tuple[AxisPlan, AxisPlan]:
    """Plans (horizontal, vertical) of a view (``VIEW_DTYPE``) of an image of width × height pixels.

    The record must have passed ``check_view``. The resized sides of an evaluation view are never below the output's,
    since its share is at most 1 and the resolution is the output's longer side: it needs no border.
    """
    if view.flags & CENTER:
        resized_w, resized_h = resized_sides(view.crop_w, width, height, max(out_h, out_w))
        if view.flags & PLACED:
            return (
                _placed_axis(view.crop_x, view.pad, width, resized_w, out_w),
                _placed_axis(view.crop_y, view.pad, height, resized_h, out_h),
            )
        return _center_axis(width, resized_w, out_w), _center_axis(height, resized_h, out_h)
    return (
        _crop_axis(view.crop_x, view.crop_w, view.pad, width, out_w),
        _crop_axis(view.crop_y, view.crop_h, view.pad, height, out_h),
    )


@kernel
def filter_scale(plan: AxisPlan) -> tuple[float, float]:
    """Where the plan's interval starts, relative to ``low``, and how long an output pixel is.

    With the roundings of Pillow's resize, which keeps the box in float32 and subtracts there; the rest is float64.
    """
    start = np.float32(plan.begin - plan.low)
    stop = np.float32(plan.end - plan.low)
    return np.float64(start), np.float64(np.float32(stop - start)) / np.float64(plan.steps)


@kernel
def tap_range(plan: AxisPlan, start: float, step: float, index: int) -> tuple[int, int]:
    """Pixels [first, last) under the filter of output pixel ``index``: Pillow's rounding, clamped to what it sees.

    start, step: the plan's ``filter_scale``.
    """
    center = start + (np.float64(index) + 0.5) * step
    support = max(step, 1.0)
    extent = plan.high - plan.low
    first = np.int64(max(center - support + 0.5, 0.0))
    last = np.int64(max(center + support + 0.5, 0.0))
    return plan.low + min(first, extent), plan.low + min(last, extent)


@kernel
def _needed(plan: AxisPlan, count: int, length: int) -> tuple[int, int]:
    """Pixels [first, last) of the image that ``count`` outputs of an axis read; never empty."""
    start, step = filter_scale(plan)
    from_, _ = tap_range(plan, start, step, plan.first)
    _, to = tap_range(plan, start, step, plan.first + count - 1)
    from_ = min(max(from_, 0), np.int64(length) - 1)
    return from_, min(max(to, from_ + 1), np.int64(length))


@unit(REGION, VIEW_TYPE, types.int64, types.int64, types.int64, types.int64)
def view_region(view: ViewRecord, width: int, height: int, out_h: int, out_w: int) -> tuple[int, int, int, int]:
    """The pixels (x0, y0, x1, y1), ends excluded, of the image that a view (``VIEW_DTYPE``) reads.

    ``width`` and ``height`` are the stored image's; the record must have passed ``check_view``. Never empty: a view of
    nothing but border still names one pixel.
    """
    across, down = axis_plans(view, width, height, out_h, out_w)
    x0, x1 = _needed(across, out_w, width)
    y0, y1 = _needed(down, out_h, height)
    return x0, y0, x1, y1
