"""The demo's results: summary, table and plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ffdr.ablate.scores import (
    JUDGED,
    METRICS,
    Difference,
    as_text,
    mean_and_half_width,
    sentence,
)
from ffdr.util.atomic import atomic_path, atomic_write
from ffdr.util.pictures import Picture
from ffdr.util.text import table_lines

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TASKS = ("erm", "kd", "dr")
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""For erm, kd, dr and teacher: one report a run, in the order of the seeds."""


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
    """One sentence a metric: DR against ERM and KD, paired by seed, saying so where DR does not win."""
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
    """Bars of accuracy, calibration and robustness, and accuracy under each corruption."""
    summary = summarise(runs)
    names, colours = [*TASKS, "teacher"], ["tab:gray", "tab:orange", "tab:blue", "tab:green"]
    figure = plt.figure(figsize=(11, 6.5), constrained_layout=True, FigureClass=Picture)
    grid = figure.add_gridspec(2, 3)
    for column, metric in enumerate(("top1", "ece", "corruption_top1")):
        axes = figure.add_subplot(grid[0, column])
        heading, scale = METRICS[metric].heading, METRICS[metric].scale
        heights = [scale * summary[name][metric] for name in names]
        errors = [scale * summary[name].get(f"{metric}_interval", 0) for name in names]
        axes.bar([name.upper() if name in TASKS else name for name in names], heights, yerr=errors, color=colours)
        axes.set_title(heading)
        if metric != "ece":
            axes.set_ylim(max(0, min(heights) - 15), 100)
    axes = figure.add_subplot(grid[1, :])
    corruptions = list(runs["dr"][0]["corruptions"])
    for offset, (name, colour) in enumerate(zip(names, colours, strict=True)):
        heights = [100 * np.mean([np.mean(run["corruptions"][c]) for run in runs[name]]) for c in corruptions]
        axes.bar(np.arange(len(corruptions)) + 0.2 * (offset - 1.5), heights, 0.2, color=colour, label=name)
    axes.set_xticks(range(len(corruptions)), [c.replace("_", " ") for c in corruptions], rotation=30, ha="right")
    axes.set_title("top-1 under corruption, mean of 5 severities, %")
    axes.set_ylim(0, 118)
    axes.legend(ncols=4, loc="upper right")
    with atomic_path(file) as picture:
        figure.savefig(picture, dpi=110)
    plt.close(figure)
