"""The files that ``write.path`` names where it may name several: lists, braces, patterns, folders."""

from __future__ import annotations

import glob
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ffdr.util.errors import UserError
from ffdr.util.text import brief, first_few, printable

_MOST_FILES = 100_000
_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.-?([0-9]{1,18}))?")
_SPECIAL = re.compile(r"\\.|[{},]", re.DOTALL)
"""A backslash takes the meaning from the character behind it."""


def find_files(text: str, split: str, endings: Sequence[str]) -> list[Path]:
    """The files that a path names, in its order.

    Args:
        text: files, patterns (``*``, ``?``, ``[…]``) and folders, several between commas, with the shell's
            ``{000..127}`` and ``{a,b}``. A pattern gives its files sorted by name, a folder those below it sorted by
            path. What exists as it is spelled is taken so.
        split: which files of a folder: those that have it as a word in their names, or in those of the folders below;
            empty: all. Files that are named themselves do not depend on it.
        endings: of the names of the files that count in a folder.

    Raises:
        UserError: there are none, too many, or one twice; what is there is no regular file.
    """
    found: list[Path] = []
    for path in named_paths(text):
        found += _below(path, split, endings) if path.is_dir() else [path]
    seen: dict[tuple[int, int], Path] = {}
    for path in found:
        try:
            status = os.stat(path)
        except OSError as error:  # a link that leads nowhere
            raise UserError(f"write.path: {printable(str(path))}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"write.path: {printable(str(path))} is not a regular file")
        other = seen.setdefault((status.st_dev, status.st_ino), path)
        if other is not path:
            raise UserError(f"write.path: {printable(str(path))} is read twice, also as {printable(str(other))}")
    return found


def named_paths(text: str) -> list[Path]:
    """The files and folders that a path names, without what is in the folders. Raises UserError as ``find_files``."""
    found: list[Path] = []
    for part in split_paths(text):
        for name in _alternatives(part):
            found += _matches(os.path.expanduser(name))
            if len(found) > _MOST_FILES:
                raise UserError(f"write.path: {brief(text)} names more than {_MOST_FILES:,} files")
    return found


def split_paths(text: str) -> list[str]:
    """The paths between commas that are in no braces."""
    if os.path.lexists(os.path.expanduser(text)):
        return [text]
    return [part for part in _split(text) if part] or [text]


def relative_names(files: Sequence[Path]) -> list[str]:
    """What tells files apart wherever they are moved together: their names, or paths from the folder of all."""
    names = [path.name for path in files]
    if len(set(names)) == len(names):
        return names
    paths = [os.path.abspath(path) for path in files]
    top = os.path.commonpath(paths)
    return [os.path.relpath(path, top) for path in paths]


def _matches(name: str) -> list[Path]:
    if os.path.exists(name):
        return [Path(name)]
    if glob.has_magic(name):
        found = list(itertools.islice(glob.iglob(name, recursive=True), _MOST_FILES + 1))
        if found:
            return [Path(path) for path in sorted(found)]
        raise UserError(f"write.path: no file is called {printable(name)}")
    raise UserError(f"write.path: there is no file or folder {printable(name)}")


def _below(folder: Path, split: str, endings: Sequence[str]) -> list[Path]:
    """Files of a folder that belong to a split. Links to folders are not followed; hidden names do not count."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(place, file) for file in files if file.endswith(tuple(endings)) and file[0] != "."]
    names = sorted(os.path.relpath(path, folder) for path in found)
    if not names:
        raise UserError(f"write.path: {printable(str(folder))} has no {' or '.join(endings)} files")
    of_split = [name for name in names if not split or split in re.split(r"[-._ /]", name)]
    if not of_split:
        raise UserError(
            f"write.split: none of {first_few(names, 3)} in {printable(str(folder))} has {brief(split)} as a word of "
            "its name or folder; an empty split takes all"
        )
    return [folder / name for name in of_split]


def _alternatives(pattern: str) -> Iterator[str]:
    """What the braces of a pattern stand for, in the order of bash and of webdataset."""
    if os.path.lexists(os.path.expanduser(pattern)):
        yield pattern
        return
    yield from (re.sub(r"\\(.)", r"\1", name) for name in _expand(pattern, pattern))


def _expand(pattern: str, whole: str) -> Iterator[str]:
    start = end = None
    depth = 0
    for match in _SPECIAL.finditer(pattern):
        if match[0] == "{":
            start = match.start() if start is None else start
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth <= 0:
                end = match.start()
                break
    if start is None and end is None:
        yield pattern
        return
    if depth or start is None or end is None:
        raise UserError(f"write.path: {brief(whole)} has a brace without its other one")
    head, inside, tail = pattern[:start], pattern[start + 1 : end], pattern[end + 1 :]
    tails = list(itertools.islice(_expand(tail, whole), _MOST_FILES + 1))
    for middle in _inside(inside, whole):
        for rest in tails:
            yield head + middle + rest


def _inside(text: str, whole: str) -> Iterator[str]:
    """What a pair of braces around a text stands for."""
    match = _RANGE.fullmatch(text)
    if match:
        first, last = int(match[1]), int(match[2])
        step = max(1, int(match[3] or 1))
        padded = any(number.lstrip("-").startswith("0") and number.lstrip("-") != "0" for number in match.groups()[:2])
        width = max(len(match[1]), len(match[2])) if padded else 0
        numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
        yield from (f"{number:0{width}d}" for number in numbers)
        return
    parts = _split(text)
    for part in parts:
        for found in _expand(part, whole):
            yield found if len(parts) > 1 else f"{{{found}}}"


def _split(text: str) -> list[str]:
    """The parts between commas that are in no braces, with their backslashes."""
    parts, start, depth = [], 0, 0
    for match in _SPECIAL.finditer(text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if match[0] == "," and depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]
