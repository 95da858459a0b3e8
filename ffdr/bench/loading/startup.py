"""How long a new process takes to its first batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_CHILD = """
import time
start = time.perf_counter()
import sys
from ffdr import ReinforcedLoader
loader = ReinforcedLoader(sys.argv[1], sys.argv[2] or None, batch_size=int(sys.argv[3]), resolution=int(sys.argv[4]))
next(iter(loader))
print(time.perf_counter() - start)
"""
_IMPORT = """
import time
start = time.perf_counter()
import importlib, sys
importlib.import_module(sys.argv[1])
print(time.perf_counter() - start)
"""


def start_seconds(
    images: Path, reinforced: Path | str, batch_size: int, resolution: int, cache: Path | None = None
) -> float:
    """Seconds from the first import to the first batch, in a process of its own that may use all cores.

    ``reinforced``: "" shows the evaluation view.
    ``cache`` is the folder of compiled kernels, empty for a first start ever; None: the one that this process uses.
    """
    environment = dict(os.environ, **({"NUMBA_CACHE_DIR": str(cache)} if cache else {}))
    return _seconds(_CHILD, str(images), str(reinforced), str(batch_size), str(resolution), environment=environment)


def import_seconds(module: str) -> float:
    """Seconds that a new process takes to import a module."""
    return _seconds(_IMPORT, module)


def _seconds(code: str, *arguments: str, environment: dict[str, str] | None = None) -> float:
    """What a new process prints."""
    command = [sys.executable, "-c", code, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
