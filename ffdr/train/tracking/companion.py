"""A process in which a tracker's library runs by itself.

What the library prints, asks, hooks into the end of a process, reads from its environment or waits for is not the
training's, then. The two talk by lines of JSON: a call, and what came of it. Where the training dies, the other end of
the pipe closes, and the companion closes its run and ends.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

from ffdr.util.text import reason

_START = "import sys; sys.path[:] = sys.argv[2:]; from ffdr.train.tracking.companion import serve; serve(sys.argv[1])"
_LONGEST = 2000
"""Characters of an error that are passed on."""


class CompanionError(Exception):
    """What a call raised in the companion, or that it gave no answer."""


class Companion:
    """The training's end: starts the process and calls functions of one module in it."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        """module: has ``begin``, ``log`` and ``finish`` (see ``Served``); importable as in this process."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, module, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for the training, and nothing is asked on its terminal
        )

    def call(self, name: str, arguments: Mapping[str, Any], seconds: float) -> None:
        """Call a function and wait for it. Raises CompanionError, also where it takes longer than ``seconds``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise CompanionError(f"its process has ended with status {self._process.wait()}") from error
        said = self._answer(time.monotonic() + seconds)
        if said:
            raise CompanionError(said)

    def _answer(self, until: float) -> str:
        """What the companion has to object; nothing: it is done."""
        assert self._process.stdout is not None
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise CompanionError("no answer in time")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                raise CompanionError(f"its process has ended with status {self._process.wait()}")
            answer += part
        return str(json.loads(answer))

    def end(self, seconds: float) -> None:
        """End the process: it has so long to close what is open."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # it has ended, with something unsent in our buffer
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Served(Protocol):
    """What a companion's module has."""

    def begin(self, **arguments: Any) -> None:
        """Open the run."""

    def log(self, record: dict[str, Any]) -> None:
        """Log one epoch."""

    def finish(self, finished: bool) -> None:
        """Close the run, be it finished or not; called once."""


def serve(module: str) -> None:
    """The companion's end: the body of its process."""
    calls, answers = os.fdopen(os.dup(0)), os.dup(1)
    for stream in (0, 1):
        os.dup2(2, stream)  # which is /dev/null, see ``Companion``
    served: Any = None
    is_open = False
    for line in calls:
        name, arguments = json.loads(line)
        try:
            served = served or import_module(module)
            getattr(served, name)(**arguments)
            is_open = name != "finish"
            said = ""
        except BaseException as error:  # a library may raise SystemExit, too; all is told
            said = reason(error, _LONGEST)
        with suppress(BrokenPipeError):  # the training died meanwhile, and the pipe of calls has ended, too
            os.write(answers, json.dumps(said).encode() + b"\n")
    if is_open:
        served.finish(finished=False)
