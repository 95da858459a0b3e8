"""What a beton of ours is made of: images, their reinforcement, or both. Where each sample's bytes lie.

A part stores two regions a sample side by side: the image and its origin, or the view records and the logits. A packed
beton has the data of all images first, as in a file of their own, so that reading images reads nothing else; then the
reinforcement of all.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.layout import ALIGNMENT, FieldSpec
from ffdr.beton.manifest import is_foreign, manifest_path
from ffdr.util.atomic import partial_path
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final

ORIGIN_BYTES = 24
"""Original width, original height, key: three int64."""

# What FFCV's NDArrayField(np.dtype("int64"), (3,)) writes: 32 dimensions, length of the dtype's description, the same.
_ORIGIN_TYPE = b'[["", "<i8"]]'
_ORIGIN = np.array([3] + [0] * 31 + [len(_ORIGIN_TYPE)], "<u8").tobytes() + _ORIGIN_TYPE
IMAGE_SPECS = (
    FieldSpec("image", layout.IMAGE),
    FieldSpec("label", layout.INT),
    FieldSpec("origin", layout.ARRAY, _ORIGIN),
)
"""The fields of an image beton."""


def image_specs(coding: bytes = b"") -> tuple[FieldSpec, ...]:
    """The fields of an image beton, of one with packed images where there is a ``coding``."""
    if not coding:
        return IMAGE_SPECS
    mark = layout.section(layout.CODING_MAGIC, len(coding))
    return FieldSpec("image", layout.CUSTOM, mark), *IMAGE_SPECS[1:]


STORED_DTYPE = np.dtype(
    [
        ("label", "<i8"),
        ("origin", "<i8", 3),  # original width, height, key
        ("size", "<u8"),  # bytes of the image
        ("crc", "<u4"),  # of image and origin
        ("width", "<u2"),
        ("height", "<u2"),
        ("mode", "<u1"),
    ]
)
"""What the tables of an image beton say of one image, but for its place."""


@dataclass(frozen=True)
class Part:
    """Fields and places of one part of a beton. N samples, of two regions each; the second one begins at the first
    multiple of 8 behind the first one."""

    specs: tuple[FieldSpec, ...]
    pointers: np.ndarray
    """(N,) uint64 first byte of each sample."""
    first_bytes: np.ndarray
    """(N,) uint64 bytes of each sample's first region."""
    second_bytes: int
    """Bytes of every sample's second region."""
    page_size: int
    """Smallest page size that no sample's bytes cross."""
    images: np.ndarray | None = None
    """(N,) ``STORED_DTYPE`` where the part is the images."""
    coding: bytes = b""
    """Of packed images, where there can be any."""

    @property
    def second_pointers(self) -> np.ndarray:
        """(N,) uint64 first byte of each sample's second region."""
        return self.pointers + _padded(self.first_bytes)

    @property
    def end(self) -> int:
        """First byte behind the data of this part."""
        return int(self.second_pointers[-1]) + self.second_bytes

    def read(self, file: BinaryIO, n: int) -> tuple[bytes, bytes]:
        """Both regions of sample n out of a file in the making; shorter ones where it ends early."""
        first = int(self.first_bytes[n])
        file.seek(int(self.pointers[n]))
        stored = file.read(stored_bytes(first, self.second_bytes))
        return stored[:first], stored[_padded(first) :]

    def allocations(self) -> np.ndarray:
        """The part's entries of the allocation table, (2 N,) ``ALLOC_DTYPE``."""
        table = np.empty((len(self.pointers), 2), layout.ALLOC_DTYPE)
        table["sample_id"] = np.arange(len(self.pointers))[:, None]
        table["ptr"][:, 0], table["ptr"][:, 1] = self.pointers, self.second_pointers
        table["size"][:, 0], table["size"][:, 1] = self.first_bytes, self.second_bytes
        return table.ravel()

    def fill(self, metadata: np.ndarray) -> None:
        """Fill in the part's fields in the metadata (N,) of a file."""
        first, second = self.specs[0].name, self.specs[-1].name
        metadata[second] = self.second_pointers
        if self.images is None:
            metadata[first] = self.pointers
            return
        for name in ("mode", "width", "height"):
            metadata[first][name] = self.images[name]
        metadata[first]["data_ptr"] = self.pointers
        metadata["label"] = self.images["label"]


def image_part(images: np.ndarray, start: int, page_size: int = layout.PAGE_SIZE, coding: bytes = b"") -> Part:
    """The part of images (N,) ``STORED_DTYPE``, with data from byte ``start`` on and pages no smaller than given."""
    allocator = layout.Allocator(start, page_size)
    pointers = [allocator.take(stored_bytes(size, ORIGIN_BYTES)) for size in images["size"].tolist()]
    sizes = images["size"].astype(np.uint64)
    places = np.array(pointers, np.uint64)
    return Part(image_specs(coding), places, sizes, ORIGIN_BYTES, allocator.page_size, images, coding)


def reinforced_part(header: ReinforcedHeader, start: int, page_size: int = layout.PAGE_SIZE) -> Part:
    """The part of a reinforcement, with data from byte ``start`` on and pages no smaller than given."""
    size = stored_bytes(header.view_bytes, header.logit_bytes)
    # Large enough that what is lost at the end of a page, less than one sample, is below 0.4 % of it.
    while page_size < 256 * size and page_size < layout.MAX_PAGE_SIZE:
        page_size *= 2
    places = layout.equal_regions(start, size, header.num_images, page_size)
    first_bytes = np.full(header.num_images, header.view_bytes, np.uint64)
    return Part(header.specs(), places, first_bytes, header.logit_bytes, page_size)


def finish_tables(file: BinaryIO, parts: Sequence[Part], checksums: np.ndarray) -> None:
    """Complete a file whose data is written: all that is not data. checksums: (N,) uint32 of the samples."""
    specs = [spec for part in parts for spec in part.specs]
    metadata = np.zeros(len(checksums), layout.metadata_dtype(specs))
    for part in parts:
        part.fill(metadata)
    images = parts[0].images
    file.seek(parts[-1].end)
    layout.write_tables(
        file,
        specs,
        max(part.page_size for part in parts),
        metadata,
        checksums,
        (part.allocations() for part in parts),
        None if images is None else images["origin"],
        parts[0].coding,
    )


def file_bytes(parts: Sequence[Part]) -> int:
    """Bytes of the finished file."""
    count = len(parts[0].pointers)
    tables = layout.checksum_bytes(count) + 2 * len(parts) * count * layout.ALLOC_DTYPE.itemsize
    sections = layout.coding_bytes(len(parts[0].coding))
    sections += 0 if parts[0].images is None else layout.origin_bytes(count)
    return _padded(parts[-1].end) + tables + sections


def stored_bytes(first: int, second: int) -> int:
    """Bytes of a stored sample of two regions."""
    return _padded(first) + second


def joined(first: bytes, second: bytes) -> bytes:
    """A sample as it lies in the file: the first region, zeros up to a multiple of 8, the second region."""
    return first.ljust(_padded(len(first)), b"\0") + second


def checksum(first: bytes, second: bytes, crc: int = 0) -> int:
    """CRC-32 of a sample's regions, appended to ``crc``; what lies between them does not count."""
    return zlib.crc32(second, zlib.crc32(first, crc))


def check_out(out: Path, others: Iterable[Path], has_manifest: bool = False, may_be_folder: bool = False) -> None:
    """Refuse an output that would replace what the run itself reads, or a file that is no manifest by its manifest.

    Args:
        out: the file to write.
        others: files and folders that the run reads, and its other outputs. Manifests beside them count, too.
        has_manifest: whether a manifest is written beside ``out``.
        may_be_folder: whether ``out`` may be one.

    Raises:
        UserError: one line, before anything is written.
    """
    manifest = manifest_path(out)
    written = [out, partial_path(out), *([manifest] if has_manifest else ())]
    for other in others:
        if other.is_dir():
            if out.exists() and out.suffix != ".beton" and other.resolve() in out.resolve().parents:
                raise UserError(f"{out}: is among the files of {other}, which this run needs; choose another name")
            continue
        for mine in written:
            if _is_same(mine, other) or _is_same(mine, manifest_path(other)):
                raise UserError(f"{mine}: would replace a file that this run needs; choose another name")
    check_final(out, may_be_folder)
    if out.suffix == ".json":
        raise UserError(f"{out}: ends in .json, as the manifests of betons do; choose another name")
    if has_manifest:
        check_final(manifest)
        if is_foreign(manifest):
            raise UserError(f"{manifest}: is not a manifest of ffdr, which would replace it; choose another name")


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names lead to one file, which need not exist."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def manifest_beside(out: Path, manifest: dict[str, Any] | None) -> dict[Path, str]:
    """The manifest of ``out``, where there is one, as ``Partial.publish`` takes it: its text, by its path."""
    if manifest is None:
        return {}
    return {manifest_path(out): json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"}


def _padded(size: Any) -> Any:
    """The next multiple of 8, of an integer or of unsigned ones."""
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT
