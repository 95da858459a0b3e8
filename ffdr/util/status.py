"""How a command ends: its exit status, and one line for whatever goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ffdr.util.errors import UserError, is_bad_path, is_out_of_memory
from ffdr.util.text import reason, warn


def exit_status(name: str, command: Callable[[], int | None], memory_hint: str = "") -> int:
    """Run a command; returns its exit status.

    0, or what the command returns; 2 after one line about a mistake in the input, a path that can't be written to among
    them; 1 after one line about a system that fails (a full disk, no memory left); 130 when interrupted, 141 when
    nobody reads what it prints, 143 when stopped by SIGTERM.

    Args:
        name: what its lines begin with.
        command: what to run.
        memory_hint: what to add where no memory is left.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # else somebody put something of their own there
            stream.reconfigure(errors="backslashreplace")  # no name, and no terminal, may end the work
    status = 1
    try:
        status = _status(name, command, memory_hint)
        if sys.stdout:  # closed by >&-
            sys.stdout.flush()
    except BrokenPipeError:  # its reader, such as head, has seen enough
        status = 141
    except OSError as error:
        if not status:  # else the mistake has been reported
            status = 1
            print(f"{name}: standard output: {error.strerror}", file=sys.stderr)
    finally:
        _drop_unwritable()
    return status


def _status(name: str, command: Callable[[], int | None], memory_hint: str) -> int:
    try:
        return command() or 0
    except BrokenPipeError:
        raise
    except UserError as error:
        line, status = str(error), 2
    except KeyboardInterrupt as error:  # or one that knows more, as of a run that was stopped
        line, status = str(error) or "interrupted", getattr(error, "status", 130)
    except Exception as error:
        if is_out_of_memory(error):
            line, status = f"out of memory{f': {reason(error)}' if str(error) else ''}{memory_hint}", 1
        elif isinstance(error, OSError):
            line = f"{error.filename or 'file system'}: {error.strerror or error}"
            status = 2 if is_bad_path(error) else 1
        else:
            raise
    warn(f"{name}: {line}")
    return status


def _drop_unwritable() -> None:
    """Drop what is left in buffers that can't be written: Python would try again as it ends."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
