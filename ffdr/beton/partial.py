"""A file in the making that survives being killed: NAME.partial, and a journal of what in it is complete.

Data is appended to the partial file first, then a record of it to the journal. A record is believed when its own
checksum is right and the data it describes still has the checksum in the record, so a run that was killed, or a machine
that lost power with data not yet on disk, goes on from the last complete record.

With the final name a receipt of the work is left (``receipt.py``).

Journal: 8 bytes magic; then records, the first of which is the identity of the work: what made it, from what; and the
state of its sources when it was begun. A run goes on when they have changed since (a damaged image may have been
mended), but its receipt tells of the earlier state, so that the file is not taken for one of the present sources.
Record: uint32 length, uint32 CRC-32, the bytes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ffdr.beton.opening import check_final, check_own, leads_to, open_found, open_kept, open_new
from ffdr.errors import UserError, WriteError, is_bad_path
from ffdr.text import warn

if TYPE_CHECKING:
    from ffdr.beton.receipt import Work

_MAGIC = b"FFDRJNL1"
_RECORD = struct.Struct("<II")
_SOURCES = b"\0sources\0"
"""Between the identity of the work and what its sources were like when it was begun, as JSON."""
_MOST_SOURCES = 1 << 20
"""Bytes of that JSON; honest ones have thousands."""
_LONGEST = 1 << 26
"""Bytes of the longest record that is believed; honest ones have a hundredth of it."""


class Partial:
    """The partial file of ``final`` and its journal, both open and locked against a second run."""

    def __init__(
        self, final: Path, identity: bytes, is_complete: Callable[[BinaryIO, bytes], bool], work: Work | None = None
    ) -> None:
        """Open both, keeping what an earlier run of the same work has completed.

        Args:
            final: the name that the finished file will have; its folder is created.
            identity: what decides the bytes of the file. A partial file of another identity is started afresh.
            is_complete: whether the data of a journal record (second argument) is in the partial file (first).
            work: of which a receipt is left with the final name; None: a file that no receipt protects.

        Raises:
            UserError: the folder can't be written to, or another run is at work on the same file, or has just
                finished it.
        """
        self.final = final
        self.path = partial_path(final)
        self._work = work
        self._journal_path = _journal_path(final)
        check_final(final)
        if work is not None:
            work.check_beside()
        with told(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            self._journal = open_kept(self._journal_path)
            try:
                lock(self._journal.fileno(), self._journal_path, final)
                if work is not None and work.is_done():
                    raise UserError(f"{final}: another run has just finished it")
                self.file = open_kept(self.path)
                self._recover(identity, is_complete)
            except BaseException:
                self.close()
                raise

    def _recover(self, identity: bytes, is_complete: Callable[[BinaryIO, bytes], bool]) -> None:
        records = _records(self._journal)
        first = next(records, None)
        sources = None if first is None else _sources(first, identity)
        if first is None or sources is None:
            if first is not None:
                warn(f"{self.path}: was made with other options or images; starting afresh")
            self._begin(identity)
            return
        if self._work is not None:
            self._work = replace(self._work, sources=sources)
        end = len(_MAGIC) + _RECORD.size + len(first)
        for record in records:
            if not is_complete(self.file, record):
                break
            end += _RECORD.size + len(record)
        self._journal.seek(end)
        self._journal.truncate()

    def _begin(self, identity: bytes) -> None:
        """Empty both files."""
        self.file.truncate(0)
        self._journal.seek(0)
        self._journal.truncate()
        self._journal.write(_MAGIC)
        sources = _SOURCES + json.dumps(dict(self._work.sources)).encode() if self._work is not None else b""
        self.commit(identity + sources)

    def commit(self, record: bytes) -> None:
        """Note that the data of ``record`` is in the file. Survives the process; power loss shows on recovery."""
        self.file.flush()
        self._journal.write(_RECORD.pack(len(record), zlib.crc32(record)) + record)
        self._journal.flush()

    def sync(self) -> None:
        """Make what was committed so far survive the loss of power, too."""
        os.fsync(self.file.fileno())
        os.fsync(self._journal.fileno())

    def reserve(self, size: int) -> None:
        """Refuse at once a file of ``size`` bytes for which the disk has no room; what is written already counts.

        Raises:
            WriteError: both sizes.
        """
        missing = size - os.fstat(self.file.fileno()).st_blocks * 512
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            text = f"needs {missing >> 20:,} MiB more, but {free >> 20:,} MiB are free there"
            raise WriteError(errno.ENOSPC, text, str(self.final))

    def publish(self, beside: Mapping[Path, str] | None = None) -> None:
        """Give the finished file, which must be complete and synced, its final name, and drop the journal.

        All that can fail comes before the first name changes: a file that is to be replaced stays whole until then.

        Args:
            beside: further files that belong to it, such as its manifest: their texts.

        Raises:
            UserError: something has got the final name meanwhile.
        """
        if self._work is not None:
            self._work.check_free()
        staged = {path: partial_path(path) for path in beside or {}}
        for path, text in (beside or {}).items():
            write_aside(staged[path], text)
        if self._work is not None:
            self._work.leave(self.path, staged)
        for path, made in staged.items():
            os.replace(made, path)
        os.replace(self.path, self.final)
        sync_folder(self.final.parent)
        self._journal_path.unlink()
        self.close()

    def close(self) -> None:
        """Release both files; they stay where they are, to be resumed."""
        for file in ("file", "_journal"):
            if hasattr(self, file):
                with suppress(OSError):  # a full disk: what can't be flushed is in no journal record
                    getattr(self, file).close()


def partial_path(final: Path) -> Path:
    """What a file is called until it is finished."""
    return final.with_name(final.name + ".partial")


def _journal_path(final: Path) -> Path:
    return final.with_name(final.name + ".partial.journal")


def is_finished(work: Work) -> bool:
    """``Work.is_done``; clears away the journal of a run that was killed just after it gave the file its name."""
    if not work.is_done():
        return False
    journal = _journal_path(work.out)
    try:
        file = open_found(journal)
    except OSError:
        return True  # none is there, or nothing that a run has left
    with file, suppress(UserError):  # told where another run is at work
        lock(file.fileno(), journal, work.out)
        if not os.path.lexists(partial_path(work.out)):
            journal.unlink()
    return True


def lock(descriptor: int, path: Path, final: Path) -> None:
    """Take the lock that says who writes ``final``: that of ``path``, an open file or folder.

    Raises:
        UserError: another process has it, or has just finished and removed or renamed ``path``.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if leads_to(path, descriptor):
            return
    except BlockingIOError:
        pass
    raise UserError(f"{final}: another run is writing it")


def nearest_existing(path: Path) -> Path:
    """The path itself, or the last of the folders above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def check_writable(final: Path) -> None:
    """Refuse a file that could not be made, as making it would; leaves nothing behind.

    Raises:
        UserError: what is in the way.
    """
    check_final(final)
    for path in (partial_path(final), _journal_path(final)):
        check_own(path)
    with told(final), tempfile.TemporaryFile(dir=nearest_existing(final.parent)):
        pass


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell a failure to write in one line, whatever library it comes from.

    Raises:
        UserError: a place that can't be written to.
        WriteError: a system that fails, a full disk above all.
    """
    try:
        yield
    except (UserError, WriteError):
        raise
    except (OSError, RuntimeError) as error:
        cause = _system_error(error)
        if cause is None:
            raise
        place = nearest_existing(path.parent)
        if not place.is_dir():
            raise UserError(f"{path}: can't be written: {place} is not a folder") from error
        text = f"can't be written: {cause.strerror or cause}"
        if is_bad_path(cause):
            raise UserError(f"{path}: {text}") from error
        raise WriteError(cause.errno or errno.EIO, text, str(path)) from error


def _system_error(error: BaseException) -> OSError | None:
    """What the system said: torch wraps it in errors of its own, one for each thing that it then fails to do."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, OSError):
        link = link.__cause__ or link.__context__
    return link


@contextmanager
def aside(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name ``path`` once all its bytes are on the disk.

    The name never leads to half of it: a run that is killed, or fails, leaves the earlier file as it was. A link of
    that name is replaced; what it leads to stays as it was, too.

    Raises:
        UserError: a folder or a device has the name; another run writes the same file.
        WriteError: as ``told`` does.
    """
    path = Path(path)
    partial = partial_path(path)
    check_final(path)
    with told(path), open_new(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not leads_to(partial, file.fileno()):
                raise UserError(f"{path}: another run is writing it")
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                if leads_to(partial, file.fileno()):
                    partial.unlink()
            raise
        sync_folder(path.parent)


def write_aside(path: Path, text: str) -> None:
    """Write a small file so that its name never leads to half of it. See ``aside``.

    UTF-8. A name that isn't text has lone surrogates, which become ``\\udcXX``: in JSON, the same string again.
    """
    with aside(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _records(journal: BinaryIO) -> Iterator[bytes]:
    """The intact records at the beginning of a journal, one after the other: it may be of any size."""
    if journal.read(len(_MAGIC)) != _MAGIC:
        return
    while len(head := journal.read(_RECORD.size)) == _RECORD.size:
        length, crc = _RECORD.unpack(head)
        record = journal.read(length) if length <= _LONGEST else b""
        if len(record) < length or zlib.crc32(record) != crc:
            return
        yield record


def _sources(record: bytes, identity: bytes) -> dict[str, str] | None:
    """What the first record of a journal tells of the sources; None: it is of other work."""
    if record == identity:
        return {}
    head = identity + _SOURCES
    text = record[len(head) :]
    if not record.startswith(head) or len(text) > _MOST_SOURCES:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()) else None
