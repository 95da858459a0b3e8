"""The report's part about calibration: the model as it is, and with a fitted temperature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ffdr.evaluate.metrics import Result
from ffdr.evaluate.report import draw_reliability
from ffdr.evaluate.temperature import Calibration, calibrate
from ffdr.train.report.outputs import Findings
from ffdr.util.pictures import PAGE, drawing
from ffdr.util.text import table_lines

KEY, PICTURE = "calibration", "report-calibration.png"
"""Its name in report.json, and its picture."""
_SCORES = (
    ("nll", "NLL", "{:.4f}"),
    ("ece", "ECE", "{:.2%}"),
    ("brier", "Brier score", "{:.4f}"),
    ("top1", "top-1", "{:.2%}"),
)
"""Keys of scores, their headings and formats."""


def section(file: Path, findings: Findings) -> tuple[dict[str, Any], list[str]] | None:
    """For report.json, and lines of report.md; draws the picture. None: there are too few images or classes."""
    found = calibrate(findings.logits, findings.labels)
    if found is None:
        return None
    sides = {"as it is": found.before, f"logits divided by {found.temperature:.4g}": found.after}
    _draw(file, sides)
    content = {
        "temperature": found.temperature,
        "fitted_on": found.fitted,
        "judged_on": found.judged,
        "validation_images": findings.images,
        "before": _plain(found.before),
        "after": _plain(found.after),
    }
    rows = [[name, *(form.format(side.scores[key]) for key, _, form in _SCORES)] for name, side in sides.items()]
    return content, [
        "## Calibration",
        "",
        *_explained(found, findings),
        "",
        *table_lines(["", *(heading for _, heading, _ in _SCORES)], rows),
        "",
        f"![Accuracy over confidence, before and after temperature scaling]({PICTURE})",
    ]


def _explained(found: Calibration, findings: Findings) -> list[str]:
    kept = len(findings.labels)
    some = "" if kept == findings.images else f" of {kept:,} evenly spaced ones"
    lines = [
        f"Temperature scaling: dividing the model's logits by **{found.temperature:.4g}** before softmax changes how "
        "sure it is, and no prediction.",
        f"The temperature has the least NLL on {found.fitted:,} validation images (every second one{some}); both rows "
        f"are of the {found.judged:,} others. ECE has 15 bins.",
    ]
    if not found.mistakes:
        lines.append("The model makes no mistake on the images of the fit: this temperature means nothing.")
    return lines


def _plain(result: Result) -> dict[str, Any]:
    scores = {key: value for key, value in result.scores.items() if key != "images"}
    return {**scores, "reliability": result.reliability()}


def _draw(file: Path, sides: dict[str, Result]) -> None:
    """Reliability diagrams side by side."""
    with drawing(file, 0.75 * PAGE, 3.2) as figure:
        panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(2.4, 1))
        for (above, below), (name, side) in zip(panels.T, sides.items(), strict=True):
            title = f"{name}: ECE {side.scores['ece']:.2%}"
            draw_reliability(above, below, side.reliability(), title)
        panels[0, 0].set_ylabel("accuracy, %")
        panels[1, 0].set_ylabel("images, %")
