"""Filter weights of the resize: which pixels each output pixel of an axis is made of, and how much of each."""

from __future__ import annotations

import math

import numpy as np

from ffdr.augment.geometry import filter_scale, tap_range
from ffdr.jit.kernel import kernel
from ffdr.jit.simd import GROUP

_PAIR = 8 * GROUP
"""int16 that ``blend_columns`` loads for each pair of taps."""


@kernel
def tap_count(plan: tuple, available: int) -> int:
    """Taps an output of this axis needs, at most: the filter's width, or all the pixels there are."""
    begin, end, steps, _, low, _ = plan
    _, step = filter_scale(begin, end, steps, low)
    return min(np.int64(math.ceil(2.0 * max(step, 1.0))), np.int64(available))


@kernel
def most_weights(length: int, out_length: int) -> int:
    """Weights of an axis at most: ``out_length`` outputs from an image side of ``length`` pixels.

    A filter has ceil(2 * shrink) taps (2 when enlarging); a canvas is at most three images long (``pad`` <= 1).
    """
    return 6 * np.int64(length) + 2 * np.int64(out_length) + 16


@kernel
def _weight(x: int, middle: float, inverse: float, high: int) -> float:
    """The triangle around ``middle`` at pixel ``x``, 0 from the end of the crop on."""
    return max(0.0, 1.0 - abs(x - middle) * inverse) if x < high else 0.0


@kernel
def build_taps(
    plan: tuple,
    count: int,
    offset: int,
    available: int,
    taps: int,
    one: int,
    flip: bool,
    starts: np.ndarray,
    weights: np.ndarray,
) -> None:
    """First pixels (int32, count) and weights (int32, count × taps, summing to ``one``) of an axis's outputs.

    ``offset`` is the image coordinate of the first of ``available`` pixels. Pixels outside them are border: they take
    their share of the weight and, being black, add nothing. Weights are rounded as a running sum, so that they add up
    exactly; ``flip`` stores the outputs in reverse. Outputs outside the plan's interval weigh nothing: they are black.
    """
    begin, end, steps, first, low, high = plan
    start, step = filter_scale(begin, end, steps, low)
    inverse = 1.0 / max(step, 1.0)
    reach = np.int64(math.ceil(2.0 * max(step, 1.0)))
    for i in range(count):
        slot = count - 1 - i if flip else i
        if first + i < 0 or first + i >= steps:
            starts[slot] = 0
            for tap in range(taps):
                weights[slot * taps + tap] = 0
            continue
        from_, _ = tap_range(start, step, first + i, low, high)
        middle = low + start + (np.float64(first + i) + 0.5) * step - 0.5
        # As many steps for every output: a loop of varying length costs more than weights of 0.
        total = 0.0
        for x in range(from_, from_ + reach):
            total += _weight(x, middle, inverse, high)
        scale = one / total
        base = max(min(from_ - offset, available - taps), 0)
        starts[slot] = base
        for tap in range(taps):
            weights[slot * taps + tap] = 0
        running = 0.5
        before = np.int64(0)
        for x in range(from_, from_ + reach):
            running += _weight(x, middle, inverse, high) * scale
            now = np.int64(running)
            tap = x - offset - base
            if 0 <= tap < taps and x >= offset:
                weights[slot * taps + tap] = now - before
            before = now


@kernel
def double_weights(weights: np.ndarray, count: int) -> None:
    """Weights of at most 32768, in place, as ``blend_rows`` loads them: the same uint16 twice."""
    for i in range(np.uint64(count)):
        weights[i] = np.uint32(weights[i]) * np.uint32(0x10001)


@kernel
def most_spread(out_length: int) -> int:
    """int16 of the weights that ``spread_weights`` makes, for each pair of taps."""
    return (np.int64(out_length) + GROUP - 1) // GROUP * _PAIR


@kernel
def spread_weights(weights: np.ndarray, count: int, taps: int, target: np.ndarray) -> None:
    """Weights (count × taps) in the order that ``blend_columns`` loads; outputs missing from the last group weigh 0."""
    pairs = (taps + 1) // 2
    for i in range(np.uint64(most_spread(count) * pairs)):
        target[i] = 0
    for i in range(count):
        place = i // GROUP * pairs * _PAIR + i % GROUP * 8
        for tap in range(taps):
            weight = np.int16(weights[i * taps + tap])
            for copy in range(4):
                target[place + tap // 2 * _PAIR + 2 * copy + tap % 2] = weight
