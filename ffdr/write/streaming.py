"""An image beton in the making whose images have their sizes only once they are made: ``write`` and ``transcode``.

Worker processes make the images; this process lays out what they return, in order, so that the bytes do not depend on
the number of workers. See ``partial.py`` for what happens when a run is killed.
"""

from __future__ import annotations

import json
import os
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np
from tqdm import tqdm

from ffdr.beton import layout
from ffdr.beton.read import open_unnamed_images
from ffdr.codec.dct.format import Coefficients
from ffdr.codec.jpeg import coefficients
from ffdr.util import workers
from ffdr.util.atomic import os_errors_as_user_errors
from ffdr.util.errors import UserError
from ffdr.write import closing, parts
from ffdr.write.encode import Chunk
from ffdr.write.partial import Partial, is_finished
from ffdr.write.parts import (
    IMAGE_SPECS,
    ORIGIN_BYTES,
    STORED_DTYPE,
    Part,
)
from ffdr.write.receipt import Work

if TYPE_CHECKING:
    from ffdr.codec.dct.coding import Coding

CHUNK = 16
"""Images a task of a worker, and a record of the journal."""
_BLOCK = 1 << 20


class StreamingImageWriter(ABC):
    """One run. M images are wanted, N of them can be made.

    The journal has a record a chunk; where there are packed images, the coding comes before them all.
    """

    verb: ClassVar[str]

    def __init__(self, out: Path, wanted: np.ndarray, slots: int, processes: int, packs: bool) -> None:
        """Nothing is read or written yet.

        Args:
            out: the new file.
            wanted: (M,) int64 numbers of the images, as ``task`` and ``sampler`` know them.
            slots: for how many images the tables before the data have room, at least M.
            processes: that make images; 0: one a core.
            packs: whether images become packed coefficients.
        """
        self.out, self.wanted, self.packs = out, wanted, packs
        self.processes = processes or len(os.sched_getaffinity(0))
        self.coding: Coding | None = None
        self.learned_from = wanted
        """Numbers of the images among which those are that codebooks are learned from."""
        self.allocator = layout.Allocator(layout.data_start(IMAGE_SPECS, slots))
        self.samples: list[np.ndarray] = []
        self.pointers: list[int] = []
        self.sums = np.zeros((2, 3), dtype=object)  # Python's integers do not overflow
        self.skipped: list[tuple[str, str]] = []
        self.how: Counter[str] = Counter()
        self.position = 0
        """How many of the wanted images are done."""

    @abstractmethod
    def work(self) -> Work:
        """What decides the bytes of the file, and what messages can tell of it."""

    @abstractmethod
    def sampler(self) -> workers.Task[list[Coefficients]]:
        """Hands out coefficients of images, for the codebooks to be learned from."""

    @abstractmethod
    def task(self) -> workers.Task[Chunk]:
        """Makes images."""

    @abstractmethod
    def name(self, i: int) -> str:
        """What messages call image i."""

    @abstractmethod
    def manifest(self, samples: np.ndarray) -> dict[str, Any] | None:
        """The manifest of images (N,) ``STORED_DTYPE``; None: there is none."""

    @abstractmethod
    def check_skipped(self) -> None:
        """Raise UserError if an image that could not be made ends the run."""

    def run(self, progress: bool) -> Path:
        """Make what is missing, then finish; nothing where the file is there already. Returns its path.

        Raises:
            UserError: the file is there, and of other work.
        """
        work = self.work()
        is_there = is_finished(work)
        if is_there:
            self.recall()
        else:
            self._make(work, progress)
        if progress:
            closing.announce([self.out], self.out, done=[self.out] if is_there else [])
        return self.out

    @abstractmethod
    def recall(self) -> None:
        """Of a file that is there already: find out again what a run tells at its end."""

    def _make(self, work: Work, progress: bool) -> None:
        """Start ``out``.partial, or go on with one of the same identity, and finish it."""
        self.partial = Partial(self.out, work.identity, self._is_complete, work)
        try:
            with os_errors_as_user_errors(self.out):
                self.partial.file.truncate(self.allocator.end)
            self.check_skipped()
            if self.packs and self.coding is None:
                self._learn(progress)
            todo = self.wanted[self.position :].tolist()
            portions = [todo[at : at + CHUNK] for at in range(0, len(todo), CHUNK)]
            with self._bar(self.verb, len(self.wanted), progress) as bar:
                for chunk in self._run(self.task(), portions):
                    with os_errors_as_user_errors(self.out):
                        self._append(chunk)
                    bar.update(len(chunk.samples) + len(chunk.skipped))
            with os_errors_as_user_errors(self.out):
                self._finish()
        finally:
            self.partial.close()

    def _learn(self, progress: bool) -> None:
        """Learn the codebooks from some of the images and note them in the journal."""
        from ffdr.codec.dct.learn import learn

        portions = [[i] for i in self.learned_from[coefficients.spread(len(self.learned_from))].tolist()]
        with self._bar("learn", len(portions), progress) as bar:

            def samples() -> Iterator[Coefficients]:
                for found in self._run(self.sampler(), portions):
                    bar.update()
                    yield from found

            self.coding = learn(samples())
        with os_errors_as_user_errors(self.out):
            self.partial.commit(self.coding.pack())

    def _run(self, task: workers.Task[workers.Result], portions: Sequence[list[int]]) -> Iterator[workers.Result]:
        try:
            yield from workers.run(task, portions, self.processes, preload=["ffdr.write.encode"])
        except workers.DeadWorkerError as error:
            raise UserError(
                f"{self.out}: a worker process died, out of memory or by a crash of an image decoder, on one of the "
                f"images from {self.name(error.first)} to {self.name(error.last)}"
            ) from None

    def _bar(self, title: str, total: int, progress: bool) -> tqdm:
        initial = self.position if title == self.verb else 0
        return tqdm(total=total, initial=initial, unit="img", desc=title, disable=not progress)

    def _append(self, chunk: Chunk) -> None:
        """Put a chunk into the file, then into the journal."""
        self._count(chunk.samples, chunk.sums.tolist(), chunk.skipped, chunk.how)
        self.check_skipped()
        for at, data in zip(self.pointers[len(self.pointers) - len(chunk.data) :], chunk.data, strict=True):
            self.partial.file.seek(at)
            self.partial.file.write(data)
        facts = json.dumps({"sums": chunk.sums.tolist(), "skipped": chunk.skipped, "how": chunk.how})
        self.partial.commit(facts.encode() + b"\n" + chunk.samples.tobytes())

    def _count(
        self, samples: np.ndarray, sums: list[list[int]], skipped: Iterable[tuple[str, str]], how: dict[str, int]
    ) -> None:
        for size in samples["size"].tolist():
            self.pointers.append(self.allocator.take(parts.stored_bytes(size, ORIGIN_BYTES)))
        self.samples.append(samples)
        self.sums += np.array(sums, dtype=object)
        self.skipped += skipped
        self.how.update(how)
        self.position = sum(map(len, self.samples)) + len(self.skipped)

    def _is_complete(self, file: BinaryIO, record: bytes) -> bool:
        """Whether what a journal record tells of is there; if so, takes it or counts it as done."""
        if self.packs and self.coding is None:
            from ffdr.codec.dct.coding import Coding  # imports Numba

            try:
                self.coding = Coding.unpack(record)
            except ValueError:
                return False
            return True
        chunk = _told(record)
        if chunk is None or not 0 < len(chunk.samples) + len(chunk.skipped) <= len(self.wanted) - self.position:
            return False
        before = self.allocator.end, self.allocator.page_size
        good = all(self._is_there(file, sample) for sample in chunk.samples)
        self.allocator.end, self.allocator.page_size = before
        if good:
            self._count(chunk.samples, chunk.sums.tolist(), chunk.skipped, chunk.how)
        return good

    def _is_there(self, file: BinaryIO, sample: np.void) -> bool:
        """Whether this one is the file's next sample; takes its place."""
        left = int(sample["size"])
        stored = parts.stored_bytes(left, ORIGIN_BYTES)
        if stored > layout.MAX_PAGE_SIZE:
            return False
        at, crc = self.allocator.take(stored), 0
        if self.allocator.end > os.fstat(file.fileno()).st_size:
            return False
        file.seek(at)
        while left and (block := file.read(min(left, _BLOCK))):
            crc, left = zlib.crc32(block, crc), left - len(block)
        file.seek(at + stored - ORIGIN_BYTES)
        return parts.checksum(b"", file.read(ORIGIN_BYTES), crc) == sample["crc"]

    def _finish(self) -> None:
        """Tables, read-back, manifest, final name."""
        samples = np.concatenate(self.samples)
        if not len(samples):
            raise UserError(f"{self.out}: none of the {len(self.wanted)} images can be read")
        pointers, sizes = np.array(self.pointers, np.uint64), samples["size"].astype(np.uint64)
        coding = self.coding.pack() if self.coding else b""
        page_size, specs = self.allocator.page_size, parts.image_specs(coding)
        part = Part(specs, pointers, sizes, ORIGIN_BYTES, page_size, samples, coding)
        parts.finish_tables(self.partial.file, [part], samples["crc"])
        self._read_back(samples)
        manifest = self.manifest(samples)
        self.partial.publish(parts.manifest_beside(self.out, manifest))

    def _read_back(self, samples: np.ndarray) -> None:
        beton = open_unnamed_images(self.partial.path)
        same = beton.fingerprint == layout.fingerprint(samples["origin"], samples["label"])
        if not (same and beton.is_intact(0) and beton.is_intact(len(samples) - 1)):
            raise UserError(f"{self.partial.path}: was not read back as it was written: bad storage?")


def _told(record: bytes) -> Chunk | None:
    """The chunk that a journal record tells of, without its data; None where no run has written it."""
    text, _, samples = record.partition(b"\n")
    try:
        facts, samples = json.loads(text), np.frombuffer(samples, STORED_DTYPE)
        sums, skipped, how = facts["sums"], [(origin, cause) for origin, cause in facts["skipped"]], facts["how"]
        pixels = int((samples["width"].astype(np.int64) * samples["height"]).sum())
        good = (
            np.shape(sums) == (2, 3)
            and all(_are_sums(s, q, pixels) for s, q in zip(*sums, strict=True))
            and all(isinstance(text, str) for pair in skipped for text in pair)
            and set(how) <= set(coefficients.HOW)
            and all(count in range(CHUNK + 1) for count in how.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Chunk(samples, sums=np.array(sums, np.uint64), skipped=skipped, how=Counter(how)) if good else None


def _are_sums(total: int, squares: int, pixels: int) -> bool:
    """Whether they can be those of so many bytes and of their squares."""
    return 0 <= total <= 255 * pixels and 0 <= squares <= 255**2 * pixels and total**2 <= pixels * squares
