"""``ffdr report``: a run beside the published results for its model, at the nearest budget; or runs side by side."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from ffdr.config.ablation import ReportOptions
from ffdr.evaluate.settings import run_options, settings_text, validation_settings
from ffdr.util.atomic import atomic_write
from ffdr.util.errors import UserError, nearest
from ffdr.util.foreign import (
    MOST_LOG_BYTES,
    parse_json,
    read_json,
    read_text,
)
from ffdr.util.shipped import references
from ffdr.util.text import (
    MOST_LINE,
    brief,
    command,
    markdown,
    printable,
    reason,
    say,
    table_lines,
)

COLUMNS = {
    "imagenet": {
        ("val", "top1"): "ImageNet",
        ("v2", "top1"): "V2",
        ("r", "top1"): "R",
        ("a", "top1"): "A",
        ("c", "mce"): "C, mCE",
        ("val", "ece"): "ECE",
    },
    "digits": {("val", "top1"): "digits", ("val", "ece"): "ECE"},
}
"""By dataset, which is also the name of the table that comes with ffdr: (set, metric) as ``ffdr eval`` names them →
heading."""
STUDIES = {"imagenet": "ablate/imagenet-budget", "digits": "ablate/digits"}
"""By dataset: the recipe of a study of it."""
DIGITS = "9b4af26ea94ba85e"
"""Digest of the class names of the digits, as runs keep it."""
_MOST = 10**9
"""No number of a report is larger."""
_CLASSES = 1000
"""Of ImageNet."""
_NAMED = 40
"""Models that a message names."""
_NONE = "–"
_WEIGHTS = {True: "averaged", False: "raw", None: ""}
_AVERAGED = {"yes": True, "no": False, "": None}
"""How the option and the table of published results spell it."""

Percents = dict[tuple[str, str], float]
"""Percent by (set, metric)."""


@dataclass(frozen=True)
class Training:
    """A trained model: ours, or a published one."""

    name: str
    """where its results come from"""
    models: tuple[str, ...]
    """timm's names of it"""
    task: str
    """erm, kd or dr; empty: unknown"""
    data: str
    epochs: int
    """0: unknown"""
    percents: Percents
    averaged: bool | None = None
    """whether the weights are; None: unknown"""
    note: str = ""
    """what else decides the results, such as how the model was fed"""
    dataset: str = "imagenet"
    """a key of COLUMNS"""

    def is_like(self, ours: Training) -> bool:
        """Whether its results may be subtracted from ours: averaged weights against averaged ones, raw against raw."""
        return self.averaged in (None, ours.averaged)


def report(options: ReportOptions) -> None:
    """Print the table, and write it as Markdown if asked; several runs, and one on data of which nothing is published,
    go to ``comparison.compare``.

    Raises:
        UserError: no run, no results for its model.
    """
    if options.runs or _is_of_other_data(options):
        from ffdr.ablate.comparison import compare

        compare(options)
        return
    for name in ("csv", "json", "plot"):
        if getattr(options, name):
            raise UserError(f"report.{name}: shows runs without published results; give --report.runs={options.file}")
    ours = read_training(options)
    reference = options.reference or str(references() / f"{ours.dataset}.csv")
    published = select(read_reference(reference), ours, reference)
    text = "\n".join(_lines(ours, published)) + "\n"
    say(text)
    if options.out:
        atomic_write(Path(options.out), text)
    say(f"{options.out or options.file}: set beside published results; next: {_next(options, ours.dataset)}")


def _is_of_other_data(options: ReportOptions) -> bool:
    """Whether it is a run on data without published results, and none were given."""
    data = run_options(Path(options.file)).get("data", {})
    given = (options.reference, options.model, options.task, options.epochs, options.averaged)
    return bool(data) and not any(given) and data.get("classes") != DIGITS and data.get("num_classes") != _CLASSES


def _next(options: ReportOptions, dataset: str) -> str:
    """The suite for ImageNet's other columns; else keep the table; else a study."""
    weights = Path(options.file) / "model.safetensors"
    if weights.is_file() and dataset == "imagenet":
        flags = (f"--checkpoint={weights}", f"--json={weights.with_name('suite.json')}")
        return command("eval", "--config-file", "eval/imagenet", *flags)
    if options.out:
        return command("ablate", "--config-file", STUDIES[dataset])
    return command("report", options.file, "--out=report.md")


def read_training(options: ReportOptions) -> Training:
    """The run as its folder or its report tells, and as the options add."""
    path = Path(options.file)
    if path.is_dir():
        found = _of_folder(path, options)
    elif path.is_file():
        found = _of_report(path)
    else:
        raise UserError(f"report.file: {path}: no such run or report")
    models = (options.model,) if options.model else found.models
    averaged = _AVERAGED[options.averaged] if options.averaged else found.averaged
    task, epochs = options.task or found.task, options.epochs or found.epochs
    return replace(found, models=models, task=task, epochs=epochs, averaged=averaged)


def _of_folder(folder: Path, given: ReportOptions) -> Training:
    """A run of ``ffdr train``, by its last validation."""
    log = folder / "log.jsonl"
    lines = read_text(log, MOST_LOG_BYTES).splitlines() if log.exists() else []
    if not lines or not (folder / "options.json").exists():
        raise UserError(f"report.file: {folder} holds no run of ffdr train")
    last, options = parse_json(lines[-1], log), run_options(folder)
    if not isinstance(last, dict) or not options:
        raise UserError(f"report.file: {folder} holds no run of ffdr train, or a damaged one")
    if "val_top1" not in last:
        raise UserError(f"report.file: {folder} was not validated after its last epoch; give a report of ffdr eval")
    scores = {key.removeprefix("val_"): value for key, value in last.items() if key.startswith("val_")}
    data = options.get("data", {})
    is_digits = data.get("classes") == DIGITS and not given.reference
    if not is_digits and data.get("num_classes") != _CLASSES:
        said = f"{brief(data.get('num_classes'))} classes, but the published results are of ImageNet's {_CLASSES}"
        raise UserError(f"report.file: {folder} has {said}")
    fed, epoch = validation_settings(options), last.get("epoch")
    percents = _percents({"val": scores}, folder)
    return Training(
        name=str(folder),
        models=(_model(options),),
        task=_task(options),
        data="",
        epochs=epoch if _is_count(epoch) else 0,
        percents=percents,
        averaged=_averaged(fed),
        note=_fed(fed),
        dataset="digits" if is_digits else "imagenet",
    )


def _of_report(file: Path) -> Training:
    """A report of ``ffdr eval``: of a suite, or of one data set, which then is taken for ImageNet's validation set.

    How the model was trained it does not say; the run in whose folder it lies does.
    """
    content = read_json(file)
    if not isinstance(content, dict) or "model" not in content or not {"sets", "top1"} & set(content):
        raise UserError(f"report.file: {file} is no report of ffdr eval")
    name = _base(content["model"])
    percents = _percents(content.get("sets", {"val": content}), file)
    found = Training(str(file), (name,), "", "", 0, percents, _averaged(content), _fed(content))
    options = run_options(file.parent)
    if options and _model(options) == name:
        epochs, averaged = options.get("train", {}).get("epochs"), _averaged(validation_settings(options))
        found = replace(found, task=_task(options), epochs=epochs if _is_count(epochs) else 0)
        found = found if found.averaged is not None else replace(found, averaged=averaged)
    return found


def _fed(report: Mapping[str, Any]) -> str:
    """How the model was fed, as far as the report says it; the weights have a column of their own."""
    kinds = {
        "resolution": (int,), "center": (int, float), "interpolation": (str,), "precision": (str,),
        "flip_average": (bool,),
    }  # fmt: skip
    fed = {key: report.get(key) for key, known in kinds.items() if type(report.get(key)) in known}
    return printable(settings_text({key: brief(value) if key == "resolution" else value for key, value in fed.items()}))


def _averaged(report: Mapping[str, Any]) -> bool | None:
    """Whether the weights are averaged, where it is said."""
    found = report.get("averaged")
    return found if isinstance(found, bool) else None


def _percents(sets: Any, where: Path) -> Percents:
    """Those of the columns that a report has. Raises UserError for what is no number."""
    if not isinstance(sets, dict):
        raise UserError(f"report.file: {where} is no report of ffdr eval")
    scores = {key: sets[key[0]].get(key[1]) for key in COLUMNS["imagenet"] if isinstance(sets.get(key[0]), dict)}
    for (name, key), value in scores.items():
        if value is not None and type(value) not in (int, float):
            raise UserError(f"report.file: {where}: {key} of {name} is no number")
    return {key: 100 * value for key, value in scores.items() if value is not None and _is_score(value)}


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _MOST


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MOST


def _base(model: Any) -> str:
    """timm's name without the tag of pretrained weights; empty for what is no name."""
    return printable(model.partition(".")[0]) if isinstance(model, str) else ""


def _model(options: Mapping[str, Any]) -> str:
    """timm's name of the model of a run."""
    return _base(options.get("model", {}).get("name"))


def _task(options: Mapping[str, Any]) -> str:
    task = options.get("train", {}).get("task")
    return printable(task) if isinstance(task, str) else ""


def read_reference(file: str | Path) -> list[Training]:
    """Published trainings; results of the same one are put together.

    Raises:
        UserError: no such file, or a row that is not one of its columns and kinds.
    """
    if not Path(file).is_file():
        raise UserError(f"report.reference: {file}: no such file")
    trainings: dict[tuple[Any, ...], Training] = {}
    lines = csv.DictReader(io.StringIO(read_text(file), newline=""))
    try:
        for row in lines:
            new = _published(row)
            key = (new.name, new.models, new.task, new.data, new.epochs, new.averaged)
            known = trainings.setdefault(key, new)
            known.percents.update(new.percents)
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"report.reference: {file}: line {lines.line_num} is no result ({reason(error)})") from error
    return list(trainings.values())


def _published(row: Mapping[str, Any]) -> Training:
    """A line of the table: one result of one training."""
    percent, epochs = float(row["percent"]), int(row["epochs"] or 0)
    if not abs(percent) < _MOST or not _is_count(epochs):
        raise ValueError("numbers out of range")
    texts = {key: printable(row[key]) for key in ("source", "timm", "task", "data")}
    averaged, note = row.get("averaged") or "", row.get("note") or ""  # tables of one's own may not say it
    return Training(
        name=texts["source"],
        models=tuple(texts["timm"].split()),
        task=texts["task"],
        data=texts["data"],
        epochs=epochs,
        percents={(row["set"], row["metric"]): percent},
        averaged=_AVERAGED[averaged],
        note=printable(note),
    )


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
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        raise UserError(f"report: {file} has no results for {ours.models[0]}{hint}; it has {shown}")
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
    columns = COLUMNS[ours.dataset]
    rows = [_row("**this run**", ours, columns)]
    rows += [_row(training.name, training, columns, ours) for training in published]
    notes = dict.fromkeys(
        markdown(f"{training.name}: {training.note}.", MOST_LINE) for training in published if training.note
    )
    return [
        f"# {markdown(', '.join(ours.models))} beside published results",
        "",
        markdown(f"{ours.name}: {ours.models[0]}, {epochs}{', at ' + ours.note if ours.note else ''}.", MOST_LINE),
        "",
        *table_lines(["", "task", "data", "epochs", "weights", *columns.values()], rows),
        "",
        f"Percent; in brackets: this run minus the published result, in points. {_NONE}: no result. "
        f"Less is better in {'C and ' if ours.dataset == 'imagenet' else ''}ECE.",
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
    return [f"Results without brackets: {why}."]


def _row(name: str, training: Training, columns: Iterable[tuple[str, str]], ours: Training | None = None) -> list[str]:
    """ours: what its results are subtracted from, where they are of its kind of weights."""
    percents = ours.percents if ours and training.is_like(ours) else {}
    cells = [_cell(training.percents.get(key), percents.get(key)) for key in columns]
    facts = [training.task, training.data, str(training.epochs or ""), _WEIGHTS[training.averaged]]
    return [name, *facts, *cells]


def _cell(value: float | None, ours: float | None = None) -> str:
    if value is None:
        return _NONE
    return f"{value:.1f}" if ours is None else f"{value:.1f} ({ours - value:+.1f})"
