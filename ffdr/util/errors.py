"""The one exception for mistakes a user can make and mend, and the checks of options that raise it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence

from ffdr.util.text import brief, printable

_LONGEST_NAME = 100
"""Characters of a name that are compared with others: the time grows with their square."""
_BAD_PATH = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EILSEQ,
}  # fmt: skip
_NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "Failed to allocate", "ALLOC_FAILED")
"""How CUDA, torch on a CPU, the system, OpenCV and the libraries of CUDA say it."""


class UserError(ValueError):
    """A mistake in the input, in one line: what is wrong, where, and what is allowed.

    The command line prints it without a traceback and exits with status 2.
    """


class DamagedError(UserError):
    """A file whose bytes are not those of a finished, undamaged one; ``ffdr verify`` exits with status 1."""


class WriteError(OSError):
    """A file that can't be written because the system fails: a full disk, a quota, a broken device.

    Made of errno, what happened, and the path. The command line prints it without a traceback and exits with status 1.
    """

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def is_bad_path(error: OSError) -> bool:
    """Whether it is about a path that isn't there, or is not this user's to write to; else the system fails."""
    return error.errno in _BAD_PATH


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy, torch (on a CPU or a GPU), OpenCV or the system had no memory left."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    # Known by their names and texts: torch is not imported here, and raises RuntimeError on a CPU.
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in _NO_MEMORY)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint naming the closest valid spelling, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name[:_LONGEST_NAME], list(valid), n=1)
    return f" (did you mean {printable(close[0])}?)" if close else ""


def one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless the value of an option is one of those allowed."""
    if value not in allowed:
        raise UserError(f"{key}: {brief(value)} is not one of {', '.join(allowed)}{nearest(str(value), allowed)}")


def between(key: str, value: float, low: float, high: float) -> None:
    """Raise UserError unless low <= value <= high; no number is not."""
    if not low <= value <= high:
        raise UserError(f"{key}: {brief(value)} is not between {low:g} and {high:g}")
