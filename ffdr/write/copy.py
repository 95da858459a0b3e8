"""Copies samples of opened betons into a new file: what pack, split and subset have in common.

The place of every sample is known from the start. Samples are checked as they are read; a killed run is resumed and
ends with the same bytes.

M images are copied, K views and T stored teacher entries (top-k) of each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from tqdm import tqdm

from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.layout import FieldSpec
from ffdr.beton.manifest import manifest_path
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_intact, open_unnamed_images
from ffdr.util.atomic import os_errors_as_user_errors
from ffdr.util.errors import UserError
from ffdr.write import parts
from ffdr.write.partial import Partial, is_finished
from ffdr.write.parts import Part
from ffdr.write.receipt import Work

_COMMIT_BYTES = 1 << 20
"""Data written between two journal records."""


class Samples(Protocol):
    """Where one part of the new file comes from. M samples."""

    beton: ImageBeton | ReinforcedBeton
    specs: tuple[FieldSpec, ...]
    index: np.ndarray
    """(M,) int64 number in the opened beton of each sample of the new file."""

    def place(self, start: int, page_size: int) -> Part:
        """The part, with data from byte ``start`` on."""

    def regions(self, n: int) -> tuple[bytes, bytes]:
        """Both regions of sample n of the new file."""

    def facts(self) -> Any:
        """What else decides the bytes, as JSON has it."""


class ImageSamples:
    """Images of a beton, with label and origin. A beton of stock FFCV that has no origins is given those that it is
    read with."""

    def __init__(self, beton: ImageBeton, index: np.ndarray) -> None:
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

    @property
    def fingerprint(self) -> str:
        """Of the images of the new file."""
        return layout.fingerprint(self.stored["origin"], self.stored["label"])

    def place(self, start: int, page_size: int) -> Part:
        """See :class:`Samples`."""
        return parts.image_part(self.stored, start, page_size, self.coding)

    def regions(self, n: int) -> tuple[bytes, bytes]:
        """The image as it is stored, and its origin."""
        return self.beton.data(int(self.index[n])).tobytes(), self.stored["origin"][n].tobytes()

    def facts(self) -> Any:
        """The coding; nothing where there is none."""
        return self.coding.hex() or None


class ReinforcedSamples:
    """View records and logits of a beton: the first K views of some images, the best T entries of each view."""

    def __init__(self, beton: ReinforcedBeton, index: np.ndarray, header: ReinforcedHeader) -> None:
        """header: of the new file; its ``views`` and ``topk`` are K and T.

        Raises:
            UserError: a view is mixed with an image that is not copied.
        """
        self.beton, self.index, self.header, self.specs = beton, index, header, header.specs()
        self._numbers = np.full(len(beton), -1, np.int64)
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

    def place(self, start: int, page_size: int) -> Part:
        """See :class:`Samples`."""
        return parts.reinforced_part(self.header, start, page_size)

    def regions(self, n: int) -> tuple[bytes, bytes]:
        """K records, their partners numbered as in the new file, and K × (T ids, T log-probabilities)."""
        K, T, i = self.header.views, self.header.topk, int(self.index[n])
        views = self.beton.views(i)[:K].copy()
        if self.header.mixes:
            views["mix"]["partner"] = self._numbers[views["mix"]["partner"]]
        ids, log_probs = (entries[:K, :T] for entries in self.beton.logits(i))
        return views.tobytes(), np.concatenate([ids, log_probs.view("<u2")], axis=1).tobytes()

    def facts(self) -> Any:
        """The header of the new file."""
        return self.header.pack().hex()


class Copy:
    """One run: a new beton made of one or both kinds of samples, M of each."""

    def __init__(
        self,
        work: Work,
        samples: Sequence[ImageSamples | ReinforcedSamples],
        manifest: dict[str, Any] | None = None,
        slots: int = 0,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            work: the new file, and what messages can tell of it; the identity is found here.
            samples: images, reinforcement, or both in this order.
            manifest: of the new images; None: there is none.
            slots: for how many samples the tables before the data have room, at least M.

        Raises:
            UserError: the file is there, and of other work.
        """
        self.out, self.samples, self.manifest = work.out, samples, manifest
        self.count = len(samples[0].index)
        self.parts = self._place(max(slots, self.count))
        self.checksums = np.zeros(self.count, np.uint32)
        self.done = 0
        """How many samples are in the file."""
        beside = () if manifest is None else (manifest_path(work.out),)
        self.work = replace(work, identity=self._identity(), beside=beside)
        self.is_there = is_finished(self.work)

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
            "copy": [[digest(samples.beton), _sha256(samples.index), samples.facts()] for samples in self.samples],
            "manifest": self.manifest,
            "layout": [layout.DATA_ALIGNMENT, layout.PAGE_SIZE, int(self.parts[0].pointers[0])],
        }
        return json.dumps(facts).encode()

    def run(self, verb: str, progress: bool) -> Path:
        """Copy what is missing, then finish; nothing where the file is there already. Returns its path.

        Raises:
            UserError: a sample that is damaged; a file that can't be written, or for which the disk has no room.
        """
        if not self.is_there:
            self._copy(verb, progress)
        return self.out

    def _copy(self, verb: str, progress: bool) -> None:
        """Start ``out``.partial, or go on with one of the same samples, and finish it."""
        size = sum(int(part.pointers[-1] - part.pointers[0]) for part in self.parts) // self.count
        step = max(1, _COMMIT_BYTES // max(1, size))
        self.partial = Partial(self.out, self.work.identity, self._is_complete, self.work)
        try:
            with os_errors_as_user_errors(self.out):
                self.partial.reserve(parts.file_bytes(self.parts))
                self.partial.file.truncate(self.parts[-1].end)
            with tqdm(total=self.count, initial=self.done, unit="img", desc=verb, disable=not progress) as bar:
                while self.done < self.count:
                    last = min(self.done + step, self.count)
                    bar.update(self._append(last))
            with os_errors_as_user_errors(self.out):
                self._finish()
        finally:
            self.partial.close()

    def _append(self, last: int) -> int:
        """Put the samples up to ``last`` into the file, then into the journal; returns how many."""
        first = self.done
        for n in range(first, last):
            self._check_source(n)
            crc = 0
            for samples, part in zip(self.samples, self.parts, strict=True):
                regions = samples.regions(n)
                crc = parts.checksum(*regions, crc)
                with os_errors_as_user_errors(self.out):
                    self.partial.file.seek(int(part.pointers[n]))
                    self.partial.file.write(parts.joined(*regions))
            self.checksums[n] = crc
        with os_errors_as_user_errors(self.out):
            self.partial.commit(self.checksums[first:last].tobytes())
        self.done = last
        return last - first

    def _check_source(self, n: int) -> None:
        betons = {samples.beton.path: (samples.beton, int(samples.index[n])) for samples in self.samples}
        for beton, i in betons.values():
            check_intact(beton, i)

    def _is_complete(self, file: BinaryIO, record: bytes) -> bool:
        """Whether the samples of a journal record are in the file; if so, counts them as done."""
        if len(record) % 4 or not 0 < len(record) // 4 <= self.count - self.done:
            return False
        checksums = np.frombuffer(record, "<u4")
        for n, stored in enumerate(checksums.tolist(), self.done):
            crc = 0
            for part in self.parts:
                crc = parts.checksum(*part.read(file, n), crc)
            if crc != stored:
                return False
        self.checksums[self.done : self.done + len(checksums)] = checksums
        self.done += len(checksums)
        return True

    def _finish(self) -> None:
        """Tables, read-back, manifest, final name."""
        parts.finish_tables(self.partial.file, self.parts, self.checksums)
        for samples in self.samples:
            self._read_back(samples)
        self.partial.publish(parts.manifest_beside(self.out, self.manifest))

    def _read_back(self, samples: ImageSamples | ReinforcedSamples) -> None:
        if isinstance(samples, ImageSamples):
            beton = open_unnamed_images(self.partial.path)
            same = beton.fingerprint == samples.fingerprint
        else:
            beton = ReinforcedBeton.open(self.partial.path)
            same = beton.header == samples.header
        if not (same and beton.is_intact(0) and beton.is_intact(self.count - 1)):
            raise UserError(f"{self.partial.path}: was not read back as it was written: bad storage?")


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
    return hashlib.sha256(data if isinstance(data, bytes) else np.ascontiguousarray(data)).hexdigest()
