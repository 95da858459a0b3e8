"""Pickles of ``torch.save`` by strangers, run with stand-ins for their values before torch runs them.

torch's reader of weights calls no function that would run code, but it believes what a file says: functions that
allocate what they are asked for, copies of copies, keys whose hash or whose comparison takes forever, tensors beyond
their storages. What it will do is known from the numbers of values alone, and bounded here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import Any, BinaryIO

from torch.serialization import StorageType

from ffdr.util.text import printable

PROTOCOL = b"\x80"
"""The first instruction of every pickle of today."""
MOST_PICKLE = 32 << 20
"""Bytes of a pickle."""
_MOST_STEPS = 1_000_000
"""Instructions of a pickle; a tensor takes some 40, and no model of timm has 5,000 tensors."""
_MOST_TUPLE = 2_000
"""Values within a tuple, those of the tuples in it included: hashing one visits them all."""
_MOST_LINE = 200
_MOST_ODD = 2_000
"""Keys other than texts and small numbers: they may all have one hash, and each is then compared with all others."""
_SMALL = 60
"""Bits of a number that is its own hash."""

_CALLED = {
    "collections OrderedDict", "collections Counter", "builtins set", "builtins complex", "__builtin__ set",
    "__builtin__ complex", "torch Size", "torch device", "torch.nn.parameter Parameter", "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state", "torch._utils _rebuild_device_tensor_from_cpu_tensor",
    "torch._tensor _rebuild_from_type_v2", "argparse Namespace", "_codecs encode",
}  # fmt: skip
"""What a pickle may call: with arguments that are looked at, none allocates more than stands in the file."""
_INDIRECT = "torch._tensor _rebuild_from_type_v2"
"""Calls its first argument with its third."""
_ENCODE, _LATIN = "_codecs encode", ("latin1", "latin-1")
"""How the bytes of a pickle of protocol 2 are written."""
_NAMED = re.compile(r"(torch|torch\.storage) \w+Storage|torch [a-z]+\d*\w*|torch Tensor|torch\._tensor Tensor")
"""What it may name besides: kinds of storages, of numbers and of tensors."""

_BYTE, _UINT16, _UINT32, _INT32 = Struct("<B"), Struct("<H"), Struct("<I"), Struct("<i")
_ANY = object()
"""Stands for every value that decides nothing."""


class RefusedError(ValueError):
    """What is wrong with a file, without its name."""


class _Name(str):
    """A class or function that a pickle names: module and name."""


class _Tuple(tuple):
    """A tuple whose weight is known: the number of values in it, at any depth."""

    weight: int


class _Storage:
    """A storage of so many numbers."""

    def __init__(self, count: int) -> None:
        self.count = count


class _Bag:
    """A list, a dictionary or a set, of which no more is known than how many values it has, and how many odd ones."""

    def __init__(self) -> None:
        self.count = self.odd = 0

    def put(self, values: list[Any]) -> None:
        self.count += len(values)
        self.odd += sum(map(_is_odd, values))


def _is_odd(key: Any) -> bool:
    """Whether a stranger can choose its hash."""
    return not isinstance(key, str | bytes) and not (isinstance(key, int) and key.bit_length() <= _SMALL)


def pretend(file: BinaryIO, claim: Callable[[str, int, int], None]) -> None:
    """Run the pickle at the file's position with stand-ins for its values, as torch would.

    claim: called for each storage that it asks for, with its key, how many numbers it has, and the bytes of one.
    """
    machine = _Machine(file, claim)
    for _ in range(_MOST_STEPS):
        code = file.read(1)
        if code == b".":
            return
        step = _STEPS.get(code)
        if step is None:
            raise RefusedError("cut off" if not code else "its pickle has an instruction that torch does not obey")
        step(machine)
    raise RefusedError(f"its pickle has more than {_MOST_STEPS:,} instructions")


class _Machine:
    """What torch's own reader of pickles has: a stack for each open mark, and what was put aside by number."""

    def __init__(self, file: BinaryIO, claim: Callable[[str, int, int], None]) -> None:
        self.file, self.claim = file, claim
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.given = self.odd = 0
        """Values that were given to calls so far, and odd keys"""

    def number(self, form: Struct) -> int:
        return form.unpack(self.bytes(form.size))[0]

    def bytes(self, count: int) -> bytes:
        found = self.file.read(count) if count <= MOST_PICKLE else b""
        if len(found) != count:
            raise EOFError("cut off")
        return found

    def open(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def close(self) -> list[Any]:
        """What was pushed since the last mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_tuple(self, values: list[Any]) -> None:
        made = _Tuple(values)
        made.weight = sum(value.weight if isinstance(value, _Tuple) else 1 for value in values) + 1
        if made.weight > _MOST_TUPLE:
            raise RefusedError(f"its pickle has a tuple of more than {_MOST_TUPLE:,} values")
        if len(made) > 3 and isinstance(made[0], _Storage):
            _check_view(*made[:4])
        self.push(made)

    def push_last(self, count: int) -> None:
        """A tuple of the last values."""
        values = [self.stack.pop() for _ in range(count)]
        self.push_tuple(values[::-1])

    def put(self, values: list[Any]) -> None:
        """Into the list below."""
        self._bag().put(values)

    def put_pairs(self, values: list[Any]) -> None:
        """Keys and values, into the dictionary below."""
        self._bag().put(values[::2])
        self._hash(sum(map(_is_odd, values[::2])))

    def _bag(self) -> _Bag:
        if not isinstance(self.stack[-1], _Bag):
            raise IndexError("no container")
        return self.stack[-1]

    def _hash(self, odd: int) -> None:
        self.odd += odd
        if self.odd > _MOST_ODD:
            raise RefusedError(f"its pickle has more than {_MOST_ODD:,} keys that are no texts and no small numbers")

    def _give(self, value: Any) -> None:
        """To something that copies it, or goes through it."""
        if isinstance(value, _Tuple):
            self._give_many(len(value))
            for part in value:
                self._give(part)
        elif isinstance(value, _Bag):
            self._give_many(value.count)
            self._hash(value.odd)

    def _give_many(self, count: int) -> None:
        self.given += count
        if self.given > _MOST_STEPS:
            raise RefusedError(f"its pickle gives more than {_MOST_STEPS:,} values to what it calls")

    def build(self) -> None:
        """The value below gets a state."""
        self._give(self.stack.pop())
        if not self.stack:
            raise IndexError("no object")

    def push_float(self) -> None:
        self.bytes(8)
        self.push(_ANY)

    def push_name(self) -> None:
        lines = [self.file.readline(_MOST_LINE) for _ in range(2)]
        name = " ".join(line[:-1].decode() for line in lines)
        if name not in _CALLED and not _NAMED.fullmatch(name):
            shown = printable(".".join(name.split(" ")), 80)
            raise RefusedError(f"it names {shown}, which weights have no need of")
        self.push(_Name(name))

    def call(self) -> None:
        """A function or a class, with a tuple of arguments."""
        arguments, called = self.stack.pop(), self.stack.pop()
        self._check_call(called, arguments)
        self.push(_Bag() if called.startswith(("collections ", "builtins set", "__builtin__ set")) else _ANY)

    def _check_call(self, called: Any, arguments: Any) -> None:
        if not isinstance(called, _Name) or called not in _CALLED:
            raise RefusedError(f"it calls {printable(str(called), 80) if isinstance(called, str) else 'a value'}")
        if not isinstance(arguments, _Tuple):
            raise RefusedError(f"it calls {called} without a tuple of arguments")
        self._give(arguments)
        if called == _ENCODE:
            if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in _LATIN:
                raise RefusedError("it encodes something else than bytes")
            self._give_many(len(arguments[0]))
        if called == _INDIRECT:
            if len(arguments) < 3 or arguments[0] == _INDIRECT:
                raise RefusedError(f"it calls {called} of nothing")
            self._check_call(arguments[0], arguments[2])

    def load(self) -> None:
        """A storage, by what ``torch.save`` refers to it with."""
        pid = self.stack.pop()
        if not isinstance(pid, _Tuple) or len(pid) not in (5, 6) or pid[0] not in ("storage", b"storage"):
            raise RefusedError("it refers to something else than a storage")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(kind, _Name) or not kind.endswith("Storage") or type(count) is not int or count < 0:
            raise RefusedError("it refers to a storage without a kind and a size")
        size = _item_size(kind.rpartition(" ")[2])
        if not size:
            raise RefusedError(f"it has a {printable(kind, 80)}, which this torch does not know")
        self.claim(key.decode() if isinstance(key, bytes) else str(key), count, size)
        self.push(_Storage(count))


def _check_view(storage: _Storage, offset: Any, size: Any, stride: Any) -> None:
    """Refuse a tensor that reaches beyond its storage, which torch would make longer."""
    if isinstance(size, _Tuple) and isinstance(stride, _Tuple) and len(size) == len(stride):
        parts = (offset, *size, *stride)
        if all(type(part) is int and part >= 0 for part in parts):
            last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
            if last < storage.count or 0 in size:
                return
    raise RefusedError("it has a tensor that is not within its storage")


def _item_size(storage: str) -> int:
    """Bytes of a number in a kind of storage; 0: torch knows none such."""
    if storage == "UntypedStorage":
        return 1
    try:
        return StorageType(storage).dtype.itemsize
    except KeyError:
        return 0


def _steps() -> dict[bytes, Callable[[_Machine], Any]]:
    """What each instruction does that torch's reader of weights obeys."""
    values = {code: lambda m: m.push(_ANY) for code in (b"N", b"\x88", b"\x89")}
    bags = {code: lambda m: m.push(_Bag()) for code in (b"]", b"}", b"\x8f")}
    numbers = {
        code: lambda m, form=form: m.push(m.number(form))
        for code, form in ((b"J", _INT32), (b"K", _BYTE), (b"M", _UINT16))
    }
    puts = {
        code: lambda m, form=form: m.memo.__setitem__(m.number(form), m.stack[-1])
        for code, form in ((b"q", _BYTE), (b"r", _UINT32))
    }
    gets = {
        code: lambda m, form=form: m.push(m.memo[m.number(form)]) for code, form in ((b"h", _BYTE), (b"j", _UINT32))
    }
    tuples = {
        code: lambda m, count=count: m.push_last(count) for count, code in enumerate((b")", b"\x85", b"\x86", b"\x87"))
    }
    fills = {
        b"a": lambda m: m.put([m.stack.pop()]),
        b"e": lambda m: m.put(m.close()),
        b"s": lambda m: m.put_pairs([m.stack.pop(), m.stack.pop()][::-1]),
        b"u": lambda m: m.put_pairs(m.close()),
        b"b": _Machine.build,
    }
    return (
        values
        | bags
        | numbers
        | puts
        | gets
        | tuples
        | fills
        | {
            PROTOCOL: lambda m: m.bytes(1),
            b"(": _Machine.open,
            b"t": lambda m: m.push_tuple(m.close()),
            b"G": _Machine.push_float,
            b"X": lambda m: m.push(str(m.bytes(m.number(_UINT32)), "utf-8", "surrogatepass")),
            b"U": lambda m: m.push(m.bytes(m.number(_BYTE))),
            b"\x8a": lambda m: m.push(int.from_bytes(m.bytes(m.number(_BYTE)), "little", signed=True)),
            b"c": _Machine.push_name,
            b"R": _Machine.call,
            b"\x81": _Machine.call,
            b"Q": _Machine.load,
        }
    )


_STEPS = _steps()
