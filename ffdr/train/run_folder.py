"""A run's folder: its lock, recipe, resolved options, log (a JSON object per epoch), report, TensorBoard if asked."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

from ffdr import __version__
from ffdr.config.verbs import TrainRecipe
from ffdr.train.report import is_record
from ffdr.util.atomic import atomic_write, os_errors_as_user_errors
from ffdr.util.errors import UserError
from ffdr.util.foreign import MOST_LOG_BYTES, read_bytes
from ffdr.util.opening import check_folder, open_kept, own_folder
from ffdr.util.text import readable, warn

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
        if not self.path.exists():
            return []
        records: list[dict[str, Any]] = []
        for line in read_bytes(self.path, MOST_LOG_BYTES).splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not is_record(record, whole=False):
                break
            records.append(record)
        return records

    def keep(self, epochs: int) -> None:
        """Drop the records after the first ``epochs`` epochs."""
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        atomic_write(self.path, "".join(json.dumps(record) + "\n" for record in kept))


class RunLog(JsonLog):
    """The log of a run's folder, with what goes beside it."""

    def __init__(self, folder: str | Path, tensorboard: bool = False) -> None:
        """Nothing is written yet. Raises UserError when TensorBoard is asked for but not installed, or can't write."""
        if tensorboard and find_spec("tensorboard") is None:
            raise UserError("train.tensorboard: the package tensorboard is not installed; install it or leave it out")
        if tensorboard and str(folder) != readable(str(folder)):
            raise UserError(f"train.tensorboard: TensorBoard can't write to {folder}, which is not UTF-8; leave it out")
        super().__init__(Path(folder) / "log.jsonl")
        self.folder = Path(folder)
        self._tensorboard = self.folder / "tensorboard" if tensorboard else None
        if self._tensorboard:
            check_folder(self._tensorboard)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record, for TensorBoard too."""
        super().append(record)
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # an optional package

            own_folder(self._tensorboard)
            with SummaryWriter(str(self._tensorboard)) as writer:
                for key, value in record.items():
                    writer.add_scalar(key, value, record["epoch"])

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
