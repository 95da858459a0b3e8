"""What an evaluation leaves behind: a table for the terminal, timm's CSV, a plot of reliability and confidence."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffdr.evaluate.metrics import ECE_BINS
from ffdr.evaluate.settings import settings_text
from ffdr.util.atomic import atomic_write
from ffdr.util.text import MOST_LINE, printable, readable, warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report = dict[str, Any]
"""Settings (``settings.KEYS``; model, parameters, compiled); then the scores of one data set and ``data``,
its path, or of a suite ``sets`` and ``missing`` (``suite.run_suite``). A set's own settings win."""

_PERCENT = (("top1", "top-1"), ("top5", "top-5"), ("ece", "ECE"))
_PLAIN = (("nll", "NLL"), ("brier", "Brier"))
_TIMM = ("model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct", "interpolation")
"""Columns of timm's results CSVs: percent; millions of parameters."""
_OURS = ("set", "images", "nll", "brier", "ece", "mce", "top1_gap", "precision", "flip_average", "averaged")
"""Columns behind them, as fractions and nats but the gap, which is in percent like timm's; and settings,
true or false, averaged empty where unknown."""
_SPELLED = {True: "true", False: "false", None: ""}


def rows(report: Report) -> dict[str, Report]:
    """The scores of each set; of a single data set under its path."""
    return report["sets"] if "sets" in report else {report["data"]: report}


def as_text(report: Report) -> str:
    """The report as lines for a terminal."""
    view = f"{printable(report['model'])} at {settings_text(report)}"
    if "sets" in report:
        return "\n".join([view, *_suite_lines(report)])
    lines = [f"{view}, on {printable(report['data'])}, {report['images']} images"]
    percent = (*_PERCENT, ("corruption_top1", "corruption_top1"))
    lines += [f"  {key:18s} {report[key]:8.2%}" for key, _ in percent if key in report]
    lines += [f"  {key:18s} {report[key]:8.4f}" for key, _ in _PLAIN]
    if "corruptions" in report:
        lines.append("  top-1 under corruptions made here (not ImageNet-C), severities 1 to 5:")
        for name, values in report["corruptions"].items():
            lines.append(f"    {name:18s}" + "".join(f"{value:8.1%}" for value in values))
    return "\n".join(lines)


def _suite_lines(report: Report) -> Iterator[str]:
    columns = (*_PERCENT, *_PLAIN)
    yield f"  {'set':14s}{'images':>8s}" + "".join(f"{heading:>9s}" for _, heading in columns)
    for name, scores in report["sets"].items():
        cells = [_cell(scores.get(key), "9.4f" if (key, heading) in _PLAIN else "9.2%") for key, heading in columns]
        yield f"  {name:14s}{_cell(scores.get('images'), '8d')}{''.join(cells)}{_note(scores)}"
    for name, why in report["missing"].items():
        yield f"  {name:14s} missing: {printable(why, MOST_LINE)}"


def _cell(value: float | None, form: str) -> str:
    return f"{value:{form}}" if value is not None else " " * (int(form[0]) - 1) + "-"


def _note(scores: Report) -> str:
    notes = []
    if "gap" in scores:
        notes.append(f"{scores['gap']:+.2%} to the clean 200 classes")
    if "mce" in scores:
        notes.append(f"mCE {100 * scores['mce']:.2f}")
    if "center" in scores:
        notes.append(f"crop {scores['center']:g}")
    if scores.get("published_images", scores.get("images")) != scores.get("images"):
        notes.append(f"the published set has {scores['published_images']} images")
    return "  " + ", ".join(notes) if notes else ""


def write_csv(path: Path, report: Report) -> None:
    """A row for each set: timm's columns in timm's units, then ours."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_TIMM, *_OURS], restval="", lineterminator="\n")
    writer.writeheader()
    for name, scores in rows(report).items():
        row = {
            "model": printable(report["model"]),
            "param_count": f"{report['parameters'] / 1e6:.2f}",
            "img_size": report["resolution"],
            "crop_pct": f"{scores.get('center', report['center']):.3f}",
            "interpolation": report["interpolation"],
            "set": printable(name, MOST_LINE),
            "precision": report.get("precision", ""),
            **{key: _SPELLED[report.get(key)] for key in ("flip_average", "averaged")},
        }
        for key in ("top1", "top5"):
            if key in scores:
                row |= {key: f"{100 * scores[key]:.3f}", f"{key}_err": f"{100 - 100 * scores[key]:.3f}"}
        row |= {key: f"{scores[key]:.6g}" for key in ("images", "nll", "brier", "ece", "mce") if key in scores}
        if "gap" in scores:
            row["top1_gap"] = f"{100 * scores['gap']:.3f}"
        writer.writerow(row)
    atomic_write(path, text.getvalue())


def plot(path: Path, report: Report) -> bool:
    """Reliability diagram and confidence histogram of every set, side by side; a warning where no set has any.

    Returns whether the picture was written.
    """
    from ffdr.util.pictures import drawing  # half a second, and only where a plot is asked for

    drawn = {name: scores for name, scores in rows(report).items() if "reliability" in scores}
    if not drawn:
        warn(f"{path}: no set has confidences to draw; not written")
        return False
    with drawing(path, 0.6 + 2.1 * len(drawn), 3.4) as figure:
        panels = figure.subplots(2, len(drawn), squeeze=False, sharex=True, sharey="row", height_ratios=(2, 1))
        for (above, below), (name, scores) in zip(panels.T, drawn.items(), strict=True):
            draw_reliability(
                above, below, scores["reliability"], f"{readable(Path(name).name)}, ECE {scores['ece']:.2%}"
            )
        panels[0, 0].set_ylabel("accuracy, %")
        panels[1, 0].set_ylabel("images, %")
        figure.suptitle(report["model"])
    return True


def draw_reliability(above: Axes, below: Axes, reliability: Sequence[dict[str, Any]], title: str) -> None:
    """Accuracy over confidence, and below how many images have it. reliability: as ``metrics.Result`` has it."""
    from ffdr.util.pictures import COLOURS, NEUTRAL

    places = [100 * (number + 0.5) / ECE_BINS for number in range(ECE_BINS)]
    bars: dict[str, Any] = {"width": 100 / ECE_BINS, "edgecolor": "white", "linewidth": 0.5}
    accuracy = [100 * (part["accuracy"] or 0) for part in reliability]
    above.bar(places, accuracy, **bars, color=COLOURS[0])
    above.plot([0, 100], [0, 100], color="#222222", linewidth=0.8, linestyle="--")
    above.set(title=title, xlim=(0, 100), ylim=(0, 100))
    images = sum(part["images"] for part in reliability)
    below.bar(places, [100 * part["images"] / images for part in reliability], **bars, color=NEUTRAL)
    below.set(xlabel="confidence, %", ylim=(0, None))
