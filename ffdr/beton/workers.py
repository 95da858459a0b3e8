"""Worker processes that do portions of work, whose results come back in order."""

from __future__ import annotations

import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, parent_process
from typing import Any, TypeVar

Result = TypeVar("Result")
Task = Callable[[Sequence[int]], Result]
"""Does a portion: numbers of images. Pickles cheaply."""


class DeadWorkerError(Exception):
    """A worker process died, on one of the images from ``first`` to ``last``."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(first, last)
        self.first, self.last = first, last


def run(task: Task[Result], portions: Sequence[list[int]], workers: int) -> Iterator[Result]:
    """The results of all portions, in order; a single worker is this process itself.

    Raises:
        DeadWorkerError: out of memory, or a crash.
    """
    workers = min(workers, len(portions))
    if workers <= 1:
        yield from map(task, portions)
        return
    # A forked child would inherit this process's threads' locks; the fork server has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ffdr.beton.encode"])
    pool = ProcessPoolExecutor(workers, context, _start, (task,))
    flying: deque[tuple[list[int], Future[Result]]] = deque()
    try:
        for portion in portions:
            flying.append((portion, pool.submit(_run, portion)))
            if len(flying) >= 2 * workers:
                yield flying[0][1].result()
                flying.popleft()
        while flying:
            yield flying[0][1].result()
            flying.popleft()
    except BrokenProcessPool:
        raise DeadWorkerError(flying[0][0][0], flying[-1][0][-1]) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_task: Task[Any] | None = None


def _start(task: Task[Any]) -> None:
    """Prepare a worker process."""
    import signal

    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _run(portion: Sequence[int]) -> Any:
    assert _task is not None, "_start runs first"
    return _task(portion)


def _die_with_parent() -> None:
    """A worker waits for work for ever when its parent was killed: the queue's pipe is open in other workers too."""
    import os

    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
