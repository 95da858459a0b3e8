"""Copies samples of opened betons into a new file: what pack, split, subset and concat have in common.

A copy knows the place of every sample from the start: sizes are in the tables of what it reads. So it asks for the room
on the disk before it begins, and its journal holds nothing but the checksums of finished samples, in order::

    record of the journal: uint32 CRC-32 of the next sample, of the one after it, …

A sample is checked against its stored checksum just before it is copied, so that damage is not given a new, right one.

M images are copied, K views and T stored teacher entries (top-k) of each.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.layout import FieldSpec
from ffdr.beton.manifest import manifest_path
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_intact
from ffdr.util.errors import UserError
from ffdr.write import parts
from ffdr.write.partial import COMMIT_BYTES
from ffdr.write.parts import Part
from ffdr.write.receipt import Work
from ffdr.write.resumable import ResumableRun

Source = tuple[ImageBeton | ReinforcedBeton, int]
"""A sample of an opened beton, by its number."""


class Samples(ABC):
    """M samples, of images or of their reinforcement, each with two regions."""

    specs: Sequence[FieldSpec]
    """The fields that they make up."""

    @abstractmethod
    def __len__(self) -> int:
        """M."""

    @abstractmethod
    def place(self, start: int, page_size: int) -> Part:
        """The part of the new file, with data from byte ``start`` on and pages no smaller than given."""

    @abstractmethod
    def regions(self, n: int) -> tuple[bytes, bytes]:
        """Both regions of sample n of the new file."""

    @abstractmethod
    def sources(self, n: int) -> list[Source]:
        """What sample n of the new file is made of."""

    @abstractmethod
    def identity(self) -> list[Any]:
        """What decides their bytes, as JSON has it."""


class ImageSamples(Samples):
    """Images of a beton, with label and origin. A beton of stock FFCV that has no origins is given those that it is
    read with."""

    def __init__(self, beton: ImageBeton, index: np.ndarray) -> None:
        """index: (M,) int64 number in the beton of each image of the new file."""
        self.beton, self.index = beton, index
        self.coding = beton.coding.pack() if beton.coding else b""
        self.specs = parts.image_specs(self.coding)
        self.stored = np.zeros(len(index), parts.STORED_DTYPE)
        self.stored["width"], self.stored["height"] = beton.sizes[index].T
        for name, column in (
            ("label", beton.labels),
            ("origin", beton.origins),
            ("size", beton.data_size),
            ("mode", beton.modes),
        ):
            self.stored[name] = column[index]

    def __len__(self) -> int:
        return len(self.index)

    def place(self, start: int, page_size: int) -> Part:
        """As ``Samples`` says."""
        return parts.image_part(self.stored, start, page_size, self.coding)

    def regions(self, n: int) -> tuple[bytes, bytes]:
        """Of image n of the new file: its bytes as they are stored, and its origin."""
        return self.beton.data(int(self.index[n])).tobytes(), self.stored["origin"][n].tobytes()

    def sources(self, n: int) -> list[Source]:
        """One image."""
        return [(self.beton, int(self.index[n]))]

    def identity(self) -> list[Any]:
        """The beton, which of its images, the coding, where there is one."""
        return [digest(self.beton), _sha256(self.index), self.coding.hex() or None]


class ReinforcedSamples(Samples):
    """View records and logits of a beton: the first K views of some images, the best T entries of each view."""

    def __init__(self, beton: ReinforcedBeton, index: np.ndarray, header: ReinforcedHeader) -> None:
        """index: (M,) int64 as for images. header: of the new file; its ``views`` and ``topk`` are K and T.

        Raises:
            UserError: a view is mixed with an image that is not copied.
        """
        self.beton, self.index, self.header, self.specs = beton, index, header, header.specs()
        self._numbers = np.full(len(beton), -1, np.int64)  # in the new file, of every image of the old one
        self._numbers[index] = np.arange(len(index))
        if header.mixes and len(index) < len(beton):
            self._check_partners()

    def _check_partners(self) -> None:
        for i in self.index.tolist():
            partners = self.beton.views(i)["mix"]["partner"][: self.header.views]
            outside = np.flatnonzero(self._numbers[partners] < 0)
            if len(outside):
                raise UserError(
                    f"{self.beton.path}: view {outside[0]} of image {i} is mixed with image {partners[outside[0]]}, "
                    "which is not among those to keep"
                )

    def __len__(self) -> int:
        return len(self.index)

    def place(self, start: int, page_size: int) -> Part:
        """As ``Samples`` says."""
        return parts.reinforced_part(self.header, start, page_size)

    def regions(self, n: int) -> tuple[bytes, bytes]:
        """Of image n of the new file: K records, partners numbered as there, and K × (T ids, T log-probabilities)."""
        K, T, i = self.header.views, self.header.topk, int(self.index[n])
        views = self.beton.views(i)[:K].copy()
        if self.header.mixes:
            views["mix"]["partner"] = self._numbers[views["mix"]["partner"]]
        ids, log_probs = (entries[:K, :T] for entries in self.beton.logits(i))
        return views.tobytes(), np.concatenate([ids, log_probs.view("<u2")], axis=1).tobytes()

    def sources(self, n: int) -> list[Source]:
        """The reinforcement of one image."""
        return [(self.beton, int(self.index[n]))]

    def identity(self) -> list[Any]:
        """The beton, of which of its images, the header of the new file."""
        return [digest(self.beton), _sha256(self.index), self.header.pack().hex()]


class Copy(ResumableRun):
    """A beton made of one or both kinds of samples, M of each."""

    def __init__(
        self,
        work: Work,
        samples: Sequence[Samples],
        manifest: dict[str, Any] | None = None,
        slots: int = 0,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            work: the new file, and what messages can name of the work; the identity is found here.
            samples: images, reinforcement, or both in this order.
            manifest: of the new images; None: there is none.
            slots: for how many samples the tables before the data have room, at least M.

        Raises:
            UserError: the file is there, and of other work.
        """
        self.samples, self.manifest = samples, manifest
        count = len(samples[0])
        self.parts = self._place(max(slots, count))
        self.checksums = np.zeros(count, np.uint32)
        beside = () if manifest is None else (manifest_path(work.out),)
        super().__init__(replace(work, identity=self._identity(), beside=beside), count)

    def _place(self, slots: int) -> list[Part]:
        placed: list[Part] = []
        specs = [spec for samples in self.samples for spec in samples.specs]
        start, page_size = layout.data_start(specs, slots), layout.PAGE_SIZE
        for samples in self.samples:
            placed.append(samples.place(start, page_size))
            start, page_size = placed[-1].end, placed[-1].page_size
        return placed

    def _identity(self) -> bytes:
        facts = {
            "copy": [samples.identity() for samples in self.samples],
            "manifest": self.manifest,
            "layout": [layout.DATA_ALIGNMENT, layout.PAGE_SIZE, int(self.parts[0].pointers[0])],
        }
        return json.dumps(facts).encode()

    def _prepare(self, progress: bool) -> None:
        self.partial.reserve(parts.file_bytes(self.parts))
        self.partial.truncate(self.parts[-1].end)

    def _portions(self) -> Iterator[int]:
        size = sum(int(part.pointers[-1] - part.pointers[0]) for part in self.parts) // self.total
        step = max(1, COMMIT_BYTES // max(1, size))
        while self.done < self.total:
            first, self.done = self.done, min(self.done + step, self.total)
            for n in range(first, self.done):
                self.checksums[n] = self._copy(n)
            self.partial.commit(self.checksums[first : self.done].tobytes())
            yield self.done - first

    def _copy(self, n: int) -> int:
        """Put sample n of the new file into it; returns its CRC-32."""
        self._check_source(n)
        crc = 0
        for samples, part in zip(self.samples, self.parts, strict=True):
            regions = samples.regions(n)
            crc = parts.checksum(*regions, crc)
            self.partial.put(int(part.pointers[n]), parts.joined(*regions))
        return crc

    def _check_source(self, n: int) -> None:
        betons = {beton.path: (beton, i) for samples in self.samples for beton, i in samples.sources(n)}
        for beton, i in betons.values():  # once where images and reinforcement are of one file
            check_intact(beton, i)

    def _is_complete(self, file: BinaryIO, record: bytes) -> bool:
        if len(record) % 4 or not 0 < len(record) // 4 <= self.total - self.done:
            return False
        checksums = np.frombuffer(record, "<u4")
        for n, stored in enumerate(checksums.tolist(), self.done):
            crc = 0
            for part in self.parts:
                crc = part.checksum(file, n, crc)
            if crc != stored:
                return False
        self.checksums[self.done : self.done + len(checksums)] = checksums
        self.done += len(checksums)
        return True

    def _finish(self) -> None:
        parts.finish(self.partial, self.parts, self.checksums, self.manifest)


def contents(beton: ImageBeton | ReinforcedBeton) -> str:
    """Stands for all that is read of a file: samples, header, manifest."""
    about = json.dumps(beton.manifest).encode() if isinstance(beton, ImageBeton) else beton.header.pack()
    return f"{digest(beton)} {_sha256(about)}"


def digest(beton: ImageBeton | ReinforcedBeton) -> str:
    """Stands for the bytes of a file: its checksums, or size and time of the last change where it has none."""
    if beton.checksums is not None:
        return _sha256(beton.checksums)
    return f"{beton.file.size} {beton.file.changed}"


def _sha256(data: np.ndarray | bytes) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else np.ascontiguousarray(data).data).hexdigest()
