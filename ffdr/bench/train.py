"""``ffdr bench train``: how fast training goes, with and without its parts, and beside loops written by hand.

Every pass learns from (or reads) the same number of images; all passes of a setting are timed in turn. Batches that
"lie on the device" are real ones of the loader, decoded beforehand, so that the step has nothing to wait for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from ffdr.bench import loops, published, settings
from ffdr.bench.capacity import PeakMemory, matrix_products, training_flops
from ffdr.bench.loops import CachedBatches
from ffdr.bench.results import Report, Summary, Table, bench, device_name, rounds
from ffdr.bench.settings import Setting, TrainingFiles
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing, Workload, time_in_turn
from ffdr.config.measuring import BenchOptions
from ffdr.train.fit import Trainer

# Names of what is timed.
BOTH = "ffdr: fit loop with the loader"
LOADER = "ffdr: loader alone"
FIT = "ffdr: fit loop, cached batches"
STEP = "ffdr: step alone, cached batches"
TIMM, TIMM_COMPILED = "timm, plain loop, cached batches", "timm, plain loop, compiled, cached batches"
VISION, VISION_COMPILED = "torchvision, plain loop, cached batches", "torchvision, plain loop, compiled, cached batches"
PRODUCTS = "matrix products"

_SHOWN = (STEP, FIT, LOADER, BOTH, TIMM, TIMM_COMPILED, VISION, VISION_COMPILED)
_SEVERAL_OUTPUTS = ("inception_v3",)
"""torchvision models that return more than logits in training."""

Loop = Callable[[], object]
"""One pass."""


@dataclass(frozen=True)
class TrainingTimes:
    """What was measured of one setting."""

    setting: Setting
    timings: Mapping[str, Timing]
    skipped: Mapping[str, str]
    """what could not be timed, and why"""
    memory: Mapping[str, int | None]
    """bytes, by what was timed"""
    data_wait: Estimate
    """share of the time that the fit loop waited for the loader"""
    flops: int
    """of one image's forward and backward pass"""

    @property
    def end_to_end(self) -> Estimate:
        """Images/s with the loader, relative to those of the step on cached batches."""
        return self.timings[BOTH].rate.over(self.timings[STEP].rate)

    @property
    def loop_time(self) -> Estimate:
        """Time of the fit loop, relative to a plain loop that is compiled likewise; both on cached batches."""
        base = TIMM if self.setting.compile == "off" else TIMM_COMPILED
        return self.timings[FIT].time.over(self.timings[base].time)

    @property
    def peak(self) -> Estimate:
        """Floating-point operations per second of matrix products."""
        return self.timings[PRODUCTS].rate

    def utilisation(self, name: str) -> Estimate:
        """Share of the peak that the model's own operations reach."""
        return Estimate.of(self.flops * np.divide(self.timings[name].rate.values, self.peak.values))


@bench(then="ffdr bench doctor")
def bench_train(options: BenchOptions, folder: Path) -> Report:
    """Measure every setting.

    Raises:
        UserError: files, models or options that don't go together.
    """
    planned = settings.plan(options)
    files = settings.training_files(options, folder, max(setting.images for setting in planned))
    planned = [setting.within(files.count) for setting in planned]
    results = []
    for number, setting in enumerate(planned):
        print(f"measuring {setting.label}", file=sys.stderr)
        results.append(measure(setting, files, folder / f"run_{number}", options.repeats))
    first = planned[0]
    labels = "stored views and logits (DR)" if files.task == "dr" else "labels, on views drawn on the fly (ERM)"
    head = [
        f"{files.count} images ({settings.source(options)}); ffdr learns from {labels}",
        f"on {device_name(first.device)}, with {first.threads} decoding threads",
        rounds(options, "pass"),
        "cached batches are the loader's own, kept on the device; a pass with the loader begins with nothing decoded, "
        "so the wait for its first batch is in it",
        "plain loops learn from labels by cross-entropy, with ffdr's optimiser, autocast and channels_last",
    ]
    figures = {"settings": {result.setting.label: _json(result) for result in results}}
    return Report("Training", head, [*map(_table, results)], summary(results), figures)


def measure(setting: Setting, files: TrainingFiles, out: Path, repeats: int) -> TrainingTimes:
    """All that is measured of one setting; the trainer keeps its files in ``out``."""
    torch._dynamo.reset()  # it compiles a model's code a limited number of times, for all settings together
    waits: list[float] = []
    peak = PeakMemory(setting.device)
    trainer = loops.new_trainer(setting, files, out)
    memory = {BOTH: peak.of_second(lambda: loops.train_on_last(trainer, setting.steps))}
    work = {
        BOTH: Workload(lambda: waits.append(loops.train_on_last(trainer, setting.steps)["data_wait"]), setting.images),
        LOADER: Workload(lambda: loops.read_last(trainer.loader, setting.steps), setting.images),
        PRODUCTS: matrix_products(setting.device, setting.dtype),
    }
    makers, skipped = _makers(setting, trainer)
    for name, make in makers.items():
        peak = PeakMemory(setting.device)
        work[name] = Workload(make(), setting.images)
        memory[name] = peak.of_second(work[name].run)
    timings = time_in_turn(work, repeats)
    flops = training_flops(setting.model, trainer.loader.num_classes, setting.resolution)
    return TrainingTimes(setting, timings, skipped, memory, Estimate.of(waits[-repeats:]), flops)


def _makers(setting: Setting, trainer: Trainer) -> tuple[dict[str, Callable[[], Loop]], dict[str, str]]:
    """What makes each pass over cached batches, by name; and what can't be made, with the reason."""
    batches = loops.read_last(trainer.loader, setting.steps)
    loader = CachedBatches(batches, setting.steps, trainer.loader.num_classes)
    mode = "default" if setting.compile == "off" else setting.compile

    def plain(build: Callable[[Trainer], nn.Module], compile: str) -> Callable[[], Loop]:
        return lambda: partial(loops.bare_loop(trainer, setting, compile, build(trainer)), loader)

    def on_cached(run: Callable[[Trainer], object]) -> Callable[[], Loop]:
        return lambda: partial(run, loops.on_cached(trainer, batches, setting.steps))

    makers = {
        FIT: on_cached(loops.train_epoch),
        STEP: on_cached(loops.step_through),
        TIMM: plain(loops.student, "off"),
        TIMM_COMPILED: plain(loops.student, mode),
        VISION: plain(_vision, "off"),
        VISION_COMPILED: plain(_vision, mode),
    }
    skipped: dict[str, str] = {}
    if broken := settings.why_not_compile(setting.device):
        skipped |= dict.fromkeys((TIMM_COMPILED, VISION_COMPILED), f"torch.compile does not work here: {broken}")
    if setting.model not in torchvision.models.list_models() or setting.model in _SEVERAL_OUTPUTS:
        skipped |= dict.fromkeys((VISION, VISION_COMPILED), f"torchvision has no {setting.model}")
    return {name: make for name, make in makers.items() if name not in skipped}, skipped


def _vision(trainer: Trainer) -> nn.Module:
    model = torchvision.models.get_model(
        trainer.model_options.name, weights=None, num_classes=trainer.loader.num_classes
    )
    return model.to(device=trainer.device, memory_format=torch.channels_last)


def summary(results: Sequence[TrainingTimes]) -> Summary:
    """What each setting loses to the loader and to the loop, and the fastest step beside the card's published rate."""
    found: dict[str, Estimate | None] = {}
    for result in results:
        found[f"{result.setting.label}: end to end : step on cached batches"] = result.end_to_end
        found[f"{result.setting.label}: fit loop's time : plain loop's, both on cached batches"] = result.loop_time
    rates = published.published_rates(results[0].setting.device)
    known = [
        (result.timings[STEP].rate, base)
        for result in results
        if (base := published.first_rate(rates, result.setting.model, result.setting.resolution))
    ]
    best = max(known, key=lambda pair: pair[0].median, default=None)
    return found | {"step : published rate": best and best[0].times(1 / best[1].images_per_second)}


def _table(result: TrainingTimes) -> Table:
    setting = result.setting
    rows = [_row(result, name) for name in _SHOWN if name in result.timings]
    rows += [(name, "—", "", "", "", why) for name, why in result.skipped.items()]
    compiled = "not compiled" if setting.compile == "off" else f"compiled, mode {setting.compile}"
    memory = "allocated" if setting.device.type == "cuda" else "of the whole process, with all that is timed before"
    notes = [
        f"Batches of {setting.batch_size}, {setting.steps} per pass; ffdr's step is {compiled}. "
        f"{result.flops / 1e9:.3g} GFLOPs per image, forward and backward; matrix products reach "
        f"{result.peak.median / 1e12:,.3g} TFLOP/s. Memory: the most in use, {memory}.",
        f"Waiting for data in the fit loop with the loader: {100 * result.data_wait.median:.1f} % of the time.",
    ]
    headings = ("", "images/s", "× timm, plain loop", "% of matrix products' FLOP/s", "peak memory, MiB", "")
    return Table(setting.label, headings, rows, notes)


def _row(result: TrainingTimes, name: str) -> tuple[str, ...]:
    rate = result.timings[name].rate
    if name == LOADER:
        return name, rate.text(0), "", "", "", ""
    size = result.memory[name]
    ratio, used = rate.over(result.timings[TIMM].rate), result.utilisation(name).times(100)
    return name, rate.text(0), ratio.text(), used.text(1), f"{size / 2**20:,.0f}" if size else "not measured", ""


def _json(result: TrainingTimes) -> dict[str, Any]:
    setting = result.setting
    return {
        "batch_size": setting.batch_size,
        "steps": setting.steps,
        "compile": setting.compile,
        "device": str(setting.device),
        "flops_per_image": result.flops,
        "peak_flops_per_second": result.peak.json(),
        "data_wait": result.data_wait.json(),
        "end_to_end": result.end_to_end.json(),
        "fit_loop_time": result.loop_time.json(),
        "skipped": dict(result.skipped),
        "passes": {
            name: timing.json()
            | {
                "peak_bytes": result.memory.get(name),
                "utilisation": None if name == LOADER else result.utilisation(name).json(),
            }
            for name, timing in result.timings.items()
            if name != PRODUCTS
        },
    }
