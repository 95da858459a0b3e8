"""``teacher.options``: which options of timm's factory each member of a teacher is built with."""

from __future__ import annotations

from collections.abc import Sequence

from ffdr.config.architecture import read_options
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, printable


def options_of_members(names: Sequence[str], texts: Sequence[str]) -> list[tuple[str, ...]]:
    """NAME=VALUE texts for each member, out of those of all of them, ``MODEL:NAME=VALUE``.

    Args:
        names: of the members' models; MODEL is one of them, which may stand several times, or a member's number.
        texts: as ``TeacherOptions.options`` has them.

    Raises:
        UserError: a text of another form, a member that is none, what ``read_options`` refuses.
    """
    found: list[list[str]] = [[] for _ in names]
    for text in texts:
        start, equals, value = (part.strip() for part in text.partition("="))
        member, colon, option = (part.strip() for part in start.rpartition(":"))
        if not (member and colon and option and equals and value):
            raise UserError(f"teacher.options: {brief(text, 80)} is not MODEL:NAME=VALUE")
        for number in _numbers(member, names, text):
            found[number].append(f"{option}={value}")
    for name, options in zip(names, found, strict=True):
        read_options(options, f"teacher.options: {printable(name, 80)}")
    return [tuple(options) for options in found]


def _numbers(member: str, names: Sequence[str], text: str) -> list[int]:
    """Of the members that a text means: of that name, or of that number."""
    numbers = [number for number, name in enumerate(names) if member in (name, str(number))]
    if not numbers:
        has = ", ".join(f"{number} {printable(name, 80)}" for number, name in enumerate(names)) or "none by its name"
        raise UserError(
            f"teacher.options: {brief(text, 80)}: {printable(member, 80)} is not one of teacher.models"
            f"{nearest(member, names)}; they are {has}"
        )
    return numbers
