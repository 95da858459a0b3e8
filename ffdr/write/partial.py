"""A file in the making that survives being killed: NAME.partial, and a journal of what in it is complete.

Every writer of betons resumes through this class. Data goes into the partial file first, then a record of it into the
journal::

    NAME.partial.journal   8 bytes magic; then records: uint32 length, uint32 CRC-32, the bytes
                           first record: the identity of the work, the state of its sources when it was begun
                           every other:  what the writer needs to know of samples that are in NAME.partial

Nothing is synced on the way, so after a loss of power either file may lack what the other one has. Therefore a record
counts only if its own checksum is right *and* the data in the partial file has the checksums that the record holds
(``is_complete``); with the first record that does not count, the rest of the journal is cut off. What a killed process
had written is in the system's hands and never lost.

Where the data had to be laid out anew once all of it was there, NAME.partial.moved is what gets the final name. Until
then NAME.partial and the journal stay, and say all that is done.

A run goes on when its sources have changed since (a damaged image may have been mended), but its receipt speaks of the
earlier state, so that the file is not taken for one of the present sources.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from ffdr.util.atomic import (
    atomic_write,
    copy_range,
    lock,
    nearest_existing,
    os_errors_as_user_errors,
    partial_path,
    sync_folder,
)
from ffdr.util.errors import UserError, WriteError
from ffdr.util.foreign import parse_json
from ffdr.util.opening import check_final, check_own, open_found, open_kept
from ffdr.util.text import warn

if TYPE_CHECKING:
    from ffdr.write.receipt import Work

COMMIT_BYTES = 1 << 20
"""Data that writers put into the file between two journal records."""
_MAGIC = b"FFDRJNL1"
_RECORD = struct.Struct("<II")
_SOURCES = b"\0sources\0"
"""Between the identity of the work and what its sources were like when it was begun, as JSON."""
_MOST_SOURCES = 1 << 20
"""Bytes of that JSON; honest ones have thousands."""
_MOVED = b"\0moved\0"
"""The last record of a file whose data was moved: it is whole under the moved file's name, and about to get its own."""
_LONGEST = 1 << 26
"""Bytes of the longest record that is believed; honest ones have a hundredth of it."""


class Partial:
    """The partial file of ``final`` and its journal, both open and locked against a second run.

    A failure to write is reported in one line, whatever it was that failed. Use as a context manager: leaving it keeps
    both files for the next run, unless ``publish`` came before.
    """

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
        self._moved_path = self.path.with_name(self.path.name + ".moved")
        check_final(final)
        if work is not None:
            work.check_beside()
        with os_errors_as_user_errors(final):
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
        check_own(self._moved_path)
        self._moved_path.unlink(missing_ok=True)
        self.file.truncate(0)
        self._journal.seek(0)
        self._journal.truncate()
        self._journal.write(_MAGIC)
        sources = _SOURCES + json.dumps(dict(self._work.sources)).encode() if self._work is not None else b""
        self.commit(identity + sources)

    def truncate(self, end: int) -> None:
        """Cut off, or fill up with zeros, what lies behind byte ``end``: it is in no record."""
        with os_errors_as_user_errors(self.final):
            self.file.truncate(end)

    def put(self, at: int, data: bytes) -> None:
        """Write data from byte ``at`` on; it counts once it is committed."""
        with os_errors_as_user_errors(self.final):
            self.file.seek(at)
            self.file.write(data)

    def commit(self, record: bytes) -> None:
        """Note that the data of ``record`` is in the file. Survives the process; power loss shows on recovery."""
        with os_errors_as_user_errors(self.final):
            self.file.flush()  # before the record: one that is whole speaks of data that this process has handed over
            self._journal.write(_RECORD.pack(len(record), zlib.crc32(record)) + record)
            self._journal.flush()

    def sync(self) -> None:
        """Make what was committed so far survive the loss of power, too."""
        with os_errors_as_user_errors(self.final):
            os.fsync(self.file.fileno())
            os.fsync(self._journal.fileno())

    def move(self, runs: Iterable[tuple[int, int, int]]) -> None:
        """Lay the data out anew in a second file, which takes the place of the first one when it is published.

        Until then a run that is killed finds the first one, and its journal, as they are.

        Args:
            runs: first byte now, first byte then, number of bytes; in the order of the second file.

        Raises:
            WriteError: the disk has no room for both.
        """
        with os_errors_as_user_errors(self.final):
            self.file.flush()
            made, self.file = self.file, open_kept(self._moved_path)
            with made:
                self.file.truncate(0)
                self.path = self._moved_path
                self.reserve(os.fstat(made.fileno()).st_size)
                for at, to, size in runs:
                    copy_range(made.fileno(), self.file.fileno(), at, to, size)

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

        The order makes a run that is killed in between either repeat its end or find itself finished:

        1. The texts beside it, each under a name of its own, then the receipt of all of them as they are now. All that
           can fail for want of room is behind us; a file that is to be replaced is still whole.
        2. The texts get their names, then the file. Before the last rename there is no file with this receipt, so the
           work is not done, and its journal is still there. After it the work is done.
        3. The folder is synced, so that the names survive a loss of power, before the journal goes, without which
           nothing could be resumed, and with it data that was moved. ``is_finished`` removes what a run leaves that
           was killed before that.

        Args:
            beside: further files that belong to it, such as its manifest: their texts.

        Raises:
            UserError: something has got the final name meanwhile.
        """
        with os_errors_as_user_errors(self.final):
            if self._work is not None:
                self._work.check_free()
            staged = {path: partial_path(path) for path in beside or {}}
            for path, text in (beside or {}).items():
                atomic_write(staged[path], text)
            if self._work is not None:
                self._work.leave(self.path, staged)
            if self.path == self._moved_path:
                self.commit(_MOVED)
            for path, made in staged.items():
                os.replace(made, path)
            os.replace(self.path, self.final)
            sync_folder(self.final.parent)
            if self.path == self._moved_path:
                partial_path(self.final).unlink()
            self._journal_path.unlink()
            self.close()

    def close(self) -> None:
        """Release both files; they stay where they are, to be resumed."""
        for file in ("file", "_journal"):
            if hasattr(self, file):
                with suppress(OSError):  # a full disk: what can't be flushed is in no journal record
                    getattr(self, file).close()

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _journal_path(final: Path) -> Path:
    return final.with_name(final.name + ".partial.journal")


def is_finished(work: Work) -> bool:
    """``Work.is_done``; clears away what is left of a run that was killed just after it gave the file its name."""
    if not work.is_done():
        return False
    journal = _journal_path(work.out)
    try:
        file = open_found(journal)
    except OSError:
        return True  # none is there, or nothing that a run has left
    with file, suppress(UserError):  # another run is at work there
        lock(file.fileno(), journal, work.out)
        left = partial_path(work.out)
        if os.path.lexists(left) and _ends_with(file, _MOVED):
            check_own(left)
            left.unlink()
        if not os.path.lexists(left):
            journal.unlink()
    return True


def check_writable(final: Path) -> None:
    """Refuse a file that could not be made, as making it would; leaves nothing behind.

    Raises:
        UserError: what is in the way.
    """
    check_final(final)
    for path in (partial_path(final), _journal_path(final)):
        check_own(path)
    with os_errors_as_user_errors(final), tempfile.TemporaryFile(dir=nearest_existing(final.parent)):
        pass


def _ends_with(journal: BinaryIO, record: bytes) -> bool:
    """Whether it is the journal's last record."""
    packed = _RECORD.pack(len(record), zlib.crc32(record)) + record
    journal.seek(max(0, os.fstat(journal.fileno()).st_size - len(packed)))
    return journal.read() == packed


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
    """What the first record of a journal says of the sources; None: it is of other work."""
    if record == identity:
        return {}
    head = identity + _SOURCES
    text = record[len(head) :]
    if not record.startswith(head) or len(text) > _MOST_SOURCES:
        return None
    try:
        found = parse_json(text.decode(), "journal")
    except ValueError:
        return None
    return found if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()) else None
