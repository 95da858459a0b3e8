"""Files of ``torch.save`` by strangers, looked through before torch reads them.

torch's reader of weights runs no code of a file, but it believes what the file says: records that unpack to any size,
storages larger than their records (some versions of torch then read beyond them and end the process), functions that
allocate what they are asked for, keys whose hash takes forever. Here the zip is taken as ``torch.save`` writes it,
with nothing compressed, and the pickle is run with stand-ins for its values, so that what torch will do is known
beforehand: it takes no more memory than a small multiple of the file, and seconds.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from struct import error as struct_error
from typing import Any, BinaryIO

from torch.serialization import StorageType

from ffdr.errors import UserError
from ffdr.text import brief, printable, reason

_ZIP = b"PK\x03\x04"
"""How torch tells its files from those of its earlier versions."""
_PROTOCOL = b"\x80"
"""The first instruction of every pickle of today."""
_END = Struct("<4s4H2IH")
_MOST_DIRECTORY = 8 << 20
"""Bytes of a zip's directory: some 80,000 records."""
_MOST_PICKLE = 32 << 20
_MOST_STEPS = 1_000_000
"""Instructions of a pickle; a tensor takes some 40, and no model of timm has 5,000 tensors."""
_MOST_TUPLE = 2_000
"""Values within a tuple, those of the tuples in it included: hashing one visits them all."""
_MOST_LINE = 200

_CALLED = {
    "collections OrderedDict", "collections Counter", "builtins set", "builtins complex", "__builtin__ set",
    "__builtin__ complex", "torch Size", "torch device", "torch.nn.parameter Parameter", "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state", "torch._utils _rebuild_device_tensor_from_cpu_tensor",
    "torch._tensor _rebuild_from_type_v2", "argparse Namespace",
}  # fmt: skip
"""What a pickle may call: neither torch nor these allocate more for it than stands in the file."""
_NAMED = re.compile(r"(torch|torch\.storage) \w+Storage|torch [a-z]+\d*\w*|torch Tensor|torch\._tensor Tensor")
"""What it may name besides: kinds of storages, of numbers and of tensors."""

_BYTE, _UINT16, _UINT32, _INT32 = Struct("<B"), Struct("<H"), Struct("<I"), Struct("<i")
_ANY = object()
"""Stands for every value that decides nothing."""


class _RefusedError(ValueError):
    """What is wrong with a file, without its name."""


class _Name(str):
    """A class or function that a pickle names: module and name."""


class _Tuple(tuple):
    """A tuple whose weight is known: the number of values in it, at any depth."""

    weight: int


def check_torch_file(path: str | Path) -> None:
    """Look through a file that ``torch.load(..., weights_only=True)`` is about to read.

    Raises:
        UserError: torch could not read it, or not without harm: "no weights could be read from it", and why.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(_ZIP)) == _ZIP:
                _check_zip(file)
            else:
                _check_legacy(file)
    except (_RefusedError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path}: no weights could be read from it ({reason(error)})") from error
    except (IndexError, KeyError, struct_error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no weights could be read from it (its pickle is damaged)") from error


def is_zip(path: str | Path) -> bool:
    """Whether torch takes the file for one of its zips."""
    with open(path, "rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def _check_zip(file: BinaryIO) -> None:
    """A zip as today's ``torch.save`` writes it."""
    records = _records(file)
    root = next(iter(records)).partition("/")[0]
    pickled = f"{root}/data.pkl"
    if pickled not in records:
        raise _RefusedError("a zip, but without the data.pkl of torch.save")
    if records[pickled] > _MOST_PICKLE:
        raise _RefusedError(f"its data.pkl has {records[pickled]:,} bytes, but at most {_MOST_PICKLE:,} are read")

    def claim(key: str, count: int, size: int, pid: _Tuple) -> None:
        there = records.get(f"{root}/data/{key}")
        if there is None or count * size > there:
            has = "no such record" if there is None else f"the record has {there:,}"
            raise _RefusedError(f"its storage {printable(key, 40)} has {count * size:,} bytes by the pickle, but {has}")

    with zipfile.ZipFile(file) as archive, archive.open(pickled) as stream:
        _pretend(io.BytesIO(stream.read(_MOST_PICKLE)), claim)


def _records(file: BinaryIO) -> dict[str, int]:
    """Sizes of a zip's records by name, in the order of its directory."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    end = file.read()
    signature, *_, directory, _, comment = _END.unpack(end)
    if signature != b"PK\x05\x06" or comment:
        raise _RefusedError("its zip is cut off, or not as torch.save writes it")
    if directory > _MOST_DIRECTORY or _zip64_directory(file, size) > _MOST_DIRECTORY:
        raise _RefusedError(f"the directory of its zip has more than {_MOST_DIRECTORY:,} bytes")
    with zipfile.ZipFile(file) as archive:
        found = archive.infolist()
    for record in found:
        name = record.orig_filename
        if not name.isascii() or not name.isprintable() or not record.filename == name:
            raise _RefusedError(f"its zip has a record named {brief(name)}")
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise _RefusedError("its zip is compressed; torch.save stores all as it is")
    # Two readers of zips, Python's and torch's, must not find different records under one name.
    records = {record.orig_filename: record.file_size for record in found}
    if not found or len({name.lower() for name in records}) != len(found):
        raise _RefusedError("its zip has no records, or several of one name")
    if sum(records.values()) > size or any(record.header_offset + record.file_size > size for record in found):
        raise _RefusedError("the records of its zip overlap")
    return records


def _zip64_directory(file: BinaryIO, size: int) -> int:
    """Bytes of the directory as the end of a zip for large files says; 0 where there is none such."""
    at = size - _END.size - 20 - 56  # behind it lie its locator and the usual end
    if at < 0:
        return 0
    file.seek(at)
    end = file.read(56)
    return int.from_bytes(end[40:48], "little") if end[:4] == b"PK\x06\x06" else 0


def _check_legacy(file: BinaryIO) -> None:
    """A file as ``torch.save`` wrote it before torch 1.6: three short pickles, the values, and the storages' names."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(1) != _PROTOCOL:
        raise _RefusedError("neither weights of torch nor safetensors")
    file.seek(0)
    claimed: dict[str, int] = {}

    def claim(key: str, count: int, item: int, pid: _Tuple) -> None:
        claimed[key] = max(count * item, claimed.get(key, 0))

    for _ in range(5):
        _pretend(file, claim)
        if sum(claimed.values()) > size:
            raise _RefusedError(f"its storages have {sum(claimed.values()):,} bytes by the pickle, the file {size:,}")


def _pretend(file: BinaryIO, claim: Callable[[str, int, int, _Tuple], None]) -> None:
    """Run the pickle at the file's position with stand-ins for its values, as torch would.

    claim: told of each storage that it asks for: key, how many numbers, bytes of one, and what it is asked for by.
    """
    machine = _Machine(file, claim)
    for _ in range(_MOST_STEPS):
        code = file.read(1)
        if code == b".":
            return
        step = _STEPS.get(code)
        if step is None:
            raise _RefusedError("cut off" if not code else "its pickle has an instruction that torch does not obey")
        step(machine)
    raise _RefusedError(f"its pickle has more than {_MOST_STEPS:,} instructions")


class _Machine:
    """What torch's own reader of pickles has: a stack for each open mark, and what was put aside by number."""

    def __init__(self, file: BinaryIO, claim: Callable[[str, int, int, _Tuple], None]) -> None:
        self.file, self.claim = file, claim
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def number(self, form: Struct) -> int:
        return form.unpack(self.bytes(form.size))[0]

    def bytes(self, count: int) -> bytes:
        found = self.file.read(count) if count <= _MOST_PICKLE else b""
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
            raise _RefusedError(f"its pickle has a tuple of more than {_MOST_TUPLE:,} values")
        self.push(made)

    def push_last(self, count: int) -> None:
        """A tuple of the last values."""
        values = [self.stack.pop() for _ in range(count)]
        self.push_tuple(values[::-1])

    def drop(self, count: int) -> None:
        """Into the container below."""
        for _ in range(count):
            self.stack.pop()
        if not self.stack:
            raise IndexError("no container")

    def push_name(self) -> None:
        lines = [self.file.readline(_MOST_LINE) for _ in range(2)]
        name = " ".join(line[:-1].decode() for line in lines)
        if name not in _CALLED and not _NAMED.fullmatch(name):
            shown = printable(".".join(name.split(" ")), 80)
            raise _RefusedError(f"it names {shown}, which weights have no need of")
        self.push(_Name(name))

    def call(self) -> None:
        """A function or a class, with a tuple of arguments."""
        self.stack.pop()
        called = self.stack.pop()
        if called not in _CALLED or not isinstance(called, _Name):
            raise _RefusedError(f"it calls {printable(str(called), 80) if isinstance(called, str) else 'a value'}")
        self.push(_ANY)

    def load(self) -> None:
        """A storage, by what ``torch.save`` refers to it with."""
        pid = self.stack.pop()
        if not isinstance(pid, _Tuple) or len(pid) not in (5, 6) or pid[0] not in ("storage", b"storage"):
            raise _RefusedError("it refers to something else than a storage")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(kind, _Name) or not kind.endswith("Storage") or type(count) is not int or count < 0:
            raise _RefusedError("it refers to a storage without a kind and a size")
        size = _item_size(kind.rpartition(" ")[2])
        if not size:
            raise _RefusedError(f"it has a {printable(kind, 80)}, which this torch does not know")
        self.claim(key.decode() if isinstance(key, bytes) else str(key), count, size, pid)
        self.push(_ANY)


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
    values = {code: lambda m: m.push(_ANY) for code in (b"N", b"\x88", b"\x89", b"]", b"}", b"\x8f")}
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
    fills = {code: lambda m, count=count: m.drop(count) for code, count in ((b"a", 1), (b"b", 1), (b"s", 2))}
    fills |= dict.fromkeys((b"e", b"u"), lambda m: (m.close(), m.drop(0)))
    return (
        values
        | numbers
        | puts
        | gets
        | tuples
        | fills
        | {
            _PROTOCOL: lambda m: m.bytes(1),
            b"(": _Machine.open,
            b"t": lambda m: m.push_tuple(m.close()),
            b"G": lambda m: (m.bytes(8), m.push(_ANY)),
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
