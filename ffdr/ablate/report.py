"""A study's results: results.csv, table.md and summary.json."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffdr.ablate.cell import Result
from ffdr.ablate.grid import SEED, Cell, Grid
from ffdr.ablate.scores import JUDGED, METRICS, Difference, as_text, half_width
from ffdr.evaluate.settings import KEYS, settings_text
from ffdr.util.atomic import atomic_write
from ffdr.util.environment import environment
from ffdr.util.text import (
    MOST_LINE,
    markdown,
    printable,
    table_lines,
)

Group = tuple[tuple[str, str], ...]
"""Points that repeats share: (axis, label) pairs."""
_SCORES = ("top1", "top5", "nll", "brier", "ece", "corruption_top1", "images_per_second", "seconds")
_TIMES = ("run_seconds", "exam_seconds")


@dataclass(frozen=True)
class CellResult:
    """One cell and its outcome."""

    cell: Cell
    result: Result | None
    """None: it failed"""
    error: str
    digest: str

    @property
    def scores(self) -> Result:
        """The result of a run that has finished."""
        if self.result is None:
            raise ValueError(f"{self.cell.name} failed")
        return self.result


@dataclass(frozen=True)
class Comparison:
    """The point that is compared against another one of its axis, all else equal, paired by seed."""

    axis: str
    context: Group
    """the other axes' points"""
    ours: str
    other: str
    differences: dict[str, Difference]
    """by key of a score"""


def grouped(rows: Iterable[CellResult]) -> dict[Group, list[CellResult]]:
    """Finished cells by the points that they share but for the seed."""
    groups: dict[Group, list[CellResult]] = {}
    for row in rows:
        if row.result is not None:
            groups.setdefault(row.cell.group, []).append(row)
    return groups


def settings_texts(rows: Iterable[CellResult]) -> list[str]:
    """How the models were fed, in words; where they were fed in several ways, with the number of runs of each."""
    counts = Counter(settings_text(row.result) for row in rows if row.result is not None)
    return [
        text if len(counts) == 1 else f"{text} ({count} run{'s' * (count > 1)})"
        for text, count in counts.items()
        if text
    ]


def compare(grid: Grid, rows: Sequence[CellResult]) -> list[Comparison]:
    """The grid's compared point against each other point of its axis, for every combination of the other axes."""
    if grid.compare is None:
        return []
    axis, ours = grid.compare
    groups = grouped(rows)
    comparisons = []
    for group, members in groups.items():
        points = dict(group)
        if points[axis] != ours:
            continue
        for other in grid.axes[axis]:
            others = groups.get(tuple((points | {axis: other}).items()), [])
            if other != ours and others:
                differences = _differences(members, others)
                context = tuple((name, label) for name, label in group if name != axis)
                comparisons += [Comparison(axis, context, ours, other, differences)] if differences else []
    return comparisons


def _differences(ours: Sequence[CellResult], others: Sequence[CellResult]) -> dict[str, Difference]:
    """Over the seeds that both have."""
    peers = {row.cell.recipe.train.seed: row.scores for row in others}
    pairs = [(row.scores, peers[seed]) for row in ours if (seed := row.cell.recipe.train.seed) in peers]
    keys = [key for key in JUDGED if pairs and all(key in result for pair in pairs for result in pair)]
    return {key: Difference.of([a[key] for a, _ in pairs], [b[key] for _, b in pairs], METRICS[key]) for key in keys}


def write_csv(file: Path, rows: Sequence[CellResult]) -> None:
    """One row per cell: points, what they come to, scores (shares, not percent), settings, digest, command, error."""
    facts = ("train.task", "model.name", "train.epochs", SEED)
    axes = list(rows[0].cell.points)
    last = ("digest", "command", "error")
    columns = [*axes, *(fact for fact in facts if fact not in axes), *_SCORES, *_TIMES, *KEYS, *last]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({column: printable(column, MOST_LINE) for column in columns})
    for row in rows:
        recipe = row.cell.recipe
        found = {fact: getattr(getattr(recipe, fact.split(".")[0]), fact.split(".")[1]) for fact in facts}
        scores = {key: (row.result or {}).get(key, "") for key in (*_SCORES, *_TIMES, *KEYS)}
        texts = dict(zip(last, (row.digest, row.cell.command, row.error), strict=True))
        cells = found | row.cell.points | scores | texts
        writer.writerow(
            {key: printable(cell, MOST_LINE) if isinstance(cell, str) else cell for key, cell in cells.items()}
        )
    atomic_write(file, text.getvalue())


def write_table(file: Path, grid: Grid, rows: Sequence[CellResult], title: str, setting: Sequence[str]) -> None:
    """Markdown: means over seeds, paired differences, what failed, how it was measured."""
    lines = [
        f"# {markdown(title)}",
        "",
        *(f"- {markdown(line, MOST_LINE)}" for line in setting),
        "",
        *_means(grouped(rows)),
    ]
    lines += ["", "Mean ± half width of the 95 % interval (Student's t) over seeds.", ""]
    comparisons = compare(grid, rows)
    if comparisons:
        first = comparisons[0]
        lines += [
            f"## {markdown(first.axis)}: {markdown(first.ours)} against the others, paired by seed",
            "",
            *_differences_table(comparisons),
            "",
        ]
        lines += ["Mean of the differences ± half width of its 95 % interval; bold: the interval excludes zero.", ""]
    failed = [row for row in rows if row.result is None]
    if failed:
        lines += [
            "## Failed runs",
            "",
            *(f"- {markdown(f'{row.cell.name}: {row.error}', MOST_LINE)}" for row in failed),
            "",
        ]
    lines += ["Measured with " + ", ".join(f"{key} {value}" for key, value in environment().items()) + ".", ""]
    atomic_write(file, "\n".join(lines))


def _means(groups: Mapping[Group, Sequence[CellResult]]) -> list[str]:
    if not groups:
        return ["No run has finished."]
    keys = [key for key in METRICS if all(key in row.scores for members in groups.values() for row in members)]
    axes = [axis for axis, _ in next(iter(groups))]
    rows = []
    for group, members in groups.items():
        texts = [as_text([row.scores[key] for row in members], METRICS[key]) for key in keys]
        rows.append([*(label for _, label in group), str(len(members)), *texts])
    return table_lines([*axes, "runs", *(METRICS[key].heading for key in keys)], rows)


def _differences_table(comparisons: Sequence[Comparison]) -> list[str]:
    keys = list(comparisons[0].differences)
    axes = [axis for axis, _ in comparisons[0].context]
    rows = []
    for comparison in comparisons:
        texts = [_verdict(comparison.differences[key]) for key in keys]
        rows.append([*(label for _, label in comparison.context), comparison.other, *texts])
    return table_lines([*axes, "against", *(METRICS[key].heading for key in keys)], rows)


def _verdict(difference: Difference) -> str:
    clear = difference.verdict != "no clear difference"
    return f"**{difference}** {difference.verdict}" if clear else str(difference)


def write_summary(file: Path, grid: Grid, rows: Sequence[CellResult], title: str, setting: Sequence[str]) -> None:
    """JSON: every group's means, intervals and single values, the differences, and how it was measured."""
    groups = []
    for group, members in grouped(rows).items():
        entry: dict[str, Any] = {"points": dict(group), "seeds": [row.cell.recipe.train.seed for row in members]}
        entry["fed"] = settings_texts(members)
        for key in _SCORES:
            values = [row.scores[key] for row in members if key in row.scores]
            if values:
                entry[key] = {"mean": sum(values) / len(values), "each": values}
                if len(values) > 1:
                    entry[key]["half_width"] = half_width(values)
        groups.append(entry)
    differences = []
    for comparison in compare(grid, rows):
        entry = {"points": dict(comparison.context), "ours": comparison.ours, "other": comparison.other}
        for key, d in comparison.differences.items():
            entry[key] = {"mean": d.mean, "half_width": d.half, "verdict": d.verdict}
        differences.append(entry)
    content = {
        "title": title,
        "setting": list(setting),
        "groups": groups,
        "differences": differences,
        "failed": [{"points": row.cell.points, "error": row.error} for row in rows if row.result is None],
        "environment": environment(),
    }
    atomic_write(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
