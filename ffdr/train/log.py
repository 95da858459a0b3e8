"""What a run writes down: resolved options, one JSON object an epoch, a report at its end, TensorBoard if asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch

from ffdr import __version__
from ffdr.train.report import is_record, write_report
from ffdr.util.atomic import atomic_write, os_errors_as_user_errors
from ffdr.util.errors import UserError
from ffdr.util.foreign import MOST_LOG_BYTES, read_bytes
from ffdr.util.opening import check_folder, open_kept, own_folder
from ffdr.util.text import readable


class JsonLog:
    """``log.jsonl``: append a record an epoch; what a resumed run will do again is dropped first."""

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
        records = []
        for line in read_bytes(self.path, MOST_LOG_BYTES).splitlines():
            record = _record(line)
            if record is None:
                break
            records.append(record)
        return records

    def keep(self, epochs: int) -> None:
        """Drop the records after the first ``epochs`` epochs."""
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        atomic_write(self.path, "".join(json.dumps(record) + "\n" for record in kept))


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None where it is no record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if is_record(record, whole=False) else None


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

    def write_options(self, sections: dict[str, Any], recipe: Mapping[str, Any] | None = None) -> None:
        """``options.json``: all options as resolved, and the versions that run. ``recipe.json``: what was asked for."""
        versions = {"ffdr": __version__, "torch": torch.__version__, "timm": timm.__version__}
        sections["resolved"] |= {"versions": versions}
        for name, content in (("options.json", sections), ("recipe.json", recipe)):
            if content is not None:
                atomic_write(self.folder / name, json.dumps(content, indent=2) + "\n")

    def write_report(self, title: str) -> None:
        """``report.md`` and ``report.png``: accuracy, loss and throughput over the epochs."""
        write_report(self.folder, title, self.records())
