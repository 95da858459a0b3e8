"""Files of strangers, read whole: only regular ones of a bounded size, so that none takes all time or memory.

Raises ``UserError`` in one line for whatever else a path leads to.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from ffdr.util.errors import UserError
from ffdr.util.opening import read_descriptor
from ffdr.util.text import byte_size, reason

MOST_BYTES = 8 << 20
"""Bytes of a file read whole, unless the caller says otherwise. As JSON it may take 30 times as much memory."""
MOST_LOG_BYTES = 64 << 20
"""Of a run's log, whose lines are read one by one: 100,000 epochs and more."""


def open_regular(path: str | Path, or_pipe: bool = False) -> BinaryIO:
    """Open a file to read its bytes.

    or_pipe: whether it may be a pipe, as a shell's ``<(...)`` is; one without a writer is empty.

    Raises:
        UserError: it can't be opened, or is a folder, a device, a pipe or a socket.
    """
    try:
        descriptor = read_descriptor(path)
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or reason(error)}") from None
    mode = os.fstat(descriptor).st_mode
    if or_pipe and stat.S_ISFIFO(mode):
        os.set_blocking(descriptor, True)
    elif not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UserError(f"{path}: not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | Path, limit: int = MOST_BYTES, or_pipe: bool = False) -> bytes:
    """All bytes of a file, which are ``limit`` at most. or_pipe: see ``open_regular``.

    Raises:
        UserError: as ``open_regular``; a larger file; one that can't be read.
    """
    with open_regular(path, or_pipe) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise UserError(f"{path}: has more than {byte_size(limit)}, the most that is read of such a file")
    return data


def read_text(path: str | Path, limit: int = MOST_BYTES, or_pipe: bool = False) -> str:
    """The text of a file in UTF-8, of ``limit`` bytes at most. or_pipe: see ``open_regular``.

    Raises:
        UserError: as ``read_bytes``; bytes that are not UTF-8.
    """
    try:
        return read_bytes(path, limit, or_pipe).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 (byte {error.start})") from None


def read_json(path: str | Path, limit: int = MOST_BYTES) -> Any:
    """The value of a JSON file of ``limit`` bytes at most.

    Raises:
        UserError: as ``read_text``; a text that is not JSON, or nests too deeply.
    """
    return parse_json(read_text(path, limit), path)


def read_json_lines(path: str | Path, limit: int = MOST_LOG_BYTES) -> list[Any]:
    """The values of a file that has one in JSON on each line, such as a run's log, of ``limit`` bytes at most.

    Raises:
        UserError: as ``read_text``; a line that is not JSON, with its number.
    """
    lines = read_text(path, limit).split("\n")  # not splitlines(), which knows ends that JSON takes for characters
    return [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line]


def parse_json(text: str, where: object) -> Any:
    """The value of a text in JSON. ``where`` it stands is for messages.

    Raises:
        UserError: not JSON; nested too deeply; a number of too many digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({reason(error)})") from None
