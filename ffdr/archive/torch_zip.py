"""The zip that ``torch.save`` writes around a pickle, taken apart and put together; every file of an archive is one.

Only what ``torch.save`` makes is read: stored (never compressed) records, no comment, each name once. So nothing in a
file can grow when it is read, and a record is a slice of the file.
"""

from __future__ import annotations

import struct
import zlib

from ffdr.util.text import printable

_END = struct.Struct("<4s4H2IH")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_PICKLE = b"data.pkl"
_STORED = 0
_DATE = 0x21
"""1 January 1980, the first day that a zip knows: equal data, equal bytes."""


class EntryError(ValueError):
    """A file of an archive that can't be read or written: what is wrong with it, without its name."""


def pickle_in(data: bytes) -> bytes:
    """The pickle in a file that ``torch.save`` wrote.

    Raises:
        EntryError: not such a file, or its checksum is wrong.
    """
    return record_in(data, _PICKLE)


def record_in(data: bytes, name: bytes) -> bytes:
    """The record ``name`` in a file that ``torch.save`` wrote: "data.pkl", "data/0" for the first tensor's numbers.

    Raises:
        EntryError: not such a file, no such record, or its checksum is wrong.
    """
    said = printable(name.decode("latin-1"), 60)
    try:
        method, crc, size, start = _find(data, b"/" + name, said)
        signature, *_, name_length, extra_length = _LOCAL.unpack_from(data, start)
    except struct.error:
        raise EntryError("its zip is cut off") from None
    # The local header's extra field, not the directory's: torch aligns records by it.
    start += _LOCAL.size + name_length + extra_length
    if signature != b"PK\x03\x04" or method != _STORED:
        raise EntryError(f"its {said} is compressed or misplaced; torch.save stores it as it is")
    found = data[start : start + size]
    if len(found) != size or zlib.crc32(found) != crc:
        raise EntryError(f"its {said} is cut off or has a wrong checksum")
    return found


def _find(data: bytes, ending: bytes, said: str) -> tuple[int, int, int, int]:
    """Method, checksum, stored size and place of the only record that ends so in the directory at the end of a zip."""
    if len(data) < _END.size or not data.endswith(b"\0\0") or data[-_END.size : -_END.size + 4] != b"PK\x05\x06":
        raise EntryError("not a zip as torch.save writes it")
    _, _, _, _, records, _, at, _ = _END.unpack_from(data, len(data) - _END.size)
    found = []
    for _ in range(records):  # 65,535 at most, and ``at`` only grows: no directory can keep this busy
        signature, _, _, _, method, _, _, crc, size, _, name, extra, note, *_, start = _CENTRAL.unpack_from(data, at)
        at += _CENTRAL.size
        if signature != b"PK\x01\x02":
            raise EntryError("the directory of its zip is damaged")
        if data[at : at + name].endswith(ending):
            found.append((method, crc, size, start))
        at += name + extra + note
    if len(found) != 1:
        raise EntryError(f"its zip holds {len(found)} files {said}, not one")
    return found[0]


def zip_around(pickled: bytes) -> bytes:
    """A file that ``torch.load`` takes for one of ``torch.save``; equal pickles give equal bytes."""
    body, directory = bytearray(), bytearray()
    records = ((b"archive/data.pkl", pickled), (b"archive/byteorder", b"little"), (b"archive/version", b"3\n"))
    for name, content in records:
        # Version 2.0 to read; no flags, stored.
        facts = (20, 0, _STORED, 0, _DATE, zlib.crc32(content), len(content), len(content), len(name))
        directory += _CENTRAL.pack(b"PK\x01\x02", 20, *facts, 0, 0, 0, 0, 0, len(body)) + name
        body += _LOCAL.pack(b"PK\x03\x04", *facts, 0) + name + content
    end = _END.pack(b"PK\x05\x06", 0, 0, len(records), len(records), len(directory), len(body), 0)
    return bytes(body + directory + end)
