"""``ffdr bench gpu``: everything that only a GPU can show, in less than eight minutes.

What is measured is listed in ``plan.py``. The figures are stored after every job, so a run that is cut off loses one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ffdr.bench.gpu import plan, suite
from ffdr.bench.gpu.files import READY as FILES_READY
from ffdr.bench.gpu.outcomes import GpuOutcome, Outcomes
from ffdr.bench.gpu.plan import GpuJob
from ffdr.bench.gpu.pool import FAILED, READY, Background, Limits, Pool, Process, Worker
from ffdr.bench.gpu.site import failure
from ffdr.bench.gpu.tables import tables
from ffdr.bench.published import published_rates
from ffdr.bench.results import Report, check_report
from ffdr.config.measuring import BenchOptions
from ffdr.models.build import best_device
from ffdr.util.errors import UserError
from ffdr.util.machine import thread_count

_MARGIN = 6.0
"""Seconds kept for the end: tables and processes."""
_PATIENCE = 2
"""Times the seconds that a job is expected to take, and ten, after which it has failed."""


def bench_gpu(options: BenchOptions) -> None:
    """Measure all stages that fit into the time, print tables, and with ``options.json`` store them and the figures.

    Raises:
        UserError: a report that could not be written; a GPU asked for where there is none.
    """
    begun = time.monotonic()
    check_report(options.json)
    device = device_for(options.device)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _sigterm_as_interrupt():
        _Session(options, device, Path(folder), begun).run()


def device_for(asked: str) -> torch.device:
    """Where to measure.

    Raises:
        UserError: there is no GPU.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("bench.device: cuda asked for, but torch sees no GPU here; cpu tries everything at tiny sizes")
    return torch.device(asked) if asked else best_device()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Nothing that was started is left behind, also when a scheduler ends the run."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("stopped by SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Session:
    """One run, from the first process to the last table."""

    def __init__(self, options: BenchOptions, device: torch.device, folder: Path, begun: float) -> None:
        self.options, self.device, self.folder, self.begun = options, device, folder, begun
        self.gpu = device.type == "cuda"
        self.sizes = plan.GPU if self.gpu else plan.CPU
        self.stages = options.stages or plan.GPU_STAGES
        self.jobs = plan.jobs(self.sizes, self.gpu, self.stages)
        self.by_job = {job.name: GpuOutcome(job.stage, job.name) for job in self.jobs}
        self.outcomes = Outcomes(list(self.by_job.values()), published_rates(device))
        self.profile: list[dict[str, Any]] = []
        self._profile_outcome = GpuOutcome(plan.PROFILE, "profile")
        self.files: Process | None = None
        self.tests: Process | None = None
        self._tests_outcome = GpuOutcome(plan.TESTS, "pytest -m gpu")

    @property
    def spent(self) -> float:
        """Seconds."""
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        """Seconds."""
        return self.options.seconds - _MARGIN - self.spent

    def run(self) -> None:
        """Start everything, measure what gets ready, in order of importance, and end everything."""
        background = self._background()
        self.pool = Pool(self._workers(), background, self._limits())
        pending = list(self.jobs)
        try:
            while pending or self.tests:
                self.pool.wait(lambda: any(self._is_ready(job) for job in pending) or self._tests_over(), 1.0)
                self._end_tests()
                for job in [job for job in pending if self._settled(job)]:
                    pending.remove(job)
                rest = [job for job in pending if not job.extra] or pending
                due = next((job for job in rest if self._is_ready(job)), None)
                if due is not None:
                    pending.remove(due)
                    self._measure(due)
        finally:
            self.pool.close()
        self._report().publish(self.options.json, "ffdr bench doctor")

    # Processes.

    def _environment(self) -> dict[str, str]:
        found = dict(os.environ)
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(suite.root()), found.get("PYTHONPATH", ""))))
        found["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "inductor")  # what one has compiled, others need not
        if self.gpu:
            found.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
        else:
            found["CUDA_VISIBLE_DEVICES"] = ""
        return found

    def _background(self) -> Background:
        """The processes that run the tests or make the files."""
        folder = self.folder / "files"
        folder.mkdir()
        environment = self._environment()
        if any(job.needs_files for job in self.jobs):
            half = max(1, thread_count(0) // 2) if self.gpu else 1
            command = ["-m", "ffdr.bench.gpu.files", str(folder), "gpu" if self.gpu else "cpu", str(half)]
            self.files = Process(command, self.folder / "files.log", environment)
        if plan.TESTS in self.stages:
            self.outcomes.jobs.append(self._tests_outcome)
            if found := suite.test_files():
                kernels = folder / FILES_READY if self.files else None
                self.tests = suite.start(found, self.folder / "tests.log", environment, kernels)
            else:
                self._tests_outcome.status = "skipped: there are no tests beside the package"
        return Background(
            files=folder / FILES_READY,
            stopped=[self.tests] if self.tests else [],
            going_on=[self.files] if self.files else [],
        )

    def _workers(self) -> list[Worker]:
        """One per job on a GPU, so that none breaks another; on a CPU one for all, which starts faster."""
        groups = [[job] for job in self.jobs] if self.gpu else [self.jobs] if self.jobs else []
        workers = []
        for number, group in enumerate(groups):
            folder = self.folder / f"worker-{number}"
            first = {"device": self.device.type, "files": str(self.folder / "files"), "folder": str(folder)}
            workers.append(Worker(group, first, folder.with_suffix(".log"), self._environment()))
        return workers

    def _limits(self) -> Limits:
        if not self.gpu:
            return Limits(memory=1e9, jobs=1)
        memory = torch.cuda.get_device_properties(self.device).total_memory
        return Limits(memory=0.9 * memory / 1e9, jobs=max(2, thread_count(0) // 2))

    # Jobs.

    def _is_ready(self, job: GpuJob) -> bool:
        return self.pool.state(job) == READY

    def _settled(self, job: GpuJob) -> bool:
        """Whether there is nothing to measure: it failed, or does not fit any more. Takes note of it."""
        if self.pool.state(job) == FAILED:
            self._fail(job, self.pool.failure(job))
        elif self.left < job.seconds:
            state = "" if self._is_ready(job) else ", and it is not ready yet"
            self._end(job, f"skipped: needs ~{job.seconds:.0f} s, {max(0.0, self.left):.0f} s left{state}")
            self.pool.give_up(job)
        elif job.needs_files and self.files and self.files.ended and self.files.process.returncode:
            self._fail(job, {"failed": "its files could not be made", "traceback": self.files.last_words()})
            self.pool.give_up(job)
        else:
            return False
        return True

    def _measure(self, job: GpuJob) -> None:
        outcome, start = self.by_job[job.name], time.monotonic()
        self._say(f"{job.stage}: {job.name} begins")
        try:
            most = min(self.left, 10 + _PATIENCE * job.seconds)
            outcome.rows.extend(self.pool.measure(job, most))
        except Exception as error:
            self._fail(job, failure(error))
            self.pool.give_up(job)
            return
        finally:
            outcome.seconds = time.monotonic() - start
        if self.pool.state(job) == FAILED:
            self._fail(job, self.pool.failure(job))
            return
        self._end(job, "measured")
        if plan.PROFILE in self.stages and _of_main(job, self.sizes):
            self._profile(job)
        self.pool.release(job)

    def _fail(self, job: GpuJob, row: dict[str, Any]) -> None:
        self.by_job[job.name].traceback = row["traceback"]
        self._end(job, f"failed: {row['failed']}")

    def _end(self, job: GpuJob, status: str) -> None:
        outcome = self.by_job[job.name]
        outcome.status = status
        self._say(f"{job.stage}: {job.name} {status}, {outcome.seconds:.1f} s")
        self._store()

    def _profile(self, job: GpuJob) -> None:
        """The fastest way of learning that is measured so far, if this job has it: a process that waited for faster
        ones would keep its memory."""
        best = self.outcomes.best(self.sizes.batch_size)
        if best is None or best not in self.by_job[job.name].rows:
            return
        outcome, start = self._profile_outcome, time.monotonic()
        if outcome not in self.outcomes.jobs:
            self.outcomes.jobs.append(outcome)
        of = f"{job.name}, {best['name']}" if best["name"] not in job.name else job.name
        self._say(f"profile: {of} begins")
        found = [{**row, "of": of} for row in self.pool.measure(job, min(60, self.left), best["name"])]
        self.profile = found or self.profile
        outcome.status, outcome.traceback = "measured", ""
        if self.pool.state(job) == FAILED:
            failed = self.pool.failure(job)
            outcome.status, outcome.traceback = f"failed: {failed['failed']}", failed["traceback"]
        outcome.seconds += time.monotonic() - start
        self._say(f"profile: {outcome.status}, {time.monotonic() - start:.1f} s")
        self._store()

    # Tests.

    def _tests_over(self) -> bool:
        return self.tests is not None and (self.tests.ended or self.left <= 0)

    def _end_tests(self) -> None:
        if self.tests is None or not self._tests_over():
            return
        tests, self.tests = self.tests, None
        status = tests.process.poll()
        tests.kill()
        outcome = self._tests_outcome
        outcome.seconds = self.spent
        outcome.rows.append(suite.outcome(tests.log.read_text(errors="replace"), status))
        outcome.status = "measured" if status == 0 else "failed: cut off" if status is None else "failed: see its log"
        self._say(f"tests: {outcome.status}, {outcome.seconds:.1f} s")
        self._store()

    # What is left behind.

    def _say(self, text: str) -> None:
        print(f"[{self.spent:5.1f} s] {text}", file=sys.stderr, flush=True)

    def _store(self) -> None:
        if self.options.json:
            self._report().store(self.options.json)

    def _report(self) -> Report:
        """All so far; a figure that no table can show must not cost the others."""
        facts: dict[str, Any] = {"device": self.device.type, "seconds": self.spent, "budget": self.options.seconds}
        made = self.folder / "files" / FILES_READY
        if made.exists():
            facts["files"] = json.loads(made.read_text())
        figures = facts | {"stages": self.outcomes.json(), "profile": self.profile}
        try:
            shown, summary = tables(self.outcomes, self.profile), self.outcomes.summary()
        except Exception as error:
            self._say(f"tables: failed: {type(error).__name__}: {error}")
            shown, summary, figures = [], {}, figures | failure(error)
        return Report("GPU", self._head(), shown, summary, figures)

    def _head(self) -> list[str]:
        sizes = self.sizes
        name = torch.cuda.get_device_name(self.device) if self.gpu else "the CPU, at sizes that say nothing of speed"
        return [
            f"on {name}, {thread_count(0)} cores; {self.spent:.0f} s of {self.options.seconds}",
            f"{sizes.repeats} rounds, each pass once per round; median [95 % interval]; while one is timed, no "
            "other process uses the GPU",
            f"files: {sizes.photos * sizes.copies} images, {sizes.photos} different ones, {sizes.classes} classes",
        ]


def _of_main(job: GpuJob, sizes: plan.Sizes) -> bool:
    """Whether a job measures the first model's step at its batch size."""
    if job.stage != plan.STEPS:
        return False
    keys = ("model", "resolution", "batch_size")
    return tuple(job.arguments[key] for key in keys) == (sizes.model, sizes.resolution, sizes.batch_size)
