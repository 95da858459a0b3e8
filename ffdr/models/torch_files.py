"""Files of ``torch.save`` by strangers, looked through before torch reads them.

torch's reader of weights runs no code of a file, but it believes what the file says: records that unpack to any size,
storages larger than their records (some versions of torch then read beyond them and end the process). Here the zip is
taken as ``torch.save`` writes it, with nothing compressed, and its pickle is looked through (``torch_pickle``), so that
torch takes no more memory than a small multiple of the file, and seconds.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from struct import Struct
from struct import error as struct_error
from typing import BinaryIO

from ffdr.models.torch_pickle import (
    MOST_PICKLE,
    PROTOCOL,
    RefusedError,
    pretend,
)
from ffdr.util.errors import UserError
from ffdr.util.text import brief, printable, reason

_ZIP = b"PK\x03\x04"
"""How files of torch begin, but for those of its earlier versions."""
_END, _LOCATOR, _END64 = Struct("<4s4H2IH"), Struct("<4sIQI"), Struct("<4sQ2H2I4Q")
"""How a zip ends; for large files, what lies before that."""
_FLAGS = 0x808
"""Of a record that is not encrypted: sizes behind it, names in UTF-8."""
_MOST_DIRECTORY = 8 << 20
"""Bytes of a zip's directory: some 80,000 records."""


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
    except (RefusedError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
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
        raise RefusedError("a zip, but without the data.pkl of torch.save")
    if records[pickled] > MOST_PICKLE:
        raise RefusedError(f"its data.pkl has {records[pickled]:,} bytes, but at most {MOST_PICKLE:,} are read")

    def claim(key: str, count: int, size: int) -> None:
        there = records.get(f"{root}/data/{key}")
        if there is None or count * size > there:
            has = "no such record" if there is None else f"the record has {there:,}"
            raise RefusedError(f"its storage {printable(key, 40)} has {count * size:,} bytes by the pickle, but {has}")

    with zipfile.ZipFile(file) as archive, archive.open(pickled) as stream:
        pretend(io.BytesIO(stream.read(MOST_PICKLE)), claim)


def _records(file: BinaryIO) -> dict[str, int]:
    """Sizes of a zip's records by name, in the order of its directory."""
    size = file.seek(0, os.SEEK_END)
    _check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        found = archive.infolist()
    for record in found:
        name = record.orig_filename
        if not name.isascii() or not name.isprintable() or not record.filename == name:
            raise RefusedError(f"its zip has a record named {brief(name)}")
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise RefusedError("its zip is compressed; torch.save stores all as it is")
        if record.flag_bits & ~_FLAGS:
            raise RefusedError("its zip is encrypted; torch.save stores all as it is")
    # Two readers of zips, Python's and torch's, must not find different records under one name.
    records = {record.orig_filename: record.file_size for record in found}
    if not found or len({name.lower() for name in records}) != len(found):
        raise RefusedError("its zip has no records, or several of one name")
    if sum(records.values()) > size or any(record.header_offset + record.file_size > size for record in found):
        raise RefusedError("the records of its zip overlap")
    return records


def _check_directory(file: BinaryIO, size: int) -> None:
    """Refuse a zip whose directory does not lie between the records and the end: Python would look for it there, torch
    where it is said to lie."""

    def part(form: Struct, signature: bytes) -> tuple[int, ...] | None:
        """What lies before the end that is known so far, if it is that."""
        file.seek(max(0, end - form.size))
        found = file.read(form.size)
        return form.unpack(found)[1:] if len(found) == form.size and found.startswith(signature) else None

    end = size
    last = part(_END, b"PK\5\6")
    if last is None or last[-1]:
        raise RefusedError("its zip is cut off, or not as torch.save writes it")
    length, begin = last[4:6]
    end -= _END.size
    locator = part(_LOCATOR, b"PK\6\7")
    if locator is not None:
        end -= _LOCATOR.size
        last = part(_END64, b"PK\6\6")
        end -= _END64.size
        if last is None or locator[1] != end:
            raise RefusedError("its zip is cut off, or not as torch.save writes it")
        length, begin = last[7:9]
    if length > _MOST_DIRECTORY:
        raise RefusedError(f"the directory of its zip has more than {_MOST_DIRECTORY:,} bytes")
    if begin + length != end:
        raise RefusedError("the directory of its zip is not where it says")


def _check_legacy(file: BinaryIO) -> None:
    """A file as ``torch.save`` wrote it before torch 1.6: three short pickles, the values, and the storages' names."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(1) != PROTOCOL:
        raise RefusedError("neither weights of torch nor safetensors")
    file.seek(0)
    claimed: dict[str, int] = {}

    def claim(key: str, count: int, item: int) -> None:
        claimed[key] = max(count * item, claimed.get(key, 0))

    for _ in range(5):
        pretend(file, claim)
        if sum(claimed.values()) > size:
            raise RefusedError(f"its storages have {sum(claimed.values()):,} bytes by the pickle, the file {size:,}")
