"""Processes of one run, each with the variables that torchrun would give it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def launch(ranks: int, arguments: Sequence[object], **options: Any) -> list[subprocess.Popen[str]]:
    """Start Python with ``arguments`` as each of the ranks; it finds the modules that this process finds.

    options: of ``subprocess.Popen``. The standard error is kept unless told otherwise.
    """
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, *map(str, arguments)]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, **options}
    return [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options)
        for rank in range(ranks)
    ]


def finish(processes: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit statuses of ranks and what they said on their standard error."""
    errors = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], errors
