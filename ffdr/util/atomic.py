"""Files whose names never lead to half of them, failures to write in one line, and locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ffdr.util.errors import UserError, WriteError, is_bad_path
from ffdr.util.opening import check_final, leads_to, open_folder, open_kept, open_new, own_folder

_NO_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
"""What a system says that does not copy between such files by itself."""
_BLOCK = 1 << 20
"""Bytes that are copied at a time."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name ``path`` once all its bytes are on the disk.

    The name never leads to half of it: a run that is killed, or fails, leaves the earlier file as it was. A link of
    that name is replaced; what it leads to stays as it was, too.

    Raises:
        UserError: a folder or a device has the name; another run writes the same file.
        WriteError: as ``os_errors_as_user_errors`` does.
    """
    path = Path(path)
    partial = partial_path(path)
    check_final(path)
    with os_errors_as_user_errors(path), open_new(partial) as file:
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


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write files into, which takes the name ``path`` once they are on the disk.

    The name never leads to half of it. Folders in it are not synced. What has the name is replaced, a folder with all
    that it holds.

    Raises:
        UserError: another run writes the same folder; something else has the name that it has until then.
        WriteError: as ``os_errors_as_user_errors`` does.
    """
    partial = partial_path(path)
    with os_errors_as_user_errors(path):
        own_folder(partial)
        descriptor = open_folder(partial)
        try:
            lock(descriptor, partial, path)
            try:
                for left in partial.iterdir():  # of a run that was killed
                    remove(left)
                yield partial
                sync_folder(partial)
                put_in_place(partial, path)
            except BaseException:
                remove(partial)
                raise
            remove(replaced_path(path))
        finally:
            os.close(descriptor)


def atomic_write(path: Path, text: str) -> None:
    """Write a small file so that its name never leads to half of it. See ``atomic_path``.

    UTF-8. A name that isn't text has lone surrogates, which become ``\\udcXX``: in JSON, the same string again.
    """
    with atomic_path(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def partial_path(final: Path) -> Path:
    """What a file is called until it is finished."""
    return final.with_name(final.name + ".partial")


def replaced_path(final: Path) -> Path:
    """Where an earlier output lies until the new one has its name."""
    return final.with_name(final.name + ".partial.replaced")


def put_in_place(partial: Path, final: Path) -> None:
    """Give a finished file or folder its final name. An earlier one lies at ``replaced_path`` if a folder is involved:
    no folder can be renamed over anything else, nor anything over a folder.

    Raises:
        OSError: the system does not rename it; the earlier one has its name again.
    """
    moves = final.is_dir() or (partial.is_dir() and os.path.lexists(final))
    if moves:
        remove(replaced_path(final))
        os.rename(final, replaced_path(final))
    try:
        os.replace(partial, final)
    except OSError:
        if moves:
            os.rename(replaced_path(final), final)
        raise
    sync_folder(final.parent)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def os_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Report a failure to write in one line, whatever library it comes from.

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


def nearest_existing(path: Path) -> Path:
    """The path itself, or the last of the folders above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


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


@contextmanager
def own_lock(path: Path, refusal: str = "") -> Iterator[None]:
    """Hold the lock of a file that ffdr keeps for it, made if need be; another user's will do, too.

    refusal: what to say where another process holds it; empty: wait for that one.

    Raises:
        UserError: the refusal; something else has the file's name.
    """
    with open_kept(path, shared=True) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise UserError(refusal) from None
        yield


def copy_range(source: int, target: int, at: int, to: int, size: int) -> None:
    """Copy so many bytes from byte ``at`` of an open file to byte ``to`` of another one, in the system where it can.

    Raises:
        OSError: the files can't be read or written; the source ends early.
    """
    left, in_system = size, hasattr(os, "copy_file_range")
    while left:
        count = 0
        if in_system:
            try:
                count = os.copy_file_range(source, target, left, at, to)
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
            in_system = count > 0  # some file systems say that nothing is left where something is
        if not in_system:
            count = os.pwrite(target, os.pread(source, min(left, _BLOCK), at), to)
            if not count:
                raise OSError(errno.EIO, "the file ends early")
        at, to, left = at + count, to + count, left - count


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
