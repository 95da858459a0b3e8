"""Opens image betons and reinforced betons; both are checked in full, their samples on access.

N images, K views per image, T stored teacher entries per view (top-k).

Opening checks every claim of the tables that an access relies on: modes, labels, sizes, and how many pixels so many
bytes can hold, which bounds the memory that decoding takes. The data itself is checked where it is read: pixels by
their decoder, records and teacher's entries by ``views`` and ``logits``.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader, check_logits, check_views
from ffdr.beton.layout import DCT, JPG, RAW
from ffdr.beton.manifest import MAX_CLASSES, check_manifest, manifest_path, read_manifest
from ffdr.beton.opened import OpenFile
from ffdr.beton.reopen import Reopened
from ffdr.beton.tables import BetonTables, Regions, beton_path, locked, read_tables, refuse, sample_checksum
from ffdr.codec.dct.format import BLOCKS_PER_HEAD, RECORD_DTYPE, TRAILER
from ffdr.util.arguments import per_channel
from ffdr.util.errors import UserError

if TYPE_CHECKING:
    from ffdr.codec.dct.coding import Coding

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PIXELS_PER_BYTE = 1024
"""More than any JPEG holds, where 64 pixels take at least one bit: memory for decoding is bounded by what is stored."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageBeton(Reopened):
    """An opened image beton, ours or one that stock FFCV wrote. Immutable; pickles as its path.

    A beton without a manifest (stock FFCV's) has its class numbers as class names and ImageNet's mean and std; one
    without origins has the stored sizes as original sizes and the sample's number as key.
    """

    path: Path
    num_images: int
    labels: np.ndarray
    """(N,) int64 class of each image, below ``num_classes``."""
    sizes: np.ndarray
    """(N, 2) int32 stored width and height."""
    modes: np.ndarray
    """(N,) uint8, ``layout.JPG``, ``layout.RAW`` or, only where there is a coding, ``layout.DCT``."""
    data_ptr: np.ndarray
    """(N,) uint64 first byte of each image in the file."""
    data_size: np.ndarray
    """(N,) uint64 bytes of each image."""
    origins: np.ndarray
    """(N, 3) int64 original width and height, key of the source's path."""
    original_sizes: np.ndarray
    """(N, 2) int32 original width and height."""
    manifest: dict[str, Any] | None
    class_names: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    checksums: np.ndarray | None
    """(N,) uint32 CRC-32 of each sample; None where the file has none."""
    coding: Coding | None
    """Of coefficient images; None in a file that can't hold any."""
    field_names: tuple[str, ...]
    """All fields of the file, in order."""
    page_size: int
    """Bytes of a page of the file; no image lies on two."""
    file: OpenFile
    """The very file that was checked."""
    memmap: np.ndarray
    """(bytes,) uint8, the whole file, read-only."""
    _regions: tuple[Regions, ...]

    @classmethod
    def open(cls, path: str | Path) -> ImageBeton:
        """Open and check.

        Raises:
            UserError: one line saying what is wrong with the file or its manifest.
        """
        return _named_images(read_tables(beton_path(path)))

    @property
    def stamp(self) -> tuple:
        """Stands for all that is in the file and its manifest; for labels and origins where it has no checksums."""
        return (*super().stamp, self.fingerprint, zlib.crc32(json.dumps(self.manifest).encode()))

    @property
    def has_origins(self) -> bool:
        """Whether original sizes and keys are those of a source.

        Of a beton that stock FFCV has written, and of what was made of one, they are the stored sizes and numbers of
        images. Those are all below 2³², as no set of 64-bit hashes is.
        """
        keys = self.origins[:, 2]
        return not ((keys >= 0) & (keys < 1 << 32)).all()

    @property
    def num_classes(self) -> int:
        """Classes that labels count in."""
        return len(self.class_names)

    def data(self, i: int) -> np.ndarray:
        """The stored bytes of image i: (bytes,) uint8, a read-only view of the file."""
        start = int(self.data_ptr[i])
        return self.memmap[start : start + int(self.data_size[i])]

    def is_intact(self, i: int) -> bool:
        """Whether sample i still has the checksum with which it was written (True where the file has none)."""
        return self.checksums is None or sample_checksum(self.memmap, self._regions, i) == int(self.checksums[i])

    def __len__(self) -> int:
        return self.num_images

    def __repr__(self) -> str:
        return f"ImageBeton({str(self.path)!r}, {self.num_images} images, {self.num_classes} classes)"


def check_intact(beton: ImageBeton | ReinforcedBeton, i: int) -> None:
    """Raise UserError unless sample i has the checksum with which it was written."""
    if not beton.is_intact(i):
        raise UserError(f"{beton.path}: sample {i} is damaged: its checksum is not the stored one")


def open_both(path: Path) -> tuple[ImageBeton | None, ReinforcedBeton | None]:
    """What a beton of any kind holds: images, their reinforcement, or both.

    Raises:
        UserError: one line saying what is wrong with the file or its manifest.
    """
    images, reinforced = contents_of(read_tables(beton_path(path)))
    if images is not None and reinforced is not None:
        check_same_images(path, reinforced.header, images)
    return images, reinforced


def check_same_images(path: Path, header: ReinforcedHeader, images: ImageBeton) -> None:
    """Refuse images other than those that a reinforced beton at ``path`` was made of.

    Raises:
        UserError: other images, another number of them, or more classes.
    """
    if (header.num_images, header.fingerprint) != (images.num_images, images.fingerprint):
        raise UserError(
            f"{path}: made for {header.num_images} images with fingerprint {header.fingerprint}, "
            f"but {images.path} has {images.num_images} with {images.fingerprint}"
        )
    if images.num_classes > header.num_classes:
        raise UserError(f"{path}: made for {header.num_classes} classes, but {images.path} has {images.num_classes}")


def contents_of(tables: BetonTables) -> tuple[ImageBeton | None, ReinforcedBeton | None]:
    """What a file that was opened holds: images, a reinforcement, which may not fit them, or both.

    Raises:
        UserError: one line saying what is wrong with the file or its manifest.
    """
    has_views = tables.spec("aug_params") is not None
    images = _named_images(tables) if tables.spec("image") or not has_views else None
    return images, _open_reinforced(tables) if has_views else None


def open_unnamed_images(path: Path) -> ImageBeton:
    """Open an image beton that has no manifest yet: the writer's read-back."""
    return _open_images(read_tables(path), None)


def _named_images(tables: BetonTables) -> ImageBeton:
    return _open_images(tables, read_manifest(manifest_path(tables.path)))


def _open_images(tables: BetonTables, manifest: dict[str, Any] | None) -> ImageBeton:
    path = tables.path
    names = tuple(spec.name for spec in tables.specs)
    image_type = layout.IMAGE if tables.coding is None else layout.CUSTOM
    for name, type_id, kind in (("image", image_type, "RGBImageField"), ("label", layout.INT, "IntField")):
        spec = tables.spec(name)
        if spec is None or spec.type_id != type_id:
            wanted = f"an image beton has a field {name} of type {type_id} (FFCV's {kind})"
            refuse(path, f"{wanted}; fields here are {', '.join(names)}")
    image = tables.metadata["image"]
    sizes = locked(np.stack([image["width"], image["height"]], axis=1), np.int32)
    modes = locked(image["mode"], np.uint8)
    data_ptr, data_size = tables.regions("image")
    _check_images(tables, sizes, modes, data_size)
    origins = _origins(tables, sizes)
    labels = locked(tables.metadata["label"], np.int64)
    tables.check((labels >= 0) & (labels < MAX_CLASSES), f"its label is not a class id below {MAX_CLASSES}")
    found = layout.fingerprint(origins, labels)
    if manifest is not None:
        check_manifest(path, manifest, len(labels), found)
    class_names = manifest["class_names"] if manifest else map(str, range(int(labels.max()) + 1))
    class_names = tuple(class_names)
    tables.check(labels < len(class_names), f"its label is not one of the manifest's {len(class_names)} classes")
    return ImageBeton(
        path=path,
        num_images=tables.num_samples,
        labels=labels,
        sizes=sizes,
        modes=modes,
        data_ptr=data_ptr,
        data_size=data_size,
        origins=locked(origins, np.int64),
        original_sizes=locked(origins[:, :2], np.int32),
        manifest=manifest,
        class_names=class_names,
        fingerprint=found,
        mean=per_channel("mean", manifest["mean"]) if manifest else IMAGENET_MEAN,
        std=per_channel("std", manifest["std"]) if manifest else IMAGENET_STD,
        checksums=tables.checksums,
        coding=tables.coding,
        field_names=names,
        page_size=tables.page_size,
        file=tables.file,
        memmap=tables.memmap,
        _regions=tables.all_regions() if tables.checksums is not None else (),
    )


def _check_images(tables: BetonTables, sizes: np.ndarray, modes: np.ndarray, data_size: np.ndarray) -> None:
    tables.check((sizes > 0).all(axis=1), "its image has no pixels")
    third = f" nor {DCT} (coefficients)" if tables.coding else ""
    text = f"its image is stored in a mode that is neither {JPG} (JPEG) nor {RAW} (raw){third}"
    tables.check(modes <= (DCT if tables.coding else RAW), text)
    width, height = sizes.astype(np.int64).T
    pixels = width * height
    expected = np.where(modes == RAW, 3 * pixels, data_size.astype(np.int64))
    tables.check(data_size == expected.astype(np.uint64), "its raw image does not have width × height × 3 bytes")
    good = (modes != JPG) | (pixels <= _PIXELS_PER_BYTE * data_size.astype(np.int64))
    tables.check(good, "its image has more pixels than a JPEG of that many bytes can hold")
    least = _least_bytes(width, height).astype(np.uint64)
    good = (modes != DCT) | (data_size >= least)
    tables.check(good, "its image has more pixels than coefficients of that many bytes can hold")


def _least_bytes(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Bytes that the coefficients of so many pixels take at least: a grey image of one colour; int64."""
    columns, rows = -(-width // 8), -(-height // 8)
    per_row = 2 - 2 * (-columns // BLOCKS_PER_HEAD) + columns  # entry of the row table, heads, ``low``
    return RECORD_DTYPE.itemsize + rows * per_row + TRAILER


def _origins(tables: BetonTables, sizes: np.ndarray) -> np.ndarray:
    """(N, 3) int64 origins: the index, the field ``origin``, or what stands in for it."""
    count, spec = tables.num_samples, tables.spec("origin")
    if spec is None or spec.type_id != layout.ARRAY:
        return np.column_stack([sizes.astype(np.int64), np.arange(count)])
    pointers, region_sizes = tables.regions("origin")
    tables.check(region_sizes == 24, "its origin is not three int64")
    origins = tables.origin_index
    if origins is None:
        origins = tables.memmap[pointers.astype(np.int64)[:, None] + np.arange(24)].view("<i8")
    good = ((origins[:, :2] > 0) & (origins[:, :2] < 1 << 31)).all(axis=1)
    tables.check(good, "its original size is not one")
    return origins


@dataclass(frozen=True, eq=False, repr=False)
class ReinforcedBeton(Reopened):
    """An opened reinforced beton: the views of each image and what the teacher said of them. Pickles as its path."""

    path: Path
    header: ReinforcedHeader
    view_ptr: np.ndarray
    """(N,) uint64 first byte of an image's K view records."""
    logit_ptr: np.ndarray
    """(N,) uint64 first byte of an image's K × (T uint16 ids, T float16 log-probabilities)."""
    checksums: np.ndarray
    """(N,) uint32 CRC-32 of each image's records and logits."""
    file: OpenFile
    """The very file that was checked."""
    memmap: np.ndarray
    """(bytes,) uint8, the whole file, read-only."""
    _regions: tuple[Regions, ...]

    @classmethod
    def open(cls, path: str | Path, images: ImageBeton | None = None) -> ReinforcedBeton:
        """Open and check; ``images`` must be the ones that were reinforced.

        Raises:
            UserError: one line saying what is wrong with the file, or that it belongs to other images.
        """
        path = beton_path(path)
        beton = _open_reinforced(read_tables(path))
        if images is not None:
            check_same_images(path, beton.header, images)
        return beton

    @property
    def stamp(self) -> tuple:
        """Stands for all that is in the file."""
        return (*super().stamp, self.header.pack())

    @property
    def record_dtype(self) -> np.dtype:
        """Dtype of a stored view: the header's."""
        return self.header.record_dtype

    def views(self, i: int) -> np.ndarray:
        """The records of image i: (K,) of ``record_dtype``, read-only.

        Raises:
            UserError: a partner or an effect that does not exist.
        """
        views = self._bytes(self.view_ptr, i, self.header.view_bytes).view(self.record_dtype)
        text = check_views(views, self.header)
        if text:
            raise UserError(f"{self.path}: sample {i}: {text}")
        return views

    def logits(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Teacher entries of image i, best first: class ids (K, T) uint16, log-probabilities (K, T) float16.

        Raises:
            UserError: ids that are no classes; log-probabilities that are not finite, sorted and at most 0.
        """
        header = self.header
        both = self._bytes(self.logit_ptr, i, header.logit_bytes).view("<u2").reshape(header.views, 2 * header.topk)
        ids, log_probs = both[:, : header.topk], both[:, header.topk :].view("<f2")
        text = check_logits(ids, log_probs, header)
        if text:
            raise UserError(f"{self.path}: sample {i}: {text}")
        return ids, log_probs

    def is_intact(self, i: int) -> bool:
        """Whether sample i still has the checksum with which it was written."""
        return sample_checksum(self.memmap, self._regions, i) == int(self.checksums[i])

    def _bytes(self, pointers: np.ndarray, i: int, size: int) -> np.ndarray:
        at = int(pointers[i])
        return np.asarray(self.memmap[at : at + size])

    def __len__(self) -> int:
        return self.header.num_images

    def __repr__(self) -> str:
        return f"ReinforcedBeton({str(self.path)!r}, {self.header.num_images} images × {self.header.views} views)"


def _open_reinforced(tables: BetonTables) -> ReinforcedBeton:
    path = tables.path
    header = ReinforcedHeader.of_fields(path, tables.specs)
    if header.num_images != tables.num_samples:
        refuse(path, f"its header says {header.num_images} images, its tables {tables.num_samples}")
    if tables.checksums is None:
        refuse(path, "it has no checksums, or their first bytes are damaged")
    found = {}
    for name, size in (("aug_params", header.view_bytes), ("logits", header.logit_bytes)):
        found[name] = tables.regions(name)
        tables.check(found[name].sizes == size, f"its {name} are not {size} bytes")
    return ReinforcedBeton(
        path=path,
        header=header,
        view_ptr=found["aug_params"].pointers,
        logit_ptr=found["logits"].pointers,
        checksums=tables.checksums,
        file=tables.file,
        memmap=tables.memmap,
        _regions=tuple(found.values()) if len(tables.specs) == 2 else tables.all_regions(),
    )
