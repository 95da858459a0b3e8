"""``ffdr report``: a run beside the published figures for its model, at the nearest budget."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffdr.beton.partial import write_aside
from ffdr.errors import UserError, nearest
from ffdr.options import ReportOptions
from ffdr.text import table_lines

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


def report(options: ReportOptions) -> None:
    """Print the table, and write it as Markdown if asked.

    Raises:
        UserError: no run, no figures for its model, or data that are not ImageNet.
    """
    ours = read_training(options)
    published = select(read_reference(options.reference), ours, options.reference)
    text = "\n".join(_lines(ours, published)) + "\n"
    print(text, end="")
    if options.out:
        write_aside(Path(options.out), text)


def read_training(options: ReportOptions) -> Training:
    """The run as its folder or its report tells, and as the options add."""
    path = Path(options.file)
    if path.is_dir():
        found = _of_folder(path)
    elif path.is_file():
        found = _of_report(path)
    else:
        raise UserError(f"report.file: {path}: no such run or report")
    models = (options.model,) if options.model else found.models
    return replace(found, models=models, task=options.task or found.task, epochs=options.epochs or found.epochs)


def _of_folder(folder: Path) -> Training:
    """A run of ``ffdr train``, by its last validation."""
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    if not lines or not (folder / "options.json").exists():
        raise UserError(f"report.file: {folder} holds no run of ffdr train")
    last = _parse(lines[-1], log)
    if "val_top1" not in last:
        raise UserError(f"report.file: {folder} was not validated after its last epoch; give a report of ffdr eval")
    scores = {key.removeprefix("val_"): value for key, value in last.items() if key.startswith("val_")}
    options = _parse((folder / "options.json").read_text(encoding="utf-8"), folder / "options.json")
    if options["data"]["num_classes"] != _CLASSES:
        classes = options["data"]["num_classes"]
        raise UserError(f"report.file: {folder} has {classes} classes, but the figures are of ImageNet's {_CLASSES}")
    train = options["train"]
    name = _base(options["model"]["name"])
    return Training(str(folder), (name,), train["task"], "", last["epoch"], _figures({"val": scores}))


def _of_report(file: Path) -> Training:
    """A report of ``ffdr eval``: of a suite, or of one data set, which then is taken for ImageNet's validation set.

    How the model was trained it does not say; the run in whose folder it lies does.
    """
    content = _parse(file.read_text(encoding="utf-8"), file)
    if not isinstance(content, dict) or "model" not in content or not {"sets", "top1"} & set(content):
        raise UserError(f"report.file: {file} is no report of ffdr eval")
    name = _base(content["model"])
    found = Training(str(file), (name,), "", "", 0, _figures(content.get("sets", {"val": content})))
    beside = file.parent / "options.json"
    options = _parse(beside.read_text(encoding="utf-8"), beside) if beside.exists() else {}
    if _base(options.get("model", {}).get("name", "")) == name:
        found = replace(found, task=options["train"]["task"], epochs=options["train"]["epochs"])
    return found


def _figures(sets: dict[str, dict[str, Any]]) -> Figures:
    return {(name, key): 100 * sets[name][key] for name, key in COLUMNS if sets.get(name, {}).get(key) is not None}


def _parse(text: str, file: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error})") from error


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
                key = (row["source"], row["timm"], row["task"], row["data"], row["epochs"])
                value = {(row["set"], row["metric"]): float(row["percent"])}
                new = Training(
                    row["source"], tuple(row["timm"].split()), row["task"], row["data"], int(row["epochs"] or 0), value
                )
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise UserError(f"report.reference: {file}: line {number} is no figure ({error})") from error
            known = trainings.setdefault(key, new)
            known.figures.update(value)
    return list(trainings.values())


def select(published: Sequence[Training], ours: Training, file: str = "") -> list[Training]:
    """Trainings of the same model; of each source, task and data the budget nearest to ours in ratio, all if unknown.

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
    groups: dict[tuple[str, str, str], list[Training]] = {}
    for training in same:
        groups.setdefault((training.name, training.task, training.data), []).append(training)
    return [min(group, key=lambda training: _distance(training, ours)) for group in groups.values()]


def _distance(training: Training, ours: Training) -> float:
    return abs(math.log(training.epochs / ours.epochs)) if training.epochs else math.inf


def _lines(ours: Training, published: Sequence[Training]) -> list[str]:
    """The table: our run first, then published ones with what ours has over them."""
    epochs = f"{ours.epochs} epochs" if ours.epochs else "an unknown number of epochs (report.epochs says it)"
    rows = [["**this run**", ours.task, "", str(ours.epochs or ""), *(_cell(ours.figures.get(key)) for key in COLUMNS)]]
    for training in published:
        cells = [_cell(training.figures.get(key), ours.figures.get(key)) for key in COLUMNS]
        rows.append([training.name, training.task, training.data, str(training.epochs or ""), *cells])
    return [
        f"# {', '.join(ours.models)} beside published figures",
        "",
        f"{ours.name}: {ours.models[0]}, {epochs}.",
        "",
        *table_lines(["", "task", "data", "epochs", *COLUMNS.values()], rows),
        "",
        f"Percent; in brackets: this run minus the published figure, in points. {_NONE}: no figure. "
        "Less is better in C and ECE.",
    ]


def _cell(value: float | None, ours: float | None = None) -> str:
    if value is None:
        return _NONE
    return f"{value:.1f}" if ours is None else f"{value:.1f} ({ours - value:+.1f})"
