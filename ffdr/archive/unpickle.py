"""Pickles of strangers: read as plain data, or refused.

A pickle is a program, and Python's unpickler runs it. Two fences stand around it. Before it runs, every instruction is
looked at (``_first_bad``): only those that make numbers, texts, lists, tuples and dictionaries pass, in a form that
can't make the unpickler allocate more than a multiple of the file's size or overflow its stack. And while it runs, the
only names it can look up are stand-ins for what NumPy scalars are made of; NumPy itself is not called.

What was made can be named again and again, so a kilobyte can describe lists of lists with 10^26 entries: the first pass
counts what a value comes to when it is written out, and bounds it by the file's size. Whoever walks through a value
later, comparing, copying or hashing, takes no longer than that. For the count to hold, a list may not change any more
once it is part of another value or named again, so none holds itself.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from ffdr.archive.torch_zip import EntryError
from ffdr.jit.kernel import kernel
from ffdr.util.text import brief, printable, reason

_MOST_DEPTH = 32
"""Values within values: many a function recurses into them. An entry with NumPy scalars needs a dozen."""
_WEIGHT_PER_BYTE = 4
"""Values that a pickle may describe per byte of it, written out; honest ones have less than one."""
_FREE_WEIGHT = 256
"""Values that any pickle may describe, however short."""
_CONTAINER_WEIGHT = 8
"""Values that an empty list or dictionary counts for: its one byte in the file makes 64 in memory."""

# What an instruction has behind it: that many bytes, or one of the forms below 0. Refused are
# all that plain data in protocols 2 to 4 has no need of.
_SHORT_TEXT, _LONG_TEXT, _TWO_LINES, _REFUSED = -1, -2, -3, -4
_TO_MARK = -1
"""Takes all values above the last mark, and the mark."""
# What an instruction makes of the values that it takes: a value; one that may be a key; a list or a dictionary, which
# may change until it is part of another value or named again; so may what a call gives, which is no larger than a
# number. Or it changes the value below those: it becomes longer, or gets pairs.
_VALUE, _KEY, _OPEN, _CALLED, _LONGER, _PAIRS = 0, 1, 2, 3, 4, 5
# Or something else.
_MARK, _PUT, _GET, _MEMOIZE, _END, _NOTHING = 10, 11, 12, 13, 14, 15


Tables = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Argument, number of values taken, and effect of each of the 256 instructions."""


def _tables() -> Tables:
    arguments, takes, effects = np.full(256, _REFUSED, np.int8), np.zeros(256, np.int8), np.zeros(256, np.int8)
    for codes, argument, taken, effect in (
        (b")N\x88\x89", 0, 0, _VALUE),
        (b"]}", 0, 0, _OPEN),
        (b"K", 1, 0, _KEY),
        (b"M", 2, 0, _KEY),
        (b"J", 4, 0, _VALUE),
        (b"G", 8, 0, _VALUE),
        (b"C\x8a", _SHORT_TEXT, 0, _VALUE),  # bytes, long integers
        (b"B", _LONG_TEXT, 0, _VALUE),
        (b"\x8c", _SHORT_TEXT, 0, _KEY),
        (b"X", _LONG_TEXT, 0, _KEY),
        (b"c", _TWO_LINES, 0, _VALUE),
        (b"\x93", 0, 2, _VALUE),  # name
        (b"R", 0, 2, _CALLED),
        (b"ab", 0, 1, _LONGER),  # append, set state
        (b"e", 0, _TO_MARK, _LONGER),
        (b"s", 0, 2, _PAIRS),
        (b"u", 0, _TO_MARK, _PAIRS),
        (b"t", 0, _TO_MARK, _VALUE),
        (b"\x85", 0, 1, _VALUE),
        (b"\x86", 0, 2, _VALUE),
        (b"\x87", 0, 3, _VALUE),
        (b"(", 0, 0, _MARK),
        (b"q", 1, 0, _PUT),
        (b"r", 4, 0, _PUT),
        (b"h", 1, 0, _GET),
        (b"j", 4, 0, _GET),
        (b"\x94", 0, 0, _MEMOIZE),
        (b"\x80", 1, 0, _NOTHING),  # protocol
        (b"\x95", 8, 0, _NOTHING),  # frame
        (b".", 0, 0, _END),
    ):
        for code in codes:
            arguments[code], takes[code], effects[code] = argument, taken, effect
    return arguments, takes, effects


PLAIN = _tables()
"""Of plain data."""


def with_tensors() -> Tables:
    """Of plain data, and what names a tensor's numbers, which lie outside of the pickle."""
    arguments, takes, effects = _tables()
    arguments[ord("Q")], takes[ord("Q")], effects[ord("Q")] = 0, 1, _VALUE
    return arguments, takes, effects


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
def _lowest_taken(stack: np.ndarray, top: int, takes: int) -> int:
    """Where the values begin that an instruction takes from a stack of ``top`` entries; -1 if they are not there."""
    low = top
    if takes == _TO_MARK:
        while low > 0 and stack[low - 1] >= 0:
            low -= 1
        return low if low > 0 else np.int64(-1)
    while low > 0 and low > top - takes and stack[low - 1] >= 0:
        low -= 1
    return low if low == top - takes else np.int64(-1)


@kernel
def _have_keys(stack: np.ndarray, low: int, top: int, kinds: np.ndarray) -> bool:
    """Whether [low, top) of the stack are pairs whose keys are texts or small numbers, which hash quickly and apart."""
    for i in range(low, top, 2):
        if kinds[stack[i]] != _KEY:
            return False
    return (top - low) % 2 == 0


@kernel
def _first_bad(data: np.ndarray, arguments: np.ndarray, takes: np.ndarray, effects: np.ndarray) -> int:
    """Place of the first instruction that must not run, -1 if all may.

    Runs the program with nothing but three facts of each value: what it weighs, written out, how deep it is, and its
    kind: ``_VALUE``, ``_KEY`` or ``_OPEN``. The stack and the memo have numbers of values; -1 is an open mark.
    """
    # An instruction has at least one byte, and pushes at most one entry and makes at most one value: so neither ``top``
    # nor ``values`` passes the number of bytes read, and the arrays are long enough. Weights stay below 2^27, for a
    # file has 16 MiB at most; a sum of them is formed in 64 bits and compared with ``most`` before it is kept.
    stack = np.empty(len(data) + 1, np.int32)
    memo = np.full(len(data) + 1, -1, np.int32)
    weights, depths = np.empty(len(data), np.int32), np.empty(len(data), np.int8)
    kinds = np.empty(len(data), np.int8)
    most = _FREE_WEIGHT + _WEIGHT_PER_BYTE * np.int64(len(data))
    top, known, values, at = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    while at < len(data):
        begin, code = at, data[at]
        effect = effects[code]
        at += 1
        size = _argument_size(data, at, arguments[code])
        if arguments[code] == _REFUSED or size < 0:
            return begin
        if effect <= _PAIRS:
            low = _lowest_taken(stack, top, takes[code])
            if low < 0 or (effect == _PAIRS and not _have_keys(stack, low, top, kinds)):
                return begin
            weight, depth = np.int64(_CONTAINER_WEIGHT if effect == _OPEN else 1), np.int64(0)
            # What is taken becomes part of another value: from now on it must not change, or its weight would be wrong.
            for i in range(low, top):
                value = stack[i]
                weight += weights[value]
                depth = max(depth, np.int64(depths[value]) + 1)
                kinds[value] = _VALUE if kinds[value] == _OPEN else kinds[value]
            low -= takes[code] == _TO_MARK
            if effect >= _LONGER:  # the value below changes, and was never taken or named again
                low -= 1
                if low < 0 or stack[low] < 0 or kinds[stack[low]] != _OPEN:
                    return begin
                value = np.int64(stack[low])
                weight += weights[value]
                depth = max(depth, np.int64(depths[value]))
            else:
                value = values
                values += 1
                # A call gives a stand-in or a number: its arguments are gone, and a state may follow.
                kinds[value] = _OPEN if effect == _CALLED else effect
                weight = np.int64(1) if effect == _CALLED else weight
            if weight > most or depth > _MOST_DEPTH:
                return begin
            weights[value], depths[value], stack[low] = weight, depth, value
            top = low + 1
        elif effect == _MARK:
            stack[top] = -1
            top += 1
        elif effect == _GET:
            place = _number(data, at, size)
            if place >= len(data) or memo[place] < 0:
                return begin
            value = np.int64(memo[place])
            kinds[value] = _VALUE if kinds[value] == _OPEN else kinds[value]
            stack[top] = value
            top += 1
        elif effect != _NOTHING:
            if top < 1 or stack[top - 1] < 0:
                return begin
            if effect == _END:
                return np.int64(-1) if top == 1 else begin
            place = known if effect == _MEMOIZE else _number(data, at, size)
            # Python's memo is an array as long as the highest place, so this is a request for memory.
            if place >= len(data):
                return begin
            known += memo[place] < 0
            memo[place] = stack[top - 1]
        at += size
    return np.int64(len(data))


class ScalarType:
    """Stands in for ``numpy.dtype``: the name of a number type and its byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: object, align: object = False, copy: object = True) -> None:
        if name not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
            raise EntryError(f"it holds a NumPy {brief(name, 60)}, not a plain number")
        self.name, self.order = name, "<"

    def __setstate__(self, state: object) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|"):
            raise EntryError("it holds a NumPy type that is not a plain number's")
        self.order = state[1]


class _Scalar:
    """Stands in for ``numpy.core.multiarray.scalar``: calling it gives a Python number."""

    def __new__(cls, dtype: object, data: object) -> Any:
        if type(dtype) is not ScalarType or type(data) is not bytes:
            raise EntryError("it holds a NumPy scalar that is not a plain number")
        kind = np.dtype(dtype.order + dtype.name)
        if len(data) != kind.itemsize:
            raise EntryError("it holds a NumPy scalar of the wrong length")
        return np.frombuffer(data, kind)[0].item()

    def __setstate__(self, state: object) -> NoReturn:
        raise EntryError("it changes a function")  # without this method, a pickle could set attributes of the class


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): ScalarType,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,  # as NumPy 2 calls it
}
"""For each name that a pickle may look up."""


class PlainUnpickler(pickle.Unpickler):
    """Looks up stand-ins only."""

    def find_class(self, module: str, name: str) -> Any:
        """Of a name in the pickle."""
        if (module, name) not in STAND_INS:
            raise EntryError(f"it names {printable(module, 60)}.{printable(name, 60)}, which plain data has no need of")
        return STAND_INS[module, name]

    def persistent_load(self, pid: object) -> Any:
        """Of what lies outside of the pickle."""
        raise EntryError("it holds a tensor, not plain data")


def loads(data: bytes) -> Any:
    """The value that a pickle describes: None, numbers, texts, bytes, lists, tuples, dictionaries.

    NumPy scalars come as Python numbers.

    Raises:
        EntryError: it is damaged or describes anything else. Nothing it names is run or imported.
    """
    return run_checked(data, PLAIN, PlainUnpickler)


def run_checked(data: bytes, tables: Tables, unpickler: Callable[[io.BytesIO], pickle.Unpickler]) -> Any:
    """The value that an unpickler makes of a pickle with no other instructions than the tables'.

    Raises:
        EntryError: it is damaged, or describes what the unpickler refuses.
    """
    at = _first_bad(np.frombuffer(data, np.uint8), *tables)
    if at >= 0:
        code = f"instruction {data[at]:#04x} at byte {at}" if at < len(data) else "its end is missing"
        raise EntryError(f"its pickle is damaged, is not plain data, or says far more than its size: {code}")
    try:
        return unpickler(io.BytesIO(data)).load()
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
        raise EntryError(f"its pickle is damaged: {reason(error, 100)}") from None
