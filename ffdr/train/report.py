"""The report of a finished run: a table and a plot of its epochs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ffdr.util.atomic import atomic_write
from ffdr.util.text import markdown, table_lines

Record = dict[str, Any]

_COLUMNS = (
    ("epoch", "epoch", "{:d}"),
    ("train_loss", "training loss", "{:.4f}"),
    ("val_top1", "validation top-1", "{:.2%}"),
    ("val_nll", "NLL", "{:.4f}"),
    ("val_ece", "ECE", "{:.2%}"),
    ("images_per_second", "images/s", "{:,.0f}"),
    ("data_wait", "data wait", "{:.0%}"),
    ("seconds", "seconds", "{:.1f}"),
)
"""Log keys, their headings and formats."""
_ROWS = 20
"""Epochs that the table shows at most, evenly spaced; the plot shows all."""
_PANELS = (
    ("train_loss", "training loss", 1),
    ("val_top1", "validation top-1, %", 100),
    ("images_per_second", "images/s", 1),
)
"""Log keys that are drawn, with their headings and the factor from the logged number to the drawn one."""

_ALWAYS = ("step", "train_loss", "images_per_second", "data_wait", "seconds")
_MOST = 10**15
"""No number of a record is larger, but for an infinite loss."""


def is_record(value: Any, whole: bool = True) -> bool:
    """Whether it is what a run logs of an epoch: numbers by name. whole: with all that a report needs."""
    if not isinstance(value, dict) or type(value.get("epoch")) is not int or not all(map(_is_figure, value.values())):
        return False
    return not whole or (value.keys() >= {*_ALWAYS} and type(value["step"]) is int)


def _is_figure(value: Any) -> bool:
    """A run that diverged logs NaN and infinities."""
    return type(value) in (int, float) and not _MOST <= abs(value) < math.inf


def write_report(folder: Path, title: str, records: list[Record]) -> None:
    """Write ``report.md`` and ``report.png`` beside the log; nothing for a run without epochs."""
    records = [record for record in records if is_record(record)]
    if not records:
        return
    atomic_write(folder / "report.md", _markdown(title, records))
    _plot(folder / "report.png", title, records)


def _markdown(title: str, records: list[Record]) -> str:
    columns = [column for column in _COLUMNS if any(column[0] in record for record in records)]
    step = -(-len(records) // _ROWS)
    shown = sorted({*range(step - 1, len(records), step), len(records) - 1})
    rows = [
        [form.format(records[number][key]) if key in records[number] else "" for key, _, form in columns]
        for number in shown
    ]
    lines = [f"# {markdown(title)}", "", *_summary(records), ""]
    lines += table_lines([heading for _, heading, _ in columns], rows)
    return "\n".join([*lines, "", "![Loss, accuracy and throughput over the epochs](report.png)", ""])


def _summary(records: list[Record]) -> list[str]:
    seconds = sum(record["seconds"] for record in records) or math.nan
    images = sum(record["seconds"] * record["images_per_second"] for record in records)
    waited = sum(record["seconds"] * record["data_wait"] for record in records)
    lines = [
        f"- {len(records)} epochs, {records[-1]['step']} steps, {seconds:,.0f} s of training",
        f"- {images / seconds:,.0f} images/s, {waited / seconds:.1%} of the time waiting for data",
    ]
    scored = [record for record in records if "val_top1" in record]
    if scored:
        best = max(scored, key=lambda record: record["val_top1"])
        lines.append(
            f"- validation top-1 {scored[-1]['val_top1']:.2%} at the end, at best {best['val_top1']:.2%} "
            f"after epoch {best['epoch']}"
        )
    return lines


def _plot(file: Path, title: str, records: list[Record]) -> None:
    """Loss, accuracy and rate over the epochs, one below the other."""
    from ffdr.util.pictures import COLOURS, COLUMN, drawing, keep_to_percent  # half a second, at the end of a run

    panels = [panel for panel in _PANELS if any(panel[0] in record for record in records)]
    with drawing(file, COLUMN, 0.5 + 1.25 * len(panels)) as figure:
        found = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for number, (axes, (key, heading, scale)) in enumerate(zip(found, panels, strict=True)):
            points = [(record["epoch"], scale * record[key]) for record in records if key in record]
            marker = "o" if len(points) < 30 else ""
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=2.5, color=COLOURS[number])
            axes.set_ylabel(heading)
            axes.grid()
            if scale == 100:
                keep_to_percent(axes)
        found[-1].set_xlabel("epoch")
        found[-1].set_ylim(bottom=0)
        found[-1].xaxis.get_major_locator().set_params(integer=True)
        found[0].set_title(title)
        figure.align_ylabels()
