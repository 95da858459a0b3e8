"""The one exception for mistakes a user can make and mend, and the checks of options that raise it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """A mistake in the input, told in one line: what is wrong, where, and what is allowed.

    The command line prints it without a traceback and exits with status 2.
    """


class DamagedError(UserError):
    """A file whose bytes are not those of a finished, undamaged one; ``ffdr verify`` exits with status 1."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint naming the closest valid spelling, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless the value of an option is one of those allowed."""
    if value not in allowed:
        raise UserError(f"{key}: {value!r} is not one of {', '.join(allowed)}{nearest(str(value), allowed)}")


def between(key: str, value: float, low: float, high: float) -> None:
    """Raise UserError unless low <= value <= high; no number is not."""
    if not low <= value <= high:
        raise UserError(f"{key}: {value} is not between {low:g} and {high:g}")
