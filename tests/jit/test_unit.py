"""Units are called by address, whoever calls first; they are prepared by several processes, or at least by this one."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from numba import prange, types
from numba.core.compiler_lock import global_compiler_lock

from ffdr.jit import prepare as preparing
from ffdr.jit.arguments import ADDRESS, array_of, named
from ffdr.jit.kernel import kernel
from ffdr.jit.prepare import prepare
from ffdr.jit.unit import called_by, unit
from ffdr.loader.replay.samples import replay_batch

BYTES = array_of(types.uint8, 1, writable=False)


class Part(NamedTuple):
    """Some bytes."""

    weight: float
    data: np.ndarray


class Sum(NamedTuple):
    """What they sum to."""

    total: float
    count: int


@unit(types.Tuple([types.boolean, named(Sum)]), named(Part, data=BYTES), types.int64)
def weigh(part, least):
    """Whether a part weighs so much, and what it does."""
    total = 0.0
    for level in part.data:
        total += part.weight * level
    return total >= least, Sum(total, len(part.data))


@unit(types.int64, ADDRESS)
def never_called(address):
    """Stands in a kernel that is not told to call it."""
    return np.int64(address)


@kernel
def _either(part, call):
    return weigh(part, 10)[1].count if call else never_called(1)


@unit(types.void, BYTES, array_of(types.float64, 1), parallel=True)
def weigh_tails(data, out):
    """The weight of every tail, in threads."""
    for i in prange(len(out)):
        is_heavy, found = weigh(Part(0.5, data[i:]), np.uint8(200))
        out[i] = found.total if is_heavy else -found.count


def test_threads_that_call_a_unit_first_get_what_it_computes():
    data, out = np.arange(100, dtype=np.uint8), np.zeros(100)
    assert not weigh.is_loaded
    weigh_tails(data, out)
    expected = [data[i:].sum() / 2 if data[i:].sum() >= 400 else i - 100 for i in range(100)]
    assert out.tolist() == expected and weigh.is_loaded


def test_python_may_pass_other_numbers_and_writable_arrays():
    assert weigh(Part(2, np.array([1, 2], np.uint8)), np.int8(6)) == (True, Sum(6.0, 2))
    assert len(weigh.kernel.signatures) == 1


def test_arrays_that_are_not_contiguous_are_refused():
    with pytest.raises(TypeError, match=r"^a C-contiguous array wanted, got one of strides \(2,\)"):
        weigh(Part(1.0, np.zeros(8, np.uint8)[::2]), 0)


def test_what_is_not_called_is_not_compiled():
    part = Part(1.0, np.frombuffer(b"abc", np.uint8))  # in a tuple, kernels don't convert a writable array
    assert _either(part, True) == 3
    assert not never_called.is_loaded
    assert _either(part, False) == 1


def test_units_below_units_and_kernels_are_found():
    names = [found.name.partition(":")[2] for found in called_by([replay_batch])]
    assert names[:3] == ["replay_batch", "_replay_share", "replay_group"]
    assert {"decode_row", "splice", "hue", "build_taps"} < set(names)
    decoder = next(found for found in called_by([replay_batch]) if found.name.endswith(":decode_coefficients"))
    left = called_by([replay_batch], without={decoder})
    assert {found.name.partition(":")[2] for found in called_by([replay_batch])} - {
        found.name.partition(":")[2] for found in left
    } == {"decode_coefficients", "decode_row"}


MODULE = """
    import numpy as np
    from numba import types
    from ffdr.jit.unit import unit

    {units}
"""
UNIT = """
    @unit(types.int64, types.int64)
    def add_{i}(a):
        return {call} + {i}
"""
COUNT = 6


@pytest.fixture
def module(tmp_path):
    """Runs code in a new process, with a module ``many`` of units that call each other, and a cache of its own."""
    text = "".join(UNIT.format(i=i, call=f"add_{i - 1}(a)" if i else "a") for i in range(COUNT))
    (tmp_path / "many.py").write_text(textwrap.dedent(MODULE).format(units=textwrap.dedent(text)))
    (tmp_path / "cache").mkdir()

    def run(code, wait=True):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
            "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        }
        text = f"import many\nunits = [getattr(many, f'add_{{i}}') for i in range({COUNT})]\n" + textwrap.dedent(code)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", text], env=environment, **pipes)
        return (*process.communicate(timeout=120), process.returncode) if wait else process

    run.cache = tmp_path / "cache"
    return run


CALL = """
from ffdr.jit import prepare
{change}
prepare.prepare(units)
print(many.add_5(1), sum(unit.kernel.stats.cache_hits.total() for unit in units))
"""
TWO_CORES = "import os; os.sched_getaffinity = lambda process: {0, 1}"


def test_helpers_share_the_work_and_the_next_process_compiles_nothing(module):
    out, said, _ = module(CALL.format(change=TWO_CORES))
    total, from_helpers = map(int, out.split())
    assert total == 16 and from_helpers <= COUNT
    assert said.splitlines() == ["ffdr: compiling 6 kernels, about 3 s; the next start finds them"]
    assert len(list(module.cache.rglob("*.nbc"))) == COUNT
    assert module(CALL.format(change=TWO_CORES)) == (f"16 {COUNT}\n", "", 0)


@pytest.mark.parametrize(
    "change",
    [
        "prepare.help_parent = None; import sys; sys.executable = '/bin/false'",
        "import sys; sys.executable = '/nowhere'",
        "import os, subprocess; start = prepare._start; prepare._start = lambda units: dead(start(units))\n"
        "def dead(helper): helper.kill(); return helper",
    ],
    ids=["fails", "is not there", "is killed"],
)
def test_without_helpers_the_process_does_all_the_work(module, change):
    out, _, status = module(CALL.format(change=f"{TWO_CORES}\n{change}"))
    assert (out, status) == ("16 0\n", 0)


def test_two_processes_at_once_compile_each_unit_once(module):
    one_core = "import os; os.sched_getaffinity = lambda process: {0}"
    first, second = (module(CALL.format(change=one_core), wait=False) for _ in range(2))
    outs = [process.communicate(timeout=120)[0].split() for process in (first, second)]
    assert [out[0] for out in outs] == ["16", "16"]
    assert sum(int(out[1]) for out in outs) == COUNT  # each is compiled by one and loaded by the other


def test_a_cache_that_cannot_be_written_to_is_done_without(module):
    change = """
from pathlib import Path
from ffdr.jit.cache import KernelFile
def full(*_):
    raise OSError(28, "No space left on device")
def refuse(path, mode="r", *rest, **others):
    return full() if mode == "ab" else opened(path, mode, *rest, **others)
KernelFile._save_data, opened, Path.open = full, Path.open, refuse
"""
    out, said, status = module(CALL.format(change=change))
    assert (out, status) == ("16 0\n", 0), said


def test_an_interrupt_while_units_are_compiled_leaves_the_lock_free(monkeypatch):
    def interrupted(units):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "_work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare([weigh])
    monkeypatch.undo()
    prepare([weigh])


def test_an_interrupt_ends_the_helpers(monkeypatch):
    ended = []

    class Helper:
        def kill(self):
            ended.append("killed")

        def wait(self):
            ended.append("waited for")

    monkeypatch.setattr(preparing, "_start", lambda units: Helper())
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    with pytest.raises(KeyboardInterrupt), preparing._helpers([weigh] * 4):
        raise KeyboardInterrupt
    assert ended == ["killed", "waited for"]


def test_a_fork_waits_for_what_another_thread_compiles():
    """Else its locks would stay locked in there."""
    compiling = threading.Event()

    def compile_slowly():
        with preparing._alone, global_compiler_lock:
            compiling.set()
            time.sleep(0.5)

    thread = threading.Thread(target=compile_slowly)
    thread.start()
    compiling.wait()
    with warnings.catch_warnings(action="ignore"):  # Python's own, of threads and forks
        child = os.fork()
    if not child:
        signal.alarm(20)
        with preparing._alone, global_compiler_lock:
            os._exit(0)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
