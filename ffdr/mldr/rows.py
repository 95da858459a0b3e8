"""Columns of unpickled values become arrays; a value of another kind is named with its file and sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from ffdr.mldr.container import EntryError
from ffdr.mldr.source import name_of

Column = Sequence[Any]
"""One value a row."""


class Rows:
    """Rows of a table. Each belongs to a sample of a file, to be named when something is wrong with the row."""

    def __init__(self, file: np.ndarray, sample: np.ndarray, image: np.ndarray) -> None:
        """All (rows,) int64: index of the file, number of the sample in it, and the image that is transformed."""
        self.file, self.sample, self.image = file, sample, image

    def __len__(self) -> int:
        return len(self.file)

    def take(self, rows: np.ndarray, image: np.ndarray) -> Rows:
        """Some rows, about other images."""
        return Rows(self.file[rows], self.sample[rows], image)

    def then(self, others: Rows) -> Rows:
        """These rows followed by others."""
        pairs = zip(self._parts(), others._parts(), strict=True)
        return Rows(*(np.concatenate(pair) for pair in pairs))

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.file, self.sample, self.image

    def refuse(self, bad: Any, text: str | Callable[[int], str]) -> None:
        """Raise EntryError for the first row where ``bad`` (rows,) holds; ``text`` may depend on the row."""
        at = np.flatnonzero(bad)
        if len(at):
            row = int(at[0])
            self.refuse_row(row, text if isinstance(text, str) else text(row))

    def refuse_row(self, row: int, text: str) -> NoReturn:
        """Raise EntryError for a row."""
        raise EntryError(f"{name_of(int(self.file[row]))}: sample {self.sample[row]}: {text}")

    def tuples(self, column: Column, width: int, what: str) -> np.ndarray:
        """Tuples (or lists) of ``width`` whole numbers as (rows, width) int64."""
        return self._table(column, width, (int,), np.int64, what)

    def numbers(self, column: Column, width: int, what: str) -> np.ndarray:
        """Tuples (or lists) of ``width`` numbers as (rows, width) float64."""
        return self._table(column, width, (int, float), np.float64, what)

    def single(self, column: Column, kinds: tuple[type, ...], what: str) -> np.ndarray:
        """Values of these kinds, of bool, int and float, as (rows,) of NumPy's for the first."""
        if not set(map(type, column)) <= set(kinds):
            self.refuse([type(value) not in kinds for value in column], what)
        return self._array(column, kinds[0], what)

    def _table(
        self, column: Column, width: int, kinds: tuple[type, ...], dtype: type[np.generic], what: str
    ) -> np.ndarray:
        """Kinds are known before NumPy looks at values: of texts and nested lists it makes arrays of any size."""
        if set(map(type, column)) <= {list, tuple} and set(map(len, column)) <= {width}:
            flat = list(chain.from_iterable(column))
            if set(map(type, flat)) <= set(kinds):
                return self._array(flat, dtype, what).reshape(len(column), width)
        self.refuse([not _all_of(value, width, kinds) for value in column], what)
        raise AssertionError("one of the rows is not as it should be")

    def _array(self, values: Column, dtype: type, what: str) -> np.ndarray:
        try:
            return np.array(values, dtype)
        except OverflowError:
            raise EntryError(f"{name_of(int(self.file[0]))} or a file near it: {what}: a number is too large") from None


def _all_of(value: Any, width: int, kinds: tuple[type, ...]) -> bool:
    return type(value) in (list, tuple) and len(value) == width and all(type(part) in kinds for part in value)


def without_none(column: Column, stand_in: Any) -> tuple[np.ndarray, Column]:
    """(rows,) bool, where a column has a value; and the column with another value in place of None."""
    there = np.array([value is not None for value in column], bool)
    return there, column if there.all() else [stand_in if value is None else value for value in column]
