"""``ffdr report``: a run beside the published figures for its model, at the nearest budget."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffdr.beton.opening import LARGE, read_json, read_small
from ffdr.beton.partial import write_aside
from ffdr.errors import UserError, nearest
from ffdr.evaluate.feeding import KEYS, feeding_text, run_options, validation_feeding
from ffdr.options import ReportOptions
from ffdr.text import RCFG, command, reason, shown, table_lines

COLUMNS = {
    ("val", "top1"): "ImageNet",
    ("v2", "top1"): "V2",
    ("r", "top1"): "R",
    ("a", "top1"): "A",
    ("c", "mce"): "C, mCE",
    ("val", "ece"): "ECE",
}
"""(set, metric) as ``ffdr eval`` names them → heading."""
_CLASSES = 1000
"""Of ImageNet, which the figures are of."""
_NONE = "–"
_WEIGHTS = {True: "averaged", False: "raw", None: ""}
_AVERAGED = {"yes": True, "no": False, "": None}
"""How the option and the table of published figures spell it."""

Figures = dict[tuple[str, str], float]
"""Percent by (set, metric)."""


@dataclass(frozen=True)
class Training:
    """A trained model: ours, or a published one."""

    name: str
    """where its figures come from"""
    models: tuple[str, ...]
    """timm's names of it"""
    task: str
    """erm, kd or dr; empty: unknown"""
    data: str
    epochs: int
    """0: unknown"""
    figures: Figures
    averaged: bool | None = None
    """whether the weights are; None: unknown"""
    note: str = ""
    """what else decides the figures, such as how the model was fed"""

    def is_like(self, ours: Training) -> bool:
        """Whether its figures may be subtracted from ours: averaged weights against averaged ones, raw against raw."""
        return self.averaged in (None, ours.averaged)


def report(options: ReportOptions) -> None:
    """Print the table, and write it as Markdown if asked.

    Raises:
        UserError: no run, no figures for its model, or data that are not ImageNet.
    """
    ours = read_training(options)
    published = select(read_reference(options.reference), ours, options.reference)
    text = "\n".join(_lines(ours, published)) + "\n"
    print(text)
    if options.out:
        write_aside(Path(options.out), text)
    print(f"{options.out or options.file}: set beside published figures; next: {_next(options)}")


def _next(options: ReportOptions) -> str:
    """The suite for the other columns; else keep the table; else the paper's study."""
    weights = Path(options.file) / "model.safetensors"
    if weights.is_file():
        flags = (f"--checkpoint={weights}", f"--json={weights.with_name('suite.json')}")
        return command("eval", "--config-file", shown(RCFG / "eval" / "imagenet.yaml"), *flags)
    if options.out:
        return command("ablate", "--config-file", shown(RCFG / "ablate" / "imagenet-budget.yaml"))
    return command("report", options.file, "--out=report.md")


def read_training(options: ReportOptions) -> Training:
    """The run as its folder or its report tells, and as the options add."""
    path = Path(options.file)
    if not path.is_dir() and not path.is_file():
        raise UserError(f"report.file: {path}: no such run or report")
    try:
        found = _of_folder(path) if path.is_dir() else _of_report(path)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"report.file: {path}: not as ffdr leaves it ({reason(error)})") from error
    models = (options.model,) if options.model else found.models
    averaged = _AVERAGED[options.averaged] if options.averaged else found.averaged
    task, epochs = options.task or found.task, options.epochs or found.epochs
    return replace(found, models=models, task=task, epochs=epochs, averaged=averaged)


def _of_folder(folder: Path) -> Training:
    """A run of ``ffdr train``, by its last validation."""
    log = folder / "log.jsonl"
    lines = read_small(log, LARGE).splitlines() if log.exists() else []
    if not lines or not (folder / "options.json").exists():
        raise UserError(f"report.file: {folder} holds no run of ffdr train")
    last = _parse(lines[-1], log)
    if "val_top1" not in last:
        raise UserError(f"report.file: {folder} was not validated after its last epoch; give a report of ffdr eval")
    scores = {key.removeprefix("val_"): value for key, value in last.items() if key.startswith("val_")}
    options = read_json(folder / "options.json")
    if options["data"]["num_classes"] != _CLASSES:
        classes = options["data"]["num_classes"]
        raise UserError(f"report.file: {folder} has {classes} classes, but the figures are of ImageNet's {_CLASSES}")
    train = options["train"]
    name, fed = _base(options["model"]["name"]), validation_feeding(options)
    figures = _figures({"val": scores})
    return Training(str(folder), (name,), train["task"], "", last["epoch"], figures, fed.get("averaged"), _fed(fed))


def _of_report(file: Path) -> Training:
    """A report of ``ffdr eval``: of a suite, or of one data set, which then is taken for ImageNet's validation set.

    How the model was trained it does not say; the run in whose folder it lies does.
    """
    content = read_json(file, LARGE)
    if not isinstance(content, dict) or "model" not in content or not {"sets", "top1"} & set(content):
        raise UserError(f"report.file: {file} is no report of ffdr eval")
    name = _base(content["model"])
    figures = _figures(content.get("sets", {"val": content}))
    found = Training(str(file), (name,), "", "", 0, figures, content.get("averaged"), _fed(content))
    options = run_options(file.parent)
    if _base(options.get("model", {}).get("name", "")) == name:
        train, averaged = options["train"], validation_feeding(options).get("averaged")
        found = replace(found, task=train["task"], epochs=train["epochs"])
        found = found if found.averaged is not None else replace(found, averaged=averaged)
    return found


def _fed(report: dict[str, Any]) -> str:
    """How the model was fed; the weights have a column of their own."""
    return feeding_text({key: report.get(key) for key in KEYS if key != "averaged"})


def _figures(sets: dict[str, dict[str, Any]]) -> Figures:
    known = {(name, key): sets[name][key] for name, key in COLUMNS if sets.get(name, {}).get(key) is not None}
    for (name, key), share in known.items():
        if not isinstance(share, int | float):
            raise TypeError(f"{key} of {name} is no number")
    return {column: 100 * share for column, share in known.items()}


def _parse(line: bytes, file: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON: {reason(error)}") from error


def _base(model: str) -> str:
    """timm's name without the tag of pretrained weights."""
    return model.partition(".")[0]


def read_reference(file: str | Path) -> list[Training]:
    """Published trainings; figures of the same one are put together.

    Raises:
        UserError: no such file, or a row that is not one of its columns and kinds.
    """
    if not Path(file).is_file():
        raise UserError(f"report.reference: {file}: no such file")
    trainings: dict[tuple[str, ...], Training] = {}
    with open(file, encoding="utf-8", newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle), start=2):
            try:
                averaged = row.get("averaged") or ""  # tables of one's own may not say it
                key = (row["source"], row["timm"], row["task"], row["data"], row["epochs"], averaged)
                value = {(row["set"], row["metric"]): float(row["percent"])}
                new = Training(
                    row["source"], tuple(row["timm"].split()), row["task"], row["data"], int(row["epochs"] or 0), value
                )
                new = replace(new, averaged=_AVERAGED[averaged], note=row.get("note") or "")
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise UserError(f"report.reference: {file}: line {number} is no figure ({error})") from error
            known = trainings.setdefault(key, new)
            known.figures.update(value)
    return list(trainings.values())


def select(published: Sequence[Training], ours: Training, file: str = "") -> list[Training]:
    """Trainings of the same model; of each source, task, data and kind of weights the budget nearest to ours in ratio,
    all if unknown.

    Raises:
        UserError: none is of this model; which there are.
    """
    same = [training for training in published if set(training.models) & set(ours.models)]
    if not same:
        names = sorted({name for training in published for name in training.models})
        hint = nearest(ours.models[0], names)
        raise UserError(f"report: {file} has no figures for {ours.models[0]}{hint}; it has {', '.join(names)}")
    if not ours.epochs:
        return same
    groups: dict[tuple[Any, ...], list[Training]] = {}
    for training in same:
        key = (training.name, training.task, training.data, training.averaged)
        groups.setdefault(key, []).append(training)
    return [min(group, key=lambda training: _distance(training, ours)) for group in groups.values()]


def _distance(training: Training, ours: Training) -> float:
    return abs(math.log(training.epochs / ours.epochs)) if training.epochs else math.inf


def _lines(ours: Training, published: Sequence[Training]) -> list[str]:
    """The table: our run first, then published ones with what ours has over those of its kind of weights."""
    epochs = f"{ours.epochs} epochs" if ours.epochs else "an unknown number of epochs (report.epochs says it)"
    rows = [_row("**this run**", ours, None)]
    rows += [_row(training.name, training, ours.figures if training.is_like(ours) else None) for training in published]
    notes = dict.fromkeys(f"{training.name}: {training.note}." for training in published if training.note)
    return [
        f"# {', '.join(ours.models)} beside published figures",
        "",
        f"{ours.name}: {ours.models[0]}, {epochs}{', at ' + ours.note if ours.note else ''}.",
        "",
        *table_lines(["", "task", "data", "epochs", "weights", *COLUMNS.values()], rows),
        "",
        f"Percent; in brackets: this run minus the published figure, in points. {_NONE}: no figure. "
        "Less is better in C and ECE.",
        *_unlike(ours, published),
        *notes,
    ]


def _unlike(ours: Training, published: Sequence[Training]) -> list[str]:
    """Why some rows have no differences."""
    if all(training.is_like(ours) for training in published):
        return []
    if ours.averaged is None:
        why = "whether this run's weights are averaged is unknown (--report.averaged=yes or no says it)"
    else:
        why = f"this run's weights are {_WEIGHTS[ours.averaged]}, and other ones are not comparable"
    return [f"Figures without brackets: {why}."]


def _row(name: str, training: Training, ours: Figures | None) -> list[str]:
    cells = [_cell(training.figures.get(key), (ours or {}).get(key)) for key in COLUMNS]
    facts = [training.task, training.data, str(training.epochs or ""), _WEIGHTS[training.averaged]]
    return [name, *facts, *cells]


def _cell(value: float | None, ours: float | None = None) -> str:
    if value is None:
        return _NONE
    return f"{value:.1f}" if ours is None else f"{value:.1f} ({ours - value:+.1f})"
