"""The report's part about the classes that are confused most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.evaluate.confusion import worst_pairs
from ffdr.train.report.outputs import Findings
from ffdr.util.pictures import PAGE, drawing, legible, shortened
from ffdr.util.text import printable, table_lines

KEY, PICTURE = "most_confused", "report-confusion.png"
"""Its name in report.json, and its picture."""
_PAIRS = 10
"""Pairs of classes that are shown at most."""
_CLASSES = 12
"""Classes that are drawn at most."""
_NAME = 24
"""Characters of a class's name that the picture shows, of Latin width."""


def section(file: Path, findings: Findings) -> tuple[list[dict[str, Any]], list[str]] | None:
    """For report.json, and lines of report.md; draws the picture. None: the model makes no mistake."""
    pairs = worst_pairs(findings.confusion, findings.names, _PAIRS)
    if not pairs:
        return None
    _draw(file, findings)
    content = [
        {"true": printable(p.true), "predicted": printable(p.predicted), "images": p.images, "share": p.share}
        for p in pairs
    ]
    rows = [[p.true, p.predicted, f"{p.images:,}", f"{p.share:.1%}"] for p in pairs]
    return content, [
        "## Classes that are confused most",
        "",
        *table_lines(["true", "predicted", "images", "of the true class"], rows),
        "",
        f"![Confusion among these classes]({PICTURE})",
    ]


def shares(findings: Findings) -> tuple[list[int], np.ndarray]:
    """The classes of the worst pairs, ascending, at most ``_CLASSES``; and the percent (P, P) float64 of each one's
    images (rows) that are predicted as each (columns). What goes to other classes is in no column."""
    numbers: list[int] = []
    for pair in worst_pairs(findings.confusion, (), _PAIRS):  # without names, classes go by their numbers
        new = [int(name) for name in (pair.true, pair.predicted) if int(name) not in numbers]
        if len(numbers) + len(new) <= _CLASSES:
            numbers += new
    numbers.sort()
    counts = findings.confusion
    matrix = np.zeros((len(numbers), len(numbers)))
    for row, number in enumerate(numbers):
        own = counts.true == number
        total = counts.images[own].sum()
        for column, other in enumerate(numbers):
            matrix[row, column] = 100 * counts.images[own & (counts.predicted == other)].sum() / max(total, 1)
    return numbers, matrix


def _draw(file: Path, findings: Findings) -> None:
    """Rows are true classes; mistakes are coloured, what is right is grey."""
    numbers, percent = shares(findings)
    names = [_name(findings.names, number) for number in numbers]
    right = np.eye(len(numbers), dtype=bool)
    side = 0.34 * len(numbers)
    with drawing(file, min(PAGE, side + 1.8), side + 1.3) as figure:
        axes = figure.subplots()
        most = max(float(percent[~right].max(initial=0)), 1e-9)
        axes.imshow(np.ma.masked_where(right, percent), cmap="Oranges", vmin=0, vmax=1.6 * most)
        axes.set_facecolor("#e3e3e3")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="predicted", ylabel="true", title="Percent of the true class's images")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(percent):
            if value > 0:
                text = f"{value:.0f}" if value >= 1 else "<1"
                colour = "#595959" if row == column else "#222222"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


def _name(names: Sequence[str], number: int) -> str:
    return shortened(legible(printable(names[number] if number < len(names) else str(number))), _NAME)
