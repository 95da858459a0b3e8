"""Callbacks are called: by one rank, in turn, with errors that say whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch

from ffdr.train.checkpoint import get_rng, set_rng
from ffdr.train.tracking.callbacks import (
    Callback,
    CallbackError,
    Member,
    Record,
    Run,
    StopTraining,
    checked_callbacks,
)
from ffdr.train.validate import on_all_ranks
from ffdr.util.ranks import Ranks
from ffdr.util.text import reason, warn

T = TypeVar("T")


class Callbacks:
    """Some callbacks, called in turn by rank 0, while the others wait. A context, which closes those that were started.

    What fails on rank 0 is raised on all of them.
    """

    def __init__(self, given: Sequence[Any], own: Iterable[Callback], ranks: Ranks, device: torch.device) -> None:
        """given: of the caller: objects, or functions for ``on_epoch_end``. own: ffdr's, whose errors name them.

        device: the run's random numbers on it, and on the CPU, stay as they were.

        Raises:
            UserError: what is no callback, before the run begins.
        """
        self._members = [Member("", callback) for callback in own] + checked_callbacks(given)
        self._started: list[Member] = []
        self._ranks, self._device = ranks, device

    def __enter__(self) -> Callbacks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure: Exception | None = None
        while self._started:
            try:
                _call(self._started.pop(), "close")
            except Exception as another:
                if error is not None or failure is not None:  # what ends the run is told by its own error
                    warn(reason(another))
                failure = failure or another
        if failure is not None and error is None:
            raise failure

    def start(self, run: Run) -> None:
        """Tell all that a run begins. Raises CallbackError, or UserError for those of ffdr's own."""

        def tell() -> None:
            for member in self._members:
                self._started.append(member)
                _call(member, "on_start", run)

        self._alone(tell)

    def end_epoch(self, record: Record) -> str:
        """Tell all of an epoch; who asked to stop, and why, or nothing. Raises CallbackError."""

        def tell() -> str:
            stopped = ""
            for member in self._members:
                try:
                    _call(member, "on_epoch_end", dict(record))
                except StopTraining as stop:
                    stopped = stopped or ": ".join([member.name, *([reason(stop)] if str(stop) else [])])
            return stopped

        return self._ranks.broadcast(self._alone(tell)) or ""

    def end(self, record: Record) -> None:
        """Tell all that the run has finished. Raises CallbackError."""

        def tell() -> None:
            for member in self._members:
                _call(member, "on_end", dict(record))

        self._alone(tell)

    def _alone(self, tell: Callable[[], T]) -> T | None:
        """What callbacks answer, on rank 0."""

        def on_first() -> T | None:
            if self._ranks.rank != 0 or not self._members:
                return None
            rng = get_rng(self._device)
            try:
                return tell()
            finally:
                set_rng(rng, self._device)

        return on_all_ranks(self._ranks, on_first)


def _call(member: Member, hook: str, *arguments: Any) -> None:
    function = getattr(member.callback, hook, None)
    if function is None:
        return
    try:
        function(*arguments)
    except Exception as error:
        if not member.name or (isinstance(error, StopTraining) and hook == "on_epoch_end"):
            raise
        said = f"{type(error).__name__}: {reason(error)}" if str(error) else type(error).__name__
        label = member.name if member.is_function else f"{member.name}.{hook}"
        raise CallbackError(f"callback {label}: {said}") from error
