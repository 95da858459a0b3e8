"""FFCV's process cache, made safe: pages of the file are read into memory of this process, ahead of their batches.

Which page is in memory when is FFCV's schedule, which ``ffcv_loader.py`` asks for. The reading is ours, because FFCV's
has these faults: what a failed or short read leaves in memory is taken for the page; a reading thread that dies leaves
the loader waiting for ever; threads are not waited for when an epoch ends; pages of fields that nobody decodes are
read; and a schedule that needs more memory than the machine has is carried out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from ffdr.beton.read import ImageBeton
from ffdr.util.errors import UserError
from ffdr.util.machine import machine_memory

READERS = 12
"""Threads that read pages, as many as FFCV has."""


class Schedule(Protocol):
    """Which page is read into which slot of memory, and when: FFCV's."""

    num_slots: int
    page_to_slot: Mapping[int, int]
    can_prefetch_at: Mapping[int, set[int]]
    """By batch: pages that may be read from its start on."""
    entering_at: Mapping[int, set[int]]
    """By batch: pages that must have been read by then."""


class PageCache:
    """The pages of an image beton, and those that the current epoch holds.

    Raises:
        UserError: an image that does not lie on one page, as FFCV's format asks.
    """

    def __init__(self, images: ImageBeton) -> None:
        self.path, self.file = images.path, images.file
        # A small file may say that its pages are gigabytes: no page is larger than it needs to be to hold the file.
        self.page_size = min(images.page_size, 1 << (images.file.size - 1).bit_length())
        start = images.data_ptr.astype(np.int64)
        self.page_N = start // self.page_size
        end = (start + np.maximum(images.data_size.astype(np.int64), 1) - 1) // self.page_size
        crossing = np.flatnonzero(self.page_N != end)
        if len(crossing):
            raise UserError(
                f"{self.path}: sample {crossing[0]}: it lies on more than one page of {self.page_size} bytes; "
                "use os_cache=True"
            )
        self.memory_bytes = 0
        """Bytes of the pages that the current epoch holds."""

    def pages_of(self, batches: Sequence[np.ndarray]) -> list[list[int]]:
        """The pages of each batch, whose image indices are (B,)."""
        return [np.unique(self.page_N[batch]).tolist() for batch in batches]


class PagePlan:
    """The pages of one epoch: entered before its first batch, exited after its last or early.

    Raises:
        UserError: on entering, if the schedule needs more memory than this machine has; on starting a batch, if a page
            can't be read.
    """

    def __init__(self, cache: PageCache, schedule: Schedule) -> None:
        self.cache, self.schedule = cache, schedule
        self._reading: dict[int, Future] = {}

    def __enter__(self) -> PagePlan:
        size = self.cache.page_size
        needed, present = self.schedule.num_slots * size, machine_memory()
        if needed > present:
            raise UserError(
                f"os_cache=False: {needed >> 20} MiB of pages would have to be held at a time, but this machine has "
                f"{present >> 20} MiB; use order='quasi_random' or os_cache=True"
            )
        self.memory = np.zeros((self.schedule.num_slots, size), np.uint8)
        self.cache.memory_bytes = self.memory.nbytes
        slots = self.schedule.page_to_slot
        self.page_to_slot = np.zeros(max(slots, default=-1) + 1, np.uint64)
        self.page_to_slot[list(slots)] = list(slots.values())
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ffdr-pages")
        return self

    @property
    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Where a page is: memory (slots, page_size) uint8, and the slot of each page, uint64."""
        return self.memory, self.page_to_slot

    def start_batch(self, batch: int) -> None:
        """Wait for the pages of this batch, while those of the next ones are being read."""
        for page in sorted(self.schedule.can_prefetch_at[batch]):
            self._reading[page] = self._readers.submit(self._read, page, self.schedule.page_to_slot[page])
        for page in self.schedule.entering_at[batch]:
            self._reading.pop(page).result()

    def __exit__(self, *_: object) -> None:
        """Cancel reads that have not begun, wait for those that have, and free the pages."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._reading.clear()
        del self.memory

    def _read(self, page: int, slot: int) -> None:
        start, target, file = page * self.cache.page_size, memoryview(self.memory[slot]), self.cache.file
        wanted = min(len(target), file.size - start)
        done = 0
        try:
            while done < wanted:  # one read may return less than asked for
                got = os.preadv(file.descriptor, [target[done:wanted]], start + done)
                if got == 0:
                    break
                done += got
        except OSError as error:
            raise UserError(f"{self.cache.path}: page {page} can't be read: {error.strerror}") from error
        if done < wanted or wanted <= 0:
            raise UserError(f"{self.cache.path}: page {page} can't be read: the file has become shorter")
