"""Finds out under which names this process writes, and puts there what must not be written through."""

import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watches = []
"""Those that are on: an audit hook stays for ever."""


class Watch:
    """What was made, opened for writing, or renamed to a name below ``folder``; files that were locked anywhere."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.files, self.folders, self.locked = set(), set(), set()

    def notice(self, event, arguments):
        if event == "open" and not isinstance(arguments[0], int):
            path, _, flags = arguments
            if flags & _WRITES and flags & os.O_TMPFILE != os.O_TMPFILE:  # that one has no name
                self._take(self.files, path)
        elif event == "os.mkdir":
            self._take(self.folders, arguments[0])
        elif event == "os.rename":
            source, target = map(self._relative, arguments[:2])
            (self.folders if source in self.folders else self.files).update({target} - {None})
        elif event == "fcntl.flock":
            with suppress(OSError):
                self.locked.add(os.readlink(f"/proc/self/fd/{arguments[0]}"))

    def _take(self, names, path):
        names.update({self._relative(path)} - {None})

    def _relative(self, path):
        path = Path(os.path.abspath(os.fsdecode(path)))
        return str(path.relative_to(self.folder)) if self.folder in path.parents else None


def _notice(event, arguments):
    for watch in _watches:
        watch.notice(event, arguments)


@contextmanager
def watched(folder):
    if not getattr(sys, "_plants_noticed", False):
        sys.addaudithook(_notice)
        sys._plants_noticed = True
    watch = Watch(folder)
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


class Victims:
    """Files and folders of somebody else, outside of where the run writes."""

    NAMES = ("precious.txt", "000000001.pt", "a.partial", "0.pth.tar", "log.jsonl", "model.safetensors")

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.count = 0

    def file(self):
        self.count += 1
        path = self.folder / f"victim{self.count}"
        path.write_bytes(b"precious")
        path.chmod(0o640)
        return path

    def full_folder(self):
        self.count += 1
        path = self.folder / f"victim{self.count}"
        path.mkdir(mode=0o750)
        for name in self.NAMES:
            (path / name).write_bytes(b"precious")
        return path

    def state(self):
        """All that a run could change."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        return found


def plant(kind, folder, name, is_folder, victims):
    """Put something where a run will want a file or a folder of its own; nothing below what was put there before."""
    path = folder / name
    above = [parent for parent in path.parents if folder in parent.parents]
    if any(os.path.lexists(parent) and (parent.is_symlink() or not parent.is_dir()) for parent in above):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(victims.full_folder() if is_folder else victims.file())
    elif kind == "dangling link":
        path.symlink_to(victims.folder / f"nothing-{path.name}")
    elif kind == "hard link":
        path.hardlink_to(victims.file())
    else:
        os.mkfifo(path)


def contents(folder, names):
    """Bytes of the files of these names below a folder; None for what is no file of its own; nothing for none."""
    there = {name: folder / name for name in names if os.path.lexists(folder / name)}
    return {
        name: None if path.is_symlink() or not path.is_file() else path.read_bytes() for name, path in there.items()
    }
