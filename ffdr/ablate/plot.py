"""A study's plots: accuracy over the budget and over the seconds, calibration and robustness over the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

from ffdr.ablate.grid import SEED, Grid
from ffdr.ablate.report import Group, Row, grouped
from ffdr.ablate.scores import METRICS, mean_and_half_width
from ffdr.util.atomic import atomic_path
from ffdr.util.pictures import Picture, legible
from ffdr.util.text import printable

_NAME = 40
"""Characters of a point's name that a plot shows."""
_COLOURS = {"erm": "tab:gray", "kd": "tab:orange", "dr": "tab:blue"}
"""Of series named after a task; others take matplotlib's in turn."""


@dataclass(frozen=True)
class _Ladder:
    """What the horizontal axis shows."""

    heading: str
    place: Callable[[Row], float]
    off: frozenset[str]
    """axes that it stands for, so that they don't tell one curve from another"""
    labels: Sequence[str] = ()
    """of the places 0, 1, …; empty: places are numbers"""


def plot_study(folder: Path, grid: Grid, rows: Sequence[Row]) -> list[Path]:
    """Write accuracy.png, and robustness.png where runs have such scores; nothing for a study without finished runs."""
    done = [row for row in rows if row.result is not None]
    if not done:
        return []
    ladder = _ladder(grid, done)
    budgets = ladder.off if ladder.heading == "epochs" else frozenset()  # of one curve over the seconds
    clock = _Ladder(METRICS["seconds"].heading, lambda row: row.result["seconds"], budgets)
    files = [_figure(folder / "accuracy.png", [(ladder, "top1"), (clock, "top1")], done)]
    panels = [(ladder, key) for key in ("ece", "corruption_top1") if all(key in row.result for row in done)]
    return [*files, _figure(folder / "robustness.png", panels, done)] if panels else files


def _ladder(grid: Grid, rows: Sequence[Row]) -> _Ladder:
    """Epochs where they vary; else the axis whose points are numbers; else the one with the most points."""
    if len({row.cell.recipe.train.epochs for row in rows}) > 1:
        off = {axis for axis, points in grid.axes.items() if all("train.epochs" in s for s in points.values())}
        return _Ladder("epochs", lambda row: row.cell.recipe.train.epochs, frozenset(off))
    axes = [axis for axis in grid.axes if axis != SEED]
    if not axes:
        return _Ladder("", lambda row: 0, frozenset(), [""])
    numbers = [axis for axis in axes if len(grid.axes[axis]) > 1 and all(map(_is_number, grid.axes[axis]))]
    axis = numbers[0] if numbers else max(axes, key=lambda name: len(grid.axes[name]))
    if numbers:
        return _Ladder(axis, lambda row: float(row.cell.points[axis]), frozenset({axis}))
    labels = list(grid.axes[axis])
    return _Ladder(axis, lambda row: labels.index(row.cell.points[axis]), frozenset({axis}), labels)


def _figure(file: Path, panels: Sequence[tuple[_Ladder, str]], rows: Sequence[Row]) -> Path:
    figure = Picture(figsize=(5.5 * len(panels), 4.2), layout="constrained")
    for axes, (ladder, key) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, ladder, key, grouped(rows))
    with atomic_path(file) as picture:
        figure.savefig(picture, format="png", dpi=120)
    return file


def _draw(axes: Axes, ladder: _Ladder, key: str, groups: Mapping[Group, Sequence[Row]]) -> None:
    """A curve of means with intervals a series, and each run as a dot."""
    metric = METRICS[key]
    series: dict[str, list[tuple[float, float, float, list[tuple[float, float]]]]] = {}
    for group, members in groups.items():
        name = ", ".join(printable(label, _NAME) for axis, label in group if axis not in ladder.off)
        dots = [(ladder.place(row), metric.scale * row.result[key]) for row in members]
        mean, half = mean_and_half_width([y for _, y in dots])
        series.setdefault(name, []).append((float(np.mean([x for x, _ in dots])), mean, half or 0.0, dots))
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS.get(name, f"C{number}")
        x, y, half, _ = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        line = "o" if ladder.labels else "o-"
        label = f" {name}" if name.startswith("_") else name  # matplotlib's legends leave out what begins so
        axes.errorbar(x, y, half, fmt=line, color=colour, label=label, capsize=3, markersize=4)
        dots = np.array([dot for *_, own in points for dot in own])
        axes.scatter(*dots.T, s=8, color=colour, alpha=0.25, linewidths=0)
    _dress(axes, ladder, [x for points in series.values() for x, *_ in points])
    axes.set_ylabel(metric.heading)
    if metric.scale == 100:  # an interval of few seeds may leave what a share can be
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2), min(high, 102))
    if any(series):
        axes.legend(frameon=False)


def _dress(axes: Axes, ladder: _Ladder, places: Sequence[float]) -> None:
    """Ticks and lines; places that span much are shown by their ratios."""
    axes.set_xlabel(printable(ladder.heading, _NAME))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if ladder.labels:
        axes.set_xticks(range(len(ladder.labels)), [legible(printable(label, _NAME)) for label in ladder.labels])
        axes.set_xlim(-0.5, len(ladder.labels) - 0.5)
    elif min(places) > 0 and max(places) >= 4 * min(places):
        axes.set_xscale("log", base=2)
        if len(set(places)) <= 8:
            axes.set_xticks(sorted(set(places)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
