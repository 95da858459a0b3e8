"""The pictures of ``ffdr bench loader``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing
from ffdr.util.pictures import COLOURS, COLUMN, NEUTRAL, PAGE, PALE, drawing

_COLOURS = {"ffdr": COLOURS[0], "bound": PALE}
_LETTER = 0.0115
"""Share of the bar's length that a letter of a stage's name takes."""


def plot_loader(file: Path, timings: Mapping[str, Timing], stages: Mapping[str, tuple[Estimate, Estimate]]) -> None:
    """Rates of the pipelines as bars with their intervals, fastest first; below, the stages of the full policy.

    stages: seconds per image and share of the time, in order.
    """
    count = len(timings)
    with drawing(file, PAGE, 1.3 + 0.19 * count) as figure:
        rates, parts = figure.subplots(2, 1, height_ratios=(0.19 * count, 0.35))
        _draw_rates(rates, {name: timing.rate for name, timing in timings.items()})
        _draw_stages(parts, stages)


def plot_bytes(file: Path, rates: Mapping[str, Estimate], sizes: Mapping[str, float]) -> None:
    """What a byte buys: images/s over stored bytes per image, by pipeline; up and to the left is better."""
    with drawing(file, COLUMN + 0.75, 2.9) as figure:
        axes = figure.subplots()
        for name, rate in rates.items():
            size = sizes[name] / 1024
            axes.errorbar([size], [rate.median], _errors([rate]), fmt="o", color=_colour(name))
            axes.annotate(name, (size, rate.median), (5, 4), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", yscale="log", xlabel="KiB per image", ylabel="images/s on one core")
        low, high = (bound([sizes[name] / 1024 for name in rates]) for bound in (min, max))
        axes.set_xlim(low / 1.6, high * 4)  # names stand to the right
        axes.margins(y=0.15)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xticks(_ticks(*axes.get_xlim()))
        axes.set_yticks(_ticks(*axes.get_ylim()))
        axes.grid()


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … between them."""
    found = [step * 10.0**power for power in range(-3, 9) for step in (1, 2, 5)]
    return [place for place in found if low <= place <= high]


def _colour(name: str) -> str:
    return _COLOURS.get(name.split(" ")[0].rstrip(":"), NEUTRAL)


def _errors(rates: Sequence[Estimate]) -> list[list[float]]:
    """How far the intervals reach down and up."""
    return [[rate.median - rate.low for rate in rates], [rate.high - rate.median for rate in rates]]


def _draw_rates(axes: Axes, rates: Mapping[str, Estimate]) -> None:
    rising = dict(sorted(rates.items(), key=lambda item: item[1].median))
    found = list(rising.values())
    axes.barh(
        list(rising),
        [rate.median for rate in found],
        height=0.7,
        color=[_colour(name) for name in rising],
        xerr=_errors(found),
        error_kw={"elinewidth": 0.8, "ecolor": "#222222"},
    )
    for row, rate in enumerate(found):
        place = (rate.high, row)
        axes.annotate(f"{rate.median:,.0f}", place, (4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_xlim(0, 1.1 * max(rate.high for rate in found))
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlabel("images/s on one core (median, 95 % interval)")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _draw_stages(axes: Axes, stages: Mapping[str, tuple[Estimate, Estimate]]) -> None:
    """One bar, its parts named within, or above where they are narrow."""
    shown = {name: cost for name, cost in stages.items() if cost[0].median > 0}
    whole = sum(seconds.median for seconds, _ in shown.values())
    left = 0.0
    for number, (name, (seconds, share)) in enumerate(shown.items()):
        width = 1e6 * seconds.median
        colour = COLOURS[number % len(COLOURS)]
        label = f"{name} {100 * share.median:.1f} %"
        is_wide = seconds.median > _LETTER * len(label) * whole
        axes.barh(["full policy"], [width], left=left, color=colour, label=None if is_wide else label)
        if is_wide:
            axes.text(left + width / 2, 0, label, ha="center", va="center", color="white", fontsize=7)
        left += width
    axes.set_xlim(0, left)
    axes.set_xlabel("µs per image")
    axes.tick_params(axis="y", length=0)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(ncols=len(shown), loc="lower right", bbox_to_anchor=(1, 0.9), fontsize=7, handlelength=1)
