"""The processor cores that this process may use, and how many of them decode."""

from __future__ import annotations

import numba

from ffdr.util.errors import UserError

_SPARE_FROM = 4
"""Cores of a process from which on one is left to the thread that launches a GPU's kernels."""


def thread_count(asked: int, gpu: bool = False, processes: int = 1) -> int:
    """Decoding threads: as asked, or for 0 one per core, less one that keeps a GPU busy.

    processes: that share the machine's cores.

    Raises:
        UserError: more than this process may use.
    """
    available = numba.config.NUMBA_NUM_THREADS
    if asked > available:
        raise UserError(f"workers: {asked} decoding threads asked for, but this process may use {available} cores")
    share = max(1, available // processes)
    return asked or (share - 1 if gpu and share >= _SPARE_FROM else share)
