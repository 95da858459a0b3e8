"""Folders of images, a subfolder a class, in the order of ``torchvision.datasets.ImageFolder``.

The order matters: the archives of published reinforcements name an image by nothing but its number in it.
"""

from __future__ import annotations

import os
from pathlib import Path

from ffdr.data.source import FileSource
from ffdr.errors import UserError, nearest

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
            f"write.split: {path} has no folder {split!r}, only {_some(found)}{nearest(split, found)}; "
            "an empty split takes the path itself"
        )
    return open_folder(folder, "write.path")


def open_folder(folder: Path, key: str) -> FileSource:
    """The images below ``folder``, a subfolder a class. key: the option that named it, for messages."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes:
        raise UserError(f"{key}: {folder} has no subfolders; there must be one a class")
    names: list[str] = []
    labels: list[int] = []
    empty = []
    for label, name in enumerate(classes):
        files = _images(folder, name)
        names += files
        labels += [label] * len(files)
        if not files:
            empty.append(name)
    if empty:
        raise UserError(f"{key}: {folder}: no images ({', '.join(EXTENSIONS)}) of {_some(empty)}")
    return FileSource(folder, names, labels, classes)


def _images(folder: Path, name: str) -> list[str]:
    """Relative paths of the images of one class, in torchvision's order: by folder, then by file name."""
    found = []
    for directory, _, files in sorted(os.walk(folder / name, followlinks=True)):
        below = Path(directory).relative_to(folder).as_posix()
        found += [f"{below}/{file}" for file in sorted(files) if file.lower().endswith(EXTENSIONS)]
    return found


def _some(names: list[str], limit: int = 5) -> str:
    """The first few names."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
