"""How times, sizes, names, paths and lists are said, tables as Markdown, and how verbs end."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

RCFG = Path(__file__).parents[1] / "rcfg"
"""The recipes that come with a checkout."""


def duration(seconds: float) -> str:
    """As a person would say it: 3 d 4 h, 2 h 5 min, 40 s."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)} d {hours % 24:.0f} h"
    if hours >= 1:
        return f"{int(hours)} h {minutes % 60:.0f} min"
    return f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.1f} s"


def byte_size(count: int) -> str:
    """As a person would say it: 812 bytes, 2.1 MiB, 1,204.5 GiB."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):,.1f} {unit}"
    return f"{count} bytes"


def command(verb: str, *words: object) -> str:
    """A command line of ffdr, to be pasted into a shell."""
    return shlex.join(("ffdr", verb, *map(str, words)))


def shown(path: Path) -> str:
    """A path as a command names it: from the current folder, where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def ending(made: Iterable[tuple[Path, str, bool]], then: str) -> str:
    """The line with which a verb ends.

    Args:
        made: path of each output, what it is, and whether it was there already.
        then: the command that comes next.
    """
    said = (
        f"{path}: already complete ({what}); nothing to do" if done else f"{path}: {what}" for path, what, done in made
    )
    return f"{'; '.join(said)}; next: {then}"


def readable(name: str) -> str:
    """A file's or a class's name as text that every library takes: bytes that are not UTF-8 become ``\\xe9``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def table_lines(headings: Sequence[str], rows: Iterable[Sequence[str]], padded: bool = False) -> list[str]:
    """A Markdown table. padded: with columns as wide as their longest cell, to be read as it is."""
    lines = [headings, *rows]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    rule = "|" + "|".join("-" * max(width + 2, 3) for width in widths) + "|"
    heading, *body = (
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
    return [heading, rule, *body]


def split_list(text: str) -> list[str]:
    """The parts between commas; ``\\,`` is a comma within a part."""
    return [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text)]


def join_list(parts: Iterable[str]) -> str:
    """The text that ``split_list`` splits into these parts."""
    return ",".join(part.replace(",", "\\,") for part in parts)
