"""Filter weights of the resize: which pixels each output pixel of an axis is made of, and how much of each.

The filter of an axis is a table with one row per output pixel, in the order in which they are written::

    output     starts     weights: taps per output
      0          17       w w w .        pixels 17, 18, 19, 20 of the source part, summing to ``one``
      1          19       w w w .        "." is 0: rows have the same length, because a loop of varying length
      2          22       w w . .        costs more than multiplying by 0
     ...

**Bounds.** With A pixels available, 0 <= start and start + taps <= A in every row, whatever the record says: ``taps``
is at most A (``tap_count``), and a start is clamped to [0, A - taps] (``build_taps``). A flipped view has the same
table upside down, so the kernels that use it know nothing of flips.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import types

from ffdr.augment.geometry import PLAN, AxisPlan, filter_scale, tap_range
from ffdr.jit.arguments import array_of, named
from ffdr.jit.kernel import kernel
from ffdr.jit.simd import GROUP
from ffdr.jit.unit import unit

_PAIR = 8 * GROUP
"""int16 that ``blend_columns`` loads for each pair of taps."""


class Taps(NamedTuple):
    """The filter of an axis; memory for it, until ``build_taps`` has filled it."""

    taps: int
    """per output"""
    starts: np.ndarray
    """(at least outputs,) int32 first pixel of each output, counted from the first one that is there"""
    weights: np.ndarray
    """(outputs × taps,) int32"""


TAPS = named(Taps, starts=array_of(types.int32, 1), weights=array_of(types.int32, 1))


@kernel
def tap_count(plan: AxisPlan, available: int) -> int:
    """Taps an output of this axis needs, at most: the filter's width, or all the pixels there are."""
    _, step = filter_scale(plan)
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


@unit(types.void, PLAN, types.int64, types.int64, types.int64, types.int64, types.boolean, TAPS)
def build_taps(plan: AxisPlan, count: int, offset: int, available: int, one: int, flip: bool, table: Taps) -> None:
    """Fill the filter of an axis of ``count`` outputs; each one's weights sum to ``one``.

    ``offset`` is the image coordinate of the first of ``available`` pixels. Pixels outside them are border: they take
    their share of the weight and, being black, add nothing. Weights are rounded as a running sum, so that they add up
    exactly; ``flip`` stores the outputs in reverse. Outputs outside the plan's interval weigh nothing: they are black.
    """
    taps, starts, weights = table
    start, step = filter_scale(plan)
    inverse = 1.0 / max(step, 1.0)
    reach = np.int64(math.ceil(2.0 * max(step, 1.0)))
    for i in range(count):
        slot = count - 1 - i if flip else i
        index = plan.first + i
        if index < 0 or index >= plan.steps:
            starts[slot] = 0
            for tap in range(taps):
                weights[slot * taps + tap] = 0
            continue
        from_, _ = tap_range(plan, start, step, index)
        middle = plan.low + start + (np.float64(index) + 0.5) * step - 0.5
        # As many steps for every output: a loop of varying length costs more than weights of 0.
        total = 0.0
        for x in range(from_, from_ + reach):
            total += _weight(x, middle, inverse, plan.high)
        scale = one / total
        base = max(min(from_ - offset, available - taps), 0)
        starts[slot] = base
        for tap in range(taps):
            weights[slot * taps + tap] = 0
        running = 0.5
        before = np.int64(0)
        for x in range(from_, from_ + reach):
            running += _weight(x, middle, inverse, plan.high) * scale
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
def spread_weights(table: Taps, count: int, target: np.ndarray) -> None:
    """The weights of ``count`` outputs in the order that ``blend_columns`` loads, int16.

    Four loads serve a pair of taps (a, b) of a group of eight outputs, and each weight stands beside red, green and
    blue of its pixel and an unused lane::

        group 0, pair 0: | a b a b a b a b | a b a b a b a b | a b ... | a b ...   outputs 0, 4, 1, 5, 2, 6, 3, 7
        group 0, pair 1: | c d c d c d c d | ...
        group 1, pair 0: ...

    Where there are two pairs, as ``blend_four_columns`` does::

        group 0: | a b a b a b a b   c d c d c d c d | a b ...   c d ... | ...     outputs 0 to 7

    A missing last tap, and outputs missing from the last group, weigh 0.
    """
    taps, _, weights = table
    pairs, half = (taps + 1) // 2, GROUP // 2
    for i in range(np.uint64(most_spread(count) * pairs)):
        target[i] = 0
    pair = 8 if pairs == 2 else _PAIR
    for i in range(count):
        lane = i % GROUP * 16 if pairs == 2 else i % half * 16 + i % GROUP // half * 8
        place = i // GROUP * pairs * _PAIR + lane
        for tap in range(taps):
            weight = np.int16(weights[i * taps + tap])
            for copy in range(4):
                target[place + tap // 2 * pair + 2 * copy + tap % 2] = weight
