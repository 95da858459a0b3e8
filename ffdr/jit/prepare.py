"""Units made ready before their first use: loaded from the disk or, the first time ever, compiled in several processes.

Each unit is claimed by a lock on a file beside its machine code. This process takes them in order, its helpers from the
other end; ranks that start together share the work in the same way. The system gives the lock of a process that dies
to whoever waits for it. What helpers can't do, where machine code can't be kept or they don't start, this process does.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path

import numba

from ffdr.jit.unit import Unit
from ffdr.util.text import warn

_WORTH_IT = 4
"""Units to compile from which on helpers are started: to start one takes as long as to compile one."""
_UNIT_SECONDS = 1.0
_MOST_HELPERS = 7

_alone = threading.Lock()


def _be_alone() -> None:
    global _alone
    _alone = threading.Lock()


os.register_at_fork(after_in_child=_be_alone)


def prepare(units: Sequence[Unit]) -> None:
    """Load units, compiling those that are not on the disk; one line on standard error says so.

    units: those first whose modules take long to import, which helpers leave to this process.
    """
    missing = [unit for unit in units if not unit.is_loaded and not unit.is_kept]
    with _alone, _helpers(missing if len(missing) >= _WORTH_IT else []):
        _work(missing)
        for unit in units:
            if not unit.is_loaded:
                with _claim(unit, wait=True):  # it may be in the midst of being compiled
                    unit.load()


@contextmanager
def _helpers(missing: Sequence[Unit]) -> Iterator[None]:
    """Processes that compile units, too. In the end they are killed: there is no more for them to do, or an error."""
    count = min(len(os.sched_getaffinity(0)) - 1, _MOST_HELPERS, len(missing) // 2)
    if missing:
        seconds = _UNIT_SECONDS * len(missing) / (1 + count)
        warn(f"ffdr: compiling {len(missing)} kernels, about {seconds:.0f} s; the next start finds them")
    helpers: list[subprocess.Popen[bytes]] = []
    try:
        with suppress(OSError):  # no memory for one, no such program
            helpers += [_start(missing) for _ in range(count)]
        yield
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()


def _work(units: Sequence[Unit]) -> None:
    """Compile those that nobody else has begun."""
    for unit in units:
        with _claim(unit) as claimed:
            if claimed and not unit.is_kept:
                unit.load()


@contextmanager
def _claim(unit: Unit, wait: bool = False) -> Iterator[bool]:
    """Hold a unit's lock, if it is free or is waited for; True as well where there can be none."""
    claimed = True
    with ExitStack() as held:
        with suppress(OSError):  # a folder that can't be written to, a file system without locks
            file = held.enter_context(Path(unit.lock_path).open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held.callback(fcntl.flock, file, fcntl.LOCK_UN)  # which its end is not while a fork has it open
            except BlockingIOError:
                claimed = False
        yield claimed


def _start(units: Sequence[Unit]) -> subprocess.Popen[bytes]:
    """A process that helps to compile them."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "NUMBA_CACHE_DIR": numba.config.CACHE_DIR,  # type: ignore[attr-defined] # set by a loop over names
    }
    names = [unit.name for unit in reversed(units)]
    command = [sys.executable, "-c", f"from {__name__} import help_parent; help_parent()", str(os.getpid()), *names]
    quiet = subprocess.DEVNULL  # what is wrong, the parent meets when it does what a helper has not done
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment)


def help_parent() -> None:
    """What a helper does: it compiles the units that its arguments name, as long as its parent lives."""
    _, parent, *names = sys.argv
    for name in names:
        if os.getppid() != int(parent):
            return
        module, _, function = name.partition(":")
        _work([getattr(import_module(module), function)])
