"""Where compiled kernels are kept for later processes, and under which names."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba.core.caching import IndexDataCacheFile

from ffdr.util.errors import UserError


def keep_well(compiled: Any, folders: Sequence[Path]) -> None:
    """Let a function that Numba compiles with ``cache=True`` be kept by a ``KernelFile``.

    folders: of the sources that its machine code is made of.
    """
    # Private names; without them the cache is merely less careful.
    cache: Any = getattr(compiled, "_cache", None)
    numbas = getattr(cache, "_cache_file", None)
    if isinstance(numbas, IndexDataCacheFile):
        stamp = tuple(_digest(folder) for folder in folders)
        cache._cache_file = KernelFile(numbas._cache_path, numbas._index_name.removesuffix(".nbi"), stamp)


class KernelFile(IndexDataCacheFile):
    """Numba's files of one function, but each compilation's name says what it is of: sources and argument types.

    Numba numbers them, by an index that is read, changed and written without a lock. Two processes that compile one
    function for different types at the same time write both to number 1, and from then on one's index leads to the
    other's machine code: a crash or a wrong result, at every start. A name of its own needs neither lock nor index,
    which could not be read either once a record that earlier sources passed to kernels has another name.
    """

    def save(self, key: Any, data: Any) -> None:
        """Keep a compilation, and drop those of earlier sources; on a full disk the next process compiles it again."""
        with suppress(OSError):
            self._save_data(self._name(key), data)
        for path in Path(self._cache_path).glob(f"{self._base}.*.nbc"):
            if not path.name.startswith(self._prefix):
                with suppress(OSError):  # another process was quicker
                    path.unlink()

    def load(self, key: Any) -> Any:
        """A compilation, or None where there is none yet."""
        try:
            return self._load_data(self._name(key))
        except FileNotFoundError:
            return None

    def holds(self, key: Any) -> bool:
        """Whether there is a compilation."""
        return Path(self._data_path(self._name(key))).exists()

    @property
    def lock_path(self) -> str:
        """A file for those who compile the present sources to lock."""
        return self._data_path(f"{self._prefix}.lock")

    @property
    def _base(self) -> str:
        return self._index_name.removesuffix(".nbi")

    @property
    def _prefix(self) -> str:
        """What all compilations of the present sources begin with."""
        return f"{self._base}.{_short(self._version, self._source_stamp)}-"

    def _name(self, key: Any) -> str:
        return f"{self._prefix}{_short(key)}.nbc"


def _short(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


@functools.cache
def _digest(folder: Path) -> str:
    """Fingerprint of the Python sources in a folder and those below it."""
    sources = sorted(folder.rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def private_folder() -> str:
    """A folder for machine code where neither the package's nor the home folder can be written to; later processes use
    it, too. Only this user may write there: what lies in it is run.

    Raises:
        UserError: there is none.
    """
    try:
        folder = Path(tempfile.gettempdir(), f"ffdr-kernels-{os.getuid()}")
        folder.mkdir(0o700, exist_ok=True)
        status = folder.lstat()
        private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
        if private and os.access(folder, os.W_OK):
            return str(folder)
    except OSError:
        pass
    raise UserError(
        "NUMBA_CACHE_DIR: compiled code can be kept neither beside ffdr, nor in the home folder, nor in the temporary "
        "one; name a folder of your own that can be written to"
    )
