"""The step alone, on random batches on the device: eager, compiled, as CUDA graphs, and beside a plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffdr.bench import loops
from ffdr.bench.capacity import PeakMemory, training_flops
from ffdr.bench.gpu.place import Place, Ready, Row, failure, timed
from ffdr.bench.gpu.plan import BARE, FIT, Line
from ffdr.bench.gpu.profiling import profile
from ffdr.bench.loops import CachedBatches, Setting
from ffdr.bench.timing import Work, time_in_turn
from ffdr.models.compiling import CUDA_GRAPHS
from ffdr.train.fit import Trainer

_WARM = 3
"""Steps in which all is compiled: also those after the first, as gradients and statistics are there only then."""


def prepare(place: Place, model: str, resolution: int, batch_size: int, ema: float, lines: list[Any]) -> Ready:
    """Build and compile all lines; one that fails does not keep the others from being measured."""
    sizes = place.sizes
    pixels = batch_size * resolution**2 / (sizes.batch_size * sizes.resolution**2)
    steps = max(3, round(sizes.steps / pixels))
    base = Setting(model, "auto", resolution, batch_size, steps, "off", 0, place.device, ema)
    flops = training_flops(model, _CLASSES, resolution)
    group = _Group(base, place.folder, flops)
    for line in lines:
        group.add(Line(**line))
    return Ready(lambda: group.measure(sizes.repeats), group.profile)


_CLASSES = 1000


class _Group:
    """Lines of one model and size, timed in turn."""

    def __init__(self, base: Setting, folder: Path, flops: int) -> None:
        self._base, self._folder, self._flops = base, folder, flops
        self._lines: dict[str, Callable[[], object]] = {}
        self._few: dict[str, Callable[[], object]] = {}
        self._facts: dict[str, Row] = {}
        self._failed: list[Row] = []
        self._trainers: dict[tuple[str, str], Trainer] = {}

    def add(self, line: Line) -> None:
        """Build a line and let it compile."""
        setting = replace(self._base, precision=line.precision, compile=line.compile)
        facts = self._row(line)
        peak = PeakMemory(setting.device)
        begun = time.monotonic()
        try:
            whole, few = self._passes(line, setting)
            if line.compile != "off":  # what is not compiled waits for its turn, when nobody else uses the GPU
                few()
                facts |= {"compile_span": (begun, time.monotonic())}
                if line.compile not in CUDA_GRAPHS:  # a replayed graph allocates nothing: its recording counts
                    peak.restart()
                    few()
                facts |= {"peak_bytes": peak.bytes}
        except Exception as error:
            self._failed.append(facts | failure(error))
            return
        facts["peak"] = peak
        self._lines[line.label], self._few[line.label], self._facts[line.label] = whole, few, facts

    def _row(self, line: Line) -> Row:
        return {
            "name": line.label,
            "model": self._base.model,
            "resolution": self._base.resolution,
            "batch_size": self._base.batch_size,
            "ema": self._base.ema,
            "how": line.how,
            "precision": line.precision,
            "compile": line.compile,
            "flops": self._flops,
        }

    def _passes(self, line: Line, setting: Setting) -> tuple[Callable[[], object], Callable[[], object]]:
        """A timed pass, and one of a few steps."""
        key = (line.precision, line.compile)
        if key not in self._trainers:
            self._trainers[key] = loops.random_trainer(setting, self._folder / "-".join(key), _CLASSES)
        trainer = self._trainers[key]
        batches = list(trainer.loader)[: loops.CACHED]
        few = CachedBatches(batches, _WARM, _CLASSES)
        if line.how == BARE:
            loop = loops.bare_loop(trainer, setting, line.compile)
            return lambda: loop(trainer.loader), lambda: loop(few)
        if line.how == FIT:
            return lambda: loops.train_epoch(trainer), lambda: loops.step_through(trainer, few)
        return lambda: loops.step_through(trainer), lambda: loops.step_through(trainer, few)

    def measure(self, repeats: int) -> Iterator[Row]:
        """All rows, those that failed first."""
        yield from self._failed
        for name, few in self._few.items():
            facts = self._facts[name]
            peak = facts.pop("peak")
            if "peak_bytes" not in facts:
                few()  # tries out algorithms, which takes more memory
                peak.restart()
                few()
                facts["peak_bytes"] = peak.bytes
        work = {name: Work(run, self._base.images) for name, run in self._lines.items()}
        for name, timing in time_in_turn(work, repeats).items():
            facts = self._facts[name]
            trainer = self._trainers[facts["precision"], facts["compile"]]
            if facts["how"] != BARE and facts["compile"] != "off" and loops.compiled(trainer) == "off":
                facts["note"] = "torch.compile failed; this is the eager step"
            yield timed(**facts, timing=timing)

    def profile(self, name: str) -> Row:
        """Where a line's time goes."""
        return profile(self._few[name], _WARM, self._base.device)
