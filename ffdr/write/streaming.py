"""An image beton whose images have their sizes only once they are made: ``write`` and ``transcode``.

Worker processes make the images, a portion of ``CHUNK`` at a time; this process lays out what they return, in order, so
that the bytes do not depend on the number of workers. Nothing of an image stays in memory but its line of the tables,
which the journal holds, too::

    first record, of coefficient images only: the coding, which all of them share
    every other:  JSON of the portion's sums of pixels, skipped images, ways and digest ┊ newline ┊ n × STORED_DTYPE

Where an image lies is in no record: the sizes of all before it decide that, also when the journal is read back.

The data begins behind the tables, whose size depends on the number of images. Where that is known at the end only, the
data is first laid out from some other place on, and moved when all of it is there.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ffdr.beton import layout
from ffdr.codec.dct.format import Coefficients
from ffdr.codec.jpeg import coefficients
from ffdr.util import workers
from ffdr.util.errors import UserError
from ffdr.util.foreign import parse_json
from ffdr.write import parts
from ffdr.write.encode import Chunk
from ffdr.write.parts import IMAGE_SPECS, ORIGIN_BYTES, STORED_DTYPE, Part
from ffdr.write.receipt import Work
from ffdr.write.resumable import ResumableRun, run_all

if TYPE_CHECKING:
    from ffdr.codec.dct.coding import Coding

CHUNK = 16
"""Images per task of a worker, and per record of the journal."""


class StreamingImageWriter(ResumableRun):
    """An image beton in the making. M images are wanted, N of them can be made."""

    def __init__(self, work: Work, total: int | None, slots: int, processes: int, has_coding: bool) -> None:
        """Nothing is read or written yet.

        Args:
            work: what decides the bytes of the file.
            total: M; None: not known before all of them are made.
            slots: for how many images the tables before the data have room, at least M; where that is not known, a
                guess, the same whenever the work is begun.
            processes: that make images; 0: one per core.
            has_coding: whether images become coefficients, for which a coding is learned first.

        Raises:
            UserError: the file is there, and of other work.
        """
        super().__init__(work, total or 0)
        self.is_open = total is None
        self.has_coding = has_coding
        self.processes = processes or len(os.sched_getaffinity(0))
        self.coding: Coding | None = None
        self.start = layout.data_start(IMAGE_SPECS, slots)
        """First byte of the data in the file in the making."""
        self.allocator = layout.Allocator(self.start)
        self.samples: list[np.ndarray] = []
        self.pointers: list[int] = []
        self.sums = np.zeros((2, 3), dtype=object)  # Python's integers do not overflow
        self.skipped: list[tuple[str, str]] = []
        self.how: Counter[str] = Counter()

    @abstractmethod
    def _to_do(self) -> Iterable[Sequence[Any]]:
        """Portions of the images that are missing, as ``_task`` takes them."""

    @abstractmethod
    def _learned_from(self) -> Sequence[Any]:
        """The images that codebooks are learned from, as ``_sampler`` takes them."""

    @abstractmethod
    def _sampler(self) -> workers.Task[list[Coefficients]]:
        """Hands out coefficients of images, for the codebooks to be learned from."""

    @abstractmethod
    def _task(self) -> workers.Task[Chunk]:
        """Makes images."""

    @abstractmethod
    def _name(self, image: Any) -> str:
        """What messages call an image of a portion."""

    @abstractmethod
    def _manifest(self, samples: np.ndarray) -> dict[str, Any] | None:
        """The manifest of images (N,) ``STORED_DTYPE``; None: there is none."""

    def _check_skipped(self) -> None:
        """Raise UserError if an image that could not be made ends the run."""

    def write(self, progress: bool) -> Path:
        """Make the file, if it is not there, and print what was made; returns its path."""
        run_all([self], progress, self.out)
        return self.out

    def _prepare(self, progress: bool) -> None:
        self.partial.truncate(self.allocator.end)
        self._check_skipped()
        if self.has_coding and self.coding is None:
            self.coding = self._learn(progress)
            self.partial.commit(self.coding.pack())

    def _learn(self, progress: bool) -> Coding:
        """Learn the codebooks from some of the images."""
        from ffdr.codec.dct.learn import learn

        portions = [[image] for image in self._learned_from()]
        with self._bar("learn", len(portions), 0, progress) as bar:

            def samples() -> Iterator[Coefficients]:
                for found in self._work_on(self._sampler(), portions):
                    bar.update()
                    yield from found

            return learn(samples())

    def _work_on(
        self, task: workers.Task[workers.Result], portions: Iterable[Sequence[Any]]
    ) -> Iterator[workers.Result]:
        try:
            yield from workers.run(task, portions, self.processes, preload=["ffdr.write.encode"])
        except workers.DeadWorkerError as error:
            raise UserError(
                f"{self.out}: a worker process died, out of memory or by a crash of an image decoder, on one of the "
                f"images from {self._name(error.first)} to {self._name(error.last)}"
            ) from None

    def _portions(self) -> Iterator[int]:
        for chunk in self._work_on(self._task(), self._to_do()):
            first = len(self.pointers)
            self._count(chunk)
            self._check_skipped()  # before the journal knows of the image: the next run must meet it, too
            for at, data in zip(self.pointers[first:], chunk.data, strict=True):
                self.partial.put(at, data)
            facts = {"sums": chunk.sums.tolist(), "skipped": chunk.skipped, "how": chunk.how, "digest": chunk.digest}
            self.partial.commit(json.dumps(facts).encode() + b"\n" + chunk.samples.tobytes())
            yield len(chunk.samples) + len(chunk.skipped)

    def _count(self, chunk: Chunk) -> None:
        """Give each image of the next chunk its place."""
        for size in chunk.samples["size"].tolist():
            self.pointers.append(self.allocator.take(parts.stored_bytes(size, ORIGIN_BYTES)))
        self.samples.append(chunk.samples)
        self.sums += np.array(chunk.sums.tolist(), dtype=object)
        self.skipped += chunk.skipped
        self.how.update(chunk.how)
        self.done += len(chunk.samples) + len(chunk.skipped)

    def _is_complete(self, file: BinaryIO, record: bytes) -> bool:
        if self.has_coding and self.coding is None:
            from ffdr.codec.dct.coding import Coding  # imports Numba

            try:
                self.coding = Coding.unpack(record)
            except ValueError:
                return False
            return True
        chunk = _chunk_of(record)
        if chunk is None or not 0 < len(chunk.samples) + len(chunk.skipped) <= self._left():
            return False
        before = self.allocator.end, self.allocator.page_size
        good = all(self._is_there(file, sample) for sample in chunk.samples)
        self.allocator.end, self.allocator.page_size = before
        if good:
            self._count(chunk)
        return good

    def _left(self) -> int:
        """How many images may be missing at most."""
        return CHUNK if self.is_open else self.total - self.done

    def _is_there(self, file: BinaryIO, sample: np.void) -> bool:
        """Whether this one is the file's next sample; takes its place."""
        size = int(sample["size"])
        stored = parts.stored_bytes(size, ORIGIN_BYTES)
        if stored > layout.MAX_PAGE_SIZE:
            return False
        at = self.allocator.take(stored)
        if self.allocator.end > os.fstat(file.fileno()).st_size:
            return False
        return parts.checksum_at(file, at, size, ORIGIN_BYTES) == sample["crc"]

    def _finish(self) -> None:
        samples = np.concatenate(self.samples)
        if not len(samples):
            raise UserError(f"{self.out}: none of the {self.done} images can be read")
        pointers, sizes = np.array(self.pointers, np.uint64), samples["size"].astype(np.uint64)
        coding = self.coding.pack() if self.coding else b""
        page_size, specs = self.allocator.page_size, parts.image_specs(coding)
        part = Part(specs, pointers, sizes, ORIGIN_BYTES, page_size, samples, coding)
        start = layout.data_start(IMAGE_SPECS, self.done)
        if self.is_open and start != self.start:
            made, part = part, parts.image_part(samples, start, coding=coding)
            parts.move(self.partial, made, part)
        parts.finish(self.partial, [part], samples["crc"], self._manifest(samples))


def in_chunks(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers of images as portions."""
    return [list(numbers[at : at + CHUNK]) for at in range(0, len(numbers), CHUNK)]


def _chunk_of(record: bytes) -> Chunk | None:
    """The chunk that a journal record describes, without its data; None where no run has written it."""
    text, _, stored = record.partition(b"\n")
    try:
        facts, samples = parse_json(text.decode(), "journal"), np.frombuffer(stored, STORED_DTYPE)
        sums, skipped, how = facts["sums"], [(origin, cause) for origin, cause in facts["skipped"]], facts["how"]
        digest = facts.get("digest", "")
        pixels = int((samples["width"].astype(np.int64) * samples["height"]).sum())
        good = (
            np.shape(sums) == (2, 3)
            and all(_are_sums(s, q, pixels) for s, q in zip(*sums, strict=True))
            and all(isinstance(text, str) for text in (digest, *(text for pair in skipped for text in pair)))
            and set(how) <= set(coefficients.HOW)
            and all(count in range(CHUNK + 1) for count in how.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not good:
        return None
    return Chunk(samples, sums=np.array(sums, np.uint64), skipped=skipped, how=Counter(how), digest=digest)


def _are_sums(total: int, squares: int, pixels: int) -> bool:
    """Whether they can be those of so many bytes and of their squares, and fit into 64 bits."""
    most = min(255**2 * pixels, (1 << 64) - 1)
    return 0 <= total <= 255 * pixels and 0 <= squares <= most and total**2 <= pixels * squares
