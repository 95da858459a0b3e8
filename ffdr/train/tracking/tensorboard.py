"""Epochs logged for TensorBoard: one event file per run, and another for each time that it is resumed."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ffdr.train.tracking.callbacks import Record, Run
from ffdr.train.tracking.tracker import Tracker
from ffdr.util.atomic import os_errors_as_user_errors
from ffdr.util.opening import own_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class TensorBoard(Tracker):
    """Writes ``tensorboard/`` in the run's folder: a scalar per number of a record, by epoch; the recipe as a text."""

    name, package = "tensorboard", "tensorboard"
    title = "TensorBoard"
    _writer: SummaryWriter | None = None

    def begin(self, run: Run) -> None:
        """Open the event file. What earlier files have of epochs that come again is hidden by it."""
        from torch.utils.tensorboard import SummaryWriter  # an optional package

        folder = run.out / "tensorboard"
        own_folder(folder)
        first = len(run.records) + 1
        earlier = _seconds_of_files(folder)
        if earlier:
            _wait_past(max(earlier))
        with os_errors_as_user_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=first if earlier else None)
            if not run.records:
                text = yaml.safe_dump(run.config, sort_keys=False, default_flow_style=None, allow_unicode=True)
                self._writer.add_text("recipe", "".join(f"    {line}\n" for line in text.splitlines()), 0)
            self._writer.flush()

    def log(self, record: Record) -> None:
        """A point of each curve, on the disk when it returns."""
        assert self._writer is not None
        for key, value in record.items():
            self._writer.add_scalar(key, value, record["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _seconds_of_files(folder: Path) -> list[int]:
    """When the event files of a folder were begun, as their names say."""
    return [int(found[1]) for path in folder.iterdir() if (found := _EVENTS.match(path.name))]


def _wait_past(second: int) -> None:
    """TensorBoard reads files by name: a new one of the same second might come before those that it goes on from."""
    if second == int(time.time()):
        time.sleep(second + 1 - time.time())
