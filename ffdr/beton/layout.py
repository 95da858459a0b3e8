"""The bytes of a beton: what lies where. Writers and readers share this module; nothing here needs torch or FFCV.

A beton is FFCV's format, version 2 (ffcv/types.py), little endian throughout. Of F fields, N samples, A regions::

      byte 0 ┌───────────────────────────────────────┐
             │ header, HEADER_DTYPE                  ├── alloc_table_ptr ───┐
          24 ├───────────────────────────────────────┤                      │
             │ F field descriptors, FIELD_DTYPE      │                      │
             ├───────────────────────────────────────┤                      │
             │ N metadata records, one per sample:   ├── pointers ──┐       │
             │ the fields' own dtypes, aligned       │              │       │
      × 4096 ├───────────────────────────────────────┤              │       │
             │ data: regions, in any order; those of │◄─────────────┘       │
             │ one sample never cross a page         │                      │
         × 8 ├───────────────────────────────────────┤ ▲                    │
             │ checksums, ours                       │ │ a reader finds     │
         × 8 ├───────────────────────────────────────┤ │ these from below,  │
             │ coding, ours, of coefficient images   │ │ by their sizes     │
         × 8 ├───────────────────────────────────────┤ │                    │
             │ origin index, ours, of images         │ │                    │
             ├───────────────────────────────────────┤                      │
             │ A allocations, ALLOC_DTYPE            │◄─────────────────────┘
     the end └───────────────────────────────────────┘

Each of our sections begins with SECTION_DTYPE and ends with zeros up to a multiple of 8. Behind it come

- checksums: N + 1 CRC-32 as uint32. That of a sample covers its regions in the order of the fields; the last one covers
  all that is not data: header, descriptors, metadata, coding, origin index, allocations;
- coding: as many bytes as its count says (``ffdr.codec.dct.coding``);
- origin index: N × (width, height, key) as int64. It repeats what the field ``origin`` stores sample by sample: opening
  a file must read all original sizes and keys, and through the field's pointers it would touch every page of the data.

Stock FFCV finds everything through pointers and therefore skips the sections, which it does not know.

A file with a coding has a field ``image`` of type CUSTOM, with the metadata of type IMAGE: stock FFCV, which would take
coefficients for pixels, refuses it. The field's arguments repeat the SECTION_DTYPE of the coding, whose size could not
be known otherwise before it is found.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

VERSION = 2
"""FFCV's CURRENT_VERSION, the only one that there is in the wild."""

HEADER_DTYPE = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
FIELD_DTYPE = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)])
ALLOC_DTYPE = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE_DTYPE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
"""Metadata of FFCV's RGBImageField: 13 bytes, without gaps."""
SECTION_DTYPE = np.dtype([("magic", "S8"), ("count", "<u8")])

CHECKSUM_MAGIC = b"FFDRCRC1"
ORIGIN_MAGIC = b"FFDRORG1"
CODING_MAGIC = b"FFDRDCT1"

# Type ids of fields (ffcv/types.py, TYPE_ID_HANDLER).
FLOAT, INT, IMAGE, BYTES, ARRAY, JSON, TENSOR, CUSTOM = 0, 1, 2, 3, 4, 5, 6, 255

JPG, RAW, DCT = range(3)
"""Values of ``IMAGE_DTYPE["mode"]``: FFCV's two (ffcv/fields/rgb_image.py), and ours, coefficients."""

_POINTED = np.dtype([("ptr", "<u8"), ("size", "<u8")])
METADATA = {
    FLOAT: np.dtype("<f8"),
    INT: np.dtype("<i8"),
    IMAGE: IMAGE_DTYPE,
    BYTES: _POINTED,
    ARRAY: np.dtype("<u8"),
    JSON: _POINTED,
    TENSOR: np.dtype("<u8"),
}
"""Metadata dtype by type id."""
CUSTOM_METADATA = {"aug_params": np.dtype("<u8"), "logits": np.dtype("<u8"), "image": IMAGE_DTYPE}
"""Metadata dtype of the fields of type CUSTOM that ffdr knows (fields.py), by name."""

PAGE_SIZE = 1 << 23
"""Bytes per page, FFCV's default. A sample that is larger doubles it from there on."""
MAX_PAGE_SIZE = 1 << 31
"""The header holds the page size in 32 bits."""
ALIGNMENT = 8
"""Every region starts at a multiple of it, so that stored int64 are aligned in memory."""
DATA_ALIGNMENT = 4096


@dataclass(frozen=True)
class FieldSpec:
    """A field as its descriptor describes it: name (at most 16 ASCII characters), type id, arguments (1024 bytes)."""

    name: str
    type_id: int
    arguments: bytes = b""

    @property
    def metadata(self) -> np.dtype:
        """Dtype of the field's metadata. KeyError where ffdr does not know the field."""
        return CUSTOM_METADATA[self.name] if self.type_id == CUSTOM else METADATA[self.type_id]

    def pack(self) -> bytes:
        """The descriptor, 1041 bytes."""
        name, arguments = self.name.encode("ascii"), self.arguments
        assert len(name) <= 16 and len(arguments) <= 1024, self
        return bytes([self.type_id]) + name.ljust(16, b"\0") + arguments.ljust(1024, b"\0")


def metadata_dtype(specs: Sequence[FieldSpec]) -> np.dtype:
    """Dtype of a sample's metadata record: the fields' own dtypes, aligned as C would align them."""
    return np.dtype([(spec.name, spec.metadata) for spec in specs], align=True)


def pack_head(specs: Sequence[FieldSpec], num_samples: int, page_size: int, alloc_table_ptr: int) -> bytes:
    """Header and field descriptors."""
    header = np.zeros(1, HEADER_DTYPE)
    header[0] = (VERSION, len(specs), page_size, num_samples, alloc_table_ptr)
    return header.tobytes() + b"".join(spec.pack() for spec in specs)


def head_size(specs: Sequence[FieldSpec]) -> int:
    """Bytes of header and field descriptors; the metadata starts there."""
    return HEADER_DTYPE.itemsize + len(specs) * FIELD_DTYPE.itemsize


def data_start(specs: Sequence[FieldSpec], num_samples: int) -> int:
    """First byte of the data of a file made for ``num_samples`` samples."""
    return _round_up(head_size(specs) + num_samples * metadata_dtype(specs).itemsize, DATA_ALIGNMENT)


class Allocator:
    """Hands out file positions in order; what is asked for in one call never crosses a page."""

    def __init__(self, start: int, page_size: int = PAGE_SIZE) -> None:
        self.end = start
        self.page_size = page_size

    def take(self, size: int) -> int:
        """Position of ``size`` bytes, a multiple of ``ALIGNMENT``.

        A page too small for them grows to the next power of two that is not. Regions that stayed within a smaller
        page stay within a larger one, so nothing written before has to move, and the page size of the finished file
        depends on nothing but the samples.

        Raises ValueError when no page that FFCV can describe is large enough.
        """
        if size > MAX_PAGE_SIZE:
            raise ValueError(f"{size} bytes do not fit into a page of at most {MAX_PAGE_SIZE}")
        while size > self.page_size:
            self.page_size *= 2
        start = _round_up(self.end, ALIGNMENT)
        if start // self.page_size != (start + size - 1) // self.page_size:
            start = _round_up(start, self.page_size)
        self.end = start + size
        return start


def equal_regions(start: int, size: int, count: int, page_size: int) -> np.ndarray:
    """Positions (count,) uint64 that an ``Allocator`` hands out for ``count`` regions of ``size`` bytes each.

    size is at most ``page_size``.
    """
    stride = _round_up(size, ALIGNMENT)
    first = _round_up(start, ALIGNMENT)
    # Up to the end of the first page, whose beginning may be taken; behind it every page holds as many.
    in_first = max(0, (_round_up(first + 1, page_size) - first - size) // stride + 1)
    per_page = (page_size - size) // stride + 1
    number = np.arange(count, dtype=np.uint64)
    later = np.maximum(number, np.uint64(in_first)) - np.uint64(in_first)  # number among those behind the first page
    page, place = np.divmod(later, np.uint64(per_page))
    behind = np.uint64(_round_up(first + 1, page_size)) + page * np.uint64(page_size) + place * np.uint64(stride)
    return np.where(number < in_first, np.uint64(first) + number * np.uint64(stride), behind)


def write_tables(
    file: BinaryIO,
    specs: Sequence[FieldSpec],
    page_size: int,
    metadata: np.ndarray,
    checksums: np.ndarray,
    allocations: Iterable[np.ndarray],
    origins: np.ndarray | None = None,
    coding: bytes = b"",
) -> None:
    """Complete a file whose data is written: all that is not data.

    The head comes last: until then ``alloc_table_ptr`` is 0, by which a reader knows that the file is unfinished.

    Args:
        file: open for writing, positioned where the data ends.
        specs: the fields.
        page_size: of the header.
        metadata: (N,) of ``metadata_dtype(specs)``.
        checksums: (N,) uint32, of the samples.
        allocations: the allocation table in parts, ``ALLOC_DTYPE``, in file order.
        origins: (N, 3) int64, for the origin index; None leaves it out.
        coding: of coefficient images; nothing where there can't be any.
    """
    count = len(metadata)
    end = _round_up(file.tell(), ALIGNMENT)
    index = b"" if origins is None else section(ORIGIN_MAGIC, count) + origins.astype("<i8").tobytes()
    if coding:
        index = (section(CODING_MAGIC, len(coding)) + coding).ljust(coding_bytes(len(coding)), b"\0") + index
    alloc_table_ptr = end + checksum_bytes(count) + len(index)
    head = pack_head(specs, count, page_size, alloc_table_ptr)
    crc = zlib.crc32(index, zlib.crc32(metadata.tobytes(), zlib.crc32(head)))

    file.seek(alloc_table_ptr)
    for part in allocations:
        assert part.dtype == ALLOC_DTYPE
        crc = zlib.crc32(part.tobytes(), crc)
        file.write(part.tobytes())
    file.truncate()
    file.seek(end)
    sums = np.append(checksums, crc).astype("<u4").tobytes()
    file.write((section(CHECKSUM_MAGIC, count) + sums).ljust(checksum_bytes(count), b"\0") + index)
    file.seek(0)
    file.write(head)
    file.write(metadata.tobytes())
    file.flush()
    os.fsync(file.fileno())


def checksum_bytes(count: int) -> int:
    """Bytes of the checksum section of ``count`` samples."""
    return _round_up(SECTION_DTYPE.itemsize + 4 * (count + 1), ALIGNMENT)


def origin_bytes(count: int) -> int:
    """Bytes of the origin index of ``count`` samples."""
    return SECTION_DTYPE.itemsize + 24 * count


def coding_bytes(count: int) -> int:
    """Bytes of the section of a coding of ``count`` bytes; 0 where there is none."""
    return _round_up(SECTION_DTYPE.itemsize + count, ALIGNMENT) if count else 0


def fingerprint(origins: np.ndarray, labels: np.ndarray) -> str:
    """Which samples in which order: 32 hexadecimal digits of a SHA-256.

    Covers original sizes, keys and labels, not the stored bytes: the same images stored at another size, quality or
    mode have the same fingerprint.

    Args:
        origins: (N, 3) integers: original width and height in pixels, key.
        labels: (N,) integers.
    """
    digest = hashlib.sha256(b"ffdr images 1\0")
    digest.update(np.ascontiguousarray(origins, "<i8").data)
    digest.update(np.ascontiguousarray(labels, "<i8").data)
    return digest.hexdigest()[:32]


def origin_key(path: str) -> int:
    """Stable 64-bit key of a source's relative path, as the signed integer that is stored."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little", signed=True)


def section(magic: bytes, count: int) -> bytes:
    """What a section begins with."""
    return np.array((magic, count), SECTION_DTYPE).tobytes()


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
