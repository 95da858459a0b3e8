"""What a beton of ours is made of: images, their reinforcement, or both. Where each sample's bytes lie.

A part stores two regions per sample side by side, each from a multiple of 8 (×) on; zeros fill the gaps::

    ×          ×         ×          ×                      ×           ×        ×           ×
    │ image 0 0│ origin 0│ image 1 0│ origin 1│ …    or    │ records 0 │logits 0│ records 1 │logits 1│ …

Both regions of a sample never cross a page, so reading one touches one page. A merged beton has the data of all images
first, as in a file of their own, so that reading images reads nothing else; then the reinforcement of all.
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
from ffdr.beton.read import ImageBeton, ReinforcedBeton, open_unnamed_images
from ffdr.util.atomic import os_errors_as_user_errors, partial_path
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final
from ffdr.write.partial import Partial

ORIGIN_BYTES = 24
"""Original width, original height, key: three int64."""
_BLOCK = 1 << 20
"""Bytes of a region that are read at a time: a journal may claim regions of any size."""

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
    """The fields of an image beton, of one with coefficient images where there is a ``coding``."""
    if not coding:
        return IMAGE_SPECS
    return FieldSpec("image", layout.CUSTOM, layout.section(layout.CODING_MAGIC, len(coding))), *IMAGE_SPECS[1:]


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
    """Of coefficient images, where there can be any."""
    header: ReinforcedHeader | None = None
    """Where the part is the reinforcement."""

    @property
    def second_pointers(self) -> np.ndarray:
        """(N,) uint64 first byte of each sample's second region."""
        return self.pointers + _padded(self.first_bytes)

    @property
    def end(self) -> int:
        """First byte behind the data of this part."""
        return int(self.second_pointers[-1]) + self.second_bytes

    def checksum(self, file: BinaryIO, n: int, crc: int = 0) -> int:
        """CRC-32 of both regions of sample n in a file in the making, appended to ``crc``."""
        return checksum_at(file, int(self.pointers[n]), int(self.first_bytes[n]), self.second_bytes, crc)

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

    def read_back(self, path: Path) -> None:
        """Raise UserError unless the finished file at ``path`` holds this part, as far as its ends show."""
        beton: ImageBeton | ReinforcedBeton
        if self.images is not None:
            beton = images = open_unnamed_images(path)
            same = images.fingerprint == layout.fingerprint(self.images["origin"], self.images["label"])
        else:
            beton = reinforced = ReinforcedBeton.open(path)
            same = reinforced.header == self.header
            for i in {0, len(reinforced) - 1}:
                reinforced.views(i)
                reinforced.logits(i)
        if not (same and beton.is_intact(0) and beton.is_intact(len(beton) - 1)):
            raise UserError(f"{path}: was not read back as it was written: bad storage?")


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
    return Part(header.specs(), places, first_bytes, header.logit_bytes, page_size, header=header)


def slots_of(images: ImageBeton) -> int:
    """For how many images the tables of a beton have room: its writer could not know which it would have to skip."""
    return len(images) + len((images.manifest or {}).get("skipped", ()))


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


def finish(
    partial: Partial, parts: Sequence[Part], checksums: np.ndarray, manifest: dict[str, Any] | None = None
) -> None:
    """Complete a file in the making whose data is written, read it back, and give it its final name.

    Args:
        partial: the file; closed at the end.
        parts: that it is made of.
        checksums: (N,) uint32 of the samples.
        manifest: that is put beside it; None: none.

    Raises:
        UserError: what is read back is not what was written; something has got the final name meanwhile.
        WriteError: the system fails.
    """
    with os_errors_as_user_errors(partial.final):
        finish_tables(partial.file, parts, checksums)
        for part in parts:
            part.read_back(partial.path)
    beside = {}
    if manifest is not None:
        beside[manifest_path(partial.final)] = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    partial.publish(beside)


def move(partial: Partial, made: Part, wanted: Part) -> None:
    """Lay out the samples of a file in the making, which lie as ``made`` says, as ``wanted`` does.

    Neighbours that stay neighbours are moved in one go, with the zeros between them.
    """
    distance = wanted.pointers.astype(np.int64) - made.pointers.astype(np.int64)
    firsts = np.flatnonzero(np.diff(distance, prepend=distance[0] - 1))
    lasts = np.append(firsts[1:], len(distance)) - 1
    ends = made.second_pointers + np.uint64(made.second_bytes)
    sizes = ends[lasts] - made.pointers[firsts]
    places = (made.pointers[firsts], wanted.pointers[firsts], sizes)
    partial.move(zip(*(array.tolist() for array in places), strict=True))


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


def checksum_at(file: BinaryIO, at: int, first: int, second: int, crc: int = 0) -> int:
    """CRC-32 of a sample's regions of so many bytes, from byte ``at`` of a file in the making on, appended to ``crc``.

    Where the file ends early, what is missing does not count.
    """
    for start, left in ((at, first), (at + _padded(first), second)):
        file.seek(start)
        while left and (block := file.read(min(left, _BLOCK))):
            crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


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


def check_place(out: Path, images: ImageBeton | None, others: Iterable[Path]) -> None:
    """Refuse an output that would replace one of the ``others``, or its manifest, or be taken for another beton's.

    images: those that the output holds, if it does.

    Raises:
        UserError: as ``check_out``; beside ``out`` lies a manifest, and the images have none to replace it.
    """
    check_out(out, others, has_manifest=images is not None)
    if images is not None and images.manifest is None and manifest_path(out).exists():
        raise UserError(f"{manifest_path(out)}: is another beton's manifest, and {images.path} has none; remove it")


def _padded(size: Any) -> Any:
    """The next multiple of 8, of an integer or of unsigned ones."""
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT
