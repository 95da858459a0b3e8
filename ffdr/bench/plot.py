"""The pictures of ``ffdr bench loader``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np

from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing
from ffdr.util.atomic import atomic_path

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_COLOURS = {"ffdr": "tab:blue", "bound": "lightsteelblue"}
_PEER = "tab:gray"


def plot_loader(file: Path, timings: Mapping[str, Timing], stages: Mapping[str, tuple[Estimate, Estimate]]) -> None:
    """Rates of the pipelines as bars with their intervals, fastest first; below, the stages of the full policy.

    stages: seconds an image and share of the time, in order.
    """
    figure, (rates, parts) = plt.subplots(
        2, 1, figsize=(10, 2.4 + 0.34 * len(timings)), height_ratios=(len(timings), 1), constrained_layout=True
    )
    _draw_rates(rates, {name: timing.rate for name, timing in timings.items()})
    _draw_stages(parts, stages)
    with atomic_path(file) as picture:
        figure.savefig(picture, dpi=120)
    plt.close(figure)


def plot_bytes(file: Path, rates: Mapping[str, Estimate], sizes: Mapping[str, float]) -> None:
    """What a byte buys: images a second over stored bytes an image, by pipeline; up and to the left is better."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), constrained_layout=True)
    for name, rate in rates.items():
        size = sizes[name] / 1024
        error = [[rate.median - rate.low], [rate.high - rate.median]]
        axes.errorbar(size, rate.median, yerr=error, fmt="o", color=_COLOURS.get(name.split(" ")[0], _PEER), capsize=2)
        axes.annotate(name, (size, rate.median), (6, 5), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.35, y=0.15)
    axes.set_xlabel("KiB an image")
    axes.set_ylabel("images a second on one core")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(file) as picture:
        figure.savefig(picture, dpi=120)
    plt.close(figure)


def _draw_rates(axes: Axes, rates: Mapping[str, Estimate]) -> None:
    rising = sorted(rates.items(), key=lambda item: item[1].median)
    names = [name for name, _ in rising]
    errors = np.array([(rate.median - rate.low, rate.high - rate.median) for _, rate in rising]).T
    colours = [_COLOURS.get(name.split(" ")[0].rstrip(":"), _PEER) for name in names]
    bars = {"height": 0.7, "color": colours, "error_kw": {"elinewidth": 1, "capsize": 2}}
    axes.barh(names, [rate.median for _, rate in rising], xerr=errors, **bars)
    for row, (_, rate) in enumerate(rising):
        text = {"textcoords": "offset points", "va": "center", "fontsize": 9}
        axes.annotate(f"{rate.median:,.0f}", (rate.high, row), (5, 0), **text)
    axes.set_xlim(0, 1.1 * max(rate.high for rate in rates.values()))
    axes.set_xlabel("images a second on one core (median, 95 % interval)")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_stages(axes: Axes, stages: Mapping[str, tuple[Estimate, Estimate]]) -> None:
    left = 0.0
    shown = {name: cost for name, cost in stages.items() if cost[0].median > 0}
    for number, (name, (seconds, share)) in enumerate(shown.items()):
        width = 1e6 * seconds.median
        axes.barh(["full policy"], [width], left=left, color=f"C{number}", label=f"{name} {100 * share.median:.1f} %")
        left += width
    axes.set_xlim(0, left)
    axes.set_xlabel("µs an image")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
