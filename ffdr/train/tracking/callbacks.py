"""Callbacks: what a caller in Python is told of a run, epoch by epoch, and how it may end one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ffdr.util.errors import UserError
from ffdr.util.text import brief

Record: TypeAlias = "dict[str, Any]"
"""What ``log.jsonl`` has of an epoch: ``epoch`` (from 1), ``step``, ``lr``, ``train_loss``, ``images_per_second``,
``data_wait``, ``seconds``, and ``val_…`` where it was validated."""


class StopTraining(Exception):  # noqa: N818 - no error, as StopIteration
    """Raised by ``on_epoch_end``: this epoch is the run's last one.

    The other callbacks are told of the epoch, too. Then the run ends as after ``train.epochs``: its model, report and
    checkpoint are written, and called again it is a finished run.
    """


class CallbackError(RuntimeError):
    """A callback failed: its name and what it said; ``__cause__`` is its own error."""


@dataclass(frozen=True)
class Run:
    """What callbacks are told before the first step."""

    out: Path
    """the run's folder"""
    config: dict[str, Any]
    """the recipe as resolved: options by section, and under ``resolved`` what they came to"""
    epochs: int
    """of the whole run"""
    resumed: bool
    """whether it goes on from a checkpoint"""
    records: list[Record] = field(default_factory=list)
    """of the epochs that were logged before; the callbacks are told of those after them"""


class Callback:
    """Base of callbacks, which do nothing by themselves; any object that has some of the first three methods will do.

    They are called on rank 0 alone, while the training waits. Torch's random numbers after them are as if they had
    not been called.
    """

    def on_start(self, run: Run) -> None:
        """Before the first step of a new or resumed run; a run that is finished already calls nothing."""

    def on_epoch_end(self, record: Record) -> None:
        """After an epoch was validated and logged; the record is a copy. May raise ``StopTraining``.

        A resumed run comes to the epochs after those of ``Run.records`` only. The epoch in whose validation, or behind
        it, a run was killed is validated again, and comes again.
        """

    def on_end(self, record: Record) -> None:
        """Once, when the run has finished and its model and report are written; not where it stops or fails.

        record: of the last epoch.
        """

    def close(self) -> None:
        """After every ``on_start``, however the run ends: finished, stopped or failed."""


_HOOKS = {"on_start": "the run", "on_epoch_end": "the epoch's log record", "on_end": "the last epoch's log record"}
"""What a callback may have, and the one argument of each."""


@dataclass(frozen=True)
class Member:
    """A callback and how messages call it: nothing for those whose messages say who they are."""

    name: str
    callback: Any
    is_function: bool = False


def checked_callbacks(given: Any) -> list[Member]:
    """The callbacks of a caller: a list of objects, or of functions for ``on_epoch_end``.

    Raises:
        UserError: what is none, or can't take what it will be given.
    """
    if not isinstance(given, list | tuple):
        raise UserError(f"callbacks: {brief(given)} is no list; give a list of callbacks")
    return [_checked(callback) for callback in given]


def _checked(given: Any) -> Member:
    """A callback of the caller's, all of whose methods take what they will be given."""
    name = getattr(given, "__name__", None) or type(given).__name__
    if isinstance(given, type):
        raise UserError(f"callbacks: {name} is a class; give an object, such as {name}()")
    if not any(hasattr(given, hook) for hook in _HOOKS):
        if not callable(given):
            raise UserError(f"callbacks: {brief(given)} has none of {', '.join(_HOOKS)}, and is no function")
        _check_call(name, given, _HOOKS["on_epoch_end"])
        return Member(name, _OfFunction(given), is_function=True)
    for hook, what in _HOOKS.items():
        if hasattr(given, hook):
            _check_call(f"{name}.{hook}", getattr(given, hook), what)
    return Member(name, given)


def _check_call(name: str, hook: Any, what: str) -> None:
    if not callable(hook):
        raise UserError(f"callbacks: {name} is {brief(hook)}, no function")
    try:
        inspect.signature(hook).bind(None)
    except TypeError:
        raise UserError(f"callbacks: {name} must take one argument, {what}") from None
    except ValueError:  # a function of C's that doesn't say
        return


class _OfFunction(Callback):
    def __init__(self, function: Callable[[Record], object]) -> None:
        self._function = function

    def on_epoch_end(self, record: Record) -> None:
        self._function(record)
