"""Opens what ffdr writes, without trusting what else may have its names.

The name of an output is the user's, and so are the folders above it, which may be links to anywhere. A file gets such a
name by being renamed, which replaces a link and never follows it. Names that ffdr makes up itself (``NAME.partial``,
``.lock``, ``checkpoints``) belong to ffdr: a file or folder there is its own, or the run is refused. So nothing is
written, emptied, locked or removed through a link, a second name or a device that somebody has put there.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ffdr.util.errors import UserError

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_FOLDER = _KINDS[stat.S_IFDIR]
_DEVICES = "/dev"


def open_new(path: Path) -> BinaryIO:
    """A new file to write to. What had its name is removed, a link itself and not what it leads to.

    Raises:
        UserError: a folder is there.
    """
    try:
        return path.open("xb")  # O_EXCL, which follows no link
    except FileExistsError:
        if _kind(path) == _FOLDER:
            _refuse(path, _FOLDER, "file")
        path.unlink()
        return path.open("xb")


def open_kept(path: Path, shared: bool = False) -> BinaryIO:
    """A file of ffdr's own to read and write, created if need be, never emptied.

    shared: whether it may be another user's, as the lock of a folder where several work.

    Raises:
        UserError: something else is there.
    """
    try:
        # Opened for both, a FIFO does not keep it waiting.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError:
        _refuse(path, _kind(path), "file")
        raise
    try:
        _refuse(path, _trouble(os.fstat(descriptor), path.parent, shared), "file")
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "r+b")


def open_found(path: Path) -> BinaryIO:
    """A file of ffdr's own to read, without waiting for a FIFO's writer.

    Raises:
        OSError: there is none, or something else is there.
    """
    descriptor = read_descriptor(path, os.O_NOFOLLOW)
    what = _trouble(os.fstat(descriptor), path.parent, shared=True)
    if what:
        os.close(descriptor)
        raise OSError(errno.EINVAL, what, str(path))
    return os.fdopen(descriptor, "rb")


def own_folder(path: Path) -> None:
    """Create a folder whose name ffdr makes up; those above it may be links.

    Raises:
        UserError: something else is there, be it a link to a folder.
    """
    with suppress(FileExistsError):  # what is there is refused below
        path.mkdir(parents=True, exist_ok=True)
    os.close(open_folder(path))


def open_folder(path: Path) -> int:
    """Descriptor of a folder whose name ffdr makes up. Raises UserError where something else is there."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        check_folder(path)
        raise


def check_folder(path: Path) -> None:
    """Raise UserError where something else has the name of a folder of ffdr's own; it need not be there."""
    what = _kind(path)
    if what != _FOLDER:
        _refuse(path, what or ("a file" if os.path.lexists(path) else ""), "folder")


def check_own(path: Path) -> None:
    """Raise UserError where no file of ffdr's own can have this name: as ``open_kept`` will, before slow work."""
    _refuse(path, _kind(path), "file")


def check_final(path: Path, may_be_folder: bool = False) -> None:
    """Refuse the name of an output that no file may take: that of a folder or a device, or of a link to one.

    Raises:
        UserError: what is there.
    """
    what = _kind(path, follow=True)
    if not what and os.path.realpath(path.parent) == _DEVICES:  # /dev/stdout is a link, be it to a file
        what = "a device"
    if what and not (may_be_folder and what == _FOLDER):
        raise UserError(f"{path}: {what}; give the name of a file")


def read_descriptor(path: str | Path, flags: int = 0) -> int:
    """Open whatever has a name for reading, without waiting for a FIFO's writer. flags: further ones of ``os.open``."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)


def leads_to(path: Path, descriptor: int) -> bool:
    """Whether a name, which may be no link, is still that of an open file or folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _kind(path: Path, follow: bool = False) -> str:
    """What a name leads to, in words; empty: a file, or nothing that can be seen."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path, follow_symlinks=follow).st_mode), "")
    except OSError:
        return ""


def _refuse(path: Path, what: str, wanted: str) -> None:
    if what:
        raise UserError(f"{path}: {what} where ffdr keeps a {wanted} of its own; remove it, or choose another output")


def _trouble(status: os.stat_result, folder: Path, shared: bool) -> str:
    """What an open file is, in words, if no file of ffdr's own."""
    if what := _KINDS.get(stat.S_IFMT(status.st_mode), ""):
        return what
    if status.st_nlink > 1:
        return "a file with a second name (a hard link)"
    return "" if shared or _is_mine(status, folder) else "another user's file"


def _is_mine(status: os.stat_result, folder: Path) -> bool:
    """Whether a file belongs to this user, or to whom all files there belong, as in some network file systems."""
    if status.st_uid == os.geteuid():
        return True
    with tempfile.TemporaryFile(dir=folder) as new:
        return os.fstat(new.fileno()).st_uid == status.st_uid
