"""Reads the tables of any beton, ours or stock FFCV's, and believes nothing that it has not checked.

What is checked before what makes a hostile file harmless:

1. The header's counts against the length of the file, in Python's integers, which do not overflow: from then on nothing
   that is allocated or looped over is larger than the file itself.
2. Every allocation: inside of the data, at least one byte, ending where the next one begins at the latest. So regions
   do not overlap, and their sizes add up to no more than the file.
3. Every pointer of the metadata: exactly the first byte of an allocation, whose size is then that of the region. No two
   samples may share one in a field, or a small file could claim to hold any amount of data.

So every region that ``BetonTables.regions`` hands out lies inside of the data, and may be read from the memory map
without another check. Work is vectorised, memory linear in the number of samples.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from ffdr.beton import layout
from ffdr.beton.layout import ALLOC_DTYPE, FIELD_DTYPE, HEADER_DTYPE, SECTION_DTYPE, FieldSpec
from ffdr.beton.opened import OpenFile
from ffdr.util.arguments import shown
from ffdr.util.errors import DamagedError, UserError

if TYPE_CHECKING:
    from ffdr.codec.dct.coding import Coding

_CHUNK = 1 << 16
"""Allocation table entries read at a time: 1.5 MiB."""
_MAX_FIELDS = 64


class Regions(NamedTuple):
    """Where one field keeps the data of each sample."""

    pointers: np.ndarray
    """(N,) uint64 first bytes."""
    sizes: np.ndarray
    """(N,) uint64 bytes."""


@dataclass(frozen=True, eq=False)
class BetonTables:
    """What a beton says about itself. N samples, A allocations."""

    path: Path
    specs: tuple[FieldSpec, ...]
    num_samples: int
    page_size: int
    metadata: np.ndarray
    """(N,) of ``metadata_dtype(specs)``, a read-only memory map."""
    origin_index: np.ndarray | None
    """(N, 3) int64, or None where the file has none."""
    checksums: np.ndarray | None
    """(N,) uint32, or None where the file has none."""
    coding: Coding | None
    """Of coefficient images; None in a file that can't hold any."""
    pointers: np.ndarray
    """(A,) uint64 positions of all regions, ascending."""
    sizes: np.ndarray
    """(A,) uint64 bytes of the regions."""
    data_end: int
    """First byte behind the data and the padding that follows it."""
    file: OpenFile
    """The very file that was checked, even if its name is given to another one."""
    memmap: np.ndarray
    """(bytes,) uint8, read-only, the whole file."""

    def spec(self, name: str) -> FieldSpec | None:
        """The field of that name, if there is one."""
        return next((spec for spec in self.specs if spec.name == name), None)

    def regions(self, name: str) -> Regions:
        """Where field ``name`` keeps its data.

        Raises:
            UserError: a pointer at which nothing is stored, or at which another sample has its data.
        """
        pointers = self.metadata[name]
        if pointers.dtype.names:
            pointers = pointers["data_ptr" if "data_ptr" in pointers.dtype.names else "ptr"]
        pointers = locked(pointers, np.uint64)
        at = np.searchsorted(self.pointers, pointers)
        np.minimum(at, len(self.pointers) - 1, out=at)  # those behind all regions: they are not equal to the last one
        self.check(self.pointers[at] == pointers, f"{name}: the pointer leads to nothing that is stored")
        self._check_own(name, at)
        return Regions(pointers, locked(self.sizes[at], np.uint64))

    def _check_own(self, name: str, at: np.ndarray) -> None:
        """Refuse samples that share the regions ``at`` (N,): few bytes could stand for any amount of data."""
        owned = np.zeros(len(self.pointers), bool)
        owned[at] = True
        if np.count_nonzero(owned) < len(at):
            first = np.zeros(len(at), bool)
            first[np.unique(at, return_index=True)[1]] = True
            self.check(first, f"{name}: the pointer leads to another sample's data")

    def all_regions(self) -> tuple[Regions, ...]:
        """Those of every field that has data outside of the metadata, in order."""
        return tuple(self.regions(spec.name) for spec in self.specs if spec.type_id not in (layout.INT, layout.FLOAT))

    def check(self, good: np.ndarray | np.bool_, text: str) -> None:
        """Refuse the file, naming the first sample for which ``good`` (N,) does not hold."""
        if not good.all():
            refuse(self.path, f"sample {int(np.argmin(good))}: {text}")


def refuse(path: Path, text: str) -> NoReturn:
    """The one way in which an unreadable file is reported."""
    raise DamagedError(f"{path}: not a readable beton: {text}")


def beton_path(path: Any) -> Path:
    """The path of a .beton file, as somebody gives it.

    Raises:
        UserError: it is empty, or can't be a path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise UserError(f"{shown(path)}: not a path; give that of a .beton file")
    return Path(text)


def read_tables(path: Path) -> BetonTables:
    """Parse and check everything but the data.

    Raises:
        UserError: one line saying what is wrong with the file.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a .beton file")
    try:
        return _Parser(path, OpenFile(path)).parse()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


class _Parser:
    """One pass over the tables of one file."""

    def __init__(self, path: Path, file: OpenFile) -> None:
        self.path, self.file, self.size = path, file, file.size

    def parse(self) -> BetonTables:
        header = self._header()
        count, page_size = int(header["num_samples"]), int(header["page_size"])
        specs = self._specs(int(header["num_fields"]))
        self.head = layout.head_size(specs)
        metadata_type = layout.metadata_dtype(specs)
        self.metadata_end = self.head + count * metadata_type.itemsize
        self.alloc = int(header["alloc_table_ptr"])
        if self.metadata_end > self.size:
            self._refuse(f"{count} samples need {self.metadata_end} bytes of tables, the file has {self.size}")
        if not self.metadata_end <= self.alloc < self.size or (self.size - self.alloc) % ALLOC_DTYPE.itemsize:
            self._refuse(
                f"its allocation table at byte {self.alloc} does not end with the file ({self.size} bytes): truncated?"
            )
        # Our sections lie between the data and the allocations, and where each begins follows from the end of the next
        # one and its own size. What does not say there that it is one is taken for a file of stock FFCV's.
        origins_at = self._section(self.alloc - layout.origin_bytes(count), layout.ORIGIN_MAGIC, count)
        self.coding_end = origins_at or self.alloc
        self.coding_at = self.coding_end - layout.coding_bytes(self._coding_size(specs))
        sums_at = self._section(self.coding_at - layout.checksum_bytes(count), layout.CHECKSUM_MAGIC, count)
        self.data_end = sums_at or origins_at or self.alloc
        crc = zlib.crc32(self._read(0, self.head))
        crc = self._crc_of(self.head, self.metadata_end, crc)
        crc = self._crc_of(self.coding_at, self.alloc, crc)
        pointers, sizes, crc = self._allocations(crc)
        has_coding = self.coding_at < self.coding_end
        # A damaged count or magic must not turn a file of ours into one without checksums, in which all is believed.
        if not sums_at and (origins_at or has_coding or self._is_marked(int(pointers[-1] + sizes[-1]))):
            self._refuse("its checksums are not where they belong: header, checksums or origin index are damaged")
        checksums = self._checksums(sums_at, count, crc) if sums_at else None
        memmap = self.file.map()  # not before the tables are known to be those of a file of this length
        metadata = memmap[self.head : self.metadata_end].view(metadata_type)
        origins = self._array(origins_at + SECTION_DTYPE.itemsize, "<i8", count * 3) if origins_at else None
        return BetonTables(
            path=self.path,
            specs=specs,
            num_samples=count,
            page_size=page_size,
            metadata=metadata,
            origin_index=None if origins is None else origins.reshape(count, 3),
            checksums=checksums,
            coding=self._coding() if has_coding else None,
            pointers=pointers,
            sizes=sizes,
            data_end=self.data_end,
            file=self.file,
            memmap=memmap,
        )

    def _header(self) -> np.void:
        if self.size < HEADER_DTYPE.itemsize:
            self._refuse(f"{self.size} bytes are less than a header")
        header = np.frombuffer(self._read(0, HEADER_DTYPE.itemsize), HEADER_DTYPE)[0]
        if header["version"] != layout.VERSION:
            self._refuse(f"format version {header['version']}, known is {layout.VERSION}")
        if header["alloc_table_ptr"] == 0:
            self._refuse("its writer did not finish")
        if not 1 <= header["num_fields"] <= _MAX_FIELDS:
            self._refuse(f"{header['num_fields']} fields")
        if header["num_samples"] == 0:
            self._refuse("it holds no samples")
        page_size = int(header["page_size"])
        if page_size < layout.DATA_ALIGNMENT or page_size & (page_size - 1):
            self._refuse(f"page size {page_size} is not a power of two")
        return header

    def _specs(self, count: int) -> tuple[FieldSpec, ...]:
        size = count * FIELD_DTYPE.itemsize
        if HEADER_DTYPE.itemsize + size > self.size:
            self._refuse(f"{count} field descriptors do not fit into {self.size} bytes")
        specs = []
        for raw in np.frombuffer(self._read(HEADER_DTYPE.itemsize, size), FIELD_DTYPE):
            name = raw["name"].tobytes().split(b"\0", 1)[0].decode("ascii", "replace")
            type_id = int(raw["type_id"])
            if not name.isprintable() or not name:
                self._refuse(f"field name {name!r}")
            if name not in layout.CUSTOM_METADATA if type_id == layout.CUSTOM else type_id not in layout.METADATA:
                self._refuse(f"field {name} has type {type_id}, which ffdr does not know")
            specs.append(FieldSpec(name, type_id, raw["arguments"].tobytes()))
        if len({spec.name for spec in specs}) < count:
            self._refuse("two fields have the same name")
        return tuple(specs)

    def _section(self, at: int, magic: bytes, count: int) -> int:
        """Where the section lies: ``at``, which may be anything, or 0 when there is none."""
        if at < self.metadata_end:
            return 0
        section = np.frombuffer(self._read(at, SECTION_DTYPE.itemsize), SECTION_DTYPE)[0]
        return at if section["magic"] == magic and section["count"] == count else 0

    def _coding_size(self, specs: Sequence[FieldSpec]) -> int:
        """Bytes of the coding of coefficient images, as the field says, or 0."""
        spec = next((spec for spec in specs if spec.name == "image" and spec.type_id == layout.CUSTOM), None)
        if spec is None:
            return 0
        magic, size = np.frombuffer(spec.arguments, SECTION_DTYPE, 1)[0].tolist()
        most = self.coding_end - self.metadata_end
        if magic != layout.CODING_MAGIC or not 0 < layout.coding_bytes(size) <= most:
            self._refuse("field image: was not written by ffdr, or its arguments are damaged")
        return size

    def _coding(self) -> Coding:
        """The coding, whose section must begin as the field says."""
        from ffdr.codec.dct.coding import Coding  # imports Numba, which few files need

        magic, size = np.frombuffer(self._read(self.coding_at, SECTION_DTYPE.itemsize), SECTION_DTYPE)[0].tolist()
        if magic != layout.CODING_MAGIC or layout.coding_bytes(size) != self.coding_end - self.coding_at:
            self._refuse("its coding is not where it belongs")
        try:
            return Coding.unpack(self._read(self.coding_at + SECTION_DTYPE.itemsize, size))
        except ValueError as error:
            self._refuse(str(error))

    def _is_marked(self, data_end: int) -> bool:
        """Whether our checksums begin behind the data, although they were not found by counting samples."""
        at = -(-data_end // layout.ALIGNMENT) * layout.ALIGNMENT
        return self._read(at, SECTION_DTYPE.itemsize).startswith(layout.CHECKSUM_MAGIC)

    def _allocations(self, crc: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Positions and sizes of all regions, by position, and the CRC-32 of the table appended to ``crc``."""
        count = (self.size - self.alloc) // ALLOC_DTYPE.itemsize
        pointers, sizes = np.empty(count, np.uint64), np.empty(count, np.uint64)
        for first in range(0, count, _CHUNK):
            entries = min(_CHUNK, count - first)
            raw = self._read(self.alloc + first * ALLOC_DTYPE.itemsize, entries * ALLOC_DTYPE.itemsize)
            crc = zlib.crc32(raw, crc)
            table = np.frombuffer(raw, ALLOC_DTYPE)
            pointers[first : first + entries] = table["ptr"]
            sizes[first : first + entries] = table["size"]
        if not (pointers[1:] > pointers[:-1]).all():  # several processes wrote the file, as stock FFCV does
            order = np.argsort(pointers, kind="stable")
            pointers, sizes = pointers[order], sizes[order]
        self._check_regions(pointers, sizes)
        return pointers, sizes, crc

    def _check_regions(self, pointers: np.ndarray, sizes: np.ndarray) -> None:
        start, end = np.uint64(self.metadata_end), np.uint64(self.data_end)
        inside = (pointers >= start) & (pointers < end)
        # Pointers ascend, and sizes are compared with differences of them: no sum of two uint64 could overflow. Where
        # the last region begins behind the data, its difference does, but ``inside`` refuses it.
        most = np.append(pointers[1:], end) - pointers
        bad = np.flatnonzero(~(inside & (sizes > 0) & (sizes <= most)))
        if len(bad):
            at = bad[0]
            self._refuse(
                f"its allocation table: {sizes[at]} bytes at byte {pointers[at]} overlap what follows or lie outside "
                f"of the data, which ends at {self.data_end}"
            )

    def _checksums(self, at: int, count: int, crc: int) -> np.ndarray:
        sums = self._array(at + SECTION_DTYPE.itemsize, "<u4", count + 1)
        stored = int(sums[-1])
        if stored != crc:
            coding = "coding, " if self.coding_at < self.coding_end else ""
            index = "origin index, " if self.coding_end < self.alloc else ""
            parts = f"header, field descriptors, metadata, {coding}{index}or allocation table"
            self._refuse(f"the checksum of its tables is {crc:08x}, stored is {stored:08x}: damage in its {parts}")
        return sums[:-1]

    def _crc_of(self, start: int, end: int, crc: int) -> int:
        step = 1 << 22
        for at in range(start, end, step):
            crc = zlib.crc32(self._read(at, min(step, end - at)), crc)
        return crc

    def _array(self, at: int, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self._read(at, count * np.dtype(dtype).itemsize), dtype)

    def _read(self, at: int, size: int) -> bytes:
        data = self.file.read(at, size)
        if len(data) != size:
            self._refuse(f"it ends before byte {at + size}")
        return data

    def _refuse(self, text: str) -> NoReturn:
        refuse(self.path, text)


def sample_checksum(memmap: np.ndarray, regions: Sequence[Regions], i: int) -> int:
    """CRC-32 of sample i: its regions in the order of the fields."""
    crc = 0
    for pointers, sizes in regions:
        start = int(pointers[i])
        crc = zlib.crc32(memmap[start : start + int(sizes[i])].data, crc)
    return crc


def is_deep(value: Any, levels: int) -> bool:
    """Whether lists and dictionaries of plain data are nested more than ``levels`` deep."""
    waiting = [value]
    for _ in range(levels):
        held = [part.values() if isinstance(part, dict) else part for part in waiting if isinstance(part, dict | list)]
        waiting = [part for parts in held for part in parts]
    return any(isinstance(part, dict | list) for part in waiting)


def locked(array: np.ndarray, dtype: Any) -> np.ndarray:
    """A contiguous array of its own that can't be written to."""
    array = np.array(array, dtype, order="C")
    array.setflags(write=False)
    return array
