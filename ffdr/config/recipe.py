"""From YAML files and flags to frozen dataclasses. The only module that touches fastargs.

fastargs declares and looks up the options; three of its habits would hurt a user and are fenced off here: it drops
unknown keys, it converts loosely (``int("2.7")`` fails but ``int(2.7)`` is 2, ``bool("False")`` is True), and a failed
validation ends with status 0. Here every key must be known, every value must be of its type, and each mistake is a
:class:`~ffdr.util.errors.UserError` that names the key, the value and what is allowed.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from fastargs import Param, Section
from fastargs.config import Config
from fastargs.validation import Checker

from ffdr.config.verbs import RECIPES
from ffdr.config.yaml_file import (
    MOST_LEVELS,
    Reading,
    Text,
    without_marks,
)
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, printable, split_list

R = TypeVar("R")

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_PREFIXED = re.compile(r"[-+]?0[xob][0-9a-f_]+", re.IGNORECASE)
_POWER = re.compile(r"[-+]?\d+(\.\d+)?e\+?\d{1,2}", re.IGNORECASE)
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udc7f\udd00-\udfff]")
"""What no name of a file has that anyone wants: controls of a terminal, of lines, of the direction of writing, and
halves of characters, but for those that stand for bytes which are not UTF-8."""
_LONGEST_PATH = 4096
"""Characters that Linux takes."""
Settings = dict[str, tuple[str, Any]]
"""dotted key → (where it is set, value)"""


class _Typed(Checker):
    """Accepts what is of the field's type, or text that spells it exactly."""

    def __init__(self, kind: Any, lines: bool = False) -> None:
        """lines: whether a text may have several."""
        self.kind, self.lines = kind, lines

    def check(self, value: Any) -> Any:
        if self.has_unfit(value):
            raise ValueError
        if get_origin(self.kind) is tuple:
            return self._tuple(value)
        if get_origin(self.kind) is dict:
            return self._mapping(value)
        return self._scalar(self.kind, value)

    def has_unfit(self, value: Any) -> bool:
        """Whether a text in it has characters that no option takes."""
        if isinstance(value, str):
            return bool(_UNFIT.search(re.sub(r"[\t\r\n]", " ", value) if self.lines else value))
        parts = list(value.items()) if isinstance(value, dict) else value
        return isinstance(parts, (list, tuple)) and any(map(self.has_unfit, parts))

    def _tuple(self, value: Any) -> tuple:
        parts = [part for part in split_list(value) if part.strip()] if isinstance(value, str) else list(value)
        element, *others = get_args(self.kind)
        if Ellipsis not in others and len(parts) != 1 + len(others):
            raise ValueError
        return tuple(self._scalar(element, part) for part in parts)

    @staticmethod
    def _mapping(value: Any) -> dict:
        if not isinstance(value, (dict, tuple)):
            raise TypeError
        return without_marks(dict(value))

    @staticmethod
    def _scalar(kind: type, value: Any) -> Any:
        if kind is bool:
            word = str(value).lower()
            if word not in (*_YES, *_NO):
                raise ValueError
            return word in _YES
        if kind is str and isinstance(value, bool):
            return "on" if value else "off"
        if kind is str and isinstance(value, (str, int, float)):
            return str(value)
        if isinstance(value, Text) and value.octal:
            raise ValueError
        if kind is int and isinstance(value, str):
            return _integer(value)
        if kind in (int, float) and isinstance(value, (str, int, kind)) and not isinstance(value, bool):
            return kind(value)
        raise TypeError

    def help(self) -> str:
        names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
        if get_origin(self.kind) is dict:
            return "a mapping, which a YAML file holds"
        if get_origin(self.kind) is not tuple:
            return names[self.kind]
        element, *others = get_args(self.kind)
        count = "" if Ellipsis in others else f"{1 + len(others)} "
        return f"{count}{names[element].split()[-1]}s, such as {'128,224' if element is int else '0.5,1.0'}"


def _integer(text: str) -> int:
    """Also 0x10, and 1e6 where it is whole. Raises ValueError for what is no integer."""
    if _PREFIXED.fullmatch(text):
        return int(text, 0)
    if _POWER.fullmatch(text) and Decimal(text) == Decimal(text).to_integral_value():
        return int(Decimal(text))
    return int(text)


def parse(verb: str, arguments: Sequence[str], also: Sequence[tuple[str, Any]] = (), files: Files | None = None) -> Any:
    """The recipe of a verb from its command line: ``--config-file`` YAMLs in order, then dotted flags.

    Args:
        verb: a key of ``ffdr.config.RECIPES``.
        arguments: what follows the verb, such as ``["--config-file", "x.yaml", "--train.epochs=16"]``.
        also: further (key, value) pairs that win over files and flags; for callers in Python.
        files: those of this verb that were read already; for many recipes that share some.

    Raises:
        UserError: an unknown key or wrong value, with its place, what is allowed and the nearest spelling.
    """
    recipe_class = RECIPES[verb]
    known = _known_keys(recipe_class)
    paths, flags = _split(arguments, verb, known)
    files = files or Files(verb, or_pipes=True)
    settings: Settings = {}
    for path in paths:
        settings |= files.settings(_path(path, "--config-file"))
    for key, _ in also:
        _require_known(key, known, "call", verb)
    settings |= {key: ("command line", value) for key, value in flags} | {key: ("call", value) for key, value in also}
    return _build(recipe_class, settings)


def load(verb: str, file: Path | str, **overrides: Any) -> Any:
    """The recipe in one YAML file; overrides are spelled ``section__name=value``."""
    also = [(key.replace("__", ".", 1), value) for key, value in overrides.items()]
    return parse(verb, ["--config-file", str(file)], also)


def help_text(verb: str) -> str:
    """The options of a verb with their defaults, for ``--help``."""
    lines = []
    for section, options in _sections(RECIPES[verb]):
        lines.append(f"\n{section}: {(options.__doc__ or '').strip().splitlines()[0]}")
        texts = _field_help(options)
        for field in fields(options):
            default = "" if field.default in (MISSING, "", ()) else f" [{_spell(field.default)}]"
            body = textwrap.wrap(texts.get(field.name, "") + default, 78)
            lines.append(f"  --{section}.{field.name}")
            lines.extend(f"      {line}" for line in body)
    return "\n".join(lines)


def _split(arguments: Sequence[str], verb: str, known: dict[str, Field]) -> tuple[list[str], list[tuple[str, str]]]:
    """Recipe files and (key, value) pairs of a command line.

    A flag without a dot is one of the verb's own section (``--json``); true or false needs no value; dashes inside a
    name stand for underscores; a first word without dashes is the verb's file.
    """
    files: list[str] = []
    flags: list[tuple[str, str]] = []
    rest = iter(arguments)
    for number, word in enumerate(rest):
        if word == "-C":
            word = "--config-file"
        if not word.startswith("--"):
            if number > 0 or f"{verb}.file" not in known:
                raise UserError(f"{brief(word)}: options are written --section.name=value")
            word = f"--file={word}"
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if key != "config_file":
            key = key if "." in key else f"{verb}.{key}"
            _require_known(key, known, "command line", verb)
        if not equals:
            value = "true" if key in known and known[key].type == "bool" else next(rest, None)
            if value is None:
                raise UserError(f"{word}: a value is missing; write {word}=value")
        if key == "config_file":
            files.append(value)
        elif key in (name for name, _ in flags):
            raise UserError(f"--{key}: given twice")
        else:
            flags.append((key, value))
    return files, flags


class Files:
    """The recipe files of one verb: each is read once, and all of them within the limits of one recipe."""

    def __init__(self, verb: str, or_pipes: bool = False) -> None:
        """or_pipes: whether those that are no bases may be pipes, such as a shell's ``<(...)``."""
        self._verb, self._or_pipes = verb, or_pipes
        self._known = _known_keys(RECIPES[verb])
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
        for base in bases if isinstance(bases, list) else [] if _is_null(bases) else [bases]:
            found |= self.settings(file.parent / _path(base, f"{file}: base"), above)
        return found | self._own(content, file)

    def _own(self, content: dict, file: Path) -> Settings:
        """What the file itself sets."""
        own: Settings = {}
        lines: dict[str, int] = {}
        for key, line, value in _flatten(content, self._known):
            where = f"{file}, line {line}"
            if (_is_null(value) or value == {}) and _is_section(key, self._known):
                continue  # all that stands in it may be commented out
            _require_known(key, self._known, where, self._verb)
            _require_value(key, value, where)
            if key in own:
                raise UserError(f"{where}: {key} stands twice (see line {lines[key]})")
            own[key], lines[key] = (where, value), line
        return own


def _path(value: Any, where: str) -> Path:
    if not isinstance(value, str) or _UNFIT.search(value) or len(value) > _LONGEST_PATH:
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


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Text) and value.is_null)


def _is_section(key: str, known: dict[str, Field]) -> bool:
    return any(name.startswith(f"{key}.") for name in known)


def _require_value(key: str, value: Any, where: str) -> None:
    """Refuse what YAML takes for no value, also inside of lists and mappings."""
    if _is_null(value):
        remedy = f" ({value}); leave it out, or quote it: '{value}'" if value else "; give one, or leave it out"
        raise UserError(f"{where}: {printable(key)} has no value{remedy}")
    for part in value if isinstance(value, list) else []:
        _require_value(key, part, where)
    for name, part in value.items() if isinstance(value, dict) else []:
        _require_value(f"{key}.{name}", part, where)


def _require_known(key: str, known: dict[str, Field], where: str, verb: str) -> None:
    if key in known:
        return
    hint = nearest(key, known)
    if _is_section(key, known):
        hint = f": it is a section, whose options are written {key}.name"
    elif not hint:
        hint = f" (ffdr {verb} has the sections {', '.join(dict.fromkeys(name.split('.')[0] for name in known))})"
    raise UserError(f"{where}: unknown key {printable(key)}{hint}")


def _sections(recipe_class: type) -> Iterator[tuple[str, type]]:
    for name, options in get_type_hints(recipe_class).items():
        assert is_dataclass(options)
        yield name.rstrip("_"), options  # import_: Python's own word can't name a field


def _known_keys(recipe_class: type) -> dict[str, Field]:
    return {f"{section}.{f.name}": f for section, options in _sections(recipe_class) for f in fields(options)}


def _build(recipe_class: type[R], settings: dict[str, tuple[str, Any]]) -> R:
    """Declare every option to fastargs, hand it the settings, and read typed values back."""
    config = Config()
    for section, options in _sections(recipe_class):
        kinds = get_type_hints(options)
        texts = _field_help(options)
        Section(section, options.__doc__, config).params(
            **{
                f.name: Param(_Typed(kinds[f.name], "lines" in f.metadata), texts.get(f.name, ""), _default(f))
                for f in fields(options)
            }
        )
    # fastargs takes the dots in a mapping's keys for sections, so it sees a mapping as pairs.
    config.collect({k: tuple(v.items()) if isinstance(v, dict) else v for k, (_, v) in settings.items()})
    for path in config.validate(mode="errordict"):
        key, checker = ".".join(path), config.entries[path].checker
        where, value = settings[key]
        if checker.has_unfit(value):
            raise UserError(f"{where}: {key}: {brief(value)} has control characters, which no option takes")
        raise UserError(f"{where}: {key}: {brief(value)} is not {checker.help()}{_octal_hint(value)}")
    return recipe_class(
        *(
            options(**{f.name: config[section, f.name] for f in fields(options)})
            for section, options in _sections(recipe_class)
        )
    )


def _octal_hint(value: Any) -> str:
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(part, Text) and part.octal:
            return f" (it may be read as {int(part)} or, as YAML 1.1 does, as {part.octal}: write one of them)"
    return ""


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _spell(value: Any) -> str:
    if not isinstance(value, (tuple, list)):
        return str(value)
    return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)


@cache
def _field_help(options: type) -> dict[str, str]:
    """The text below each field of an options class, which Python itself throws away."""
    body = ast.parse(textwrap.dedent(inspect.getsource(options))).body[0].body
    return {
        field.target.id: " ".join(inspect.cleandoc(text.value.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
