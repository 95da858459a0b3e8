"""The curves of a run over its epochs, as small panels one below the other, each named where it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from ffdr.train.report.records import Record, Summary
from ffdr.util.pictures import (
    COLOURS,
    COLUMN,
    Ends,
    draw_curve,
    drawing,
    keep_to_percent,
    label_ends,
    last_finite,
)
from ffdr.util.text import printable

_ROOM = 0.3
"""Of the range of top-1, above the curve, for what is written there."""


@dataclass(frozen=True)
class _Panel:
    heading: str
    curves: tuple[tuple[str, str], ...]
    """log keys, and what a curve is called at its end, before its last value"""
    form: str
    """of the value, drawn in the panel's unit"""
    height: float = 1.0
    scale: float = 1.0
    """from the logged number to the drawn one; 100: percent"""
    from_zero: bool = True


_PANELS = (
    _Panel("loss", (("train_loss", "training "), ("val_nll", "validation NLL ")), "{:.3f}", 1.7, from_zero=False),
    _Panel("validation top-1, %", (("val_top1", ""),), "{:.1f}%", 1.7, 100, from_zero=False),
    _Panel("learning rate", (("lr", ""),), "{:.3g}"),
    _Panel("data wait, % of the time", (("data_wait", ""),), "{:.0f}%", scale=100),
    _Panel("images/s", (("images_per_second", ""),), "{:,.0f}"),
)


def draw(file: Path, title: str, records: Sequence[Record]) -> None:
    """What the log has of loss, accuracy, learning rate, data wait and images/s, over the epochs."""
    panels = [panel for panel in _PANELS if any(_points(panel, key, records) for key, _ in panel.curves)]
    heights = [panel.height for panel in panels]
    with drawing(file, COLUMN, 0.55 + 0.72 * sum(heights)) as figure:
        found = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        first, last = records[0]["epoch"], records[-1]["epoch"]
        margin = 0.5 if first == last else 0.0
        found[-1].set_xlim(first - margin, last + margin)
        found[-1].set_xlabel("epoch")
        found[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        figure.suptitle(printable(title, 60), fontsize=9)
        ends = [_draw_panel(axes, panel, records) for axes, panel in zip(found, panels, strict=True)]
        label_ends(figure, dict(zip(found, ends, strict=True)), tied=True)
        for axes, panel in zip(found, panels, strict=True):
            if panel.curves[0][0] == "val_top1":
                _mark_best(axes, panel, records)


def _points(panel: _Panel, key: str, records: Sequence[Record]) -> list[tuple[float, float]]:
    """(epoch, drawn number); empty where no number can be drawn."""
    points = [(record["epoch"], panel.scale * record[key]) for record in records if key in record]
    return points if last_finite(points) else []


def _draw_panel(axes: Axes, panel: _Panel, records: Sequence[Record]) -> Ends:
    """Draw its curves; where they end, by what is written there."""
    ends = {}
    for number, (key, name) in enumerate(panel.curves):
        points = _points(panel, key, records)
        if end := last_finite(points):
            draw_curve(axes, points, COLOURS[number], clip_on=False, zorder=3)  # whole on the panel's edge, too
            ends[_words(panel, name, points, end)] = (*end, COLOURS[number])
    axes.set_title(panel.heading, loc="left")
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.locator_params(axis="y", nbins=4)
    axes.margins(y=0.15)
    low, high = axes.get_ylim()
    room = _ROOM * (high - low) if panel.curves[0][0] == "val_top1" else 0.0
    axes.set_ylim(0 if panel.from_zero else low, high + room)
    if panel.scale == 100:
        keep_to_percent(axes, from_zero=panel.from_zero)
    return ends


def _words(panel: _Panel, name: str, points: Sequence[tuple[float, float]], end: tuple[float, float]) -> str:
    """What is written at the end of a curve; of a learning rate its peak, too, and of what diverged its last epoch."""
    said = name + panel.form.format(end[1])
    most = max(y for _, y in points if math.isfinite(y))
    if panel.curves[0][0] == "lr" and most > end[1]:
        said += f", peak {panel.form.format(most)}"
    if not math.isfinite(points[-1][1]):  # the run went on, and diverged
        said += f", epoch {end[0]:g}"
    return said


def _mark_best(axes: Axes, panel: _Panel, records: Sequence[Record]) -> None:
    """A ring around the best epoch, and which one it is."""
    best = Summary.of(records).best
    if not best:
        return
    epoch, score = best["epoch"], panel.scale * best["val_top1"]
    axes.plot([epoch], [score], "o", markersize=6, markerfacecolor="none", color=COLOURS[0], clip_on=False)
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    place = (epoch - left) / (right - left)
    is_above = high - score > 0.7 * _ROOM / (1 + _ROOM) * (high - low)  # there is no room over 100 %
    axes.annotate(
        f"best {panel.form.format(score)}, epoch {epoch}",
        (epoch, score),
        (0, 6 if is_above else -6),
        textcoords="offset points",
        ha="left" if place < 0.3 else "right" if place > 0.7 else "center",
        va="bottom" if is_above else "top",
        color=COLOURS[0],
        fontsize=7,
    )
