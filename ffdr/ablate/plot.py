"""A study's plots: accuracy over the budget and over the seconds, calibration and robustness over the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

from ffdr.ablate.grid import SEED, Grid, as_number
from ffdr.ablate.report import CellResult, Group, grouped
from ffdr.ablate.scores import METRICS, mean_and_half_width
from ffdr.util.pictures import (
    COLUMN,
    PAGE,
    Picture,
    colour_of,
    drawing,
    keep_to_percent,
    label_ends,
    legible,
    marker_of,
    offset,
)
from ffdr.util.text import printable

_NAME = 40
"""Characters of a point's name that a plot shows."""
_MOST_LABELS, _LONGEST_LABEL = 5, 12
"""Curves that are named at their ends, and characters of such a name."""


@dataclass(frozen=True)
class _Ladder:
    """What the horizontal axis shows."""

    heading: str
    place: Callable[[CellResult], float]
    off: frozenset[str]
    """axes that it stands for; their points are no part of a curve's name"""
    labels: Sequence[str] = ()
    """of the places 0, 1, …; empty: places are numbers"""
    is_clock: bool = False
    """whether it shows seconds, at which no two curves end together"""


class _Point(NamedTuple):
    """The runs that share all points but the seed."""

    place: float
    mean: float
    half: float
    """half the width of the interval of the mean; 0: a single run"""
    places: Sequence[float]
    scores: Sequence[float]


def plot_study(folder: Path, grid: Grid, rows: Sequence[CellResult]) -> list[Path]:
    """Write accuracy.png, and robustness.png where runs have such scores; nothing for a study without finished runs."""
    done = [row for row in rows if row.result is not None]
    if not done:
        return []
    ladder = _ladder(grid, done)
    budgets = ladder.off if ladder.heading == "epochs" else frozenset()  # of one curve over the seconds
    clock = _Ladder(METRICS["seconds"].heading, lambda row: row.scores["seconds"], budgets, is_clock=True)
    files = [_figure(folder / "accuracy.png", [(ladder, "top1"), (clock, "top1")], done)]
    panels = [(ladder, key) for key in ("ece", "corruption_top1") if all(key in row.scores for row in done)]
    return [*files, _figure(folder / "robustness.png", panels, done)] if panels else files


def _ladder(grid: Grid, rows: Sequence[CellResult]) -> _Ladder:
    """Epochs where they vary; else the axis whose points are numbers; else the one with the most points."""
    if len({row.cell.recipe.train.epochs for row in rows}) > 1:
        off = {axis for axis, points in grid.axes.items() if all("train.epochs" in s for s in points.values())}
        return _Ladder("epochs", lambda row: row.cell.recipe.train.epochs, frozenset(off))
    axes = [axis for axis in grid.axes if axis != SEED]
    if not axes:
        return _Ladder("", lambda row: 0, frozenset(), [""])
    numbers = [
        axis
        for axis in axes
        if len(grid.axes[axis]) > 1 and all(isinstance(as_number(label), float) for label in grid.axes[axis])
    ]
    axis = numbers[0] if numbers else max(axes, key=lambda name: len(grid.axes[name]))
    if numbers:
        return _Ladder(axis, lambda row: float(row.cell.points[axis]), frozenset({axis}))
    labels = list(grid.axes[axis])
    return _Ladder(axis, lambda row: labels.index(row.cell.points[axis]), frozenset({axis}), labels)


def _figure(file: Path, panels: Sequence[tuple[_Ladder, str]], rows: Sequence[CellResult]) -> Path:
    with drawing(file, PAGE if len(panels) > 1 else COLUMN, 2.6) as figure:
        found = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (ladder, key) in zip(found, panels, strict=True):
            curves = _curves(ladder, key, grouped(rows))
            _draw(axes, ladder, key, curves)
            if axes is found[0] or not ladder.is_clock:
                _name(figure, axes, ladder, curves)
    return file


def _curves(ladder: _Ladder, key: str, groups: Mapping[Group, Sequence[CellResult]]) -> dict[str, list[_Point]]:
    """By the name of the series, from left to right."""
    metric = METRICS[key]
    series: dict[str, list[_Point]] = {}
    for group, members in groups.items():
        name = ", ".join(printable(label, _NAME) for axis, label in group if axis not in ladder.off)
        places = [ladder.place(row) for row in members]
        scores = [metric.scale * row.scores[key] for row in members]
        mean, half = mean_and_half_width(scores)
        series.setdefault(name, []).append(_Point(float(np.mean(places)), mean, half or 0.0, places, scores))
    return {name: sorted(points, key=lambda point: point.place) for name, points in series.items()}


def _draw(axes: Axes, ladder: _Ladder, key: str, curves: Mapping[str, Sequence[_Point]]) -> None:
    """A curve of means with intervals for each series, and each run as a faint dot."""
    for number, (name, points) in enumerate(curves.items()):
        colour = colour_of(name, number)
        moved = axes.transData if ladder.is_clock else offset(axes, number, len(curves))
        axes.errorbar(
            [point.place for point in points],
            [point.mean for point in points],
            [point.half for point in points],
            fmt=marker_of(number) + ("" if ladder.labels else "-"),
            color=colour,
            label=f" {name}" if name.startswith("_") else name,  # matplotlib's legends leave out what begins so
            transform=moved,
        )
        runs = [(x, y) for point in points for x, y in zip(point.places, point.scores, strict=True)]
        axes.scatter([x for x, _ in runs], [y for _, y in runs], 6, colour, alpha=0.25, linewidths=0, transform=moved)
    points = [point for points in curves.values() for point in points]
    _dress(axes, ladder, [point.place for point in points])
    axes.set_ylabel(METRICS[key].heading)
    low = min(min(point.mean - point.half, *point.scores) for point in points)
    high = max(max(point.mean + point.half, *point.scores) for point in points)
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    if METRICS[key].scale == 100:  # an interval of few seeds may leave what a share can be
        keep_to_percent(axes, from_zero=not METRICS[key].more)


def _name(figure: Picture, axes: Axes, ladder: _Ladder, curves: Mapping[str, Sequence[_Point]]) -> None:
    """Name the curves at their ends, or in a legend where they are many, end nowhere, or have long names."""
    if not any(curves):
        return
    if ladder.labels or len(curves) > _MOST_LABELS or max(map(len, curves)) > _LONGEST_LABEL:
        axes.legend()
        return
    ends = {
        name: (points[-1].place, points[-1].mean, colour_of(name, number))
        for number, (name, points) in enumerate(curves.items())
    }
    label_ends(figure, {axes: ends})


def _dress(axes: Axes, ladder: _Ladder, places: Sequence[float]) -> None:
    """Ticks and lines; places that span much are shown by their ratios."""
    axes.set_xlabel(printable(ladder.heading, _NAME))
    axes.grid(axis="y")
    if ladder.labels:
        axes.set_xticks(range(len(ladder.labels)), [legible(printable(label, _NAME)) for label in ladder.labels])
        axes.set_xlim(-0.5, len(ladder.labels) - 0.5)
        return
    low, high = min(places), max(places)
    if low > 0 and high >= 4 * low:
        margin = (high / low) ** 0.06
        axes.set_xlim(low / margin, high * margin)
        axes.set_xscale("log", base=2)
        if len(set(places)) <= 8:
            axes.set_xticks(sorted(set(places)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.06 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
