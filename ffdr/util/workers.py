"""Worker processes that do portions of work, whose results come back in order."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any, TypeVar

Result = TypeVar("Result")
Task = Callable[[Sequence[Any]], Result]
"""Does a portion: images, or their numbers. Pickles cheaply."""


class DeadWorkerError(Exception):
    """A worker process died, on one of the images from ``first`` to ``last``, as they stand in the portions."""

    def __init__(self, first: Any, last: Any) -> None:
        super().__init__(first, last)
        self.first, self.last = first, last


def run(
    task: Task[Result], portions: Iterable[Sequence[Any]], workers: int, preload: Sequence[str] = ()
) -> Iterator[Result]:
    """The results of all portions, in order; a single worker is this process itself.

    Portions that are made one after the other are asked for as they are needed: two per worker are at hand at a time.

    preload: modules that are imported once, for all workers.

    Raises:
        DeadWorkerError: out of memory, or a crash.
    """
    workers = min(workers, len(portions)) if isinstance(portions, Sequence) else workers
    if workers <= 1:
        yield from map(task, portions)
        return
    pool = ProcessPoolExecutor(workers, start_context(preload), _start, (task,))
    flying: deque[tuple[Sequence[Any], Future[Result]]] = deque()
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


def start_context(preload: Sequence[str] = ()) -> ForkServerContext | SpawnContext:
    """How processes are started: by the fork server, which has no threads whose locks a child would inherit.

    preload: modules that it imports once, for all. Where the temporary folder's name leaves no room for the path of its
    socket, each process is started afresh.
    """
    if len(os.fsencode(tempfile.gettempdir())) + len("/pymp-xxxxxxxx/listener-xxxxxxxx") > _SOCKET_PATH:
        return Spawn()
    context = _ForkServer()
    context.set_forkserver_preload(list(preload))
    return context


_SOCKET_PATH = 107
"""Bytes of a socket's path in Linux."""


@contextmanager
def _without_script() -> Iterator[None]:
    """A process that starts meanwhile does not run its parent's script anew, as multiprocessing has it.

    Our tasks need nothing of it; and without ``if __name__ == "__main__":`` it would start itself, for ever.
    """
    with _script_lock:
        script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


_script_lock = threading.Lock()
"""Of two threads at once, the second would take the first one's empty module for the script."""


class _ForkServerProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802  (multiprocessing's name)
        with _without_script():
            return ForkServerProcess._Popen(process)


class _SpawnProcess(SpawnProcess):
    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802
        with _without_script():
            return SpawnProcess._Popen(process)


class _ForkServer(ForkServerContext):
    Process = _ForkServerProcess


class Spawn(SpawnContext):
    """Multiprocessing's context ``spawn``, whose processes do not run their parent's script anew."""

    Process = _SpawnProcess


_task: Task[Any] | None = None


def _start(task: Task[Any]) -> None:
    """Prepare a worker process."""
    import signal

    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _run(portion: Sequence[Any]) -> Any:
    assert _task is not None, "_start runs first"
    return _task(portion)


def _die_with_parent() -> None:
    """A worker waits for work for ever when its parent was killed: the queue's pipe is open in other workers too."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
