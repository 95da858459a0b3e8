"""From YAML files and flags to frozen dataclasses. The only module that touches fastargs.

fastargs declares and looks up the options; three of its habits would hurt a user and are fenced off here: it drops
unknown keys, it converts loosely (``int("2.7")`` fails but ``int(2.7)`` is 2, ``bool("False")`` is True), and a failed
validation ends with status 0. Here every key must be known, every value must be of its type, and each mistake is a
:class:`~ffdr.util.errors.UserError` that names the key, the value and what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fastargs import Param, Section
from fastargs.config import Config
from fastargs.validation import Checker

from ffdr.config.settings import UNFIT, Files, Settings, known_keys, recipe_path, require_known, require_value
from ffdr.config.verbs import RECIPES, own_section, sections
from ffdr.config.yaml_file import Text, without_marks
from ffdr.util.errors import UserError
from ffdr.util.shipped import recipe_file
from ffdr.util.text import brief, join_list, split_list

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_PREFIXED = re.compile(r"[-+]?0[xob][0-9a-f_]+", re.IGNORECASE)
_POWER = re.compile(r"[-+]?\d+(\.\d+)?e\+?\d{1,2}", re.IGNORECASE)


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
            return bool(UNFIT.search(re.sub(r"[\t\r\n]", " ", value) if self.lines else value))
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
        example = "128,224" if element is int else "0.4,0.4,0.4,0.1" if count == "4 " else "0.5,1.0"
        return f"{count}{names[element].split()[-1]}s, such as {example}"


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
        verb: a key of ``ffdr.config.verbs.RECIPES``.
        arguments: what follows the verb, such as ``["--config-file", "x.yaml", "--train.epochs=16"]``.
        also: further (key, value) pairs that win over files and flags; for callers in Python.
        files: those of this verb that were read already; for many recipes that share some.

    Raises:
        UserError: an unknown key or wrong value, with its place, what is allowed and the nearest spelling.
    """
    known = known_keys(verb)
    paths, flags = _split(arguments, verb, known)
    files = files or Files(verb, or_pipes=True)
    settings: Settings = {}
    for path in paths:
        settings |= files.settings(recipe_file(recipe_path(path, "--config-file")))
    for key, _ in also:
        require_known(key, known, "call", verb)
    settings |= {key: ("command line", value) for key, value in flags} | {key: ("call", value) for key, value in also}
    return _build(verb, settings)


def load(verb: str, file: Path | str, **overrides: Any) -> Any:
    """The recipe in one YAML file; overrides are spelled ``section__name=value``."""
    also = [(key.replace("__", ".", 1), value) for key, value in overrides.items()]
    return parse(verb, ["--config-file", str(file)], also)


def from_call(verb: str, config_file: str | os.PathLike[str], options: Mapping[str, Any]) -> Any:
    """The recipe of a verb that is called from Python.

    Args:
        verb: a key of ``RECIPES``.
        config_file: a recipe in YAML, over whose settings the options win; empty: none.
        options: those of the verb's own section by their names, and whole sections, as mappings or as options objects.

    Raises:
        UserError: as ``parse`` does.
    """
    classes = sections(verb)
    also: list[tuple[str, Any]] = []
    for name, value in options.items():
        if name not in classes:
            also.append((f"{own_section(verb)}.{name}", value))
        elif isinstance(value, Mapping):
            also += [(f"{name}.{key}", part) for key, part in value.items()]
        elif isinstance(value, classes[name]):
            also += [(f"{name}.{f.name}", getattr(value, f.name)) for f in fields(value)]
        else:
            kind = classes[name].__name__
            raise UserError(f"call: {name}: {brief(value)} is neither a mapping of options nor {kind}")
    also = [(key, os.fspath(value) if isinstance(value, os.PathLike) else value) for key, value in also]
    for key, value in also:
        require_value(key, value, "call")
    return parse(verb, [f"--config-file={os.fspath(config_file)}"] if config_file else [], also)


def _split(arguments: Sequence[str], verb: str, known: dict[str, Field]) -> tuple[list[str], list[tuple[str, str]]]:
    """Recipe files and (key, value) pairs of a command line.

    A flag without a dot is one of the verb's own section (``--json``); true or false needs no value; dashes inside a
    name stand for underscores; a first word without dashes is the verb's file, several are its runs.
    """
    files: list[str] = []
    flags: list[tuple[str, str]] = []
    words = list(takewhile(lambda word: not word.startswith("-"), arguments))
    if len(words) > 1 and f"{verb}.runs" in known:
        arguments = [f"--runs={join_list(words)}", *arguments[len(words) :]]
    rest, own = iter(arguments), own_section(verb)
    for number, given in enumerate(rest):
        word = "--config-file" if given == "-C" else given
        if not word.startswith("--"):
            if number > 0 or f"{own}.file" not in known:
                raise UserError(f"{brief(word)}: options are written --section.name=value")
            word = f"--file={word}"
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if key != "config_file":
            key = key if "." in key else f"{own}.{key}"
            require_known(key, known, "command line", verb)
        if not equals:
            following = "true" if key in known and known[key].type == "bool" else next(rest, None)
            if following is None:
                raise UserError(f"{word}: a value is missing; write {word}=value")
            value = following
        if key == "config_file":
            files.append(value)
        elif key in (name for name, _ in flags):
            raise UserError(f"--{key}: given twice")
        else:
            flags.append((key, value))
    return files, flags


def _build(verb: str, settings: Settings) -> Any:
    """Declare every option to fastargs, hand it the settings, and read typed values back."""
    config, classes = Config(), sections(verb)
    for section, options in classes.items():
        kinds = get_type_hints(options)
        params = {
            f.name: Param(_Typed(kinds[f.name], lines="lines" in f.metadata), default=_default(f))
            for f in fields(options)
        }
        Section(section, "", config).params(**params)
    # fastargs takes the dots in a mapping's keys for sections, so it sees a mapping as pairs.
    config.collect({k: tuple(v.items()) if isinstance(v, dict) else v for k, (_, v) in settings.items()})
    for path in config.validate(mode="errordict"):
        key, checker = ".".join(path), config.entries[path].checker
        where, value = settings[key]
        if checker.has_unfit(value):
            raise UserError(f"{where}: {key}: {brief(value)} has control characters, which no option takes")
        raise UserError(f"{where}: {key}: {brief(value)} is not {checker.help()}{_octal_hint(value)}")
    found: dict[str, Any] = {
        section: options(**{f.name: config[section, f.name] for f in fields(options)})
        for section, options in classes.items()
    }
    return found[own_section(verb)] if len(found) == 1 else RECIPES[verb](**found)


def _octal_hint(value: Any) -> str:
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(part, Text) and part.octal:
            return f" (it may be read as {int(part)} or, as YAML 1.1 does, as {part.octal}: write one of them)"
    return ""


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
