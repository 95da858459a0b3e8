"""Trackers of libraries that run in a companion: Weights & Biases, and trackio."""

from __future__ import annotations

import os
import re
import secrets
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from ffdr.train.tracking.callbacks import Record, Run
from ffdr.train.tracking.companion import Companion
from ffdr.train.tracking.tracker import Tracker
from ffdr.util.atomic import atomic_write
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_bytes
from ffdr.util.opening import own_folder
from ffdr.util.text import readable

_PATIENCE = {"begin": 180.0, "log": 60.0, "finish": 60.0}
"""Seconds that the training waits for a companion: to import a library and open a run, and so on."""
_ID = re.compile(r"[0-9a-f]{16}")


class Remote(Tracker):
    """A tracker whose library has a process of its own."""

    module: ClassVar[str]
    """of ffdr's that runs there"""
    _companion: Companion | None = None

    @abstractmethod
    def environment(self, folder: Path) -> dict[str, str]:
        """Variables of the process. folder: of the tracker."""

    def begin(self, run: Run) -> None:
        """Start the process and open the run in it, with the records of the epochs before."""
        folder = run.out / self.name
        own_folder(folder)
        self._companion = Companion(self.module, self.environment(folder.absolute()))
        described = {
            "folder": str(run.out.absolute()),
            "project": self.project,
            "name": run.out.absolute().name,
            "number": _run_id(folder, run.resumed),
            "config": _plain(run.config),
            "records": run.records,
        }
        self._call("begin", described)

    def log(self, record: Record) -> None:
        """Hand it to the process."""
        self._call("log", {"record": record})

    def finish(self, record: Record) -> None:
        """Close the run."""
        self._call("finish", {"finished": True})

    def close(self) -> None:
        """End the process, which closes a run that has stopped or failed."""
        if self._companion is not None:
            self._companion.end(_PATIENCE["finish"])
            self._companion = None

    def _call(self, name: str, arguments: dict[str, Any]) -> None:
        assert self._companion is not None
        self._companion.call(name, arguments, _PATIENCE[name])


class Wandb(Remote):
    """Weights & Biases: offline, in ``wandb/`` of the run's folder, unless ``WANDB_MODE`` says otherwise."""

    name, package, title = "wandb", "wandb", "Weights & Biases"
    module = "ffdr.train.tracking.with_wandb"

    def environment(self, folder: Path) -> dict[str, str]:
        """Its logs and caches go into the folder, too, unless they have another place."""
        chosen = {"WANDB_CACHE_DIR": str(folder / "cache")} | os.environ
        chosen["WANDB_MODE"] = os.environ.get("WANDB_MODE") or "offline"
        chosen.pop("WANDB_SERVICE", None)  # of a run that the caller has open in this process
        return chosen


class Trackio(Remote):
    """trackio: in ``trackio/`` of the run's folder, unless ``TRACKIO_DIR`` says otherwise; never sent anywhere."""

    name, package, title = "trackio", "trackio", "trackio"
    module = "ffdr.train.tracking.with_trackio"

    def environment(self, folder: Path) -> dict[str, str]:
        """No Space and no server."""
        chosen = {"TRACKIO_DIR": str(folder)} | os.environ
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID"):
            chosen.pop(name, None)
        return chosen


def _run_id(folder: Path, resumed: bool) -> str:
    """What the tracker knows this run by, kept in its folder; a run that starts afresh is another one."""
    path = folder / "run-id"
    if resumed and path.exists():
        kept = read_bytes(path, 100).decode("ascii", "replace").strip()
        if not _ID.fullmatch(kept):
            raise UserError(f"{path}: not an id that ffdr wrote; remove it to log to a new run")
        return kept
    number = secrets.token_hex(8)
    atomic_write(path, number + "\n")
    return number


def _plain(value: Any) -> Any:
    """What is written as JSON, with names that are text."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return readable(value) if isinstance(value, str) else value
