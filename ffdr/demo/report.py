"""The demo's results: summary, table and plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TASKS = ("erm", "kd", "dr")
# metric in a run's report → (heading, scale to print, whether more is better)
METRICS = {
    "top1": ("top-1, %", 100, True),
    "nll": ("NLL", 1, False),
    "ece": ("ECE, %", 100, False),
    "corruption_top1": ("corruption top-1, %", 100, True),
    "images_per_second": ("images/s", 1, True),
    "seconds": ("training, s", 1, False),
}
JUDGED = ("top1", "nll", "ece", "corruption_top1")

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
            entry[metric] = float(np.mean(values))
            entry[f"{metric}_each"] = values
            if len(values) > 1:
                entry[f"{metric}_interval"] = half_width(values)
        summary[name] = entry
    return summary


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % t-interval of the mean."""
    return float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def compare(runs: Runs) -> list[str]:
    """One sentence a metric: DR against ERM and KD, paired by seed, saying so where DR does not win."""
    sentences = []
    for metric in JUDGED:
        heading, scale, more = METRICS[metric]
        parts = []
        for peer in ("erm", "kd"):
            gains = [scale * (dr[metric] - other[metric]) for dr, other in zip(runs["dr"], runs[peer], strict=True)]
            mean, half = float(np.mean(gains)), half_width(gains) if len(gains) > 1 else float("inf")
            if abs(mean) <= half:
                verdict = "no clear difference from"
            else:
                verdict = "better than" if (mean > 0) == more else "worse than"
            parts.append(f"{verdict} {peer.upper()} ({mean:+.2f} ± {half:.2f})")
        sentences.append(f"{heading}: DR is {' and '.join(parts)}.")
    return sentences


def write_table(file: Path, runs: Runs, setting: Sequence[str], environment: Mapping[str, str]) -> None:
    """The Markdown table with its setting, comparison and environment."""
    summary = summarise(runs)
    lines = ["# Demo: handwritten digits", "", *(f"- {line}" for line in setting), ""]
    lines.append("| | runs | " + " | ".join(heading for heading, _, _ in METRICS.values()) + " |")
    lines.append("|---" * (2 + len(METRICS)) + "|")
    for name in (*TASKS, "teacher"):
        cells = [_cell(summary[name], metric) for metric in METRICS]
        lines.append(f"| {'teacher' if name == 'teacher' else name.upper()} | {summary[name]['runs']} | ")
        lines[-1] += " | ".join(cells) + " |"
    lines += ["", "Mean ± half width of the 95 % interval over seeds. DR against the others, paired by seed:", ""]
    lines += [f"- {sentence}" for sentence in compare(runs)]
    lines += ["", "Measured with " + ", ".join(f"{key} {value}" for key, value in environment.items()) + ".", ""]
    file.write_text("\n".join(lines))


def _cell(entry: Mapping[str, Any], metric: str) -> str:
    _, scale, _ = METRICS[metric]
    digits = 0 if metric == "images_per_second" else 3 if metric == "nll" else 1
    text = f"{scale * entry[metric]:.{digits}f}"
    interval = entry.get(f"{metric}_interval")
    return text if interval is None else f"{text} ± {scale * interval:.{digits}f}"


def write_summary(file: Path, runs: Runs, setting: Sequence[str], environment: Mapping[str, str]) -> None:
    """``summary.json``: erm, kd, dr, teacher with their metrics, and how they were measured."""
    content = {**summarise(runs), "comparison": compare(runs), "setting": list(setting), "environment": environment}
    file.write_text(json.dumps(content, indent=2) + "\n")


def plot(file: Path, runs: Runs) -> None:
    """Bars of accuracy, calibration and robustness, and accuracy under each corruption."""
    summary = summarise(runs)
    names, colours = [*TASKS, "teacher"], ["tab:gray", "tab:orange", "tab:blue", "tab:green"]
    figure = plt.figure(figsize=(11, 6.5), constrained_layout=True)
    grid = figure.add_gridspec(2, 3)
    for column, metric in enumerate(("top1", "ece", "corruption_top1")):
        axes = figure.add_subplot(grid[0, column])
        heading, scale, _ = METRICS[metric]
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
    figure.savefig(file, dpi=110)
    plt.close(figure)
