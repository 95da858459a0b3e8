"""What all options classes share: the range or the choices of an option stand in its type, and are checked from there.

``quality: Annotated[int, Between(1, 100)] = 90`` is an int to whoever reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from ffdr.config.choices import COMPILE, PRECISIONS, SWITCH
from ffdr.util.errors import UserError, between, one_of

_SWITCHED = {"true": "on", "yes": "on", "on": "on", "false": "off", "no": "off", "off": "off"}


def switched(value: str) -> str:
    """on or off for how YAML spells true and false; other words as they are."""
    return _SWITCHED.get(value.lower(), value)


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``."""

    low: float
    high: float

    def __call__(self, key: str, value: float) -> float:
        """The value of an option. Raises UserError for another."""
        between(key, value, self.low, self.high)
        return value


@dataclass(frozen=True)
class OneOf:
    """One of some words."""

    allowed: tuple[str, ...]
    is_switch: bool = False
    """whether on and off may be spelled as YAML does"""
    or_empty: bool = False

    def __call__(self, key: str, value: str) -> str:
        """The value of an option, on and off spelled so. Raises UserError for another."""
        value = switched(value) if self.is_switch else value
        if value or not self.or_empty:
            one_of(key, value, self.allowed)
        return value


Share = Annotated[float, Between(0, 1)]
Seed = Annotated[int, Between(0, 2**63 - 1)]
Resolution = Annotated[int, Between(0, 4096)]
"""Pixels; 0 stands for a default."""
Threads = Annotated[int, Between(0, 1024)]
Processes = Annotated[int, Between(0, max(64, 4 * (os.cpu_count() or 1)))]
"""At a time, and threads of each: more gain nothing and take memory, 25 MB and more per process."""
Precision = Annotated[str, OneOf(PRECISIONS)]
Switch = Annotated[str, OneOf(SWITCH, is_switch=True)]
CompileMode = Annotated[str, OneOf(COMPILE, is_switch=True)]

_ADDED = "added"


def added(default: Any) -> Any:
    """An option that earlier versions did not have: at its default it is no part of ``Options.identity``."""
    return field(default=default, metadata={_ADDED: True})


Check = tuple[str, bool, Callable[[str, Any], Any]]
"""Name of an option, whether it is a list, and the check of its value or of each value in it."""


@dataclass(frozen=True)
class Options:
    """Base of the frozen dataclasses, one per section of a recipe, whose fields are its options."""

    section: ClassVar[str]
    _checks: ClassVar[list[Check]]

    def __init_subclass__(cls, section: str) -> None:
        cls.section, cls._checks = section, list(_checks(cls))

    def __post_init__(self) -> None:
        """Raise UserError for a value that its type does not allow."""
        for name, is_list, check in self._checks:
            key, value = f"{self.section}.{name}", getattr(self, name)
            found = tuple(check(key, part) for part in value) if is_list else check(key, value)
            object.__setattr__(self, name, found)

    def identity(self) -> dict[str, Any]:
        """What tells these options from others, by name; the same as in versions that had fewer."""
        defaults = self.added_defaults()
        return {name: value for name, value in asdict(self).items() if name not in defaults or value != defaults[name]}

    @classmethod
    def added_defaults(cls) -> dict[str, Any]:
        """The options that earlier versions did not have, with what they stand for where ``identity`` names none."""
        return {option.name: option.default for option in fields(cls) if _ADDED in option.metadata}

    def need(self, *names: str, what: str = "give the path of a file") -> None:
        """Raise UserError where one of these options is empty."""
        for name in names:
            if not getattr(self, name):
                raise UserError(f"{self.section}.{name}: {what}")


def _checks(options: type[Options]) -> Iterator[Check]:
    for name, kind in get_type_hints(options, include_extras=True).items():
        is_list = get_origin(kind) is tuple
        for check in getattr(get_args(kind)[0] if is_list else kind, "__metadata__", ()):
            yield name, is_list, check
