"""The processes of the bench: they get ready side by side, as far as memory and cores allow, and are measured alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from ffdr.bench.gpu.plan import GpuJob
from ffdr.bench.gpu.site import Row

# States of a job.
NEW, PREPARING, READY, FAILED, MEASURED = "new", "preparing", "ready", "failed", "measured"
_LOOK_AGAIN = 0.1
"""Seconds."""
_SETTLE = 0.5
"""Seconds until a GPU has done what stopped processes had asked of it."""


class Process:
    """A process group in the background, with a log of what it prints; may be stopped and continued."""

    def __init__(
        self,
        module: Sequence[str],
        log: Path,
        env: dict[str, str],
        nice: int = 0,
        cwd: Path | None = None,
        talks: bool = False,
    ) -> None:
        """module: Python's arguments. talks: by standard input and output, which otherwise goes to the log, too."""
        self.log = log
        command = [sys.executable, *module]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                ["nice", "-n", str(nice), *command] if nice else command,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
                text=True,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether it is over, well or not."""
        return self.process.poll() is not None

    def signal(self, number: int) -> None:
        """To it and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """At once."""
        self.signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])[-4000:]
        return ""


class Worker(Process):
    """A process that measures (``worker.py``), and the states of its jobs."""

    def __init__(self, jobs: Sequence[GpuJob], first: dict[str, Any], log: Path, env: dict[str, str]) -> None:
        super().__init__(["-m", "ffdr.bench.gpu.worker"], log, env, talks=True)
        self.jobs = {job.name: job for job in jobs}
        self.states = dict.fromkeys(self.jobs, NEW)
        self.failures: dict[str, Row] = {}
        self.events: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self.stops: list[tuple[float, float]] = []
        """When it stood still, monotonic seconds."""
        self._send({**first, "jobs": [asdict(job) for job in jobs]})
        threading.Thread(target=self._listen, daemon=True).start()

    def order(self, do: str, job: str, **more: Any) -> None:
        """Ask for something; what follows comes as events."""
        self._send({"do": do, "job": job, **more})

    def _send(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it died, which shows elsewhere
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):
                self.events.put(json.loads(line))

    def fail(self, job: str, row: Row) -> None:
        """Nothing more is to be expected of a job."""
        self.states[job], self.failures[job] = FAILED, row

    def died(self) -> None:
        """All jobs that were under way fail, with its last words."""
        row = {"failed": f"the process ended with status {self.process.returncode}", "traceback": self.last_words()}
        for job, state in self.states.items():
            if state not in (MEASURED, FAILED):
                self.fail(job, row)


@dataclass(frozen=True)
class Background:
    """What runs beside the jobs."""

    files: Path
    """exists once all files are there"""
    stopped: Sequence[Process] = ()
    """these stand still while something is measured"""
    going_on: Sequence[Process] = ()
    """these need not: they leave the GPU alone"""


class Limits(NamedTuple):
    """What jobs that get ready side by side may take together."""

    memory: float
    """GB of the GPU"""
    jobs: int


class Pool:
    """All processes of one run."""

    def __init__(self, workers: Sequence[Worker], background: Background, limits: Limits) -> None:
        self.workers, self._background, self._limits = list(workers), background, limits

    def state(self, job: GpuJob) -> str:
        """Of a job."""
        return self._of(job).states[job.name]

    def failure(self, job: GpuJob) -> Row:
        """Why a job failed."""
        return self._of(job).failures[job.name]

    def _of(self, job: GpuJob) -> Worker:
        return next(worker for worker in self.workers if job.name in worker.jobs)

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Let the jobs get ready until something is so; whether it is, after some seconds at most."""
        end = time.monotonic() + seconds
        while True:
            self._look()
            if until():
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(_LOOK_AGAIN)

    def _look(self) -> None:
        for worker in self.workers:
            with suppress(Empty):
                while True:
                    self._note(worker, worker.events.get_nowait())
            if worker.ended:
                worker.died()
        self._start_some()

    def _note(self, worker: Worker, event: dict[str, Any]) -> None:
        if event["event"] == "ready" and worker.states[event["job"]] == PREPARING:
            worker.states[event["job"]] = READY
        elif event["event"] == "failed":
            worker.fail(event["job"], {key: event[key] for key in ("failed", "traceback")})
        elif event["event"] == "done":
            worker.states[event["job"]] = MEASURED

    def _start_some(self) -> None:
        """Have jobs prepared for which there is room."""
        pairs = [(worker, job) for worker in self.workers for job in worker.jobs.values()]
        # A process does one thing at a time, and what is ready is measured before it goes on.
        busy = [worker for worker, job in pairs if worker.states[job.name] == PREPARING]
        taken = {id(worker) for worker, job in pairs if worker.states[job.name] in (PREPARING, READY)}
        needed = {PREPARING: "memory", READY: "keeps", MEASURED: "keeps"}
        used = sum(
            getattr(job, needed[worker.states[job.name]])
            for worker, job in pairs
            if worker.states[job.name] in needed and not worker.ended
        )
        for worker, job in pairs:
            if worker.states[job.name] != NEW or id(worker) in taken or worker.ended:
                continue
            if len(busy) >= self._limits.jobs or (busy and used + job.memory > self._limits.memory):
                continue
            if job.extra and any(w.states[other.name] in (NEW, PREPARING) for w, other in pairs if not other.extra):
                continue
            if job.needs_files and not self._background.files.exists():
                continue
            worker.order("prepare", job.name)
            worker.states[job.name] = PREPARING
            busy.append(worker)
            taken.add(id(worker))
            used += job.memory

    def measure(self, job: GpuJob, seconds: float, profiled: str = "") -> Iterator[Row]:
        """The rows of a job that is ready, while nothing else uses the GPU. profiled: the name of a row, of which then
        a profile is the only row.

        A job that takes longer than so many seconds, or dies, fails.
        """
        worker = self._of(job)
        with self._alone(worker):
            time.sleep(_SETTLE)
            worker.order("profile" if profiled else "measure", job.name, row=profiled)
            end = time.monotonic() + seconds
            while True:
                try:
                    event = worker.events.get(timeout=_LOOK_AGAIN)
                except Empty:
                    if worker.ended:
                        worker.died()
                        return
                    if time.monotonic() > end:
                        worker.kill()
                        late = {"failed": f"not done in {seconds:.0f} s", "traceback": worker.last_words()}
                        worker.fail(job.name, late)
                        return
                    continue
                mine = event["job"] == job.name
                if mine and event["event"] == "row":
                    yield without_stops(event["row"], worker.stops)
                    continue
                self._note(worker, event)
                if mine and event["event"] in ("done", "failed"):
                    return

    @contextmanager
    def _alone(self, one: Worker) -> Iterator[None]:
        """Nothing else uses the GPU."""
        all_others = (*self.workers, *self._background.stopped)
        still = [process for process in all_others if process is not one and not process.ended]
        begun = time.monotonic()
        for process in still:
            process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in still:
                process.signal(signal.SIGCONT)
                if isinstance(process, Worker):
                    process.stops.append((begun, time.monotonic()))

    def give_up(self, job: GpuJob) -> None:
        """A job is not wanted any more, whatever its state."""
        worker = self._of(job)
        if worker.states[job.name] == PREPARING and len(worker.jobs) == 1:
            worker.kill()
        worker.states[job.name] = MEASURED
        self.release(job)

    def release(self, job: GpuJob) -> None:
        """Give back what a measured job holds, if its process has no other."""
        worker = self._of(job)
        if all(state in (MEASURED, FAILED) for state in worker.states.values()):
            worker.kill()

    def close(self) -> None:
        """End everything."""
        processes = (*self.workers, *self._background.stopped, *self._background.going_on)
        for process in processes:
            process.signal(signal.SIGKILL)  # all at once: to leave a GPU takes a process a second or two
        for process in processes:
            process.kill()


def without_stops(row: Row, stops: Sequence[tuple[float, float]]) -> Row:
    """A row whose span of compiling has become the seconds in which its process did not stand still."""
    if "compile_span" not in row:
        return row
    begin, end = row["compile_span"]
    idle = sum(max(0.0, min(end, stop) - max(begin, start)) for start, stop in stops)
    return {key: value for key, value in row.items() if key != "compile_span"} | {"compile_seconds": end - begin - idle}
