"""ffdr as processors without AVX2 run it: a process of its own, whose kernels are compiled for any processor.

It works through an epoch when it is asked to, and waits in between, so that it can be timed in turn with the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ffdr.bench.loading.peers import EpochPass, exhaust
from ffdr.bench.timing import cores, single_threaded_libraries

_CHILD = """
import sys
from ffdr.bench.loading.pipelines import make_loader
from ffdr.bench.loading.portable import serve
images, reinforced, resolution = sys.argv[1:]
serve(make_loader(images, reinforced, resolution=int(resolution)))
"""
_DONE = "done\n"


@contextmanager
def portable_pass(images: Path, reinforced: Path, resolution: int) -> Iterator[EpochPass]:
    """A pass over an epoch of DR by that process, on one core; it ends with the context.

    The pass raises RuntimeError where the process has ended; standard error has said why.
    """
    command = [sys.executable, "-c", _CHILD, str(images), str(reinforced), str(resolution)]
    environment = os.environ | {"NUMBA_CPU_NAME": "generic"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, env=environment, stdin=pipe, stdout=pipe) as child:
        to, from_ = child.stdin, child.stdout
        assert to is not None and from_ is not None

        def ask() -> None:
            print(file=to, flush=True)
            if _DONE not in from_:  # reads up to that line
                raise RuntimeError("the process of the loader without AVX2 has ended")

        yield ask


def serve(loader: Iterable) -> None:
    """What the process does: one epoch for each line that it reads."""
    with single_threaded_libraries(), cores(1):
        for _ in sys.stdin:
            exhaust(loader)
            print(_DONE, end="", flush=True)
