"""Pickles of strangers: read as plain data, or refused.

A pickle is a program, and Python's unpickler runs it. Two fences stand around it. Before it runs, every instruction is
looked at (``_first_bad``): only those that make numbers, texts, lists, tuples and dictionaries pass, in a form that
can't make the unpickler allocate more than a multiple of the file's size or overflow its stack. And while it runs, the
only names it can look up are stand-ins for what NumPy scalars are made of; NumPy itself is not called.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

import numpy as np

from ffdr.archive.container import EntryError
from ffdr.augment.jit import kernel

_MOST_DEPTH = 32
"""Tuples within tuples: hashing one recurses without a limit of its own. An entry needs five."""

# What an instruction has behind it: that many bytes, or one of the forms below 0.
_SHORT_TEXT, _LONG_TEXT, _TWO_LINES, _REFUSED = -1, -2, -3, -4
# Stack effects that are more than taking so many and pushing one value.
_OPEN, _CLOSE, _CLOSE_TUPLE, _PUT, _GET, _MEMOIZE, _END, _NOTHING = 10, 11, 12, 13, 14, 15, 16, 17
_TUPLES = 20
"""20 + n: a tuple of the last n values."""


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Argument and stack effect of each of the 256 instructions; effects below 10 take that many and push one."""
    arguments, effects = np.full(256, _REFUSED, np.int8), np.zeros(256, np.int8)
    for codes, argument, effect in (
        (b")]}N\x88\x89", 0, 0),
        (b"K", 1, 0),
        (b"M", 2, 0),
        (b"J", 4, 0),
        (b"G", 8, 0),
        (b"\x8cC\x8a", _SHORT_TEXT, 0),  # texts, bytes, long integers
        (b"XB", _LONG_TEXT, 0),
        (b"c", _TWO_LINES, 0),
        (b"ab\x93R", 0, 2),  # append, set state, name, call: two values become one
        (b"s", 0, 3),
        (b"(", 0, _OPEN),
        (b"eu", 0, _CLOSE),
        (b"t", 0, _CLOSE_TUPLE),
        (b"\x85", 0, _TUPLES + 1),
        (b"\x86", 0, _TUPLES + 2),
        (b"\x87", 0, _TUPLES + 3),
        (b"q", 1, _PUT),
        (b"r", 4, _PUT),
        (b"h", 1, _GET),
        (b"j", 4, _GET),
        (b"\x94", 0, _MEMOIZE),
        (b"\x80", 1, _NOTHING),  # protocol
        (b"\x95", 8, _NOTHING),  # frame
        (b".", 0, _END),
    ):
        for code in codes:
            arguments[code], effects[code] = argument, effect
    return arguments, effects


_ARGUMENTS, _EFFECTS = _tables()


@kernel
def _number(data: np.ndarray, at: int, size: int) -> int:
    """A little-endian unsigned number of ``size`` bytes, up to 4; -1 if they are not there."""
    if at + size > len(data):
        return np.int64(-1)
    value = np.int64(0)
    for i in range(size):
        value |= np.int64(data[at + i]) << (8 * i)
    return value


@kernel
def _argument_size(data: np.ndarray, at: int, kind: int) -> int:
    """Bytes of the argument at ``at``; -1 if it reaches beyond the data."""
    if kind >= 0:
        size = np.int64(kind)
    elif kind in (_SHORT_TEXT, _LONG_TEXT):
        width = np.int64(1) if kind == _SHORT_TEXT else np.int64(4)
        length = _number(data, at, width)
        size = length + width if length >= 0 else np.int64(len(data))
    else:
        size, lines = np.int64(0), 0
        while at + size < len(data) and lines < 2:
            lines += data[at + size] == 10
            size += 1
    return size if at + size <= len(data) else np.int64(-1)


@kernel
def _deepest(stack: np.ndarray, low: int, high: int) -> int:
    """The deepest of the values [low, high) of the stack."""
    most = np.int64(0)
    for i in range(low, high):
        most = max(most, np.int64(stack[i]))
    return most


@kernel
def _taken(effect: int, stack: np.ndarray, top: int) -> tuple[int, int]:
    """What an instruction does to a stack of ``top`` values: where its result goes, and how deep that is.

    The place is negative if the stack has too little for it.
    """
    if effect < _OPEN:
        low = top - effect
        return (low if low >= top or (low >= 0 and stack[low] >= 0) else np.int64(-1)), np.int64(0)
    if effect == _OPEN:
        return top, np.int64(-1)
    if effect >= _TUPLES:
        low = top - (effect - _TUPLES)
        return low, _deepest(stack, max(low, 0), top) + 1
    low = top - 1
    while low >= 0 and stack[low] >= 0:
        low -= 1
    if effect == _CLOSE_TUPLE:
        return low, _deepest(stack, max(low, 0), top) + 1
    return low - 1, np.int64(0)  # into the list or dictionary below the mark


@kernel
def _first_bad(data: np.ndarray, arguments: np.ndarray, effects: np.ndarray) -> int:
    """Place of the first instruction that must not run, -1 if all may.

    Runs the program with nothing but how many tuples deep each value is; -1 on that stack is an open mark.
    """
    stack = np.empty(len(data) + 1, np.int32)
    memo = np.full(len(data) + 1, -1, np.int32)
    top, known, at = np.int64(0), np.int64(0), np.int64(0)
    while at < len(data):
        begin, kind, effect = at, arguments[data[at]], np.int64(effects[data[at]])
        at += 1
        size = _argument_size(data, at, kind)
        if kind == _REFUSED or size < 0 or (effect == _END and top != 1):
            return begin
        if effect == _END:
            return np.int64(-1)
        if effect in (_PUT, _MEMOIZE):
            place = known if effect == _MEMOIZE else _number(data, at, size)
            # A number beyond the file's length is a request for that much memory.
            if top < 1 or stack[top - 1] < 0 or place >= len(data):
                return begin
            known += memo[place] < 0
            memo[place] = stack[top - 1]
        elif effect != _NOTHING:
            if effect == _GET:
                place = _number(data, at, size)
                low, value = top, np.int64(memo[place]) if place < len(data) else np.int64(-1)
            else:
                low, value = _taken(effect, stack, top)
            if low < 0 or value > _MOST_DEPTH or (value < 0 and effect != _OPEN):
                return begin
            stack[low] = value
            top = low + 1
        at += size
    return np.int64(len(data))


class _Dtype:
    """Stands in for ``numpy.dtype``: the name of a number type and its byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: object, align: object = False, copy: object = True) -> None:
        if name not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
            raise EntryError(f"it holds a NumPy {str(name)[:40]!r}, not a plain number")
        self.name, self.order = name, "<"

    def __setstate__(self, state: object) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|"):
            raise EntryError("it holds a NumPy type that is not a plain number's")
        self.order = state[1]


class _Scalar:
    """Stands in for ``numpy.core.multiarray.scalar``: calling it gives a Python number."""

    def __new__(cls, dtype: object, data: object) -> Any:
        if type(dtype) is not _Dtype or type(data) is not bytes:
            raise EntryError("it holds a NumPy scalar that is not a plain number")
        kind = np.dtype(dtype.order + dtype.name)
        if len(data) != kind.itemsize:
            raise EntryError("it holds a NumPy scalar of the wrong length")
        return np.frombuffer(data, kind)[0].item()

    def __setstate__(self, state: object) -> NoReturn:
        raise EntryError("it changes a function")  # without this method, a pickle could set attributes of the class


_NAMES = {("numpy", "dtype"): _Dtype}
_NAMES |= {(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise EntryError(f"it names {module[:60]}.{name[:60]}, which plain data has no need of")
        return _NAMES[module, name]

    def persistent_load(self, pid: object) -> NoReturn:
        raise EntryError("it holds a tensor, not plain data")


def loads(data: bytes) -> Any:
    """The value that a pickle describes: None, numbers, texts, bytes, lists, tuples, dictionaries.

    NumPy scalars come as Python numbers.

    Raises:
        EntryError: it is damaged or describes anything else. Nothing it names is run or imported.
    """
    at = _first_bad(np.frombuffer(data, np.uint8), _ARGUMENTS, _EFFECTS)
    if at >= 0:
        code = f"instruction {data[at]:#04x} at byte {at}" if at < len(data) else "its end is missing"
        raise EntryError(f"its pickle is damaged or is not plain data: {code}")
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except EntryError:
        raise
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        EOFError,
    ) as error:
        raise EntryError(f"its pickle is damaged: {str(error)[:100]}") from None
