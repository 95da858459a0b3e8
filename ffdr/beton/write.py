"""``ffdr write``: a source dataset becomes an image beton and its manifest.

Worker processes read and encode; this process lays out what they return, in the source's order, so that the bytes do
not depend on the number of workers. See ``partial.py`` for what happens when a run is killed.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import PIL
from tqdm import tqdm

import ffdr
from ffdr.beton import encode, layout, parts
from ffdr.beton.encode import Chunk, Encoder
from ffdr.beton.partial import Partial, told
from ffdr.beton.parts import IMAGE_SPECS, ORIGIN_BYTES, STORED_DTYPE, Part
from ffdr.beton.read import MANIFEST_FORMAT, open_unnamed_images
from ffdr.data import Source, open_source
from ffdr.errors import UserError
from ffdr.options import WriteOptions

CHUNK = 16
"""Images a task of a worker, and a record of the journal."""


def write_images(options: WriteOptions, progress: bool = True) -> Path:
    """Write an image beton; a killed run is resumed.

    Args:
        options: all of ``--write``.
        progress: show a progress bar.

    Returns:
        The path of the beton. Its manifest lies beside it.

    Raises:
        UserError: a bad path; an image that can't be read (``on_error="stop"``), named with the cause; a dead worker.
    """
    source = open_source(options.source, options.path, options.split)
    selected = select(source.labels, options.per_class)
    if not len(selected):
        raise UserError(f"write.path: the source {options.source} has no images in {options.split!r}")
    read = [Path(options.path).expanduser()] if options.path else []
    parts.check_out(Path(options.out).expanduser(), read, has_manifest=True)
    return _Writer(options, source, selected).run(progress)


def select(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the images to write: the first ``per_class`` of each class, or all for 0; ascending (M,) int64."""
    if not per_class:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)  # place within the class
    return np.sort(order[rank < per_class])


class _Writer:
    """One run. M images are selected, N of them can be read."""

    def __init__(self, options: WriteOptions, source: Source, selected: np.ndarray) -> None:
        self.options, self.source, self.selected = options, source, selected
        self.out = Path(options.out).expanduser()
        self.allocator = layout.Allocator(layout.data_start(IMAGE_SPECS, len(selected)))
        self.samples: list[np.ndarray] = []
        self.pointers: list[int] = []
        self.sums = np.zeros((2, 3), dtype=object)  # Python's integers do not overflow
        self.skipped: list[tuple[str, str]] = []
        self.position = 0
        """How many of the selected images are done."""
        self.partial = Partial(self.out, self._identity(), self._is_complete)
        self.partial.file.truncate(self.allocator.end)

    def run(self, progress: bool) -> Path:
        """Write what is missing, then finish."""
        try:
            self._stop_on_error()
            count = len(self.selected)
            with tqdm(total=count, initial=self.position, unit="img", desc="write", disable=not progress) as bar:
                for chunk in self._chunks():
                    with told(self.out):
                        self._append(chunk)
                    bar.update(len(chunk.samples) + len(chunk.skipped))
            with told(self.out):
                self._finish()
        finally:
            self.partial.close()
        if self.skipped:
            print(f"{self.out}: {len(self.skipped)} images skipped; the manifest lists them", file=sys.stderr)
        return self.out

    def _identity(self) -> bytes:
        """What decides the bytes of the file: options, versions, and which images there are.

        Files that change under an unchanged name between two runs are not noticed: that would need reading them all.
        """
        images = hashlib.sha256()
        for i in self.selected:
            images.update(f"{self.source.origin(i)}\0{self.source.labels[i]}\0".encode(errors="surrogateescape"))
        facts = {
            "options": _options_in_manifest(self.options),
            "path": os.path.abspath(self.options.path) if self.options.path else "",
            "versions": _versions(),
            "images": images.hexdigest(),
            "layout": [layout.DATA_ALIGNMENT, layout.PAGE_SIZE, CHUNK],
        }
        return json.dumps(facts, sort_keys=True).encode()

    def _chunks(self) -> Iterator[Chunk]:
        """The missing images, encoded, in order."""
        work = [self.selected[at : at + CHUNK].tolist() for at in range(self.position, len(self.selected), CHUNK)]
        workers = min(self.options.workers or len(os.sched_getaffinity(0)), len(work))
        if workers <= 1:
            yield from map(Encoder(self.source, self.options), work)
        else:
            yield from self._in_processes(work, workers)

    def _in_processes(self, work: list[list[int]], workers: int) -> Iterator[Chunk]:
        # A forked child would inherit this process's threads' locks; the fork server has no threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ffdr.beton.encode"])
        pool = ProcessPoolExecutor(workers, context, encode.start_worker, (self.source, self.options))
        flying: deque[tuple[list[int], Future[Chunk]]] = deque()
        try:
            for indices in work:
                flying.append((indices, pool.submit(encode.encode_chunk, indices)))
                if len(flying) >= 2 * workers:
                    yield flying[0][1].result()
                    flying.popleft()
            while flying:
                yield flying[0][1].result()
                flying.popleft()
        except BrokenProcessPool:
            first, last = flying[0][0][0], flying[-1][0][-1]
            raise UserError(
                f"{self.out}: a worker process died, out of memory or by a crash of an image decoder, on one of the "
                f"images from {self.source.origin(first)} to {self.source.origin(last)}"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _append(self, chunk: Chunk) -> None:
        """Put a chunk into the file, then into the journal."""
        self._count(chunk.samples, chunk.sums.tolist(), chunk.skipped)
        self._stop_on_error()
        for at, data in zip(self.pointers[len(self.pointers) - len(chunk.data) :], chunk.data, strict=True):
            self.partial.file.seek(at)
            self.partial.file.write(data)
        facts = json.dumps({"sums": chunk.sums.tolist(), "skipped": chunk.skipped})
        self.partial.commit(facts.encode() + b"\n" + chunk.samples.tobytes())

    def _count(self, samples: np.ndarray, sums: list[list[int]], skipped: list[tuple[str, str]]) -> None:
        for size in samples["size"].tolist():
            self.pointers.append(self.allocator.take(parts.stored_bytes(size, ORIGIN_BYTES)))
        self.samples.append(samples)
        self.sums += np.array(sums, dtype=object)
        self.skipped += skipped
        self.position += len(samples) + len(skipped)

    def _is_complete(self, file: BinaryIO, record: bytes) -> bool:
        """Whether the samples of a journal record are in the file; if so, counts them as done."""
        facts, samples = record.split(b"\n", 1)
        facts, samples = json.loads(facts), np.frombuffer(samples, STORED_DTYPE)
        before = self.allocator.end, self.allocator.page_size
        for sample in samples:
            size = int(sample["size"])
            file.seek(self.allocator.take(parts.stored_bytes(size, ORIGIN_BYTES)))
            data = file.read(parts.stored_bytes(size, ORIGIN_BYTES))
            if parts.checksum(data[:size], data[-ORIGIN_BYTES:]) != sample["crc"]:
                self.allocator.end, self.allocator.page_size = before
                return False
        self.allocator.end, self.allocator.page_size = before
        self._count(samples, facts["sums"], [tuple(pair) for pair in facts["skipped"]])
        return True

    def _stop_on_error(self) -> None:
        if self.skipped and self.options.on_error == "stop":
            origin, cause = self.skipped[0]
            place = Path(self.options.path) / origin
            raise UserError(f"{place}: can't be read: {cause}; --write.on_error=skip leaves such images out")

    def _finish(self) -> None:
        """Tables, read-back, manifest, final name."""
        samples = np.concatenate(self.samples)
        if not len(samples):
            raise UserError(f"{self.out}: none of the {len(self.selected)} images can be read")
        pointers, sizes = np.array(self.pointers, np.uint64), samples["size"].astype(np.uint64)
        part = Part(IMAGE_SPECS, pointers, sizes, ORIGIN_BYTES, self.allocator.page_size, samples)
        parts.finish_tables(self.partial.file, [part], samples["crc"])
        self._read_back(samples)
        # The manifest comes first, so that a beton of a final name always has its manifest.
        parts.write_manifest(self.out, self._manifest(samples))
        self.partial.publish()

    def _read_back(self, samples: np.ndarray) -> None:
        beton = open_unnamed_images(self.partial.path)
        same = beton.fingerprint == layout.fingerprint(samples["origin"], samples["label"])
        if not (same and beton.is_intact(0) and beton.is_intact(len(samples) - 1)):
            raise UserError(f"{self.partial.path}: was not read back as it was written: bad storage?")

    def _manifest(self, samples: np.ndarray) -> dict[str, Any]:
        pixels = int((samples["width"].astype(np.int64) * samples["height"]).sum())
        total, squares = self.sums.tolist()
        # Exact integers up to the one division: n·Σx² − (Σx)² is n² times the variance.
        variances = [(pixels * q - s * s) / (pixels * 255) ** 2 for s, q in zip(total, squares, strict=True)]
        return {
            "format": MANIFEST_FORMAT,
            "source": self.options.source,
            "split": self.options.split,
            "num_images": len(samples),
            "num_classes": len(self.source.class_names),
            "fingerprint": layout.fingerprint(samples["origin"], samples["label"]),
            "mean": [s / (pixels * 255) for s in total],
            # An image of one colour has deviation 0, by which nobody can divide.
            "std": [max(variance**0.5, 1 / 255) for variance in variances],
            "images_per_class": np.bincount(samples["label"], minlength=len(self.source.class_names)).tolist(),
            "jpeg_images": int((samples["mode"] == layout.JPG).sum()),
            "image_bytes": int(samples["size"].sum()),
            "options": _options_in_manifest(self.options),
            "versions": _versions(),
            "skipped": [{"origin": origin, "cause": cause} for origin, cause in self.skipped],
            "class_names": self.source.class_names,
        }


def _options_in_manifest(options: WriteOptions) -> dict[str, Any]:
    """The options that decide the bytes. Neither paths nor the number of workers do, nor what happens on an error."""
    return {key: value for key, value in asdict(options).items() if key not in ("path", "out", "workers", "on_error")}


def _versions() -> dict[str, str]:
    """Versions of what reads, shrinks and encodes."""
    return {"ffdr": ffdr.__version__, "pillow": PIL.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
