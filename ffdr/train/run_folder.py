"""A run's folder: its lock, recipe, resolved options, log (a JSON object per epoch), and what of it is finished."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

from ffdr import __version__
from ffdr.config.verbs import TrainRecipe
from ffdr.train.report import write_report
from ffdr.train.report.outputs import Findings
from ffdr.train.report.records import read_log
from ffdr.util.atomic import atomic_write, os_errors_as_user_errors
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_bytes
from ffdr.util.opening import open_kept
from ffdr.util.text import warn

_RESULTS = ("model.safetensors", "report.md", "report.png")
"""What a finished run has made of its last epoch."""
_WEIGHTS = ("best.safetensors", "model.safetensors")
_RECIPE_HEADER = "# The recipe of this run, as resolved"


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is created if need be, against a second run.

    Raises:
        UserError: one is at work in it; its lock is no file of ffdr's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_kept(folder / ".lock", shared=True) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"train.out: another run is at work in {folder}; give another folder") from None
        yield


def recipe_yaml(recipe: TrainRecipe) -> str:
    """A resolved recipe as YAML that ``ffdr.config.recipe`` reads again, and not of a dry run.

    What is left out is empty by default.
    """
    sections: dict[str, dict[str, Any]] = {}
    for section in fields(recipe):
        options = getattr(recipe, section.name)
        values = {field.name: getattr(options, field.name) for field in fields(options)}
        left_out = [field.name for field in fields(options) if values[field.name] == field.default in ("", ())]
        for name in (*left_out, "dry_run"):
            values.pop(name, None)
        sections[section.name] = {key: list(x) if isinstance(x, tuple) else x for key, x in values.items()}
    return yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def _is_recipe_of_a_run(path: Path) -> bool:
    try:
        return read_bytes(path).startswith(_RECIPE_HEADER.encode())
    except UserError:
        return False


class JsonLog:
    """``log.jsonl``: append a record per epoch; what a resumed run will do again is dropped first."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record and hand it to the operating system."""
        with os_errors_as_user_errors(self.path), open_kept(self.path, shared=True) as file:
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(record).encode() + b"\n")

    def records(self) -> list[dict[str, Any]]:
        """All whole records; a last line that a killed run left unfinished is no record.

        Raises:
            UserError: no log of a run can be as large.
        """
        return read_log(self.path)

    def keep(self, epochs: int) -> None:
        """Drop the records after the first ``epochs`` epochs."""
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        atomic_write(self.path, "".join(json.dumps(record) + "\n" for record in kept))


class RunLog(JsonLog):
    """The log of a run's folder, with what goes beside it."""

    def __init__(self, folder: str | Path) -> None:
        """Nothing is written yet."""
        super().__init__(Path(folder) / "log.jsonl")
        self.folder = Path(folder)

    def is_complete(self, epoch: int, last: int) -> bool:
        """Whether a run that is trained to ``epoch`` has logged it as its last one, and left all that it makes."""
        there = all((self.folder / name).is_file() for name in _RESULTS)
        logged = [record["epoch"] for record in self.records()[-1:]]
        return there and [epoch] == logged == [last]

    def check_no_weights(self) -> None:
        """Raise UserError rather than replace the model of a run that has no checkpoint to go on from."""
        for name in _WEIGHTS:
            if (self.folder / name).exists():
                raise UserError(
                    f"train.out: {self.folder} holds {name}, but no checkpoint of this run; give another folder, or "
                    "train.resume=0 to replace it"
                )

    def clear_results(self) -> None:
        """Remove the weights that an earlier run left, and the report that would make this one look finished."""
        for name in {*_WEIGHTS, *_RESULTS}:
            (self.folder / name).unlink(missing_ok=True)

    def write_report(self, title: str, findings: Findings | None) -> None:
        """The report of a run whose epochs are all logged. findings: of its outputs; None: it is not validated."""
        write_report(self.folder, title, self.records(), findings)

    def write_options(self, sections: dict[str, Any], recipe: TrainRecipe | None = None) -> None:
        """``options.json``: all options as resolved, and the versions that run. ``recipe.json``: what was asked for."""
        versions = {"ffdr": __version__, "torch": torch.__version__, "timm": timm.__version__}
        sections["resolved"] |= {"versions": versions}
        for name, content in (("options.json", sections), ("recipe.json", recipe and asdict(recipe))):
            if content is not None:
                atomic_write(self.folder / name, json.dumps(content, indent=2) + "\n")

    def write_recipe(self, recipe: TrainRecipe) -> None:
        """``recipe.yaml``, by which ``ffdr train --config-file`` repeats the run, or goes on with it in its folder.

        A file of that name that no run wrote is somebody's own: it stays, and a warning says so. (A link is replaced;
        what it leads to stays, too.) ``train.resume`` is written as true: a run that replaced another one must not be
        replaced by itself.
        """
        path = self.folder / "recipe.yaml"
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1 and not _is_recipe_of_a_run(path):
            warn(f"{path}: was not written by ffdr train and stays; recipe.json has this run's recipe")
            return
        text = recipe_yaml(replace(recipe, train=replace(recipe.train, resume=True)))
        repeat = "another --train.out repeats it there"
        atomic_write(path, f"{_RECIPE_HEADER}: with --config-file of ffdr train it goes on here; {repeat}.\n{text}")
