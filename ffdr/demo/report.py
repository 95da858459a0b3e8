"""The demo's results: summary, table and plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ffdr.ablate.scores import (
    JUDGED,
    METRICS,
    Difference,
    Metric,
    as_text,
    mean_and_half_width,
    sentence,
)
from ffdr.util.atomic import atomic_write
from ffdr.util.pictures import PAGE, colour_of, drawing, keep_to_percent, marker_of
from ffdr.util.text import table_lines

TASKS = ("erm", "kd", "dr")
_PLOTTED = ("top1", "ece", "corruption_top1")
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""For erm, kd, dr and teacher: one report per run, in the order of the seeds."""


def summarise(runs: Runs) -> dict[str, dict[str, Any]]:
    """Mean over the runs of each metric, with ``_interval`` (half width of the 95 % t-interval; absent for one run)
    and ``_each`` beside it."""
    summary: dict[str, dict[str, Any]] = {}
    for name, reports in runs.items():
        entry: dict[str, Any] = {"runs": len(reports)}
        for metric in METRICS:
            values = [float(report[metric]) for report in reports]
            entry[metric], half = mean_and_half_width(values)
            entry[f"{metric}_each"] = values
            if half is not None:
                entry[f"{metric}_interval"] = half
        summary[name] = entry
    return summary


def compare(runs: Runs) -> list[str]:
    """One sentence per metric: DR against ERM and KD, paired by seed, saying so where DR does not win."""
    sentences = []
    for key in JUDGED:
        ours, *others = ([run[key] for run in runs[task]] for task in ("dr", "erm", "kd"))
        differences = [Difference.of(ours, values, METRICS[key]) for values in others]
        sentences.append(sentence(METRICS[key].heading, "DR", dict(zip(("ERM", "KD"), differences, strict=True))))
    return sentences


def write_table(file: Path, runs: Runs, setting: Sequence[str], environment: Mapping[str, str]) -> None:
    """The Markdown table with its setting, comparison and environment."""
    lines = ["# Demo: handwritten digits", "", *(f"- {line}" for line in setting), ""]
    rows = []
    for name in (*TASKS, "teacher"):
        texts = [as_text([run[key] for run in runs[name]], metric) for key, metric in METRICS.items()]
        rows.append([name.upper() if name in TASKS else name, str(len(runs[name])), *texts])
    lines += table_lines(["", "runs", *(metric.heading for metric in METRICS.values())], rows)
    lines += ["", "Mean ± half width of the 95 % interval over seeds. DR against the others, paired by seed:", ""]
    lines += [f"- {line}" for line in compare(runs)]
    lines += ["", "Measured with " + ", ".join(f"{key} {value}" for key, value in environment.items()) + ".", ""]
    atomic_write(file, "\n".join(lines))


def write_summary(file: Path, runs: Runs, setting: Sequence[str], environment: Mapping[str, str]) -> None:
    """``summary.json``: erm, kd, dr, teacher with their metrics, and how they were measured."""
    content = {**summarise(runs), "comparison": compare(runs), "setting": list(setting), "environment": environment}
    atomic_write(file, json.dumps(content, indent=2) + "\n")


def plot(file: Path, runs: Runs) -> None:
    """Accuracy, calibration and robustness, each run as a faint dot; below, accuracy under each corruption."""
    names = [*TASKS, "teacher"]
    labels = [name.upper() if name in TASKS else name for name in names]
    with drawing(file, PAGE, 4.4) as figure:
        grid = figure.add_gridspec(2, len(_PLOTTED), height_ratios=(1, 1.05))
        for column, key in enumerate(_PLOTTED):
            axes = figure.add_subplot(grid[0, column])
            _draw_scores(axes, METRICS[key], {name: [run[key] for run in runs[name]] for name in names})
            axes.set_xticks(range(len(names)), labels)
        axes = figure.add_subplot(grid[1, :])
        _draw_corruptions(axes, runs, dict(zip(names, labels, strict=True)))
        axes.legend(ncols=len(names), loc="lower right", bbox_to_anchor=(1, 1))


def _draw_scores(axes: Axes, metric: Metric, values: Mapping[str, Sequence[float]]) -> None:
    """Mean with interval of each name at 0, 1, …."""
    for number, (name, found) in enumerate(values.items()):
        scores, colour = [metric.scale * value for value in found], colour_of(name, number)
        mean, half = mean_and_half_width(scores)
        axes.errorbar([number], [mean], [half or 0], fmt=marker_of(number), color=colour)
        axes.scatter([number + 0.22] * len(scores), scores, 6, colour, alpha=0.35, linewidths=0)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylabel(metric.heading)
    axes.grid(axis="y")
    keep_to_percent(axes, from_zero=not metric.more)


def _draw_corruptions(axes: Axes, runs: Runs, names: Mapping[str, str]) -> None:
    """Mean over the severities with interval over the runs, side by side. names: with what the legend calls them."""
    corruptions = list(runs["dr"][0]["corruptions"])
    for number, (name, label) in enumerate(names.items()):
        each = [[100 * float(np.mean(run["corruptions"][key])) for run in runs[name]] for key in corruptions]
        means, halves = zip(*map(mean_and_half_width, each), strict=True)
        axes.errorbar(
            np.arange(len(corruptions)) + 0.17 * (number - (len(names) - 1) / 2),
            means,
            [half or 0 for half in halves],
            fmt=marker_of(number),
            color=colour_of(name, number),
            elinewidth=0.8,
            label=label,
        )
    for place in range(1, len(corruptions), 2):
        axes.axvspan(place - 0.5, place + 0.5, color="#f5f5f5", linewidth=0, zorder=0)
    axes.set_xticks(range(len(corruptions)), [key.replace("_", " ") for key in corruptions], rotation=30, ha="right")
    axes.set_xlim(-0.5, len(corruptions) - 0.5)
    axes.set_ylabel("top-1, % (mean of severities)")
    axes.set_ylim(0, 100)
    axes.grid(axis="y")
