"""The one exception for mistakes a user can make and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input, told in one line: what is wrong, where, and what is allowed.

    The command line prints it without a traceback and exits with status 2.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint naming the closest valid spelling, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
