"""Which image a file of an archive belongs to: the one of the same class folder and name.

An archive has ``…/class/name.tar`` for the image ``class/name.JPEG``; ``name`` ends at its first dot. A beton keeps
only a hash of each image's path, so the path is guessed: with each ending that an image may have. Where the
folder of images is known, its names are compared themselves.
"""

from __future__ import annotations

import numpy as np

from ffdr.archive.importing import Target
from ffdr.beton.layout import origin_key
from ffdr.data.folder import EXTENSIONS, open_folder
from ffdr.data.source import FileSource
from ffdr.util.errors import UserError
from ffdr.util.text import printable


class Names:
    """The images by class and name."""

    def __init__(self, target: Target) -> None:
        """Raises UserError for a folder of images in which two have one class and name."""
        self._source: FileSource | None = None
        self._endings = [ending for plain in EXTENSIONS for ending in (plain, plain.upper())]
        keys = target.images.origins[:, 2]
        if target.options.sizes:
            self._source = open_folder(target.folder, "import.sizes")
            self._endings = [""]
            names = (name_of(self._source.origin(i)) for i in range(len(self._source)))
            keys = np.fromiter((origin_key(name) for name in names), np.int64, len(self._source))
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        again = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if len(again) and self._source is not None:
            first, second = (printable(self._source.origin(int(self._order[at]))) for at in (again[0], again[0] + 1))
            raise UserError(f"import.sizes: {first} and {second} have one name in an archive of FKD")

    @property
    def are_guessed(self) -> bool:
        """Whether names are found by their hashes only."""
        return self._source is None

    def find(self, name: str) -> int:
        """The image of ``class/name``; -1: there is none."""
        for number, ending in enumerate(self._endings):
            key = origin_key(name + ending)
            at = int(np.searchsorted(self._keys, key))
            if at < len(self._keys) and self._keys[at] == key:
                self._endings.insert(0, self._endings.pop(number))  # most likely the next one's, too
                return int(self._order[at])
        return -1

    def said(self, image: int) -> str:
        """What messages call an image: its path if that is known, else its number."""
        return str(image) if self._source is None else printable(self._source.origin(image))


def name_of(path: str) -> str:
    """``class/name`` of an image's or a file's path: the last folder, and what is before the name's first dot."""
    folder, _, file = path.rpartition("/")
    return f"{folder.rpartition('/')[2]}/{file.partition('.')[0]}"
