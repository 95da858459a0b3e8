"""How fast the stored images can be read: from the disk, and from the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ffdr.beton.layout import PAGE_SIZE
from ffdr.beton.read import ImageBeton
from ffdr.loader.pages import READERS

_IMAGES = 256
_PAGES = 16
_ENOUGH = 16
"""Images that must be found outside memory for a rate."""

_UNIT = os.sysconf("SC_PAGE_SIZE")
"""Bytes of a page of memory: the system only keeps and drops whole ones."""
_mincore = ctypes.CDLL(None).mincore
_mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]

Span = tuple[int, int]
"""First byte and number of bytes."""


@dataclass(frozen=True)
class ReadRates:
    """Images/s; None: the disk can't be seen: the system keeps the file in memory, or shows it to its owner only."""

    disk: float | None
    """single images at random places, by as many threads as decode"""
    pages: float | None
    """whole pages of the file, by as many threads as the loader has for them"""
    memory: float
    """single images that have just been read"""


def read_rates(images: ImageBeton, threads: int, seed: int = 0) -> ReadRates:
    """Read some of the images and pages; only these are first taken out of the page cache, where that is possible.

    Pages that another process maps stay in memory; they don't count.
    """
    rng = np.random.default_rng(seed)
    picked = rng.permutation(len(images))[:_IMAGES]
    spans = [(int(images.data_ptr[i]), int(images.data_size[i])) for i in picked]
    size = os.path.getsize(images.path)
    starts = rng.permutation(np.arange(0, size, PAGE_SIZE))[:_PAGES]
    pages = [(int(start), min(PAGE_SIZE, size - int(start))) for start in starts]
    mean = float(images.data_size.mean())
    with open(images.path, "rb", buffering=0) as file:
        fd = file.fileno()
        _unmap(images.memmap)
        in_pages = _cold_rate(fd, images.memmap, pages, READERS, 1)
        disk = _cold_rate(fd, images.memmap, spans, threads, _ENOUGH)
        _timed(fd, spans, threads)
        memory = len(spans) / _timed(fd, spans, threads)
    return ReadRates(disk and disk[0], in_pages and in_pages[1] / mean, memory)


def _unmap(file: np.ndarray) -> None:
    """Drop what this process has read through a map (the tables of each file, and 64 KiB around every access).

    The system keeps what is mapped; the map itself stays, and reads anew what is asked of it.
    """
    assert isinstance(file.base, mmap.mmap)
    file.base.madvise(mmap.MADV_DONTNEED)


def _cold_rate(
    fd: int, file: np.ndarray, spans: Sequence[Span], threads: int, enough: int
) -> tuple[float, float] | None:
    """Spans/s and bytes/s of those that could be taken out of memory; None: fewer than ``enough``.

    file: (bytes,) uint8, the mapped file of the descriptor.
    """
    os.fsync(fd)  # what is not yet written stays in memory
    for span in spans:
        os.posix_fadvise(fd, *_whole_units(span), os.POSIX_FADV_DONTNEED)
    cold = [span for span in spans if _is_cold(file, span)]
    if len(cold) < enough:
        return None
    seconds = _timed(fd, cold, threads)
    return len(cold) / seconds, sum(size for _, size in cold) / seconds


def _whole_units(span: Span) -> Span:
    """The pages of memory that a span touches."""
    first = span[0] // _UNIT * _UNIT
    return first, -(-(sum(span) - first) // _UNIT) * _UNIT


def _is_cold(file: np.ndarray, span: Span) -> bool:
    """Whether nothing of a span is in memory, by mincore(2).

    A read that must not wait (RWF_NOWAIT) would show it too, but Linux then begins to read ahead.
    """
    first, size = _whole_units(span)
    units = np.ones(size // _UNIT, np.uint8)
    failed = _mincore(file.ctypes.data + first, size, units.ctypes.data)
    return not failed and not (units & 1).any()


def _timed(fd: int, spans: Sequence[Span], threads: int) -> float:
    """Seconds to read them all."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for got, (_, size) in zip(
            pool.map(lambda span: len(os.pread(fd, span[1], span[0])), spans), spans, strict=True
        ):
            assert got == size, "the file became shorter while it was read"
        return time.perf_counter() - start
