"""What made a finished output: its receipt, the hidden file ``.NAME.work`` beside it.

By it a verb recognises its own work, which is not done twice, and keeps any other, which is not replaced unasked. A
receipt is left just before the output gets its final name, and holds size and time of the last change of the very files
that it speaks of. So it is never believed of another file: one that was there before, was copied there, or was changed
since.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffdr.util.atomic import atomic_write
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json
from ffdr.util.opening import check_final

FORMAT = "ffdr work 1"
_LONGEST = 60
"""Characters of the longest value that a message quotes."""


@dataclass(frozen=True)
class Work:
    """What decides the bytes of one output."""

    out: Path
    verb: str
    overwrite: bool
    """Whether an output that is there may be replaced."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The part of the identity that messages can name, by option: values as JSON has them."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """What is read, by the option that names it: a digest of the contents."""
    identity: bytes | None = None
    """What else decides the bytes; None: not known yet."""
    beside: tuple[Path, ...] = ()
    """Further files that belong to the output, such as its manifest."""

    def is_done(self) -> bool:
        """Whether the output is there, finished by this very work; never with ``overwrite``.

        Of work whose identity is not known yet, this is True for all that it may turn out to be.

        Raises:
            UserError: the output is that of other work, or of nobody knows which.
        """
        if self.overwrite or not os.path.lexists(self.out):
            return False
        difference = self._difference()
        if difference:
            raise UserError(f"{self.out}: exists, {difference}; --overwrite replaces it")
        return True

    def check_beside(self) -> None:
        """Raise UserError where the receipt, or a file that belongs to the output, can't get its name."""
        for path in (receipt_path(self.out), *self.beside):
            check_final(path)

    def check_free(self) -> None:
        """Raise UserError if something has got the output's name while the work was done."""
        if not self.overwrite and os.path.lexists(self.out):
            raise UserError(f"{self.out}: has appeared while it was being made; move it away and start again")

    def leave(self, made: Path, staged: Mapping[Path, Path] | None = None) -> None:
        """Write the receipt of a finished file or folder that is to be renamed to ``out`` next.

        staged: where the files ``beside`` lie now that are to be renamed with it.

        Raises:
            UserError: something has got that name while the work was done.
        """
        self.check_free()
        where = dict(staged or {})
        receipt = {
            "format": FORMAT,
            "verb": self.verb,
            "files": {self.out.name: state(made)} | {path.name: state(where.get(path, path)) for path in self.beside},
            "options": self.options,
            "sources": self.sources,
            "identity": self._digest(),
        }
        atomic_write(receipt_path(self.out), json.dumps(receipt, indent=1) + "\n")

    def _digest(self) -> str:
        assert self.identity is not None, f"{self.out}: finished before it was known what decides its bytes"
        return hashlib.sha256(self.identity).hexdigest()

    def _difference(self) -> str:
        """How the work that made the output differs from this one, in words; empty: not at all."""
        receipt = _believed(self.out)
        if receipt is None:
            return "not known to be made by this command"
        if receipt["verb"] != self.verb:
            return f"made by ffdr {receipt['verb']}"
        same = self.identity is not None and receipt["identity"] == self._digest()
        for key, new in ({} if same else json.loads(json.dumps(self.options))).items():
            old = receipt["options"].get(key, new)  # an option of a later version: the identity knows
            if old != new:
                return _made_with(key, old, new)
        for key, digest in self.sources.items():
            if receipt["sources"].get(key) != digest:
                return f"made from other contents of --{key}"
        if self.identity is not None and not same:
            return "made with other settings or versions"
        for path in self.beside:
            if receipt["files"].get(path.name) != state(path):
                return f"but {path.name} beside it is not as it was left"
        return ""


def receipt_path(out: Path) -> Path:
    """Where the receipt of an output lies."""
    return out.with_name(f".{out.name}.work")


def state(path: Path) -> str:
    """Stands for a file, or for the names and files of a folder: their sizes and times of the last change."""
    if not path.is_dir():
        return _state_of_file(path)
    digest = hashlib.sha256()
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            digest.update(os.fsencode(entry.name) + b"\0" + _state_of_file(entry).encode() + b"\0")
    return digest.hexdigest()


def _state_of_file(file: Path | os.DirEntry) -> str:
    try:
        status = file.stat()
    except FileNotFoundError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _believed(out: Path) -> dict[str, Any] | None:
    """The receipt of an output; None: there is none, or it speaks of another file."""
    try:
        receipt = read_json(receipt_path(out))
        known = receipt["format"] == FORMAT and receipt["files"][out.name] == state(out)
    except (OSError, ValueError, KeyError, TypeError):  # missing, unreadable, not ours
        return None
    return receipt if known else None


def _made_with(key: str, old: Any, new: Any) -> str:
    """Two values of an option; only its name where they are too long for a line."""
    spelled = [",".join(map(str, value)) if isinstance(value, list) else str(value) for value in (old, new)]
    if max(map(len, spelled)) > _LONGEST:
        return f"made with another {key}"
    return f"made with {key}={spelled[0] or 'nothing'}, not {spelled[1] or 'nothing'}"
