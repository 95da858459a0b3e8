"""Writes reinforced betons: images in any order, killed and resumed, always the same bytes.

All samples have the same size, so each has its place from the start. What lies in the partial file, the journal says::

    record of the journal: (uint32 number, uint32 CRC-32) of one image, of another one, …

N images, K views per image, T stored teacher entries per view (top-k).
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader, check_logits, check_new_logits, check_views
from ffdr.beton.read import ImageBeton, check_same_images
from ffdr.write import parts
from ffdr.write.partial import COMMIT_BYTES, Partial
from ffdr.write.parts import Part
from ffdr.write.receipt import Work

_ENTRY = np.dtype([("image", "<u4"), ("crc", "<u4")])
"""A journal record holds one of these per image."""
_MOST_AGAIN = 16
"""How often on average a journal may name an image again, as it does those that a killed run had just put."""


def file_bytes(header: ReinforcedHeader) -> int:
    """Bytes of the finished file."""
    return parts.file_bytes([_part(header)])


def identity_of(header: ReinforcedHeader, identity: str) -> bytes:
    """What distinguishes partial files: the header and whatever else decides what is written."""
    return b"reinforced\0" + header.pack() + identity.encode(errors="surrogateescape")


def _part(header: ReinforcedHeader) -> Part:
    return parts.reinforced_part(header, layout.data_start(header.specs(), header.num_images))


class ReinforcedWriter:
    """Writes a reinforced beton; a killed run is resumed and ends with the same bytes.

    Use as a context manager; leaving it without ``finish`` keeps the partial file for the next run.
    """

    def __init__(
        self,
        path: str | Path,
        header: ReinforcedHeader,
        images: ImageBeton,
        identity: str = "",
        work: Work | None = None,
    ) -> None:
        """Start ``path``.partial, or go on with one of the same header and identity.

        Args:
            path: the new file.
            header: of the new file.
            images: that are reinforced.
            identity: whatever else decides what is written, such as the teacher's precision; not stored in the file.
            work: of which a receipt is left beside the file; None: the file replaces whatever has its name.

        Raises:
            UserError: the header does not fit the images; the file can't be written, or is there and of other work.
        """
        self.path, self.header = Path(path), header
        check_same_images(self.path, header, images)
        parts.check_out(self.path, [images.path])
        self._part = _part(header)
        self._checksums = np.zeros(header.num_images, np.uint32)
        self._written = np.zeros(header.num_images, bool)
        self._pending: list[np.ndarray] = []
        self._again = 0
        """How often the journal names an image that it has named before."""
        self._partial = Partial(self.path, identity_of(header, identity), self._is_complete, work)
        try:
            self._partial.truncate(self._part.end)
        except BaseException:
            self._partial.close()
            raise

    @property
    def written(self) -> np.ndarray:
        """(N,) bool: which images are in the file, by this run and the ones it resumes. A copy."""
        return self._written.copy()

    @property
    def done(self) -> int:
        """How many images are in the file."""
        return int(self._written.sum())

    def put(self, index: np.ndarray, views: np.ndarray, ids: np.ndarray, log_probs: np.ndarray) -> None:
        """Write n images; one that is there already is written again.

        Args:
            index: (n,) int64 numbers of the images, all different.
            views: (n, K) of the header's ``record_dtype``.
            ids: (n, K, T) uint16 class ids, best first.
            log_probs: (n, K, T) float16, finite, at most 0, not increasing; -65504 (and id 0) where unused.

        Raises:
            ValueError: arrays of other shapes or contents: a mistake of the caller.
        """
        self._check(index, views, ids, log_probs)
        logits = np.concatenate([ids, np.ascontiguousarray(log_probs).view("<u2")], axis=2)
        entries = np.zeros(len(index), _ENTRY)
        entries["image"] = index
        for n, entry in enumerate(entries):
            regions = views[n].tobytes(), logits[n].tobytes()
            self._partial.put(int(self._part.pointers[index[n]]), parts.joined(*regions))
            entry["crc"] = parts.checksum(*regions)
        self._count(entries)
        self._pending.append(entries)
        sample_bytes = self.header.view_bytes + self.header.logit_bytes
        if sum(map(len, self._pending)) * sample_bytes >= COMMIT_BYTES:
            self.commit()

    def _check(self, index: np.ndarray, views: np.ndarray, ids: np.ndarray, log_probs: np.ndarray) -> None:
        header, count = self.header, len(index)
        entries = (count, header.views, header.topk)
        for name, array, shape, kind in (
            ("index", index, (count,), np.dtype("<i8")),
            ("views", views, (count, header.views), header.record_dtype),
            ("ids", ids, entries, np.dtype("<u2")),
            ("log_probs", log_probs, entries, np.dtype("<f2")),
        ):
            if array.shape != shape or array.dtype != kind:
                raise ValueError(f"{name}: {array.dtype} of shape {array.shape}, not {kind} of shape {shape}")
        if ((index < 0) | (index >= header.num_images)).any():
            raise ValueError(f"index: {index} is not below {header.num_images} images")
        text = check_views(views, header) or check_logits(ids, log_probs, header) or check_new_logits(ids, log_probs)
        if text:
            raise ValueError(f"images {index.tolist()}: {text}")

    def commit(self) -> None:
        """Note in the journal what was put so far: it survives the process."""
        if self._pending:
            self._partial.commit(np.concatenate(self._pending).tobytes())
            self._pending = []

    def sync(self) -> None:
        """Commit, and make it survive the loss of power."""
        self.commit()
        self._partial.sync()

    def finish(self) -> None:
        """Write the tables, read the file back, and give it its final name.

        Raises:
            ValueError: not all images were put.
            UserError: what was read back is not what was written.
        """
        if not self._written.all():
            raise ValueError(f"only {self.done} of {self.header.num_images} images were put")
        self.commit()
        parts.finish(self._partial, [self._part], self._checksums)

    def _count(self, entries: np.ndarray) -> None:
        self._checksums[entries["image"]] = entries["crc"]
        self._written[entries["image"]] = True

    def _is_complete(self, file: BinaryIO, record: bytes) -> bool:
        """Whether the images of a journal record are in the file; if so, counts them as done."""
        if not record or len(record) % _ENTRY.itemsize:
            return False
        entries = np.frombuffer(record, _ENTRY)
        if entries["image"].max() >= self.header.num_images:
            return False
        # Each is read to be checked: a journal that names one image over and over must not take for ever.
        self._again += int(self._written[entries["image"]].sum())
        if self._again > _MOST_AGAIN * self.header.num_images:
            return False
        for image, crc in entries.tolist():
            if self._part.checksum(file, image) != crc:
                return False
        self._count(entries)
        return True

    def __enter__(self) -> ReinforcedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._partial.file.closed:  # by finish
            self.commit()
        self._partial.close()
