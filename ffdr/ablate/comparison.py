"""``ffdr report`` over any runs: tables of those that were validated on the same images, and what sets them apart."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ffdr.ablate.runs import Images, Run, by_seed, by_validation, differing, read_runs
from ffdr.ablate.scores import METRICS, as_text, mean_and_half_width
from ffdr.config.ablation import ReportOptions
from ffdr.util.atomic import atomic_write
from ffdr.util.opening import check_final
from ffdr.util.text import MOST_LINE, command, first_few, markdown, printable, say, table_lines

_MOST_SETTINGS = 10
"""Options that a table has columns for; CSV and JSON have all."""
_MOST_CHARACTERS = 32
"""Of an option's value in a table."""
_NONE = "–"
_SCORES = ("top1", "top5", "nll", "brier", "ece", "images_per_second", "data_wait", "seconds")
_FORMS = {
    "top1": "{:.2%}",
    "nll": "{:.4f}",
    "ece": "{:.2%}",
    "images_per_second": "{:,.0f}",
    "data_wait": "{:.1%}",
    "seconds": "{:,.0f}",
}


def compare(options: ReportOptions) -> None:
    """Print the tables, and write them as Markdown, CSV and JSON, with a picture of all curves, where asked.

    Raises:
        UserError: a folder that holds no run.
    """
    outputs = [path for path in (options.out, options.csv, options.json, options.plot) if path]
    for path in outputs:
        check_final(Path(path))
    runs = read_runs(options.runs or (options.file,))
    settings = differing(runs)
    groups = by_validation(runs)
    say("\n".join(_lines(runs, groups, settings)))
    if options.csv:
        atomic_write(Path(options.csv), _csv(runs, settings))
    if options.json:
        atomic_write(Path(options.json), json.dumps(_content(groups, settings), indent=2) + "\n")
    if options.plot:
        from ffdr.ablate.comparison_plot import draw  # slow, and only where it is asked for

        draw(Path(options.plot), groups, numbers(runs))
    if options.out:
        lines = _lines(runs, groups, settings)
        if options.plot:
            lines += ["", f"![Validation over epochs and over time]({Path(options.plot).name})"]
        atomic_write(Path(options.out), "\n".join(lines) + "\n")
    say(
        f"{', '.join(outputs) or first_few([run.folder for run in runs])}: {_count(runs)}; next: {_next(options, runs)}"
    )


def numbers(runs: Sequence[Run]) -> dict[str, int]:
    """What a run goes by in tables and pictures, by its folder."""
    return {run.folder: number for number, run in enumerate(runs, 1)}


def _count(runs: Sequence[Run]) -> str:
    return f"{len(runs)} run{'s' * (len(runs) > 1)} compared"


def _next(options: ReportOptions, runs: Sequence[Run]) -> str:
    """Keep what was shown; else evaluate the best."""
    if not options.plot:
        flags = () if options.out else ("--out=report.md",)
        return command("report", *(run.folder for run in runs), *flags, "--plot=report-runs.png")
    best = max(runs, key=lambda run: run.score("top1") or -1.0)
    return command("eval", f"--checkpoint={best.folder}/model.safetensors", "--data=IMAGES.beton")


def _lines(runs: Sequence[Run], groups: Sequence[Sequence[Run]], settings: Sequence[str]) -> list[str]:
    number_of, shown = numbers(runs), settings[:_MOST_SETTINGS]
    lines = [f"# {_count(runs)}"]
    if len(groups) > 1:
        lines += [
            "",
            "Runs that were validated on different images stand in different tables: their scores don't compare.",
        ]
    for group in groups:
        lines += ["", f"## {_heading(group)}", ""]
        lines += table_lines(_headings(shown), [_row(run, number_of, shown) for run in group], padded=True)
        lines += _means(group, number_of, shown)
    lines += ["", *_notes(runs, settings)]
    return lines


def _heading(group: Sequence[Run]) -> str:
    images = group[0].validation
    return markdown(f"Validated on {images}") if images else "Not validated"


def _headings(settings: Sequence[str]) -> list[str]:
    scores = ["top-1", "best top-1", "NLL", "ECE", "images/s", "data wait", "seconds"]
    return ["", "run", "task", "model", "data", "epochs", *scores, *settings]


def _row(run: Run, number_of: dict[str, int], settings: Sequence[str]) -> list[str]:
    cells = {key: _cell(run.score(key), form) for key, form in _FORMS.items()}
    best = run.summary.best if run.summary else {}
    cells["top1"] += f"|{best['val_top1']:.2%} (epoch {best['epoch']})" if best else f"|{_NONE}"
    facts = [run.name, run.settings.get("train.task", ""), run.settings.get("model.name", ""), _short(run.training)]
    scores = [part for cell in cells.values() for part in cell.split("|")]
    return [str(number_of[run.folder]), *facts, _epochs(run), *scores, *_values(run, settings)]


def _short(images: Images) -> str:
    """The file and the first of its fingerprint."""
    return f"{images.file} {images.fingerprint[:8]}".strip()


def _cell(value: float | None, form: str) -> str:
    return _NONE if value is None or math.isnan(value) else form.format(value)


def _epochs(run: Run) -> str:
    if run.finished:
        return str(run.done)
    return f"{run.done} of {run.epochs or '?'}, unfinished"


def _values(run: Run, settings: Sequence[str]) -> list[str]:
    return [printable(run.settings.get(key, _NONE), _MOST_CHARACTERS) for key in settings]


def _means(group: Sequence[Run], number_of: dict[str, int], settings: Sequence[str]) -> list[str]:
    """Of finished runs that differ in their seeds alone."""
    rows = []
    for runs in by_seed(group):
        texts = []
        for key in _MEANS:
            values = [value for run in runs if (value := run.score(key)) is not None]
            texts.append(as_text(values, METRICS[key]) if len(values) == len(runs) else _NONE)
        facts = [runs[0].settings.get(key, "") for key in ("train.task", "model.name")]
        members = ", ".join(str(number_of[run.folder]) for run in runs)
        rows.append([members, *facts, str(runs[0].done), *texts, *_values(runs[0], settings)])
    if not rows:
        return []
    headings = ["runs", "task", "model", "epochs", *(METRICS[key].heading for key in _MEANS), *settings]
    return [
        "",
        "Means over the runs that differ in their seeds alone, ± half width of the 95 % interval (Student's t):",
        "",
        *table_lines(headings, rows, padded=True),
    ]


_MEANS = ("top1", "nll", "ece", "images_per_second", "seconds")


def _notes(runs: Sequence[Run], settings: Sequence[str]) -> list[str]:
    notes = [
        "Top-1, NLL and ECE are of the last epoch that was validated; images/s, data wait and seconds of all training, "
        "without validation."
    ]
    if any(not run.finished for run in runs):
        notes.append("Unfinished runs are shown with what they have logged.")
    if len(settings) > _MOST_SETTINGS:
        more = ", ".join(settings[_MOST_SETTINGS:])
        notes.append(markdown(f"They differ in more: {more} (in --csv and --json).", MOST_LINE))
    elif not settings and len(runs) > 1:
        notes.append("Their other settings are the same.")
    return notes


def _plain(run: Run, settings: Sequence[str]) -> dict[str, Any]:
    """A run for scripts: shares as fractions, None for what is not known."""
    best = run.summary.best if run.summary else {}
    images = run.validation
    scores = {key: run.score(key) for key in _SCORES}
    return {
        "run": printable(run.folder, MOST_LINE),
        "task": run.settings.get("train.task"),
        "model": run.settings.get("model.name"),
        "seed": run.seed or None,
        "data": run.training.file,
        "data_fingerprint": run.training.fingerprint,
        "validation": images.file if images else None,
        "validation_fingerprint": images.fingerprint if images else None,
        "epochs": run.done,
        "epochs_asked": run.epochs or None,
        "finished": run.finished,
        **{key: value if value is not None and math.isfinite(value) else None for key, value in scores.items()},
        "best_top1": best.get("val_top1"),
        "best_epoch": best.get("epoch"),
        **{key: run.settings.get(key) for key in settings},
    }


def _csv(runs: Sequence[Run], settings: Sequence[str]) -> str:
    rows = [_plain(run, settings) for run in runs]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    spelled = {None: "", True: "true", False: "false"}
    for row in rows:
        writer.writerow(
            {
                key: spelled[value] if value is None or value is True or value is False else value
                for key, value in row.items()
            }
        )
    return text.getvalue()


def _content(groups: Sequence[Sequence[Run]], settings: Sequence[str]) -> dict[str, Any]:
    """A list of groups, each with its runs and the means over seeds."""
    found = []
    for group in groups:
        means = []
        for runs in by_seed(group):
            entry: dict[str, Any] = {"runs": [printable(run.folder, MOST_LINE) for run in runs]}
            for key in _MEANS:
                values = [value for run in runs if (value := run.score(key)) is not None]
                if len(values) == len(runs):
                    mean, half = mean_and_half_width(values)
                    entry[key] = {"mean": mean, "half_width": half}
            means.append(entry)
        found.append(
            {"validated_on": _heading(group), "runs": [_plain(run, settings) for run in group], "means": means}
        )
    return {"differing": list(settings), "groups": found}
