"""Folders of images, one subfolder per class, in the order of ``torchvision.datasets.ImageFolder``.

The order matters: the archives of published reinforcements name an image by nothing but its number in it.
"""

from __future__ import annotations

import os
from pathlib import Path

from ffdr.data.source import FileSource
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import first_few, printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""File names that count, in any case (torchvision's IMG_EXTENSIONS)."""


def open_split(path: Path, split: str) -> FileSource:
    """The images below ``path/split``, or below ``path`` where the split is empty."""
    if not path.is_dir():
        raise UserError(f"write.path: {path} is not a folder")
    folder = path / split
    if not folder.is_dir():
        found = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        raise UserError(
            f"write.split: {path} has no folder {split!r}, only {first_few(found)}{nearest(split, found)}; "
            "an empty split takes the path itself"
        )
    return open_folder(folder, "write.path")


def open_folder(folder: Path, key: str) -> FileSource:
    """The images below ``folder``, one subfolder per class. key: the option that named it, for messages.

    Raises:
        UserError: no class, one without images, a link by which a folder would be read twice or without end, an image
            that is a pipe or a device.
    """
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes:
        raise UserError(f"{key}: {folder} has no subfolders; there must be one per class")
    names: list[str] = []
    labels: list[int] = []
    empty = []
    walk = _Walk(folder, key)
    for label, name in enumerate(classes):
        files = walk.images(name)
        names += files
        labels += [label] * len(files)
        if not files:
            empty.append(name)
    if empty:
        raise UserError(f"{key}: {folder}: no images ({', '.join(EXTENSIONS)}) of {first_few(empty)}")
    return FileSource(folder, names, labels, classes)


class _Walk:
    """Lists the images below one folder, through links, too, each of which must lead somewhere new."""

    def __init__(self, root: Path, key: str) -> None:
        self._root, self._key = root, key
        self._followed: set[str] = set()
        """where the links led that were met so far"""

    def images(self, name: str) -> list[str]:
        """Relative paths of the images of one class, in torchvision's order: by folder, then by file name."""
        if os.path.islink(self._root / name):
            self._follow(name)
        found: dict[str, list[str]] = {}
        waiting = [name]
        while waiting:
            below = waiting.pop()
            folders, found[below] = self._entries(below)
            waiting += folders
        return [f"{below}/{file}" for below in sorted(found) for file in sorted(found[below])]

    def _entries(self, below: str) -> tuple[list[str], list[str]]:
        """Relative paths of the folders, and names of the images, in a folder."""
        folders, files = [], []
        with os.scandir(self._root / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}"
                if entry.is_dir():
                    if entry.is_symlink():
                        self._follow(path)
                    folders.append(path)
                elif entry.name.lower().endswith(EXTENSIONS):
                    if not entry.is_file() and os.path.exists(entry.path):  # a link that leads nowhere can't be read
                        raise UserError(f"{self._key}: {printable(entry.path)} is not a regular file")
                    files.append(entry.name)
        return folders, files

    def _follow(self, below: str) -> None:
        path = self._root / below
        here, there = os.path.realpath(path.parent), os.path.realpath(path)
        if there in self._followed or f"{here}/".startswith(f"{there.rstrip('/')}/"):
            raise UserError(f"{self._key}: {printable(str(path))} is a link to a folder that is read anyway")
        self._followed.add(there)
