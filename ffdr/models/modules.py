"""The user's own Python modules, which register models with timm: imported once, by the user's own flag or recipe."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import brief, printable, reason

_imported: dict[Path, ModuleType] = {}


def import_modules(names: Iterable[str], key: str) -> None:
    """Import what is named, each once per process: paths of ``.py`` files, or dotted names that Python can import.

    The folder of a file goes to the end of ``sys.path``, so that it finds what lies beside it. key: the option that
    named them, for messages.

    Raises:
        UserError: there is no such file or module; an exception while it runs, with its text and its place.
    """
    for name in names:
        if name.endswith(".py") or "/" in name:
            _import_file(Path(name), key)
        elif all(part.isidentifier() for part in name.split(".")):
            _import_name(name, key)
        else:
            raise UserError(f"{key}: {brief(name)} is neither the path of a .py file nor the dotted name of a module")


def _import_file(path: Path, key: str) -> None:
    try:
        file = path.resolve()
        is_file = file.is_file()
    except (OSError, ValueError) as error:  # a name too long, or with a null character
        raise UserError(f"{key}: {brief(str(path), 80)}: {reason(error, 80)}") from error
    if not is_file or file.suffix != ".py":
        raise UserError(f"{key}: {path} is {'no .py file' if file.exists() else 'not there'}")
    if file in _imported:
        return
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    name = file.stem if _is_free(file.stem, file) else f"{file.stem}_{hashlib.sha256(bytes(file)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # of a .py file there is one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # timm looks there for the module of what it registers
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if is_out_of_memory(error):
            raise
        raise _failure(error, str(path), key) from error
    _imported[file] = module


def _is_free(name: str, file: Path) -> bool:
    """Whether a module of that name would be this file and no other, so that it may have the name."""
    if name in sys.modules:
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is None or (spec.origin is not None and Path(spec.origin).resolve() == file)


def _import_name(name: str, key: str) -> None:
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            remedy = "give the path of its .py file, or set PYTHONPATH"
            raise UserError(f"{key}: there is no module {name}; {remedy}") from error
        raise _failure(error, name, key) from error


def _failure(error: BaseException, name: str, key: str) -> UserError:
    """What is raised for an exception of the user's code: its text, and the line of it that was at work."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
    else:  # the last frame that is neither ours nor Python's machinery for imports
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}"
    said = error.msg if isinstance(error, SyntaxError) else reason(error)
    return UserError(f"{key}: {name} can't be imported: {type(error).__name__}: {said} ({printable(place)})")
