"""report.md and report.json of a run, with the pictures that the former shows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffdr.train.report.records import Record, Summary, is_record
from ffdr.util.atomic import atomic_write
from ffdr.util.text import markdown, printable, table_lines

if TYPE_CHECKING:
    from ffdr.train.report.outputs import Findings

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
_DIGITS = 9
"""Decimals in report.json."""


def write_report(folder: Path, title: str, records: Sequence[Record], findings: Findings | None = None) -> None:
    """Write ``report.md``, ``report.json`` and their pictures beside the log; nothing for a run without epochs.

    The same records and findings make the same bytes. ``report.md`` and then ``report.png`` come last: where both are,
    all is there. findings: of the last validation; None: there was none, and what shows them is left out (and removed,
    where an earlier report has left it).
    """
    records = [record for record in records if is_record(record)]
    if not records:
        return
    # With matplotlib half a second, at the end of a run.
    from ffdr.train.report import calibration, confused, curves

    content: dict[str, Any] = {"title": printable(title), "training": _training(records)}
    lines: list[str] = []
    for part in (calibration, confused):
        made = None if findings is None else part.section(folder / part.PICTURE, findings)
        if made is None:
            (folder / part.PICTURE).unlink(missing_ok=True)
        else:
            content[part.KEY], more = made
            lines += ["", *more]
    atomic_write(folder / "report.json", json.dumps(_plain(content), indent=2) + "\n")
    atomic_write(folder / "report.md", _markdown(title, records, lines))
    curves.draw(folder / "report.png", title, records)


def _markdown(title: str, records: Sequence[Record], sections: Sequence[str]) -> str:
    columns = [column for column in _COLUMNS if any(column[0] in record for record in records)]
    step = -(-len(records) // _ROWS)
    shown = sorted({*range(step - 1, len(records), step), len(records) - 1})
    rows = [
        [form.format(records[number][key]) if key in records[number] else "" for key, _, form in columns]
        for number in shown
    ]
    lines = [f"# {markdown(title)}", "", *_summary(Summary.of(records)), ""]
    lines += table_lines([heading for _, heading, _ in columns], rows)
    lines += ["", "![Loss, accuracy, learning rate and throughput over the epochs](report.png)", *sections]
    return "\n".join([*lines, ""])


def _summary(run: Summary) -> list[str]:
    lines = [
        f"- {run.epochs} epochs, {run.steps} steps, {run.seconds:,.0f} s of training",
        f"- {run.images_per_second:,.0f} images/s, {run.data_wait:.1%} of the time waiting for data",
    ]
    if run.last:
        best = f", at best {run.best['val_top1']:.2%} after epoch {run.best['epoch']}" if run.best else ""
        lines.append(f"- validation top-1 {run.last['val_top1']:.2%} at the end{best}")
    return lines


def _training(records: Sequence[Record]) -> dict[str, Any]:
    """For scripts: what the first lines of the report say."""
    run = Summary.of(records)
    found: dict[str, Any] = {
        "epochs": run.epochs,
        "steps": run.steps,
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
        "data_wait": run.data_wait,
        "train_loss": records[-1]["train_loss"],
    }
    found |= {key: value for key, value in run.last.items() if key.startswith("val_")}
    if run.best:
        found |= {"best_epoch": run.best["epoch"], "best_val_top1": run.best["val_top1"]}
    return found


def _plain(value: Any) -> Any:
    """With numbers that JSON has: rounded, and None for those that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return value
