"""The curves of many runs in one picture: validation top-1 and loss, over epochs and over the time of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from ffdr.ablate.runs import Run
from ffdr.util.pictures import (
    COLOURS,
    CONTEXT,
    PAGE,
    Ends,
    draw_curve,
    drawing,
    keep_to_percent,
    label_ends,
    last_finite,
)
from ffdr.util.text import printable

_MOST_GROUPS = 6
"""Sets of validation images that are drawn at most."""
_MOST_CURVES = 200
"""Runs of each that are drawn at most: those with the best top-1."""
_HEIGHT = 2.0
"""Inches of a row."""
_NAME = 22
"""Characters of a run's name at the end of its curve."""
_PANELS = (
    ("val_top1", "validation top-1, %", 100.0),
    ("val_nll", "validation NLL", 1.0),
    ("train_loss", "training loss", 1.0),
)
_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))

Points = list[tuple[float, float]]


def draw(file: Path, groups: Sequence[Sequence[Run]], number_of: Mapping[str, int]) -> None:
    """A row of panels for each score of each group; runs of the left panels have names, of the right ones numbers.

    Of many, the best are coloured and named, the others are thin and grey; unfinished ones are dashed. number_of: a
    run, by its folder.
    """
    rows = [
        (group, panel)
        for group in map(_best, groups[:_MOST_GROUPS])
        for panel in (_PANELS[:2] if any(run.curves["val_top1"] for run in group) else _PANELS[2:])
    ]
    with drawing(file, PAGE, _HEIGHT * len(rows) + 0.2) as figure:
        panels = figure.subplots(len(rows), 2, squeeze=False)
        drawn = []
        for (left, right), (group, (key, heading, scale)) in zip(panels, rows, strict=True):
            unit, seconds = _unit(group, key)
            for axes, over_time in ((left, False), (right, True)):
                curves = {
                    run.folder: [((s / seconds if over_time else e), scale * y) for e, s, y in run.curves[key]]
                    for run in group
                }
                drawn.append((axes, group, _draw(axes, group, curves), over_time))
                if scale == 100:
                    keep_to_percent(axes)
                axes.set_xlabel(f"{unit} of training" if over_time else "epoch")
            left.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            left.set_title(f"{heading}{_of(group, len(groups))}", loc="left")
        named = {axes: _named(group, ends, number_of, over_time) for axes, group, ends, over_time in drawn if ends}
        label_ends(figure, named, tied=True)


def _of(group: Sequence[Run], groups: int) -> str:
    """Which images, where there are several sets."""
    return f"; {printable(str(group[0].validation or 'not validated'), 80)}" if groups > 1 else ""


def _best(group: Sequence[Run]) -> list[Run]:
    """The best first, by the last top-1."""

    def score(run: Run) -> float:
        value = run.score("top1")
        return -math.inf if value is None or math.isnan(value) else value

    return sorted(group, key=score, reverse=True)[:_MOST_CURVES]


def _unit(group: Sequence[Run], key: str) -> tuple[str, float]:
    longest = max((seconds for run in group for _, seconds, _ in run.curves[key]), default=0.0)
    return next((unit for unit in _UNITS if longest >= 3 * unit[1]), _UNITS[-1])


def _draw(axes: Axes, group: Sequence[Run], curves: Mapping[str, Points]) -> Ends:
    """Draw them, the best on top; where each that has a colour ends, by its run's folder."""
    ends = {}
    for number, run in reversed(list(enumerate(group))):
        points, dashes = curves[run.folder], "-" if run.finished else "--"
        end = last_finite(points)
        if end is None:
            continue
        if number < len(COLOURS):
            draw_curve(axes, points, COLOURS[number], linestyle=dashes)
            ends[run.folder] = (*end, COLOURS[number])
        else:
            draw_curve(axes, points, CONTEXT, linestyle=dashes, linewidth=0.6)
    axes.grid(axis="y")
    axes.margins(x=0.02, y=0.06)
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.autoscale_view()
    return ends


def _named(group: Sequence[Run], ends: Ends, number_of: Mapping[str, int], short: bool) -> Ends:
    """Ends of curves by what is written there."""
    named = {}
    for run in group:
        if run.folder in ends:
            number = number_of[run.folder]
            more = "" if run.finished else f" ({run.done} of {run.epochs or '?'})"
            named[str(number) if short else f"{number} {printable(run.name, _NAME)}{more}"] = ends[run.folder]
    return named
