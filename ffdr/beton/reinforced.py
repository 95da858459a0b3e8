"""The reinforced beton: its header, what its records must satisfy, and how it is written.

Two custom fields (FFCV type id 255), in the order of the image beton:

- ``aug_params``: pointer to K view records, ``MIXED_DTYPE`` if the policy mixes images, else ``VIEW_DTYPE``;
- ``logits``: pointer to K times T uint16 class ids followed by T float16 natural log-probabilities, best first. An
  entry that is not used has id 0 and log-probability -65504.

Both field descriptors hold the header: 8 bytes magic, uint16 length, JSON.

N images, K views an image, T stored teacher entries a view (top-k).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ffdr.augment.view import MIXED_DTYPE, VIEW_DTYPE
from ffdr.beton import layout
from ffdr.beton.layout import CUSTOM, FieldSpec
from ffdr.beton.partial import Partial, told
from ffdr.beton.tables import refuse
from ffdr.errors import UserError

if TYPE_CHECKING:
    from ffdr.beton.read import ImageBeton

HEADER_MAGIC = b"FFDRRNF1"
"""Its last character is the layout version."""
UNUSED = -65504.0
"""Log-probability of an unused entry: the lowest finite float16."""
_ROOM = 1024 - len(HEADER_MAGIC) - 2
_COMMIT_BYTES = 1 << 20
"""Data written between two journal records."""


@dataclass(frozen=True)
class ReinforcedHeader:
    """What a reinforced beton holds and what it was made of."""

    views: int
    """K"""
    topk: int
    """T"""
    num_classes: int
    num_images: int
    """N"""
    fingerprint: str
    """of the image beton"""
    mixes: bool
    """whether records are ``MIXED_DTYPE``"""
    policy: dict[str, Any]
    """what the views were drawn from, as plain JSON data"""
    teachers: tuple[str, ...]
    resolution: int
    """pixels a side that the teachers saw; 0: each its own"""
    seed: int

    def __post_init__(self) -> None:
        for name, low, high in (
            ("views", 1, 65535),
            ("num_classes", 1, 1 << 16),
            ("topk", 1, 65535),
            ("num_images", 1, (1 << 32) - 1),
            ("resolution", 0, 1 << 16),
            ("seed", 0, (1 << 63) - 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise UserError(f"reinforced header: {name} is {value!r}, not a whole number from {low} to {high}")
            object.__setattr__(self, name, int(value))  # a NumPy integer is no JSON
        if self.topk > self.num_classes:
            raise UserError(f"reinforced header: topk is {self.topk}, but there are {self.num_classes} classes")
        text = self.fingerprint
        if not isinstance(text, str) or len(text) != 32 or set(text) - set("0123456789abcdef"):
            raise UserError(f"reinforced header: fingerprint {text!r} is not 32 hexadecimal digits")
        if type(self.mixes) is not bool or not isinstance(self.policy, dict):
            raise UserError("reinforced header: mixes must be true or false, policy a dictionary")
        if isinstance(self.teachers, str) or not all(isinstance(name, str) for name in self.teachers):
            raise UserError("reinforced header: teachers must be a list of names")
        # As JSON has it (lists for tuples), so that a header equals itself read back.
        object.__setattr__(self, "policy", json.loads(json.dumps(self.policy)))
        object.__setattr__(self, "teachers", tuple(self.teachers))
        if self.view_bytes + self.logit_bytes > layout.MAX_PAGE_SIZE:
            raise UserError(f"reinforced header: {self.views} views of {self.topk} entries are too much for an image")
        self.pack()

    @property
    def view_bytes(self) -> int:
        """Bytes of the records of one image."""
        return self.views * (MIXED_DTYPE if self.mixes else VIEW_DTYPE).itemsize

    @property
    def logit_bytes(self) -> int:
        """Bytes of the teacher's entries of one image."""
        return self.views * self.topk * 4

    def pack(self) -> bytes:
        """The arguments of both field descriptors, at most 1024 bytes."""
        text = json.dumps(asdict(self), separators=(",", ":")).encode()
        if len(text) > _ROOM:
            raise UserError(f"reinforced header: {len(text)} bytes, room is for {_ROOM}; shorten the teachers' names")
        return HEADER_MAGIC + len(text).to_bytes(2, "little") + text

    @classmethod
    def unpack(cls, arguments: bytes) -> ReinforcedHeader:
        """The header in a field descriptor's arguments.

        Raises:
            UserError: it is not one.
        """
        if not arguments.startswith(HEADER_MAGIC):
            raise UserError("reinforced header: not written by ffdr, or by a newer version")
        start = len(HEADER_MAGIC) + 2
        length = int.from_bytes(arguments[start - 2 : start], "little")
        try:
            return cls(**json.loads(arguments[start : start + length]))
        except UserError:
            raise
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"reinforced header: unreadable: {error}") from None

    @classmethod
    def of_fields(cls, path: Path, specs: Sequence[FieldSpec]) -> ReinforcedHeader:
        """The header that both fields of a file agree on."""
        fields = [spec for spec in specs if spec.name in ("aug_params", "logits") and spec.type_id == CUSTOM]
        if len(fields) != 2:
            names = ", ".join(spec.name for spec in specs)
            refuse(path, f"a reinforced beton has fields aug_params and logits; fields here are {names}")
        if fields[0].arguments != fields[1].arguments:
            refuse(path, "its two fields have different headers")
        try:
            return cls.unpack(fields[0].arguments)
        except UserError as error:
            refuse(path, str(error))

    def check_images(self, path: Path, images: ImageBeton) -> None:
        """Refuse images other than those that were reinforced."""
        if (self.num_images, self.fingerprint) != (images.num_images, images.fingerprint):
            raise UserError(
                f"{path}: made for {self.num_images} images with fingerprint {self.fingerprint}, "
                f"but {images.path} has {images.num_images} with {images.fingerprint}"
            )
        if images.num_classes > self.num_classes:
            raise UserError(f"{path}: made for {self.num_classes} classes, but {images.path} has {images.num_classes}")

    def specs(self) -> tuple[FieldSpec, FieldSpec]:
        """The two fields."""
        return FieldSpec("aug_params", CUSTOM, self.pack()), FieldSpec("logits", CUSTOM, self.pack())


def check_views(views: np.ndarray, header: ReinforcedHeader) -> str:
    """What is wrong with the (K,) records of an image, or an empty string."""
    if header.mixes and (views["mix"]["partner"] >= header.num_images).any():
        return f"a view's partner is not one of the {header.num_images} images"
    return ""


def check_logits(ids: np.ndarray, log_probs: np.ndarray, header: ReinforcedHeader) -> str:
    """What is wrong with the (K, T) teacher entries of an image, or an empty string."""
    if header.num_classes <= 0xFFFF and (ids >= header.num_classes).any():
        return f"class id {ids.max()} is not below {header.num_classes}"
    if not ((log_probs >= UNUSED) & (log_probs <= 0)).all():
        return "a log-probability is not a finite number up to 0"
    if (log_probs[:, 1:] > log_probs[:, :-1]).any():
        return "log-probabilities are not sorted, best first"
    return ""


class ReinforcedWriter:
    """Writes a reinforced beton image by image; a killed run is resumed and ends with the same bytes.

    Use as a context manager; leaving it without ``finish`` keeps the partial file for the next run.
    """

    def __init__(self, path: str | Path, header: ReinforcedHeader, images: ImageBeton, identity: str = "") -> None:
        """Start ``path``.partial, or go on with one of the same header and identity.

        identity: whatever else decides what is appended, such as the teacher's precision; it is not stored in the file.

        Raises:
            UserError: the header does not fit the images; the file can't be written.
        """
        self.path, self.header = Path(path), header
        header.check_images(self.path, images)
        if self.path.exists() and self.path.samefile(images.path):
            raise UserError(f"{self.path}: is the image beton itself")
        self._specs = header.specs()
        self._sample_bytes = layout.ALIGNMENT * -(-header.view_bytes // layout.ALIGNMENT) + header.logit_bytes
        # Large enough that what is lost at the end of a page, less than one sample, is below 0.4 % of it.
        page_size = layout.PAGE_SIZE
        while page_size < 256 * self._sample_bytes and page_size < layout.MAX_PAGE_SIZE:
            page_size *= 2
        self._start = layout.data_start(self._specs, header.num_images)
        self._allocator = layout.Allocator(self._start, page_size)
        self._checksums = np.empty(header.num_images, np.uint32)
        self._pending: list[int] = []
        self._done = 0
        self._partial = Partial(self.path, b"reinforced\0" + header.pack() + identity.encode(), self._is_complete)
        self._partial.file.truncate(self._allocator.end)

    @property
    def done(self) -> int:
        """Images written so far, by this run and the ones it resumes. ``append`` goes on with the next."""
        return self._done

    def append(self, views: np.ndarray, ids: np.ndarray, log_probs: np.ndarray) -> None:
        """Write the next image.

        Args:
            views: (K,) ``MIXED_DTYPE`` if the policy mixes images, else ``VIEW_DTYPE``.
            ids: (K, T) uint16 class ids, best first.
            log_probs: (K, T) float16, finite, at most 0, not increasing; -65504 (and id 0) where unused.

        Raises:
            ValueError: arrays of other shapes or contents: a mistake of the caller.
        """
        header = self.header
        if self._done >= header.num_images:
            raise ValueError(f"all {header.num_images} images are written")
        dtype = MIXED_DTYPE if header.mixes else VIEW_DTYPE
        entries = (header.views, header.topk)
        for name, array, shape, kind in (
            ("views", views, (header.views,), dtype),
            ("ids", ids, entries, np.dtype("<u2")),
            ("log_probs", log_probs, entries, np.dtype("<f2")),
        ):
            if array.shape != shape or array.dtype != kind:
                raise ValueError(f"{name}: {array.dtype} of shape {array.shape}, not {kind} of shape {shape}")
        text = check_views(views, header) or check_logits(ids, log_probs, header) or _check_unused(ids, log_probs)
        if text:
            raise ValueError(f"image {self._done}: {text}")
        records = np.ascontiguousarray(views).tobytes()
        logits = np.concatenate([ids, np.ascontiguousarray(log_probs).view("<u2")], axis=1).tobytes()
        with told(self.path):
            self._partial.file.seek(self._allocator.take(self._sample_bytes))
            self._partial.file.write(records.ljust(self._sample_bytes - header.logit_bytes, b"\0") + logits)
        self._pending.append(zlib.crc32(logits, zlib.crc32(records)))
        self._checksums[self._done] = self._pending[-1]
        self._done += 1
        if len(self._pending) * self._sample_bytes >= _COMMIT_BYTES:
            self._commit()

    def finish(self) -> None:
        """Write the tables, read the file back, and give it its final name.

        Raises:
            ValueError: not all images were appended.
            UserError: what was read back is not what was written.
        """
        if self._done != self.header.num_images:
            raise ValueError(f"only {self._done} of {self.header.num_images} images were appended")
        self._commit()
        count = self.header.num_images
        metadata = np.zeros(count, layout.metadata_dtype(self._specs))
        allocator = layout.Allocator(self._start, self._allocator.page_size)
        metadata["aug_params"] = [allocator.take(self._sample_bytes) for _ in range(count)]
        metadata["logits"] = metadata["aug_params"] + np.uint64(self._sample_bytes - self.header.logit_bytes)
        allocations = np.empty((count, 2), layout.ALLOC_DTYPE)
        allocations["sample_id"] = np.arange(count)[:, None]
        allocations["ptr"] = np.stack([metadata["aug_params"], metadata["logits"]], axis=1)
        allocations["size"] = (self.header.view_bytes, self.header.logit_bytes)
        with told(self.path):
            file, page_size = self._partial.file, allocator.page_size
            file.seek(self._allocator.end)
            layout.write_tables(file, self._specs, page_size, metadata, self._checksums, [allocations.ravel()])
            self._read_back()
            self._partial.publish()

    def _read_back(self) -> None:
        from ffdr.beton.read import ReinforcedBeton

        beton = ReinforcedBeton.open(self._partial.path)
        for i in {0, len(beton) - 1}:
            beton.views(i)
            beton.logits(i)
            if not beton.is_intact(i):
                raise UserError(f"{self._partial.path}: sample {i} was not read back as it was written: bad storage?")

    def _commit(self) -> None:
        if self._pending:
            with told(self.path):
                self._partial.commit(np.array(self._pending, "<u4").tobytes())
            self._pending = []

    def _is_complete(self, file: BinaryIO, record: bytes) -> bool:
        """Whether the images whose checksums a journal record holds are in the file; if so, counts them as done."""
        checksums = np.frombuffer(record, "<u4")
        before = self._allocator.end
        padding = self._sample_bytes - self.header.logit_bytes - self.header.view_bytes
        for crc in checksums:
            file.seek(self._allocator.take(self._sample_bytes))
            data = file.read(self._sample_bytes)
            found = zlib.crc32(data[self.header.view_bytes + padding :], zlib.crc32(data[: self.header.view_bytes]))
            if len(data) < self._sample_bytes or found != crc:
                self._allocator.end = before
                return False
        self._checksums[self._done : self._done + len(checksums)] = checksums
        self._done += len(checksums)
        return True

    def __enter__(self) -> ReinforcedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._partial.file.closed:  # by finish
            self._commit()
        self._partial.close()


def _check_unused(ids: np.ndarray, log_probs: np.ndarray) -> str:
    """Whether the writer of new entries keeps two rules that a reader can live without."""
    used = log_probs > UNUSED
    if ids[~used].any():
        return "an unused entry has another id than 0"
    # Unused entries get numbers that are no ids, all different.
    distinct = np.where(used, ids, (1 << 16) + np.arange(ids.shape[1]))
    distinct.sort(axis=1)
    if (distinct[:, 1:] == distinct[:, :-1]).any():
        return "a class occurs twice in a view"
    return ""
