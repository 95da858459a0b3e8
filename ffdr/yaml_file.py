"""YAML files whose scalars keep the text that stands there.

YAML 1.1, which PyYAML reads, takes ``off`` and ``NO`` for false, ``2024-01-01`` for a date, ``1_000`` and ``017`` for
numbers, ``12:30`` for one of base 60, and ``1e-3`` for a text. What a scalar is, only the option that it is for can
say: here all are texts, with their lines and whether they are quoted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ffdr.errors import UserError
from ffdr.text import reason

_OCTAL = re.compile(r"[-+]?0(_?[0-7])+")


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


class _Loader(yaml.SafeLoader):
    """The safe loader without guesses; a key that stands twice is an error instead of the last one winning."""

    yaml_implicit_resolvers: ClassVar = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # merging: <<

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            name, line = key.value, key.start_mark.line + 1
            if name in lines:
                raise UserError(
                    f"{key.start_mark.name}, line {line}: key {name!r} stands twice (see line {lines[name]})"
                )
            lines[name] = line
        return super().construct_mapping(node, deep)

    def text(self, node: yaml.ScalarNode) -> Text:
        text = Text(self.construct_scalar(node))
        text.line, text.plain = node.start_mark.line + 1, node.style is None
        return text


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.text)


def read_mapping(file: Path) -> dict[Any, Any]:
    """The mapping that a file holds, of ``Text``, lists and mappings; other scalars only where a tag asks for them.

    Raises:
        UserError: a file that can't be read, is not YAML, or holds anything else; a key that stands twice.
    """
    try:
        with open(file, encoding="utf-8") as handle:
            content = yaml.load(handle, _Loader)  # a SafeLoader
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: not YAML: {reason(error)}") from None
    if not isinstance(content, dict):
        what = "nothing" if content is None else "a list" if isinstance(content, list) else "a text"
        raise UserError(f"{file}: a recipe is a mapping of sections, but this file holds {what}")
    return content


def without_marks(value: Any) -> Any:
    """The same in plain ``dict``, ``list`` and ``str``."""
    if isinstance(value, dict):
        return {without_marks(key): without_marks(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_marks(part) for part in value]
    return str(value) if isinstance(value, str) else value
