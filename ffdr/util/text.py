"""How times, sizes, names, paths, lists and foreign texts are written, tables as Markdown, and how verbs end.

What a verb prints goes through ``say`` and ``warn``, so that no name of a stranger drives a terminal.
"""

from __future__ import annotations

import re
import reprlib
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MOST_SHOWN = 200
"""Characters of a foreign text that a message, a table or a picture shows."""
MOST_LINE = 4000
"""Characters of a line that is printed, with all that it names."""


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


def printable(text: str, limit: int = MOST_SHOWN) -> str:
    """A text of strangers as it may be shown: one line of at most ``limit`` characters.

    What a terminal would obey or could not draw, and what changes the direction of writing, is shown by its code:
    ``\\x1b``, ``\\u202e``; bytes of a name that are not UTF-8 as ``readable`` does. A cut text ends in "…".
    """
    shown = "".join(map(_printable, text[: limit + 1]))
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def first_few(values: Sequence[object], limit: int = 5) -> str:
    """The first of some names or numbers, as ``printable`` shows them, and how many more there are; or "none"."""
    more = f" and {len(values) - limit:,} more" if len(values) > limit else ""
    return (", ".join(printable(str(value)) for value in values[:limit]) or "none") + more


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that is not UTF-8
        return readable(character)
    return character.encode("unicode_escape").decode()


class _Brief(reprlib.Repr):
    """Python's notation of a value, whatever refers to whatever in it: some entries of some levels, and no number
    whose digits would take long."""

    def __init__(self) -> None:
        super().__init__()  # sets limits of its own
        self.maxlevel, self.maxdict = 3, 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = self.maxarray = 6
        self.maxstring = self.maxother = MOST_SHOWN

    def repr_int(self, number: int, level: int) -> str:
        return repr(number) if number.bit_length() <= 256 else f"a number of {number.bit_length():,} bits"

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value) if len(value) <= 64 else f"{value[:64]!r}…"


_BRIEF = _Brief()


def brief(value: Any, limit: int = MOST_SHOWN) -> str:
    """A value of strangers in Python's notation, as ``printable`` shows it; quick for any, however large or nested."""
    return printable(_BRIEF.repr(value), limit)


def say(text: str) -> None:
    """Print lines; what a terminal would obey in them is shown by its code, see ``printable``."""
    print("\n".join(printable(line, MOST_LINE) for line in text.split("\n")))


def warn(line: str) -> None:
    """Print one line on standard error; what a terminal would obey in it is shown by its code, see ``printable``."""
    print(printable(line, MOST_LINE), file=sys.stderr)


def reason(error: BaseException, limit: int = MOST_SHOWN) -> str:
    """What an error says, or else its kind, as ``printable`` shows it."""
    return printable(" ".join(str(error).split()), limit) or type(error).__name__


def markdown(text: str, limit: int = MOST_SHOWN) -> str:
    """A text of strangers in a Markdown file: as ``printable`` shows it, and no cell, tag or link of its own."""
    return printable(text, limit).replace("|", "\\|").replace("<", "\\<").replace("](", "]\\(")


def table_lines(headings: Sequence[str], rows: Iterable[Sequence[str]], padded: bool = False) -> list[str]:
    """A Markdown table of any texts. padded: with columns as wide as their longest cell, to be read as it is."""
    lines = [list(map(markdown, cells)) for cells in (headings, *rows)]
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
