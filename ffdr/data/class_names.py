"""Names of classes from a file, for data that has none: FFCV's own betons, tar shards, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ffdr.util.errors import UserError
from ffdr.util.foreign import parse_json, read_text
from ffdr.util.text import brief

MOST_CLASSES = 1 << 16
"""Class ids are stored in 16 bits."""


def read_class_names(path: str | Path, key: str) -> list[str]:
    """The names in a file, in the order of the class ids.

    A text has one name per line. A ``.json`` file has a list of names, or a mapping of ids to names, or to lists whose
    first entry is the name, as in ``imagenet_class_index.json``: the second ones there have two cranes.

    key: the option that names the file, for messages.

    Raises:
        UserError: a file that can't be read or is neither; a name that is missing or stands twice; too many.
    """
    text = read_text(path)
    if Path(path).suffix == ".json":
        names = _from_json(parse_json(text, path), f"{key}: {path}")
    else:
        names = text.removesuffix("\n").splitlines() if text else []
    check_class_names(names, f"{key}: {path}")
    return names


def check_class_names(names: list[Any], where: str) -> None:
    """Raise UserError for names that are none, that stand twice, or are too many. where: what has them."""
    if not 0 < len(names) <= MOST_CLASSES:
        raise UserError(f"{where}: {len(names)} class names, but 1 to {MOST_CLASSES} are wanted")
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UserError(f"{where}: class {number}: {brief(name)} is not a name")
        if name in seen:
            raise UserError(f"{where}: classes {seen[name]} and {number} are both called {name!r}")
        seen[name] = number


def _from_json(found: Any, where: str) -> list[Any]:
    if isinstance(found, list):
        return found
    if not isinstance(found, dict) or sorted(found) != sorted(map(str, range(len(found)))):
        raise UserError(f"{where}: neither a list of names nor a mapping with a name for each of the ids 0, 1, …")
    names = [found[str(number)] for number in range(len(found))]
    return [name[0] if isinstance(name, list) and name else name for name in names]
