"""The process in which measurements live: gets them ready, then waits to be asked.

``python -m ffdr.bench.gpu.worker`` reads lines of JSON and answers with such lines. The first one says where and what;
each further one is ``{"do": "prepare" | "measure" | "profile", "job": NAME, "row": NAME}``. Answers name the job and
hold ``event``: ``ready``, ``row``, ``done`` or ``failed``. At the end of its input the process ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from ffdr.bench.gpu import hardware, health, loading, steps, teaching
from ffdr.bench.gpu.plan import CPU, GPU
from ffdr.bench.gpu.site import Ready, Site, failure

KINDS: Mapping[str, Callable[..., Ready]] = {
    "hardware": hardware.prepare,
    "steps": steps.prepare,
    "loader": loading.prepare_loader,
    "epochs": loading.prepare_epochs,
    "teacher": teaching.prepare_teacher,
    "evaluation": teaching.prepare_evaluation,
    "health": health.prepare,
}


class Desk:
    """The jobs of this process, and the answers to orders about them."""

    def __init__(self, site: Site, jobs: list[dict[str, Any]], answers: TextIO) -> None:
        self._site, self._answers = site, answers
        self._jobs = {job["name"]: job for job in jobs}
        self._ready: dict[str, Ready] = {}

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one order; whatever it raises is the answer."""
        name = order["job"]
        try:
            getattr(self, f"_{order['do']}")(name, order)
        except Exception as error:
            self._say(name, "failed", **failure(error))

    def _prepare(self, name: str, order: dict[str, Any]) -> None:
        job = self._jobs[name]
        self._ready[name] = KINDS[job["kind"]](self._site, **job["arguments"])
        self._give_back_memory()
        self._say(name, "ready")

    def _measure(self, name: str, order: dict[str, Any]) -> None:
        for row in self._ready[name].measure():
            self._say(name, "row", row=row)
        self._give_back_memory()
        self._say(name, "done")

    def _profile(self, name: str, order: dict[str, Any]) -> None:
        profile = self._ready[name].profile
        assert profile is not None, "only steps are profiled"
        self._say(name, "row", row=profile(order["row"]))
        self._say(name, "done")

    def _give_back_memory(self) -> None:
        """What the allocator only keeps: others get ready beside this process."""
        if self._site.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _say(self, name: str, event: str, **more: Any) -> None:
        print(json.dumps({"job": name, "event": event, **more}), file=self._answers, flush=True)


def main() -> None:
    """Serve until the input ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the command, not even stopped
    # Libraries print; what they say belongs into the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    first = json.loads(sys.stdin.readline())
    gpu = first["device"] == "cuda"
    if not gpu:
        # What a C++ compiler would take minutes for; all but the machine code is as it would be.
        torch.compiler.set_stance("default", force_backend="aot_eager")
        torch.set_num_threads(1)
    folder = Path(first["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    site = Site(device, GPU if gpu else CPU, folder, Path(first["files"]))
    desk = Desk(site, first["jobs"], answers)
    for line in sys.stdin:
        desk.obey(json.loads(line))


if __name__ == "__main__":
    main()
