"""YAML files whose scalars keep the text that stands there, read within limits: they may be a stranger's.

YAML 1.1, which PyYAML reads, takes ``off`` and ``NO`` for false, ``2024-01-01`` for a date, ``1_000`` and ``017`` for
numbers, ``12:30`` for one of base 60, and ``1e-3`` for a text. What a scalar is, only the option that it is for can
say: here all are texts, with their lines and whether they are quoted. So PyYAML only lists what stands in a file, one
event after another, and makes no values of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ffdr.util.errors import UserError
from ffdr.util.foreign import read_text
from ffdr.util.text import brief, byte_size, printable

MOST_BYTES = 256 << 10
"""Of all files of a recipe: PyYAML takes a second for them at worst. Those in rcfg/ have at most 3 KiB each."""
MOST_VALUES = 10_000
"""Scalars (keys, too), lists and mappings in all files of a recipe, an alias counted as all that it stands for."""
MOST_FILES = 250
"""Of a recipe and its bases, or of a grid and all recipes that it names."""
MOST_LEVELS = 16
"""Lists and mappings within each other, and bases of bases. A point of a grid is at the fifth level."""
MOST_CHARACTERS = 10_000
"""Of one scalar: more than twice the longest path that Linux takes."""

_OCTAL = re.compile(r"[-+]?0(_?[0-7]){1,99}")
_TEXT = ("!", "tag:yaml.org,2002:str")
_TAGS = {
    yaml.ScalarEvent: (*_TEXT, *(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool"))),
    yaml.SequenceStartEvent: ("!", "tag:yaml.org,2002:seq"),
    yaml.MappingStartEvent: ("!", "tag:yaml.org,2002:map"),
}
"""Those that say no more than the option does that a value is for."""
_STARTS = (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)


def _line(mark: Any) -> int:
    """Of PyYAML's mark in a text, from 1. Those that it leaves out are of objects that were made without a text."""
    return mark.line + 1


class Text(str):
    """A scalar as it is written."""

    line: int
    """counted from 1"""
    plain: bool
    """whether it stands without quotes, so that it may mean something else than its characters"""

    @property
    def is_null(self) -> bool:
        """Whether YAML takes it for no value."""
        return self.plain and self in ("", "~", "null", "Null", "NULL")

    @property
    def octal(self) -> str:
        """The other number that YAML 1.1 takes it for, such as 8 for 010; empty: none."""
        if not self.plain or not _OCTAL.fullmatch(self) or int(self, 8) == int(self):
            return ""
        return str(int(self, 8))


class Reading:
    """Reads the files of one recipe, within limits that they share."""

    def __init__(self) -> None:
        self._files = self._bytes = self._values = 0

    def mapping(self, file: Path, or_pipe: bool = False) -> dict[str, Any]:
        """The mapping that a file holds, of ``Text``, lists and mappings. or_pipe: see ``foreign.open_regular``.

        Raises:
            UserError: a file that can't be read, is not YAML, or holds anything else; a key that stands twice; more
                than a recipe may have.
        """
        self._files += 1
        if self._files > MOST_FILES:
            raise UserError(f"{file}: more than {MOST_FILES:,} files, the most that are read of one recipe")
        text = read_text(file, MOST_BYTES, or_pipe)
        self._bytes += len(text.encode())
        if self._bytes > MOST_BYTES:
            most = byte_size(MOST_BYTES)
            raise UserError(f"{file}: more than {most} with the files before it, the most that is read of one recipe")
        document = _Document(file, text, MOST_VALUES - self._values)
        content = document.content()
        self._values += document.values
        if not isinstance(content, dict):
            what = "nothing" if content is None else "a list" if isinstance(content, list) else "a text"
            raise UserError(f"{file}: a recipe is a mapping of sections, but this file holds {what}")
        return content


class _Document:
    """One file's content, made of the events that PyYAML lists."""

    def __init__(self, file: Path, text: str, most: int) -> None:
        """most: values that it may have."""
        self.values = 0
        """made so far"""
        self._file, self._most = file, most
        self._events = self._parsed(text)
        self._anchored: dict[str, tuple[Any, int, int] | None] = {}
        """value, how many values it is, and by how many levels it is deeper than its own; None: not at its end yet"""
        self._deepest = 0
        """level of the innermost list or mapping so far in the value that is being made"""

    def content(self) -> Any:
        """What the file holds; None: nothing."""
        next(self._events)
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 1)
        next(self._events)
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._error(event, "a second document begins")
        return None if isinstance(value, Text) and value.is_null else value

    def _parsed(self, text: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(text, yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = printable(error.problem or error.context or "")
            raise UserError(f"{self._file}, line {_line(mark)}: not YAML: {problem}") from None
        except yaml.reader.ReaderError as error:
            code = f"character {error.character:#04x}" if isinstance(error.character, int) else "a character"
            raise UserError(f"{self._file}: not YAML: {code} at {error.position}") from None
        except (ValueError, OverflowError):  # PyYAML's own, of the digits in %YAML 1.999… and "\UFFFFFFFF"
            raise UserError(f"{self._file}: not YAML: a number that is none") from None

    def _error(self, event: yaml.Event, problem: str) -> UserError:
        return UserError(f"{self._file}, line {_line(event.start_mark)}: {problem}")

    def _count(self, event: yaml.Event, values: int = 1) -> None:
        self.values += values
        if self.values > self._most:
            note = "; an alias counts as all that it stands for" if isinstance(event, yaml.AliasEvent) else ""
            raise self._error(event, f"more than {MOST_VALUES:,} values, the most that are read of one recipe{note}")

    def _value(self, event: yaml.Event, level: int) -> Any:
        """The value that begins with this event."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, level)
        assert isinstance(event, _STARTS), "a value begins with one of them"
        if event.tag is not None and event.tag not in _TAGS[type(event)]:
            tag = printable(event.tag.replace("tag:yaml.org,2002:", "!!"))
            raise self._error(event, f"{tag}: a recipe has no values of such a kind; leave it out")
        if event.anchor is not None:
            self._anchored[event.anchor] = None
        before, around, self._deepest = self.values, self._deepest, level - 1
        self._count(event)
        value: Text | list[Any] | dict[str, Any]
        if isinstance(event, yaml.ScalarEvent):
            value = self._text(event)
        else:
            self._reach(event, level)
            is_list = isinstance(event, yaml.SequenceStartEvent)
            value = [self._value(part, level + 1) for part in self._parts()] if is_list else self._mapping(level)
        if event.anchor is not None:
            self._anchored[event.anchor] = value, self.values - before, self._deepest - level
        self._deepest = max(self._deepest, around)
        return value

    def _reach(self, event: yaml.Event, level: int) -> None:
        """Refuse a list or a mapping that lies too deep. level: of the outermost, 1."""
        if level > MOST_LEVELS:
            raise self._error(event, f"more than {MOST_LEVELS} lists and mappings within each other")
        self._deepest = max(self._deepest, level)

    def _parts(self) -> Iterator[yaml.Event]:
        """The events with which the parts of a list or a mapping begin."""
        while not isinstance(event := next(self._events), yaml.CollectionEndEvent):
            yield event

    def _text(self, event: yaml.ScalarEvent) -> Text:
        if len(event.value) > MOST_CHARACTERS:
            raise self._error(event, f"a text of more than {MOST_CHARACTERS:,} characters")
        text = Text(event.value)
        text.line = _line(event.start_mark)
        text.plain = event.style is None and event.tag not in _TEXT
        return text

    def _mapping(self, level: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: dict[str, Any] | None = None
        for event in self._parts():
            key = self._value(event, level + 1)
            if not isinstance(key, Text):
                raise self._error(event, "a key is a text, not a list or a mapping")
            if key in found:
                raise self._error(event, f"key {brief(key)} stands twice (see line {lines[key]})")
            lines[key] = key.line
            found[key] = self._value(next(self._events), level + 1)
            if key == "<<" and key.plain:
                merged = self._merged(event, found[key])
        if merged is None:
            return found
        del found["<<"]
        return merged | found

    def _merged(self, event: yaml.Event, value: Any) -> dict[str, Any]:
        """What ``<<`` adds: of several mappings, the earlier wins."""
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self._error(event, "<< takes in a mapping, or a list of them")
        merged: dict[str, Any] = {}
        for part in reversed(parts):
            merged |= part
        return merged

    def _alias(self, event: yaml.AliasEvent, level: int) -> Any:
        name = printable(event.anchor or "")
        if event.anchor is None or event.anchor not in self._anchored:
            raise self._error(event, f"*{name}: there is no &{name} above it")
        anchored = self._anchored[event.anchor]
        if anchored is None:
            raise self._error(event, f"*{name} stands within &{name} itself")
        value, values, levels = anchored
        self._count(event, values)
        self._reach(event, level + levels)
        return value


def without_marks(value: Any) -> Any:
    """The same in plain ``dict``, ``list`` and ``str``."""
    if isinstance(value, dict):
        return {without_marks(key): without_marks(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_marks(part) for part in value]
    return str(value) if isinstance(value, str) else value
