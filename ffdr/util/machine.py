"""What this process may use of the machine: its memory, and its cores for decoding threads."""

from __future__ import annotations

import os
from pathlib import Path

from ffdr.util.errors import UserError

_SPARE_FROM = 4
"""Cores of a process from which on one is left to the thread that launches a GPU's kernels."""


def machine_memory() -> int:
    """Bytes that this process may have: the machine's, or its control group's."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(whole, int(text)) if text.isdecimal() else whole


def thread_count(asked: int, gpu: bool = False, processes: int = 1) -> int:
    """Decoding threads: as asked, or for 0 one per core, less one that keeps a GPU busy.

    processes: that share the machine's cores.

    Raises:
        UserError: more than this process may use.
    """
    from numba import config  # here: it is slow to import, and most ask for memory only

    available: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set by a loop over names
    if asked > available:
        raise UserError(f"workers: {asked} decoding threads asked for, but this process may use {available} cores")
    share = max(1, available // processes)
    return asked or (share - 1 if gpu and share >= _SPARE_FROM else share)
