"""What comes with ffdr beside its code: recipes, and tables of reference results.

They lie at the top of a checkout, and within the package where that is installed (pyproject.toml says so).
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ffdr.util.errors import UserError
from ffdr.util.text import printable

_PACKAGE = Path(__file__).parents[1]
_LONGEST_NAME = 100
"""Characters of a name that are compared with those of recipes: the time grows with their square."""


def recipes() -> Path:
    """The folder of the recipes, ``rcfg/`` in a checkout."""
    return _folder("rcfg", "rcfg")


def references() -> Path:
    """The folder of the reference tables, ``results/reference/`` in a checkout."""
    return _folder("reference", "results/reference")


def recipe_file(named: Path, folder: Path = Path()) -> Path:
    """The file that a command line, or ``base:`` of a recipe in ``folder``, names.

    A file of that very path comes first. ``digits/erm``, and also ``rcfg/digits/erm.yaml``, are the shipped recipe of
    that name, wherever the user is.

    Raises:
        UserError: a name without a suffix that is neither; it lists the nearest shipped ones, if any are near.
    """
    file = folder / named
    if os.path.exists(file) and not os.path.isdir(file):
        return file
    name = str(named)
    shipped = {f"{found.relative_to(recipes()).with_suffix('')}": found for found in recipes().rglob("*.yaml")}
    if not named.suffix and name in shipped:
        return shipped[name]
    if name.startswith("rcfg/") and name.removeprefix("rcfg/").removesuffix(".yaml") in shipped:
        return shipped[name.removeprefix("rcfg/").removesuffix(".yaml")]
    runs = sorted(name for name in shipped if "parts" not in name.split("/"))
    close = difflib.get_close_matches(name[:_LONGEST_NAME], runs) or [run for run in runs if name in run][:3]
    if not close or named.suffix or os.path.lexists(file):
        return file  # whoever reads it reports what is wrong with it
    hint = f"no recipe of that name comes with ffdr; the nearest are {', '.join(close)}"
    raise UserError(f"{printable(str(file))}: No such file, and {hint}")


def _folder(installed: str, in_checkout: str) -> Path:
    folder = _PACKAGE / installed
    return folder if folder.is_dir() else _PACKAGE.parent / in_checkout
