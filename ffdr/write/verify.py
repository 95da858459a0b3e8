"""``ffdr verify``: reads a beton whole and checks whether every byte of it is what was written.

All that is not data (header, descriptors, metadata, coding, origin index, allocation table) is under one checksum,
which opening checks; every sample has its own; what lies between must be zero. Beyond checksums, every view must be one
that replays on its image, every teacher's entry one that a loss can take, coefficients must be whole, and where there
are no checksums, as in stock FFCV's files, every JPEG is decoded.

N images of F fields with data, K views per image, T stored teacher entries per view (top-k); n samples are read at a
time.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ffdr.augment.check import OK, STATUS_TEXT, UNKNOWN_FLAG, check_mix, check_view
from ffdr.augment.view import FRACTION, VERTICAL_FLIP
from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader, check_logits, check_views
from ffdr.beton.layout import DCT
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_same_images, contents_of
from ffdr.beton.records import first_views
from ffdr.beton.tables import read_tables
from ffdr.codec.dct.coding import Coding
from ffdr.codec.dct.pack import unpack
from ffdr.config.files import VerifyOptions
from ffdr.jit.kernel import kernel
from ffdr.util.errors import DamagedError, UserError
from ffdr.util.text import command, say

_CHUNK = 8 << 20
"""Bytes of samples that a thread reads at a time."""
_PADDING = 1 << 20
"""Padding up to this many bytes is read together with what it follows."""
_LISTED = 20
"""Findings that are printed."""
_WORDS = {"aug_params": "views"}
"""Fields whose name says less than it could."""


@dataclass(frozen=True, order=True)
class Finding:
    """Something that is wrong with a file."""

    sample: int
    """-1: not one sample's."""
    text: str
    is_foreign: bool = False
    """The file may be whole, but it was held against other images."""

    def __str__(self) -> str:
        return self.text if self.sample < 0 else f"sample {self.sample}: {self.text}"


def verify(options: VerifyOptions, progress: bool = True) -> int:
    """Check a file and print what is wrong, or one line if nothing is.

    Returns the exit status: 0, or 1 if the file is damaged or does not belong to ``against``.

    Raises:
        UserError: there is no such file, or ``against`` is not what a file can be held against.
    """
    start = time.perf_counter()
    path = Path(options.file)
    against = ImageBeton.open(options.against) if options.against else None
    try:
        check = _Check(path, against, options.decode)
    except DamagedError as error:
        say(str(error))
        return 1
    findings = sorted(set(check.run(progress)))
    if not findings:
        size = check.tables.file.size
        rate = size / (time.perf_counter() - start)
        speed = f"{rate / 1e9:.2f} GB/s" if rate >= 1e9 else f"{rate / 1e6:.2f} MB/s"
        say(f"{path}: intact: {check.contents()}; {size:,} bytes, {speed}; next: {command('inspect', path)}")
        return 0
    for finding in findings:
        if finding.is_foreign:
            say(f"{path}: does not belong to {Path(options.against)}: {finding}")
    findings = [finding for finding in findings if not finding.is_foreign]
    if not findings:
        return 1
    samples = {finding.sample for finding in findings if finding.sample >= 0}
    others = sum(finding.sample < 0 for finding in findings)
    say(f"{path}: damaged: {len(samples):,} of {check.tables.num_samples:,} samples, {others} other places")
    for finding in findings[:_LISTED]:
        say(f"  {finding}")
    if len(findings) > _LISTED:
        say(f"  and {len(findings) - _LISTED:,} more")
    say(f"{path}: damaged; make it again, or take a copy that is whole")
    return 1


class _Check:
    """One run over an opened beton of any kind. Reads the regions of samples, each with the padding behind it.

    Threads share it: it changes nothing of itself.
    """

    def __init__(self, path: Path, against: ImageBeton | None, decode: bool) -> None:
        self.tables = tables = read_tables(path)
        self.images, self.reinforced = contents_of(tables)
        if self.reinforced is None and against is not None:
            raise UserError(f"verify.against: {path} holds no views that could belong to {against.path}")
        self.decode = self.images is not None and (decode or tables.checksums is None)
        self.mismatches: list[Finding] = []
        """Why the views are not those of the images."""
        self.image_sizes = np.full((tables.num_samples, 2), 256, np.int32)
        """(N, 2) width and height of the images that the views are replayed on. Views are fractions: while these are
        unknown, any will do."""
        for images in (self.images, against):
            if self.reinforced is None or images is None:
                continue
            try:
                check_same_images(path, self.reinforced.header, images)
                self.image_sizes = images.sizes
            except UserError as error:
                self.mismatches.append(Finding(-1, str(error).removeprefix(f"{path}: "), images is against))
        fields = [spec.name for spec in tables.specs if spec.type_id not in (layout.INT, layout.FLOAT)]
        regions = tables.all_regions()
        self.names = [_WORDS.get(name, name) for name in fields]
        self.pointers_NF = np.stack([region.pointers for region in regions], axis=1)
        self.sizes_NF = np.stack([region.sizes for region in regions], axis=1)
        self.column = {name: column for column, name in enumerate(fields)}
        # Of all regions of the file, in its order, whether a sample owns them or not:
        ends = tables.pointers + tables.sizes
        self.padding = np.append(tables.pointers[1:], np.uint64(tables.data_end)) - ends
        at_NF = np.searchsorted(tables.pointers, self.pointers_NF)
        self.orphans = np.ones(len(ends), bool)
        self.orphans[at_NF] = False
        short = np.where(self.padding <= _PADDING, self.padding, 0)
        self.spans_NF = self.sizes_NF + (short[at_NF] if tables.checksums is not None else np.uint64(0))

    def contents(self) -> str:
        """What the file holds, in a few words."""
        words = [f"{self.tables.num_samples:,} {'images' if self.images else 'samples'}"]
        if self.reinforced:
            words.append(f"{self.reinforced.header.views} views each")
        if self.tables.checksums is None:
            words.append("no checksums, so the images were decoded instead")
        elif self.decode:
            words.append("decoded, too")
        return ", ".join(words)

    def run(self, progress: bool) -> Iterator[Finding]:
        """Everything that is wrong; every byte is read once."""
        yield from self.mismatches
        if self.tables.checksums is not None:
            yield from self._check_padding()
        chunks = self._chunks()
        bar = tqdm(total=self.tables.num_samples, unit="img", desc="verify", disable=not progress, delay=2)
        with bar, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for chunk, findings in zip(chunks, pool.map(self._check_chunk, chunks), strict=True):
                yield from findings
                bar.update(len(chunk))

    def _chunks(self) -> list[np.ndarray]:
        """Numbers of the samples in portions of about ``_CHUNK`` bytes, in the order of the file."""
        order = np.argsort(self.pointers_NF[:, 0], kind="stable")
        behind = np.cumsum(self.spans_NF[order].sum(axis=1))
        cuts = np.searchsorted(behind, np.arange(_CHUNK, int(behind[-1]), _CHUNK, dtype=np.uint64), side="right")
        return [part for part in np.split(order, np.unique(cuts)) if len(part)]

    def _check_padding(self) -> Iterator[Finding]:
        """Padding that is not read with a sample, and data that is no sample's."""
        tables = self.tables
        head = layout.head_size(tables.specs) + tables.metadata.nbytes
        sums = layout.SECTION_DTYPE.itemsize + 4 * (tables.num_samples + 1)
        spans = [(head, int(tables.pointers[0]))]
        spans.append((tables.data_end + sums, tables.data_end + layout.checksum_bytes(tables.num_samples)))
        for region in np.flatnonzero(self.padding > _PADDING).tolist():
            end = int(tables.pointers[region] + tables.sizes[region])
            spans.append((end, end + int(self.padding[region])))
        for start, end in spans:
            for at in range(start, end, _CHUNK):
                if _is_damaged(self._read(at, min(_CHUNK, end - at))):
                    yield Finding(-1, f"padding: bytes {start} to {end} are not all zero")
        for region in np.flatnonzero(self.orphans)[: _LISTED + 1].tolist():
            yield Finding(-1, f"data at byte {tables.pointers[region]} belongs to no sample")

    def _check_chunk(self, samples: np.ndarray) -> list[Finding]:
        """What is wrong with some samples (n,)."""
        try:
            parts_nF = self._fetch(samples)
        except OSError as error:
            return [Finding(int(sample), f"can't be read: {error.strerror or error}") for sample in samples]
        findings: list[Finding] = []
        if self.tables.checksums is not None:
            stored = self.tables.checksums[samples].tolist()
            for crc, sample, parts in zip(stored, samples.tolist(), parts_nF, strict=True):
                findings += self._check_sums(crc, sample, parts)
        if self.images and self.images.coding:
            findings += self._check_coefficients(self.images, self.images.coding, samples, parts_nF)
        if self.reinforced:
            findings += self._check_records(self.reinforced, samples, parts_nF)
        if self.decode and self.images:
            findings += self._check_pixels(self.images, samples)
        return findings

    def _fetch(self, samples: np.ndarray) -> list[list[memoryview]]:
        """For each sample and field: the region and the padding behind it. What is contiguous is read in one go."""
        starts, spans = self.pointers_NF[samples].ravel(), self.spans_NF[samples].ravel()
        order = np.argsort(starts, kind="stable")
        breaks = np.flatnonzero(starts[order[1:]] != (starts + spans)[order[:-1]]) + 1
        parts: list[memoryview] = [memoryview(b"")] * len(starts)
        for run in np.split(order, breaks):
            first = int(starts[run[0]])
            data = self._read(first, int(spans[run].sum()))
            for part, start, span in zip(run.tolist(), starts[run].tolist(), spans[run].tolist(), strict=True):
                parts[part] = data[start - first : start - first + span]
        width = len(self.names)
        return [parts[at : at + width] for at in range(0, len(parts), width)]

    def _read(self, start: int, size: int) -> memoryview:
        data = self.tables.file.read(start, size)
        if len(data) < size:
            raise OSError(f"the file ends before byte {start + size}")
        return memoryview(data)

    def _check_sums(self, stored: int, sample: int, parts: Sequence[memoryview]) -> Iterator[Finding]:
        crc = 0
        for name, part, size in zip(self.names, parts, self.sizes_NF[sample].tolist(), strict=True):
            crc = zlib.crc32(part[:size], crc)
            if _is_damaged(part[size:]):
                yield Finding(sample, f"padding behind its {name} is not zero")
        if crc != stored:
            names = " or ".join(self.names)
            yield Finding(sample, f"damage in its {names}: the checksum is {crc:08x}, stored is {stored:08x}")

    def _check_coefficients(
        self, images: ImageBeton, coding: Coding, samples: np.ndarray, parts_nF: list[list[memoryview]]
    ) -> Iterator[Finding]:
        column = self.column["image"]
        for sample, parts in zip(samples.tolist(), parts_nF, strict=True):
            if images.modes[sample] == DCT:
                data = np.frombuffer(parts[column], np.uint8, int(self.sizes_NF[sample, column]))
                try:
                    unpack(data, coding, *images.sizes[sample].tolist())
                except ValueError as error:
                    yield Finding(sample, f"coefficients: {error}")

    def _check_pixels(self, images: ImageBeton, samples: np.ndarray) -> Iterator[Finding]:
        for sample in samples.tolist():
            try:
                decode_image(images, sample)
            except UserError as error:
                yield Finding(sample, str(error).split(f"sample {sample}: ", 1)[-1])

    def _check_records(
        self, beton: ReinforcedBeton, samples: np.ndarray, parts_nF: list[list[memoryview]]
    ) -> Iterator[Finding]:
        header = beton.header
        logits_n, views_n = (
            [np.frombuffer(parts[column], kind, count) for parts in parts_nF]
            for column, kind, count in (
                (self.column["logits"], np.dtype("<u2"), header.logit_bytes // 2),
                (self.column["aug_params"], beton.record_dtype, header.views),
            )
        )
        logits_nK2T = np.stack(logits_n).reshape(len(samples), header.views, 2 * header.topk)
        ids, log_probs = logits_nK2T[..., : header.topk], logits_nK2T[..., header.topk :].view("<f2")
        if check_logits(ids, log_probs, header):
            for sample, ids_KT, log_probs_KT in zip(samples.tolist(), ids, log_probs, strict=True):
                text = check_logits(ids_KT, log_probs_KT, header)
                if text:
                    yield Finding(sample, f"logits: {text}")
        records_nK = np.stack(views_n)
        status_nK = self._view_statuses(header, samples, records_nK)
        for row in np.flatnonzero(status_nK.any(axis=1)).tolist():
            k = int(np.argmax(status_nK[row] != OK))
            yield Finding(int(samples[row]), f"views: view {k}: {STATUS_TEXT[int(status_nK[row, k])]}")
        if check_views(records_nK, header):  # effects
            for row in np.flatnonzero(~status_nK.any(axis=1)).tolist():
                text = check_views(records_nK[row], header)
                if text:
                    yield Finding(int(samples[row]), f"views: {text}")

    def _view_statuses(self, header: ReinforcedHeader, samples: np.ndarray, records_nK: np.ndarray) -> np.ndarray:
        """(n, K) int32 of ``augment.check``."""
        sizes, side = self.image_sizes, header.resolution or 224
        status_nK = np.zeros(records_nK.shape, np.int32)
        images_nK = np.repeat(samples.astype(np.int64)[:, None], header.views, axis=1)
        unknown = VERTICAL_FLIP if header.effects is None else 0  # layout version 1 does not know the flag
        views_nK = np.ascontiguousarray(first_views(records_nK))
        if not header.mixes:
            _check_views(views_nK, images_nK, sizes, side, unknown, status_nK)
            return status_nK
        mixes_nK = np.ascontiguousarray(records_nK["mix"])
        _check_mixes(mixes_nK, header.num_images, status_nK)
        _check_views(views_nK, images_nK, sizes, side, unknown, status_nK)
        partners_nK = mixes_nK["partner"].astype(np.int64)
        unmixed_nK = (mixes_nK["mixup"] == FRACTION) & (mixes_nK["cut_h"] == 0)
        partners_nK[unmixed_nK] = -1  # what is not read may be anything
        _check_views(np.ascontiguousarray(records_nK["second"]), partners_nK, sizes, side, unknown, status_nK)
        return status_nK


def _is_damaged(padding: memoryview) -> bool:
    return bool(bytes(padding).strip(b"\0"))


@kernel
def _check_views(
    views: np.ndarray, images: np.ndarray, sizes: np.ndarray, side: int, unknown: int, status: np.ndarray
) -> None:
    """Statuses (n, K) of views (n, K) of images (n, K), -1 for none, that have passed what was checked before.

    unknown: flags that no view may have.
    """
    for i in range(views.shape[0]):
        for k in range(views.shape[1]):
            if status[i, k] == OK and images[i, k] >= 0:
                size = sizes[images[i, k]]
                status[i, k] = check_view(views[i, k], size[0], size[1], side, side)
                if views[i, k].flags & unknown != 0:
                    status[i, k] = UNKNOWN_FLAG


@kernel
def _check_mixes(mixes: np.ndarray, images: int, status: np.ndarray) -> None:
    """Statuses (n, K) of mixes (n, K)."""
    for i in range(mixes.shape[0]):
        for k in range(mixes.shape[1]):
            status[i, k] = check_mix(mixes[i, k], images)
