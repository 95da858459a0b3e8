"""Labels as files of others spell them, numbers or names, become class ids and class names."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ffdr.data.class_names import MOST_CLASSES, check_class_names, read_class_names
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, first_few

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


class Columns(NamedTuple):
    """What ``write.columns`` and ``write.classes`` say."""

    image: str = ""
    """name of the column of images; empty: to be guessed, as that of labels is then"""
    label: str = ""
    class_names: list[str] | None = None
    """None: no file of names was given"""

    @classmethod
    def of(cls, columns: Sequence[str], classes: str) -> Columns:
        """Of the options' values.

        Raises:
            UserError: not two columns, or the same twice; a bad file of names.
        """
        names = read_class_names(Path(classes).expanduser(), "write.classes") if classes else None
        if not columns:
            return cls(class_names=names)
        if len(columns) != 2 or columns[0] == columns[1]:
            raise UserError(
                f"write.columns: {brief(','.join(columns))} does not name two columns, first that of images, then that "
                "of labels"
            )
        return cls(columns[0], columns[1], names)


class Labels:
    """The labels of N images, one after the other, in little memory. All are numbers, or all are texts."""

    def __init__(self) -> None:
        self._codes = array("H")
        self._values: dict[int | str, int] = {}
        """code of each label; they count in the order in which labels come up"""
        self._firsts: list[int] = []
        """number of the first image of each code"""

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, value: object) -> None:
        """Add the label of the next image.

        Raises:
            ValueError: there is none, or it is neither a whole number nor a text; too many are different.
        """
        if isinstance(value, str):
            value = value.strip()
        if value is None or value == "":
            raise ValueError("has no label")
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError(f"its label {brief(value)} is neither a whole number nor a text")
        code = self._values.get(value)
        if code is None:
            code = len(self._values)
            if code >= MOST_CLASSES:
                raise ValueError(f"its label {brief(value)} is the {code + 1:,}th different one, and too much")
            if any(isinstance(value, str) is not isinstance(other, str) for other in list(self._values)[:1]):
                raise ValueError(f"its label {brief(value)} is of another type than those before")
            self._values[value] = code
            self._firsts.append(len(self._codes))
        self._codes.append(code)

    def classes(self, names: Sequence[str] | None, where: Callable[[int], str]) -> tuple[np.ndarray, list[str]]:
        """Class ids (N,) int64 and the names of all classes.

        Labels are class ids where they are whole numbers, or texts that spell such and are not all among the names.
        Other texts are names.

        Args:
            names: of the classes; None: texts sorted, or the ids themselves.
            where: what messages call image i.

        Raises:
            UserError: a label that is no class id, or none of the names; names that ``check_class_names`` refuses.
        """
        ids, found = self._by_name(names, where) if self._are_names(names) else self._by_number(names, where)
        return np.array(ids, np.int64)[np.array(self._codes, np.uint16)], found

    def _are_names(self, names: Sequence[str] | None) -> bool:
        texts = [value for value in self._values if isinstance(value, str)]
        if not texts:
            return False
        return (names is not None and set(texts) <= set(names)) or not all(map(_NUMBER.fullmatch, texts))

    def _by_name(self, names: Sequence[str] | None, where: Callable[[int], str]) -> tuple[list[int], list[str]]:
        texts = [str(value) for value in self._values]
        if names is None:
            names = sorted(texts)
            check_class_names(names, "write.path")
        ids = {name: number for number, name in enumerate(names)}
        for text, first in zip(texts, self._firsts, strict=True):
            if text not in ids:
                raise UserError(
                    f"{where(first)}: its label {brief(text)} is none of the {len(ids)} class names "
                    f"({first_few(list(ids), 3)}){nearest(text, ids)}"
                )
        return [ids[text] for text in texts], list(names)

    def _by_number(self, names: Sequence[str] | None, where: Callable[[int], str]) -> tuple[list[int], list[str]]:
        ids, count = list(map(int, self._values)), MOST_CLASSES if names is None else len(names)
        for number, first in zip(ids, self._firsts, strict=True):
            if not 0 <= number < count:
                hint = "; -1 stands for a label that is kept back" if number == -1 else ""
                raise UserError(f"{where(first)}: its label {number} is none of the class ids 0 to {count - 1}{hint}")
        return ids, list(map(str, range(max(ids, default=-1) + 1))) if names is None else list(names)
