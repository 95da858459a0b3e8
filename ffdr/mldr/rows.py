"""Many samples as a table: one row each, one column of Python values per transform, checked on the way to arrays.

Columns hold what strangers' files hold. A value of another kind than it should be is named with its file and sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from ffdr.archive.torch_zip import EntryError
from ffdr.mldr.archive import name_of

Column = Sequence[Any]
"""One value per row."""


@dataclass(frozen=True)
class Rows:
    """What R rows are about, to be named when something is wrong with one; all three (R,) int64."""

    file: np.ndarray
    """index of the file"""
    sample: np.ndarray
    """number of the sample in it"""
    image: np.ndarray
    """the image that is transformed: the file's own, or the partner that is mixed with it"""

    @classmethod
    def of_files(cls, index: np.ndarray, samples: int) -> Rows:
        """A row for each of so many samples in each of the files ``index``, about the files' own images."""
        file = np.repeat(index, samples)
        return cls(file, np.tile(np.arange(samples), len(index)), file)

    def __len__(self) -> int:
        return len(self.file)

    def select(self, rows: np.ndarray, image: np.ndarray) -> Rows:
        """Some rows, about other images."""
        return Rows(self.file[rows], self.sample[rows], image)

    def followed_by(self, others: Rows) -> Rows:
        """These rows, then others."""
        pairs = ((self.file, others.file), (self.sample, others.sample), (self.image, others.image))
        return Rows(*map(np.concatenate, pairs))

    def refuse(self, bad: Any, text: str | Callable[[int], str]) -> None:
        """Raise EntryError for the first row where ``bad`` (R,) holds; ``text`` may depend on the row."""
        at = np.flatnonzero(bad)
        if len(at):
            row = int(at[0])
            self.refuse_row(row, text if isinstance(text, str) else text(row))

    def refuse_row(self, row: int, text: str) -> NoReturn:
        """Raise EntryError for a row."""
        raise EntryError(f"{name_of(int(self.file[row]))}: sample {self.sample[row]}: {text}")

    def integers(self, column: Column, width: int, what: str) -> np.ndarray:
        """Tuples (or lists) of ``width`` whole numbers as (R, width) int64. what: is wrong with any other value."""
        return self._table(column, width, (int,), np.int64, what)

    def numbers(self, column: Column, width: int, what: str) -> np.ndarray:
        """Tuples (or lists) of ``width`` numbers as (R, width) float64."""
        return self._table(column, width, (int, float), np.float64, what)

    def single(self, column: Column, kinds: tuple[type, ...], what: str) -> np.ndarray:
        """Values of these kinds, of bool, int and float, as (R,) of NumPy's for the first."""
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
        self.refuse([not is_tuple_of(kinds, value, width) for value in column], what)
        raise AssertionError("one of the rows is not as it should be")

    def _array(self, values: Column, dtype: type, what: str) -> np.ndarray:
        try:
            return np.array(values, dtype)
        except OverflowError:
            raise EntryError(f"{name_of(int(self.file[0]))} or a file near it: {what}: a number is too large") from None


def is_tuple_of(kinds: tuple[type, ...], value: Any, width: int = 2) -> bool:
    """Whether a value is a list or tuple of ``width`` values of these kinds."""
    return type(value) in (list, tuple) and len(value) == width and all(type(part) in kinds for part in value)


def without_none(column: Column, stand_in: Any) -> tuple[np.ndarray, Column]:
    """(R,) bool, where a column has a value; and the column with another value in place of None."""
    there = np.array([value is not None for value in column], bool)
    return there, column if there.all() else [stand_in if value is None else value for value in column]
