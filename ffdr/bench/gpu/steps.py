"""The step alone, on random batches on the device: eager, compiled, as CUDA graphs, and beside a plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ffdr.bench import loops
from ffdr.bench.capacity import PeakMemory, training_flops
from ffdr.bench.gpu.plan import BARE, FIT, Line
from ffdr.bench.gpu.profiling import profile
from ffdr.bench.gpu.site import Ready, Row, Site, failure, timed
from ffdr.bench.loops import CachedBatches
from ffdr.bench.settings import Setting
from ffdr.bench.timing import Workload, time_in_turn
from ffdr.models.compiling import CUDA_GRAPHS
from ffdr.train.fit import Trainer

_CLASSES = 1000
_WARM = 3
"""Steps in which all is compiled: also those after the first, as gradients and statistics are there only then."""


def prepare(site: Site, model: str, resolution: int, batch_size: int, ema: float, lines: list[dict[str, str]]) -> Ready:
    """Build and compile all lines; one that fails does not keep the others from being measured."""
    sizes = site.sizes
    pixels = batch_size * resolution**2 / (sizes.batch_size * sizes.resolution**2)
    steps = max(3, round(sizes.steps / pixels))
    base = Setting(model, "auto", resolution, batch_size, steps, "off", 0, site.device, ema)
    group = _Group(base, site.folder, training_flops(model, _CLASSES, resolution))
    for line in lines:
        group.add(Line(**line))
    return Ready(lambda: group.measure(sizes.repeats), group.profile)


Run = Callable[[], object]


@dataclass
class _Built:
    """A line that waits for its turn."""

    whole: Run
    """the timed pass"""
    few: Run
    """a pass of a few steps"""
    trainer: Trainer
    peak: PeakMemory
    facts: Row
    """what is known of it so far"""


class _Group:
    """Lines of one model and size, timed in turn."""

    def __init__(self, base: Setting, folder: Path, flops: int) -> None:
        self._base, self._folder = base, folder
        self._size = {
            "model": base.model,
            "resolution": base.resolution,
            "batch_size": base.batch_size,
            "ema": base.ema,
            "flops": flops,
        }
        self._lines: dict[str, _Built] = {}
        self._failed: list[Row] = []
        self._trainers: dict[tuple[str, str], Trainer] = {}

    def add(self, line: Line) -> None:
        """Build a line and let it compile."""
        facts: Row = {"name": line.label, **self._size, **asdict(line)}
        peak = PeakMemory(self._base.device)
        begun = time.monotonic()
        try:
            built = self._build(line, peak, facts)
            if line.compile != "off":  # what is not compiled waits for its turn, when nobody else uses the GPU
                built.few()
                facts["compile_span"] = (begun, time.monotonic())
                if line.compile not in CUDA_GRAPHS:  # a replayed graph allocates nothing: its recording counts
                    peak.restart()
                    built.few()
                facts["peak_bytes"] = peak.bytes
        except Exception as error:
            self._failed.append(facts | failure(error))
            return
        self._lines[line.label] = built

    def _build(self, line: Line, peak: PeakMemory, facts: Row) -> _Built:
        setting = replace(self._base, precision=line.precision, compile=line.compile)
        key = (line.precision, line.compile)
        if key not in self._trainers:
            self._trainers[key] = loops.random_trainer(setting, self._folder / "-".join(key), _CLASSES)
        trainer = self._trainers[key]
        few = CachedBatches(list(trainer.loader)[: loops.CACHED], _WARM, _CLASSES)
        if line.how == BARE:
            loop = loops.bare_loop(trainer, setting, line.compile)
            return _Built(partial(loop, trainer.loader), partial(loop, few), trainer, peak, facts)
        whole = loops.train_epoch if line.how == FIT else loops.step_through
        return _Built(partial(whole, trainer), partial(loops.step_through, trainer, few), trainer, peak, facts)

    def measure(self, repeats: int) -> Iterator[Row]:
        """All rows, those that failed first."""
        yield from self._failed
        for line in self._lines.values():
            if "peak_bytes" not in line.facts:
                line.facts["peak_bytes"] = line.peak.of_second(line.few)  # the first tries out algorithms
        work = {name: Workload(line.whole, self._base.images) for name, line in self._lines.items()}
        for name, timing in time_in_turn(work, repeats).items():
            line = self._lines[name]
            asked, had = line.facts["compile"], line.trainer.step.compiled
            if line.facts["how"] != BARE and asked != "off" and had == "off":
                line.facts["note"] = "torch.compile failed; this is the eager step"
            yield timed(**line.facts, timing=timing)

    def profile(self, name: str) -> Row:
        """Where a line's time goes."""
        return profile(self._lines[name].few, _WARM, self._base.device)
