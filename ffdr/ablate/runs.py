"""Runs of ``ffdr train`` as their folders tell of them, for ``ffdr report`` to compare; whoever wrote the folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from ffdr.config.verbs import sections
from ffdr.evaluate.settings import run_options
from ffdr.train.report.records import Record, Summary, is_record, read_log
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json
from ffdr.util.text import brief, join_list, printable

_MOST_RUNS = 1000
_MOST_POINTS = 2000
"""Epochs of a run that are drawn, evenly spaced."""
_SHOWN_ELSEWHERE = ("train.task", "train.epochs", "model.name", "data.train", "data.val")
_OF_NO_INTEREST = (
    "train.out", "train.resume", "train.dry_run", "train.keep", "train.checkpoint_every", "train.tensorboard",
    "train.trackers", "train.project", "train.live",
)  # fmt: skip
_NAME = 60
_SHORT = 8
"""Characters of a fingerprint that are shown."""


class Images(NamedTuple):
    """A data set, as a run knows it."""

    file: str
    """name of the beton, printable; empty: unknown"""
    fingerprint: str
    """empty: unknown"""

    def __str__(self) -> str:
        known = f"fingerprint {self.fingerprint[:_SHORT]}" if self.fingerprint else "fingerprint not recorded"
        return f"{self.file or 'unnamed'} ({known})"


@dataclass(frozen=True)
class Run:
    """What is compared of a run."""

    folder: str
    """as it was given"""
    name: str
    """the folder's, without what all runs have in common; printable"""
    settings: Mapping[str, str]
    """options as flags have them, by dotted key"""
    epochs: int
    """asked for; 0: unknown"""
    training: Images
    validation: Images | None
    """None: it is not validated"""
    classes: str
    """digest of the class names"""
    summary: Summary | None
    """None: no epoch is finished"""
    curves: Mapping[str, Sequence[tuple[int, float, float]]]
    """(epoch, seconds of training until then, value) by log key"""

    @property
    def finished(self) -> bool:
        """Whether its last epoch is logged."""
        return self.summary is not None and 0 < self.epochs <= self.done

    @property
    def done(self) -> int:
        """Epochs that are logged."""
        return self.summary.epochs if self.summary else 0

    @property
    def seed(self) -> str:
        """``train.seed``; empty: unknown."""
        return self.settings.get("train.seed", "")

    def score(self, key: str) -> float | None:
        """Of the last validation, or what training came to: top1, nll, ece, images_per_second, data_wait, seconds."""
        if self.summary is None:
            return None
        if key in ("images_per_second", "data_wait", "seconds"):
            return float(getattr(self.summary, key))
        value = self.summary.last.get(f"val_{key}")
        return None if value is None else float(value)


def read_runs(folders: Sequence[str]) -> list[Run]:
    """All runs, in the order given.

    Raises:
        UserError: a folder that holds no run, or is given twice; too many.
    """
    if len(folders) > _MOST_RUNS:
        raise UserError(f"report.runs: {len(folders):,} folders, but at most {_MOST_RUNS:,} runs are compared")
    places = [os.path.realpath(folder) for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"report.runs: {folders[number]} is given twice")
    names = _names(places)
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def differing(runs: Sequence[Run]) -> list[str]:
    """Options in which the runs differ, in the order of recipes; not those that have columns of their own."""
    known = [f"{section}.{f.name}" for section, kind in sections("train").items() for f in fields(kind)]
    left_out = (*_SHOWN_ELSEWHERE, *_OF_NO_INTEREST)
    return [key for key in known if key not in left_out and len({run.settings.get(key) for run in runs}) > 1]


def by_validation(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs whose scores may be compared: of the same validation images, by fingerprint, or by the name of the file and
    the classes where that was not recorded."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        images = run.validation
        key = None if images is None else images.fingerprint or (images.file, run.classes)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def by_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """Finished runs that differ in nothing but their seeds, where there are several."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        same = {key: value for key, value in run.settings.items() if key not in ("train.seed", *_OF_NO_INTEREST)}
        if run.finished and run.seed:
            groups.setdefault((*sorted(same.items()), run.training, run.validation), []).append(run)
    return [group for group in groups.values() if len({run.seed for run in group}) == len(group) > 1]


def _names(places: Sequence[str]) -> list[str]:
    shared = os.path.commonpath([os.path.dirname(place) for place in places])
    return [printable(os.path.relpath(place, shared), _NAME) for place in places]


def _read(folder: str, name: str) -> Run:
    path = Path(folder)
    options = run_options(path)
    train = options.get("train", {})
    if not train:
        raise UserError(f"report.runs: {folder} {_no_run(path)}; a run of ffdr train has options.json and log.jsonl")
    records = [record for record in read_log(path / "log.jsonl") if is_record(record)]
    settings = _settings(path, options)
    data, seen, epochs = options.get("data", {}), options.get("validation", {}), train.get("epochs")
    validated = bool(seen) or any("val_top1" in record for record in records)
    return Run(
        folder,
        name,
        settings,
        epochs if type(epochs) is int and 0 < epochs < 10**9 else 0,
        _images(settings.get("data.train", ""), data.get("fingerprint")),
        _images(settings.get("data.val", ""), seen.get("fingerprint")) if validated else None,
        _text(data.get("classes")),
        Summary.of(records) if records else None,
        {key: _curve(records, key) for key in ("train_loss", "val_top1", "val_nll")},
    )


def _no_run(path: Path) -> str:
    if not path.is_dir():
        return "is no folder" if path.exists() else "is not there"
    if (path / "options.json").exists():
        return "has a damaged options.json"
    inside = next((entry for entry in sorted(path.iterdir())[:1000] if (entry / "options.json").is_file()), None)
    return "holds no run" + (f", but runs such as {inside}: name those" if inside else "")


def _settings(folder: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Those of ``recipe.json``; of runs that were not made by a recipe, what ``options.json`` has.

    What an earlier version did not know has its default.
    """
    try:
        recipe = read_json(folder / "recipe.json")
    except UserError:
        recipe = {key: options.get(key) for key in ("train", "model")}
    found = {}
    for name, kind in sections("train").items():
        section = recipe.get(name) if isinstance(recipe, dict) else None
        if isinstance(section, dict):
            for f in fields(kind):
                default = f.default_factory() if f.default_factory is not MISSING else f.default
                found[f"{name}.{f.name}"] = _flag(section.get(f.name, default))
    return found


def _flag(value: Any) -> str:
    """As a flag has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        parts = [part if isinstance(part, str) else brief(part) for part in value[:100]]
        return printable(join_list(parts))
    return printable(value) if isinstance(value, str) else brief(value)


def _images(path: str, fingerprint: Any) -> Images:
    return Images(path.rpartition("/")[2], _text(fingerprint))


def _text(value: Any) -> str:
    return printable(value, 64) if isinstance(value, str) else ""


def _curve(records: Sequence[Record], key: str) -> list[tuple[int, float, float]]:
    seconds, points = 0.0, []
    for record in records:
        seconds += record["seconds"]
        if key in record:
            points.append((record["epoch"], seconds, float(record[key])))
    step = -(-len(points) // _MOST_POINTS) or 1
    return points[(len(points) - 1) % step :: step]  # with the last
