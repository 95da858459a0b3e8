"""FFCV's process cache, made safe: pages of the file are read into memory of this process, ahead of their batches.

Which page is in memory when is FFCV's plan (``compute_schedule``). The reading is ours, because FFCV's has these
faults: what a failed or short read leaves in memory is taken for the page; a reading thread that dies leaves the loader
waiting for ever; threads are not waited for when an epoch ends; pages of fields that nobody decodes are read; and a
plan that needs more memory than the machine has is carried out.
"""

from __future__ import annotations

import ffdr.beton.lean_ffcv  # noqa: F401

# isort: split
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from ffcv.memory_managers.process_cache.schedule import compute_schedule

from ffdr.beton.read import ImageBeton
from ffdr.errors import UserError

READERS = 12
"""Threads that read pages, as many as FFCV has."""


class PageCache:
    """Plans and holds the pages of one epoch after another.

    Raises:
        UserError: an image that does not lie on one page, as FFCV's format asks.
    """

    def __init__(self, images: ImageBeton) -> None:
        self.path, self.page_size = images.path, images.page_size
        self.start_N, self.size_N = images.data_ptr.astype(np.int64), images.data_size
        self.page_N = self.start_N // self.page_size
        end = (self.start_N + np.maximum(self.size_N.astype(np.int64), 1) - 1) // self.page_size
        crossing = np.flatnonzero(self.page_N != end)
        if len(crossing):
            raise UserError(
                f"{self.path}: sample {crossing[0]}: it lies on more than one page of {self.page_size} bytes; "
                "use os_cache=True"
            )
        self.memory_bytes = 0
        """Bytes of the pages that the current epoch holds."""

    def plan(self, batches: Sequence[np.ndarray]) -> PagePlan:
        """The pages for these batches, whose image indices are (B,) each."""
        return PagePlan(self, batches)


class PagePlan:
    """The pages of one epoch: entered before its first batch, exited after its last or early.

    Raises:
        UserError: on entering, if the plan needs more memory than this machine has; on starting a batch, if a page
            can't be read.
    """

    def __init__(self, cache: PageCache, batches: Sequence[np.ndarray]) -> None:
        self.cache, self.batches = cache, batches
        self._reading: dict[int, Future] = {}

    def __enter__(self) -> PagePlan:
        page_N, size = self.cache.page_N, self.cache.page_size
        self.schedule = compute_schedule([np.unique(page_N[batch]).tolist() for batch in self.batches])
        needed, present = self.schedule.num_slots * size, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > present:
            raise UserError(
                f"os_cache=False: {needed >> 20} MiB of pages would have to be held at a time, but this machine has "
                f"{present >> 20} MiB; use order='quasi_random' or os_cache=True"
            )
        self.memory = np.zeros((self.schedule.num_slots, size), np.uint8)
        self.cache.memory_bytes = self.memory.nbytes
        slots = self.schedule.page_to_slot
        self.page_to_slot = np.zeros(max(slots, default=-1) + 1, np.int64)
        self.page_to_slot[list(slots)] = list(slots.values())
        self._file = open(self.cache.path, "rb", buffering=0)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ffdr-pages")
        return self

    def start_batch(self, batch: int) -> None:
        """Wait for the pages of this batch, while those of the next ones are being read."""
        for page in sorted(self.schedule.can_prefetch_at[batch]):
            self._reading[page] = self._readers.submit(self._read, page, self.schedule.page_to_slot[page])
        for page in self.schedule.entering_at[batch]:
            self._reading.pop(page).result()

    def spans(self, index: np.ndarray) -> np.ndarray:
        """Where the images of a batch that was started lie in memory: (B, 3) uint64 index, address, size."""
        cache = self.cache
        page = cache.page_N[index]
        place = (self.page_to_slot[page] - page) * cache.page_size + cache.start_N[index]
        address = place.astype(np.uint64) + np.uint64(self.memory.ctypes.data)
        return np.stack([index.astype(np.uint64), address, cache.size_N[index]], axis=1)

    def __exit__(self, *_: object) -> None:
        """Cancel reads that have not begun, wait for those that have, and let go of the pages."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._file.close()
        self._reading.clear()
        del self.memory

    def _read(self, page: int, slot: int) -> None:
        start, room = page * self.cache.page_size, memoryview(self.memory[slot])
        wanted = min(len(room), os.fstat(self._file.fileno()).st_size - start)
        done = 0
        try:
            while done < wanted:  # one read may return less than asked for
                got = os.preadv(self._file.fileno(), [room[done:wanted]], start + done)
                if got == 0:
                    break
                done += got
        except OSError as error:
            raise UserError(f"{self.cache.path}: page {page} can't be read: {error.strerror}") from error
        if done < wanted or wanted <= 0:
            raise UserError(f"{self.cache.path}: page {page} can't be read: the file has become shorter")
