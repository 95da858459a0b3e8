"""From recipe files, and their bases, to what is set: dotted keys, all of them known, with where each stands."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from ffdr.config.verbs import sections
from ffdr.config.yaml_file import MOST_LEVELS, Reading, Text
from ffdr.util.errors import UserError, nearest
from ffdr.util.shipped import recipe_file
from ffdr.util.text import brief, printable

UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udc7f\udd00-\udfff]")
"""What no name of a file has that anyone wants: controls of a terminal, of lines, of the direction of writing, and
halves of characters, but for those that stand for bytes which are not UTF-8."""
_LONGEST_PATH = 4096
"""Characters that Linux takes."""
Settings = dict[str, tuple[str, Any]]
"""dotted key → (where it is set, value)"""


class Files:
    """The recipe files of one verb: each is read once, and all of them within the limits of one recipe."""

    def __init__(self, verb: str, or_pipes: bool = False) -> None:
        """or_pipes: whether those that are no bases may be pipes, such as a shell's ``<(...)``."""
        self._verb, self._or_pipes = verb, or_pipes
        self._known = known_keys(verb)
        self._reading = Reading()
        self._read: dict[str, Settings] = {}

    def settings(self, file: Path, above: tuple[str, ...] = ()) -> Settings:
        """Dotted key → (file and line, value) of a recipe, over those of its ``base``.

        base: one path, or a list of which the later wins, from the recipe's own folder. above: the recipes it is a base
        of.
        """
        place = os.path.join(os.path.realpath(file.parent), file.name)  # a link's bases lie where the link does
        if place in above:
            raise UserError(f"{file}: is its own base")
        if len(above) >= MOST_LEVELS:
            raise UserError(f"{file}: more than {MOST_LEVELS} recipes, each the base of another")
        if place not in self._read:
            self._read[place] = self._settings(file, (*above, place))
        return self._read[place]

    def _settings(self, file: Path, above: tuple[str, ...]) -> Settings:
        content = self._reading.mapping(file, or_pipe=self._or_pipes and len(above) == 1)
        bases = content.pop("base", [])
        found: Settings = {}
        for base in bases if isinstance(bases, list) else [] if is_null(bases) else [bases]:
            found |= self.settings(recipe_file(recipe_path(base, f"{file}: base"), file.parent), above)
        return found | self._own(content, file)

    def _own(self, content: dict, file: Path) -> Settings:
        """What the file itself sets."""
        own: Settings = {}
        lines: dict[str, int] = {}
        for key, line, value in _flatten(content, self._known):
            where = f"{file}, line {line}"
            if (is_null(value) or value == {}) and _is_section(key, self._known):
                continue  # all that stands in it may be commented out
            require_known(key, self._known, where, self._verb)
            require_value(key, value, where)
            if key in own:
                raise UserError(f"{where}: {key} stands twice (see line {lines[key]})")
            own[key], lines[key] = (where, value), line
        return own


def recipe_path(value: Any, where: str) -> Path:
    """The path of a recipe. Raises UserError for what is none, with where it stands."""
    if not isinstance(value, str) or UNFIT.search(value) or len(value) > _LONGEST_PATH:
        raise UserError(f"{where}: {brief(value)} is not the path of a recipe")
    return Path(value)


def _flatten(content: dict, known: dict[str, Field], prefix: str = "") -> Iterator[tuple[str, int, Any]]:
    """(dotted key, line, value) of all options; the mapping of an option that is one stays whole."""
    for key, value in content.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and not (path in known and known[path].type.startswith("dict")):
            yield from _flatten(value, known, path + ".")
        else:
            yield path, getattr(key, "line", 0), value


def is_null(value: Any) -> bool:
    """Whether YAML takes it for no value."""
    return value is None or (isinstance(value, Text) and value.is_null)


def _is_section(key: str, known: dict[str, Field]) -> bool:
    return any(name.startswith(f"{key}.") for name in known)


def require_value(key: str, value: Any, where: str) -> None:
    """Refuse what YAML takes for no value, also inside of lists and mappings."""
    if is_null(value):
        remedy = f" ({value}); leave it out, or quote it: '{value}'" if value else "; give one, or leave it out"
        raise UserError(f"{where}: {printable(key)} has no value{remedy}")
    for part in value if isinstance(value, list) else []:
        require_value(key, part, where)
    for name, part in value.items() if isinstance(value, dict) else []:
        require_value(f"{key}.{name}", part, where)


def require_known(key: str, known: dict[str, Field], where: str, verb: str) -> None:
    """Raise UserError for a key that the verb does not have, with the nearest spelling."""
    if key in known:
        return
    hint = nearest(key, known)
    if _is_section(key, known):
        hint = f": it is a section, whose options are written {key}.name"
    elif not hint:
        hint = f" (ffdr {verb} has the sections {', '.join(dict.fromkeys(name.split('.')[0] for name in known))})"
    raise UserError(f"{where}: unknown key {printable(key)}{hint}")


def known_keys(verb: str) -> dict[str, Field]:
    """The fields of all options that a verb has, by their dotted keys."""
    return {f"{section}.{f.name}": f for section, options in sections(verb).items() for f in fields(options)}
