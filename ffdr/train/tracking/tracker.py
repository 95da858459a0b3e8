"""What trackers share: one that can't start stops the run before its first step, one that fails later is told once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from ffdr.train.tracking.callbacks import Callback, Record, Run
from ffdr.util.errors import UserError
from ffdr.util.opening import check_folder
from ffdr.util.text import readable, reason, warn


class Tracker(Callback, ABC):
    """Logs a run's records elsewhere, too, below its folder. A tracker that fails never ends a training."""

    name: ClassVar[str]
    """as in ``train.trackers``; of its folder, too"""
    package: ClassVar[str]
    """by which it is installed and imported"""
    title: ClassVar[str]

    def __init__(self, folder: Path, option: str = "train.trackers", project: str = "") -> None:
        """folder: of the run. option: by which it was asked for, for messages. project: to file the run under.

        Raises:
            UserError: it is not installed, or can't write to such a folder.
        """
        self._option, self.project, self._failed = option, project, False
        check_installed(self.package, option)
        if str(folder) != readable(str(folder)):
            raise UserError(f"{option}: {self.title} can't write to {folder}, which is not UTF-8; leave it out")
        check_folder(folder / self.name)

    @abstractmethod
    def begin(self, run: Run) -> None:
        """Open what is logged to. Raises UserError, or any exception, where that can't be."""

    @abstractmethod
    def log(self, record: Record) -> None:
        """Log one epoch."""

    def finish(self, record: Record) -> None:
        """The run has finished; record: of its last epoch."""

    def on_start(self, run: Run) -> None:
        """Begin. Raises UserError where that fails."""
        try:
            self.begin(run)
        except UserError:
            raise
        except Exception as error:  # of foreign libraries, which may raise anything
            raise UserError(f"{self._option}: {self.title} can't start ({reason(error)}); leave it out") from error

    def on_epoch_end(self, record: Record) -> None:
        """Log it, unless logging failed before."""
        if not self._failed:
            self._try("log", record)

    def on_end(self, record: Record) -> None:
        """Finish."""
        if not self._failed:
            self._try("finish", record)

    def _try(self, what: str, record: Record) -> None:
        """A warning in place of an error, and the last attempt."""
        try:
            getattr(self, what)(record)
        except Exception as error:  # as above
            self._failed = True
            warn(
                f"{self._option}: {self.title} failed in epoch {record['epoch']} ({reason(error)}); the training goes "
                "on without it, and log.jsonl has all epochs"
            )


def check_installed(package: str, option: str) -> None:
    """Raise UserError unless a package is installed, which is called alike by pip and by import."""
    if find_spec(package) is None:
        raise UserError(f"{option}: the package {package} is not installed; install it or leave it out")
