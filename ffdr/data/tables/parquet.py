"""Parquet files as Hugging Face's ``datasets`` writes them: a column of images with their bytes, a column of labels.

Needs pyarrow. Labels and names are read when the files are opened; images a row group at a time, since that is what
Parquet can find without reading what goes before.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ffdr.data.class_names import check_class_names
from ffdr.data.source import Names
from ffdr.data.tables.labels import Columns, Labels
from ffdr.data.tables.packed import PackedFiles, PackedSource, choose_origins
from ffdr.data.tables.paths import find_files
from ffdr.util.errors import UserError, nearest
from ffdr.util.foreign import parse_json
from ffdr.util.text import brief, byte_size, first_few, printable, reason

_IMAGE, _LABEL = "image", "label"
"""How the columns are called where ``write.columns`` does not say it; where these are missing, by their types."""
_MOST_GROUP_BYTES, _MOST_GROUP_ROWS = 1 << 30, 1 << 20
"""Of a row group, whose images are read at once, and whose labels are."""
_MOST_KEPT_BYTES = 1 << 28
"""Of row groups that a process keeps; the one that is in use is kept in any case."""


def open_split(path: str, split: str, columns: Columns) -> ParquetSource:
    """The rows of the files at ``path``, as ``paths.find_files`` finds them, in their order."""
    _pyarrow()
    files = PackedFiles(find_files(path, split, (".parquet",)))
    index = _Index(files, columns)
    for number in range(len(files.paths)):
        index.scan(number)
    if not len(index.labels):
        raise UserError(f"write.path: {first_few(files.names, 3)}: no rows")
    return ParquetSource(files, index, columns.class_names)


def _pyarrow() -> ModuleType:
    """``pyarrow.parquet``, which is an extra."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError("write.source: parquet needs pyarrow; pip install pyarrow") from None
    return pyarrow.parquet


class _Layout(NamedTuple):
    """Where the columns of a file are, as pyarrow names them."""

    image: str
    bytes: str
    """column of the encoded files"""
    path: str
    """column of their names; empty: there is none"""
    label: str
    class_names: list[str] | None
    """from Hugging Face's description"""


class _Index:
    """What is read of the files when they are opened: where each row is, labels and names."""

    def __init__(self, files: PackedFiles, columns: Columns) -> None:
        self._files, self._columns = files, columns
        self.layout: _Layout | None = None
        self.labels, self.names = Labels(), Names()
        self.rows, self.groups = array("q"), list[tuple[int, int, int]]()
        """(G + 1) rows before each group; (G,) file, group of it, bytes of the images"""
        self.firsts = array("q")
        """(F,) rows before each file"""

    def scan(self, number: int) -> None:
        """Add the rows of a file. Raises UserError for one that can't be read or has other columns."""
        path = self._files.paths[number]
        self.firsts.append(len(self.labels))
        try:
            with _pyarrow().ParquetFile(path) as file:
                self._check_layout(file, path)
                for group in range(file.metadata.num_row_groups):
                    self._add(file, number, group)
        except UserError:
            raise
        except Exception as error:  # pyarrow raises many kinds
            what = "not a readable Parquet file"
            raise UserError(f"write.path: {printable(str(path))}: {what}: {reason(error)}") from None

    def _check_layout(self, file: Any, path: Path) -> None:
        found = _layout(file.schema_arrow, self._columns, path)
        if self.layout is not None and found != self.layout:
            raise UserError(f"write.path: {printable(str(path))} has other columns or class names than the file before")
        self.layout = found

    def _add(self, file: Any, number: int, group: int) -> None:
        assert self.layout is not None
        where = f"write.path: {printable(str(self._files.paths[number]))}"
        facts = file.metadata.row_group(group)
        size = sum(
            column.total_uncompressed_size
            for column in map(facts.column, range(facts.num_columns))
            if column.path_in_schema == self.layout.bytes
        )
        if not (0 <= size <= _MOST_GROUP_BYTES and 0 <= facts.num_rows <= _MOST_GROUP_ROWS):
            raise UserError(
                f"{where}: its row group {group} has {facts.num_rows:,} rows with {byte_size(size)} of images, which "
                "are read at once; write it with smaller ones, such as row_group_size=100"
            )
        wanted = [self.layout.label, *([self.layout.path] if self.layout.path else [])]
        table = file.read_row_group(group, columns=wanted)
        self.rows.append(len(self.labels))
        self.groups.append((number, group, size))
        for label in table.column(self.layout.label).to_pylist():
            try:
                self.labels.add(label)
            except ValueError as error:
                row = len(self.labels) - self.firsts[number]
                raise UserError(f"{where}: row {row} {error}") from None
        paths = [{}] * table.num_rows if not self.layout.path else table.column(self.layout.image).to_pylist()
        for row in paths:
            self.names.append((row or {}).get("path") or "")


def _layout(schema: Any, columns: Columns, path: Path) -> _Layout:
    """Raises UserError where a column is missing, or has something else."""
    where = printable(str(path))
    image, label = (
        name or _guess(schema, usual, fits, where)
        for name, usual, fits in ((columns.image, _IMAGE, _is_image), (columns.label, _LABEL, _is_label))
    )
    for name, fits, what in ((image, _is_image, "encoded images"), (label, _is_label, "whole numbers or texts")):
        if schema.names.count(name) != 1:
            count = "several columns" if name in schema.names else "no column"
            raise UserError(
                f"write.columns: {where} has {count} {brief(name)}; it has {first_few(schema.names)}"
                f"{nearest(name, schema.names)}"
            )
        if not fits(schema.field(name).type):
            kind = printable(str(schema.field(name).type))
            raise UserError(f"write.columns: {where}: column {brief(name)} is of type {kind}, not {what}")
    names, kind = _class_names(schema, label, where), schema.field(image).type
    if not _is_struct(kind):
        return _Layout(image, image, "", label, names)
    return _Layout(image, f"{image}.bytes", f"{image}.path" if _has_path(kind) else "", label, names)


def _guess(schema: Any, usual: str, fits: Callable[[Any], bool], where: str) -> str:
    fitting = [field.name for field in schema if fits(field.type)]
    if usual in schema.names or len(fitting) == 1:
        return usual if usual in schema.names else str(fitting[0])
    raise UserError(
        f"write.columns: {where} has no column {usual!r}; name those of the images and of the labels, of "
        f"{first_few(schema.names)}"
    )


def _is_struct(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind))


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_image(kind.field(place).type) and not types.is_struct(kind.field(place).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _has_path(kind: Any) -> bool:
    place = kind.get_field_index("path")
    return place >= 0 and _is_text(kind.field(place).type)


def _is_label(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or _is_text(kind) or (types.is_dictionary(kind) and _is_text(kind.value_type)))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _class_names(schema: Any, label: str, where: str) -> list[str] | None:
    """Of a ``ClassLabel`` in Hugging Face's description of the columns, if there is one."""
    described = (schema.metadata or {}).get(b"huggingface")
    if described is None:
        return None
    found = parse_json(described.decode("utf-8", "replace"), f"write.path: {where}: its description by Hugging Face")
    try:
        names = found["info"]["features"][label]["names"]
    except (KeyError, TypeError):
        return None
    if not isinstance(names, list):
        return None
    check_class_names(names, f"write.path: {where}")
    return names


class ParquetSource(PackedSource):
    """N rows of Parquet files. An origin is the name that an image has in its row; where one is missing or stands
    twice, all are ``FILE#row``, counted from 0 in each file."""

    def __init__(self, files: PackedFiles, index: _Index, class_names: list[str] | None) -> None:
        assert index.layout is not None
        self._layout, self._groups = index.layout, index.groups
        self._rows, self._firsts = np.array(index.rows, np.int64), np.array(index.firsts, np.int64)
        self.files = files
        labels, found = index.labels.classes(_one_of(class_names, index.layout.class_names), self.where)
        qualified = ("#".join(map(str, self._row(i)[1:])) for i in range(len(labels)))
        super().__init__(files, choose_origins(files, index.names, qualified), labels, found)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()
        """images of the row groups that were read last"""
        self._open: tuple[int, Any] | None = None
        """number of the file that was read last, and pyarrow's reader of it"""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_kept", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _row(self, i: int) -> tuple[Path, str, int]:
        """Path and name of the file of image i, and its row there."""
        file = int(np.searchsorted(self._firsts, i, "right")) - 1
        return self.files.paths[file], self.files.names[file], i - int(self._firsts[file])

    def where(self, i: int) -> str:
        """File and row."""
        path, _, row = self._row(i)
        return f"{printable(str(path))}: row {row}"

    def file_bytes(self, i: int) -> bytes:
        """What the row has."""
        group = int(np.searchsorted(self._rows, i, "right")) - 1
        try:
            image = self._images(group)[i - int(self._rows[group])]
            data = (image if self._layout.bytes == self._layout.image else image["bytes"]).as_py()
        except Exception as error:  # pyarrow raises many kinds
            raise self._read_error(i, error) from error
        if data is None:
            raise self._read_error(i, ValueError("the row has no bytes of an image"))
        return bytes(data)

    def _images(self, group: int) -> Any:
        """The column of images of a row group."""
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            number, its_group, _ = self._groups[group]
            if self._open is None or self._open[0] != number:
                self.files.check_unchanged(number)
                self._open = number, _pyarrow().ParquetFile(self.files.paths[number])
            table = self._open[1].read_row_group(its_group, columns=[self._layout.bytes], use_threads=False)
            self._kept[group] = table.column(self._layout.image)
            while len(self._kept) > 1 and sum(self._groups[kept][2] for kept in self._kept) > _MOST_KEPT_BYTES:
                self._kept.popitem(last=False)
            return self._kept[group]


def _one_of(given: list[str] | None, described: list[str] | None) -> list[str] | None:
    """The names that were given, or else those of the file."""
    if given is not None and described is not None and len(given) != len(described):
        raise UserError(f"write.classes: {len(given)} class names, but the files describe {len(described)} classes")
    return described if given is None else given
