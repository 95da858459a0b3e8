"""Imports FFCV without what its import compiles, and mended; every module here that uses FFCV imports this one first.

FFCV keeps two constants, the numbers of its image modes, in a dictionary of Numba's, which compiles its methods for 2.6
seconds in every process. Nothing compiled looks into that dictionary, so a plain one does.

Mended are, for every pipeline of FFCV's Loader in this process:

- the reader of the memory map, which changed one of Numba's own types (``_compile_mapped_reader``);
- ``EpochIterator``, whose consumer waited for ever when its thread failed: the error is raised in the consumer;
- its thread, which goes on when its consumer has left, is ended with Python, which it would crash;
- and it says of which epoch its batches are (``epoch``), which operations can ask ``threading.current_thread()``.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, Full
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numba.typed
import numpy as np

_compiled = numba.typed.Dict
numba.typed.Dict = dict
try:
    import ffcv.fields.rgb_image  # noqa: F401
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.memory_managers import OSCacheManager
    from ffcv.pipeline.compiler import Compiler
finally:
    numba.typed.Dict = _compiled

if TYPE_CHECKING:
    from ffcv.loader import Loader

_FILE = numba.types.Array(numba.uint8, 1, "C", readonly=True)
_MAPPED = numba.types.Tuple([_FILE, numba.uint64[::1], numba.uint64[::1]])


def _compile_mapped_reader(manager: OSCacheManager) -> Callable:
    """The reader of stock FFCV's Loader, with a type of its own for the read-only map.

    FFCV's version marks Numba's one shared type of byte arrays as read-only, after which no kernel of ours that had
    used it before can be compiled again in this process.
    """

    def read(address: int, state: tuple) -> np.ndarray:
        size = state[2][np.searchsorted(state[1], address)]
        return state[0][address : address + size]

    return Compiler.compile(read, _FILE(numba.uint64, _MAPPED))


OSCacheManager.compile_reader = _compile_mapped_reader


_begin_pass, _run_pass, _next_batch = EpochIterator.__init__, EpochIterator.run, EpochIterator.__next__


def _begin(iterator: EpochIterator, loader: Loader, order: Sequence[int]) -> None:
    """A pass of the Loader, which has counted it already."""
    iterator.epoch, iterator.failure = loader.next_epoch - 1, None
    _begin_pass(iterator, loader, order)
    _begun.add(iterator)


def _run(iterator: EpochIterator) -> None:
    """What the thread does; if that fails, it ends, and the error is kept for the consumer."""
    try:
        _run_pass(iterator)
    except BaseException as error:
        iterator.failure = error
        with suppress(Full):  # wakes a consumer that waits: for that one the queue is empty
            iterator.output_queue.put_nowait(None)


def _next(iterator: EpochIterator) -> tuple[Any, ...]:
    """The next batch of the pass.

    Raises:
        StopIteration: there is none.
        BaseException: what ended the thread, behind the batches that were made, as often as it is asked for.
    """
    if iterator.failure is None or not iterator.output_queue.empty():
        try:
            return _next_batch(iterator)
        except StopIteration:
            if iterator.failure is None:
                raise
    iterator.close()
    raise iterator.failure


EpochIterator.__init__, EpochIterator.run, EpochIterator.__next__ = _begin, _run, _next

_begun: WeakSet[EpochIterator] = WeakSet()
_LAST_BATCH_SECONDS = 10.0
"""How long the end of Python waits for batches that nobody will take."""


@atexit.register
def _end_all() -> None:
    """Threads that still decode while the interpreter is taken down would crash it."""
    deadline = time.monotonic() + _LAST_BATCH_SECONDS
    for iterator in list(_begun):
        iterator.iter_ixes = iter(())  # it ends after the batch at hand
        while iterator.is_alive() and time.monotonic() < deadline:
            with suppress(Empty):
                iterator.output_queue.get_nowait()  # makes room for a thread that is blocked in put
            iterator.join(0.02)
