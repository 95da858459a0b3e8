"""Work that is killed again and again, and must end with the bytes of work that was not.

Starting Python with torch costs seconds, so one fresh process (``fresh_process``) warms up, then forks children for
every attempt; it has no threads that a child could miss. SIGKILL comes after a random time, or at one of the steps by
which files change: just before the child opens, renames, removes or syncs a file, or commits to a journal.
"""

import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
from ranked import free_port
from tqdm import tqdm

from ffdr.util.errors import UserError
from ffdr.write import partial, receipt
from ffdr.write.receipt import receipt_path

PATH_STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
"""Python's own audit events, whose first argument is a path."""
OWN_STEPS = ("commit", "fsync")
LAST_STEPS = 18
"""A run ends with so many steps at least: tables, last look, receipt, rename, clearing up."""
LIMIT = 240
"""Seconds after which a child is said to hang."""


@contextmanager
def fresh_process():
    """Executor of one new process, whose Numba kernels survive a fork."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("THREADING_LAYER", "workqueue"), ("NUM_THREADS", "1")):
            patched.setenv(f"NUMBA_{name}", value)
        with ProcessPoolExecutor(1, get_context("spawn"), _share_nothing) as executor:
            yield executor


def _share_nothing() -> None:
    """Progress bars keep a semaphore for all forks: a child killed while it holds that one would stop all later ones.
    Nor do they need their watching thread, which a fork does not have."""
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0


class Ordeal:
    """Runs ``work(out)`` in children that are killed.

    work: makes the file ``out``, or goes on making it.
    ranks: the largest number of children that share the work, as torchrun would start them.
    """

    def __init__(self, work: Callable[[Path], None], folder: Path, seed: int, ranks: int = 1) -> None:
        self.work, self.folder, self.ranks = work, folder, ranks
        self.out = folder / "x.beton"
        self.random = random.Random(seed)
        self.killed = Counter()
        """Kills by the step that was not taken; "time" for a random moment."""
        self.steps = 0
        """of an undisturbed run"""
        work(self.out)  # warms up
        self.empty()
        start = time.monotonic()
        assert self._watch([self._start(0, 1, count=True)]) == [0]
        self.seconds = time.monotonic() - start
        self.whole = self._files()
        self.steps = int(self._note())
        self.empty()

    def run(self, kills: int) -> Counter:
        """Die at each of the last steps of a fresh run, then anywhere on the way, then finish."""
        for step in range(self.steps - LAST_STEPS, self.steps):
            self.empty()
            self.attempt(1, 0, step)
            self.attempt(1, 0)
        while sum(self.killed.values()) < kills:
            size = self.random.randint(1, self.ranks)
            # A resumed run has fewer steps than a whole one, so early ones are more likely.
            step = int(self.steps * self.random.random() ** 2)
            after = self.random.uniform(0, size * self.seconds)
            moment = self.random.choice(({"step": step}, {"after": after}))
            self.attempt(size, self.random.randrange(size), **moment, grace=self.random.choice((0, 0.5)))
        self.attempt(1, 0)
        return self.killed

    def attempt(self, size: int, victim: int, step: int | None = None, after: float | None = None, grace: float = 0):
        """Exit statuses of ``size`` ranks of which one is killed, at a step or after so many seconds, or none.

        grace: seconds until the others are ended, too, as torchrun would.
        """
        children = [self._start(rank, size, step if rank == victim else None) for rank in range(size)]
        statuses = self._watch(children, victim, after, grace)
        if statuses[victim] == -signal.SIGKILL:
            self.killed[self._note() or "time"] += 1
        elif set(statuses) == {0}:
            assert self._files() == self.whole
            self.empty()
        else:
            assert -signal.SIGKILL in statuses, statuses
        return statuses

    def statuses(self, size: int) -> list[int]:
        """Exit statuses of so many ranks that nobody kills, whatever they make of the folder as it is."""
        self.steps = 0  # another file than the complete one may appear
        return self._watch([self._start(rank, size) for rank in range(size)])

    def _start(self, rank: int, size: int, step: int | None = None, count: bool = False) -> int:
        """Fork one rank; its process id."""
        self.port = free_port() if rank == 0 else self.port
        child = os.fork()
        if child:
            return child
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
            os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
            steps = self._notice_steps(step)
            self.work(self.out)
            if count:
                self._note(str(len(steps)))
            os._exit(0)
        except UserError:
            os._exit(2)
        finally:
            os._exit(1)

    def _notice_steps(self, last: int | None) -> list[str]:
        """The steps of this process from now on. It dies instead of taking number ``last``."""
        steps, folder = [], str(self.folder)

        def notice(step, arguments):
            if step in OWN_STEPS or (step in PATH_STEPS and str(arguments[0]).startswith(folder + "/")):
                steps.append(step)
                if len(steps) - 1 == last:
                    self._note(step)
                    os.kill(os.getpid(), signal.SIGKILL)

        for owner, name in ((partial.Partial, "commit"), (os, "fsync")):
            setattr(owner, name, _announced(getattr(owner, name), name))
        sys.addaudithook(notice)
        return steps

    def _watch(self, children, victim=0, after=None, grace=0):
        """Exit statuses. Whenever the final name shows a file, it is the complete one."""
        statuses, start, end = {}, time.monotonic(), time.monotonic() + LIMIT
        while len(statuses) < len(children):
            for child in set(children) - set(statuses):
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    statuses[child] = os.waitstatus_to_exitcode(status)
                    if child == children[victim] and statuses[child]:
                        end = time.monotonic() + grace
            if after is not None and time.monotonic() > start + after and children[victim] not in statuses:
                os.kill(children[victim], signal.SIGKILL)
                after = None
            if time.monotonic() > end:
                assert children[victim] in statuses, "a process hangs"
                for child in set(children) - set(statuses):
                    os.kill(child, signal.SIGTERM)
            if self.steps and self.out.exists():
                assert self.out.read_bytes() == self.whole[self.out.name]
            time.sleep(0.001)
        return [statuses[child] for child in children]

    def _files(self):
        """Contents by name. Those of a receipt differ by the time: it must be there, and be believed."""
        files = {path.name: path.is_file() and path.read_bytes() for path in self.folder.iterdir()}
        if receipt_path(self.out).name in files:
            files[receipt_path(self.out).name] = receipt._believed(self.out) is not None
        return files

    def empty(self) -> None:
        """Forget what the attempts so far have left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def _note(self, text: str | None = None) -> str:
        """What a child has left for its parent."""
        path = self.folder.with_suffix(".note")
        if text is None:
            text = path.read_text() if path.exists() else ""
            path.unlink(missing_ok=True)
        else:
            path.write_text(text)
        return text


def _announced(function, name):
    def call(*arguments):
        sys.audit(name)
        return function(*arguments)

    return call
