"""A table of image files and their labels, one row per image: CSV, or with tabs where its name ends in ``.tsv``."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from PIL import Image

from ffdr.data.source import FileSource, Names, ReadError
from ffdr.data.tables.labels import Columns, Labels
from ffdr.util.errors import UserError, nearest
from ffdr.util.foreign import open_regular
from ffdr.util.text import brief, first_few, printable, reason

_IMAGES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
_LABELS = ("label", "class", "class_name", "target", "category")
"""How headers call the two columns, in any case, where ``write.columns`` does not say it; the first one counts."""
_SPLIT = "split"
"""In any case, too."""
_LONGEST_LINE = 1 << 20
_MOST_SPLITS = 100
"""That a message tells apart."""


class ListedFiles(FileSource):
    """Image files that a table names, below its folder or elsewhere; an origin is the path from that folder."""

    def read(self, i: int) -> Image.Image:
        """As any image file's, but a pipe or a device is not waited for."""
        self._check_regular(i)
        return super().read(i)

    def file_bytes(self, i: int) -> bytes:
        """The file, whatever it holds."""
        self._check_regular(i)
        return super().file_bytes(i)

    def _check_regular(self, i: int) -> None:
        path = self.root / self.origin(i)
        if os.path.exists(path) and not stat.S_ISREG(path.stat().st_mode):
            raise ReadError(self.origin(i), "not a regular file", str(path))


def open_split(path: str, split: str, columns: Columns) -> ListedFiles:
    """The images of a table's rows, in their order; ``_Table`` says which columns it must have.

    Where the table has a column ``split``, and ``split`` is not empty, the rows that have it there; otherwise all.
    """
    file = Path(path).expanduser()
    where = f"write.path: {printable(str(file))}"
    root = Path(os.path.realpath(file)).parent  # of a link's target: ``..`` goes up from a real folder
    table, names, labels = _Table(file, columns, root, where), Names(), Labels()
    for line, image, label in table.rows(split):
        try:
            labels.add(label)
        except ValueError as error:
            raise UserError(f"{where}, line {line}: {printable(image)} {error}") from None
        names.append(_origin(image, root))
    if not len(names):
        raise UserError(table.nothing_of(split))
    twins = names.find_twins()
    if twins is not None:
        raise UserError(f"{where}: {printable(names[twins[0]])} stands in it twice")
    ids, class_names = labels.classes(columns.class_names, lambda i: f"{where}: {printable(names[i])}")
    return ListedFiles(root, names, ids, class_names)


def _origin(image: str, root: Path) -> str:
    """A path as the table has it, from the table's folder if it is in there."""
    return image.removeprefix(f"{root}/").removeprefix("./")


class _Table:
    """The rows of a file, and which cells of them matter.

    - ``write.columns`` has two names: the first line must have them.
    - It has two whole numbers: there is no header; they count columns from 0.
    - It is empty, and the first line has one of ``_IMAGES`` and one of ``_LABELS``: it is the header.
    - It is empty otherwise: there is no header; paths are in the first of two columns, labels in the second. The first
      file must be there, so that a header of other names is not taken for a row.
    """

    def __init__(self, file: Path, columns: Columns, root: Path, where: str) -> None:
        self._where = where
        self._rows = _rows(file, where)
        self._others: dict[str, None] = {}
        """splits of rows that are passed over"""
        first = next(self._rows, None)
        if first is None:
            raise UserError(f"{where}: has no rows")
        cells = [cell.strip() for cell in first[1]]
        self._split: int | None = None
        found = _find(cells, columns)
        if found is not None:
            self._image, self._label = found
            names = [cell.lower() for cell in cells]
            self._split = names.index(_SPLIT) if _SPLIT in names else None
            return
        self._rows = chain([first], self._rows)
        if columns.image.isdecimal() and columns.label.isdecimal() and len(columns.image + columns.label) < 10:
            self._image, self._label = int(columns.image), int(columns.label)
            return
        if columns.image:
            wanted = next(name for name in (columns.image, columns.label) if name not in cells)
            raise UserError(
                f"write.columns: {printable(str(file))} has no column {brief(wanted)}, only {first_few(cells)}"
                f"{nearest(wanted, cells)}"
            )
        self._image, self._label = 0, 1
        if len(cells) != 2 or not os.path.exists(root / cells[0]):
            raise UserError(
                f"{where}, line {first[0]}: neither a header with a path and a label nor a path that is there with its "
                f"label: {first_few(cells)}; --write.columns names the two columns"
            )

    def rows(self, split: str) -> Iterator[tuple[int, str, str]]:
        """Number of the line, path and label of each row of a split; of all, where it is empty or no column has it."""
        last = max(self._image, self._label, self._split or 0)
        for line, cells in self._rows:
            where = f"{self._where}, line {line}"
            if len(cells) <= last:
                raise UserError(f"{where}: has {len(cells)} columns, not {last + 1}: {first_few(cells)}")
            if split and self._split is not None and cells[self._split].strip() != split:
                if len(self._others) < _MOST_SPLITS:
                    self._others[cells[self._split].strip()] = None
                continue
            image = cells[self._image].strip()
            if not image or "\0" in image:
                raise UserError(f"{where}: {brief(image)} is not a path")
            yield line, image, cells[self._label]

    def nothing_of(self, split: str) -> str:
        """What to say where ``rows`` gave none."""
        if not self._others:
            return f"{self._where}: has no rows"
        found = first_few(list(self._others))
        return f"write.split: no row is of {brief(split)}, only of {found}{nearest(split, self._others)}; empty: all"


def _find(cells: Sequence[str], columns: Columns) -> tuple[int, int] | None:
    """Where a header has the two columns; None: it is none, or has others."""
    if columns.image:
        wanted: tuple[Sequence[str], ...] = ([columns.image], [columns.label])
    else:
        wanted, cells = (_IMAGES, _LABELS), [cell.lower() for cell in cells]
    places = [next((cells.index(name) for name in names if name in cells), None) for names in wanted]
    image, label = places
    return None if image is None or label is None else (image, label)


def _rows(file: Path, where: str) -> Iterator[tuple[int, list[str]]]:
    """Number of the (last) line and cells of each row that is not empty."""
    with io.TextIOWrapper(open_regular(file), encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(_lines(text), csv.excel_tab if file.suffix.lower() == ".tsv" else csv.excel)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except (csv.Error, ValueError, OSError) as error:
            line = reader.line_num + (not isinstance(error, csv.Error))  # others come before the line is counted
            raise UserError(f"{where}, line {line}: {_cause(error)}") from None


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Line by line, none of which may fill the memory."""
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"has more than {_LONGEST_LINE:,} characters")
        yield line


def _cause(error: Exception) -> str:
    return "not text in UTF-8" if isinstance(error, UnicodeDecodeError) else reason(error)
