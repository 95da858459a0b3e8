"""Processes that do tasks one after another, so that slow imports and compiled kernels are paid for once."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from tqdm import tqdm

from ffdr.train.signals import Stopped, StopRequest
from ffdr.util.errors import UserError, WriteError
from ffdr.util.workers import Spawn

Task = Callable[[], Any]
"""Runs in a worker; task and value must pickle."""
_POLL = 0.2
"""Seconds between two looks at the world outside the workers."""
_SPAWN = Spawn()


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    value: Any = None
    error: str = ""
    """one line; empty: it is done"""
    trace: str = ""
    """of an error that is not the user's"""
    fatal: bool = False
    """whether its process is lost"""


class Callback:
    """Hears what happens in the queue; by itself it does nothing about it."""

    def started(self, number: int) -> None:
        """A worker took on the task of that number."""

    def ended(self, number: int, outcome: Outcome) -> None:
        """The task is done, or failed."""

    def tick(self) -> None:
        """Some time has passed."""


class Workers:
    """A queue of tasks over a few processes. A task that fails, or takes its process down, does not stop the others."""

    def __init__(self, jobs: int = 0, threads: int = 0) -> None:
        """jobs: processes; 0: one per GPU, or one on a CPU. threads: of each; 0: its share of the cores."""
        self.devices = _devices()
        self.jobs = jobs or max(1, len(self.devices))
        self.threads = threads or max(1, len(os.sched_getaffinity(0)) // self.jobs)

    def run(self, tasks: Sequence[Task], callback: Callback) -> list[Outcome]:
        """Do all tasks, begun in their order. Returns the outcome of each.

        Raises:
            Stopped: Ctrl-C or SIGTERM; the workers were stopped the same way and have ended.
        """
        todo = deque(enumerate(tasks))
        outcomes: dict[int, Outcome] = {}
        workers = [_Worker(self._environment(slot)) for slot in range(min(self.jobs, len(tasks)))]
        with StopRequest() as stop:
            try:
                while todo or any(worker.busy for worker in workers):
                    for worker in workers:
                        if todo and not worker.busy:
                            callback.started(todo[0][0])
                            worker.give(*todo.popleft())
                    wait([handle for worker in workers for handle in worker.handles], _POLL)
                    for number, outcome in filter(None, [worker.news() for worker in workers]):
                        outcomes[number] = outcome
                        callback.ended(number, outcome)
                    callback.tick()
                    if stop.requested:
                        _stop(workers)
                        stop.end()
            except BaseException:
                for worker in workers:
                    worker.kill()
                raise
        for worker in workers:
            worker.dismiss()
        return [outcomes[number] for number in range(len(tasks))]

    def _environment(self, slot: int) -> dict[str, str]:
        changes = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        if self.devices:
            changes["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return changes


class _Process(NamedTuple):
    """A worker's process, and the parent's end of the pipe to it."""

    process: SpawnProcess
    pipe: Connection


class _Worker:
    """The parent's side of one worker, whose process is started when needed, and anew after it died."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.live: _Process | None = None
        """None: not started"""
        self._number: int | None = None
        """of the task at work"""

    @property
    def busy(self) -> bool:
        return self._number is not None

    @property
    def handles(self) -> list[Any]:
        """What becomes readable when there is news."""
        return [self.live.pipe, self.live.process.sentinel] if self.live and self.busy else []

    def give(self, number: int, task: Task) -> None:
        if self.live is None or not self.live.process.is_alive():
            self.kill()
            self.live = self._start()
        self._number = number
        self.live.pipe.send(task)

    def _start(self) -> _Process:
        pipe, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(theirs,))
        with _set(self._environment):
            process.start()
        theirs.close()
        return _Process(process, pipe)

    def news(self) -> tuple[int, Outcome] | None:
        """Number and outcome of the task at work, once it has ended."""
        live, number = self.live, self._number
        if live is None or number is None or not (live.pipe.poll() or not live.process.is_alive()):
            return None
        self._number = None
        try:
            outcome = live.pipe.recv()
        except EOFError:
            live.process.join()
            outcome = Outcome(error=f"its process ended with status {live.process.exitcode}", fatal=True)
        if outcome.fatal:
            self.kill()
        return number, outcome

    def dismiss(self) -> None:
        """End a worker that has nothing to do."""
        if self.live is not None:
            self.live.pipe.close()  # it waits for a task, and ends when none can come
            self.live.process.join()

    def kill(self) -> None:
        if self.live is not None:
            self.live.process.kill()
            self.live.process.join()
            self.live.pipe.close()
        self.live = None


def _stop(workers: Sequence[_Worker]) -> None:
    """Ask all for an end, as a scheduler would, and wait for it; a second Ctrl-C interrupts the wait."""
    running = [worker.live.process for worker in workers if worker.live is not None]
    for process in running:
        process.terminate()
    for process in running:
        process.join()


def _work(pipe: Connection) -> None:
    """A worker's life. It has a session of its own, so that Ctrl-C reaches it through its parent alone, and once."""
    os.setsid()
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared between processes, and outlives one that is killed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            outcome = Outcome(task())
        except Stopped as stopped:
            raise SystemExit(stopped.status) from None
        except (UserError, WriteError) as error:
            outcome = Outcome(error=str(error))
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            # A crash leaves its mark on a process, on a CUDA context above all.
            outcome = Outcome(error=line, trace=traceback.format_exc(), fatal=True)
        pipe.send(outcome)


def _end_with_parent() -> None:
    """A worker whose parent was killed stops as if asked to: what runs in it saves a checkpoint."""
    if (parent := parent_process()) is not None:
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _devices() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(number) for number in range(count)]


@contextmanager
def _set(changes: dict[str, str]) -> Iterator[None]:
    """Environment variables that a process started meanwhile inherits; libraries read some when they are imported."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
