"""``ffdr bench train``: how fast training goes, with and without its parts, and beside loops written by hand.

Every pass learns from (or reads) the same number of images; all passes of a setting are timed in turn. Batches that
"lie on the device" are real ones of the loader, decoded beforehand, so that the step has nothing to wait for.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from ffdr.bench import cards, loops
from ffdr.bench.capacity import PeakMemory, matrix_products, training_flops
from ffdr.bench.loops import CachedBatches, Files, Setting
from ffdr.bench.report import Table, Target, check_report, report, target_table
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing, Work, time_in_turn
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

_SEVERAL_OUTPUTS = ("inception_v3",)
"""torchvision models that return more than logits in training."""


@dataclass(frozen=True)
class Figures:
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
        """Images a second with the loader, relative to those of the step on cached batches."""
        return self.timings[BOTH].rate.over(self.timings[STEP].rate)

    @property
    def loop_time(self) -> Estimate:
        """Time of the fit loop, relative to a plain loop that is compiled likewise; both on cached batches."""
        base = TIMM if self.setting.compile == "off" else TIMM_COMPILED
        return self.timings[FIT].time.over(self.timings[base].time)

    @property
    def peak(self) -> Estimate:
        """Floating-point operations a second of matrix products."""
        return self.timings[PRODUCTS].rate

    def utilisation(self, name: str) -> Estimate:
        """Share of the peak that the model's own operations reach."""
        return Estimate.of(self.flops * np.divide(self.timings[name].rate.values, self.peak.values))


def bench_train(options: BenchOptions) -> None:
    """Measure every setting, print tables, and with ``options.json`` store them and the figures.

    Raises:
        UserError: a report that could not be written; files, models or options that don't go together.
    """
    check_report(options.json)
    settings = loops.plan(options)
    with tempfile.TemporaryDirectory() as folder:
        files = loops.training_files(options, Path(folder), max(setting.images for setting in settings))
        settings = [setting.within(files.count) for setting in settings]
        results = []
        for number, setting in enumerate(settings):
            print(f"measuring {setting.label}", file=sys.stderr)
            results.append(measure(setting, files, Path(folder) / f"run_{number}", options.repeats))
    tables = [*map(_table, results), target_table(targets(results))]
    report(options.json, "Training", _head(options, files, results), tables, _json(results))


def measure(setting: Setting, files: Files, out: Path, repeats: int) -> Figures:
    """All figures of one setting; the trainer keeps its files in ``out``."""
    torch._dynamo.reset()  # it compiles a model's code a limited number of times, for all settings together
    waits: list[float] = []
    peak = PeakMemory(setting.device)
    trainer = loops.new_trainer(setting, files, out)
    memory = {BOTH: _peak_of(lambda: loops.train_on_last(trainer, setting.steps), peak)}
    work = {
        BOTH: Work(lambda: waits.append(loops.train_on_last(trainer, setting.steps)["data_wait"]), setting.images),
        LOADER: Work(lambda: loops.read_last(trainer.loader, setting.steps), setting.images),
        PRODUCTS: matrix_products(setting.device, setting.dtype),
    }
    makers, skipped = _makers(setting, trainer)
    for name, make in makers.items():
        peak = PeakMemory(setting.device)
        work[name] = Work(make(), setting.images)
        memory[name] = _peak_of(work[name].run, peak)
    timings = time_in_turn(work, repeats)
    flops = training_flops(setting.model, trainer.loader.num_classes, setting.resolution)
    return Figures(setting, timings, skipped, memory, Estimate.of(waits[-repeats:]), flops)


def _peak_of(run: Callable[[], object], peak: PeakMemory) -> int | None:
    """Bytes of its second run."""
    run()
    peak.restart()
    run()
    return peak.bytes


def _makers(setting: Setting, trainer: Trainer) -> tuple[dict[str, Callable[[], Callable[[], None]]], dict[str, str]]:
    """What makes each pass over cached batches, by name; and what can't be made, with the reason."""
    batches = loops.read_last(trainer.loader, setting.steps)
    loader = CachedBatches(batches, setting.steps, trainer.loader.num_classes)
    mode = "default" if setting.compile == "off" else setting.compile
    broken = loops.why_not_compile(setting.device)
    has_vision = setting.model in torchvision.models.list_models() and setting.model not in _SEVERAL_OUTPUTS

    def plain(build: Callable[[], nn.Module], compile: str) -> Callable[[], Callable[[], None]]:
        return lambda: partial(loops.bare_loop(trainer, setting, compile, build()), loader)

    makers = {
        FIT: lambda: partial(loops.train_epoch, loops.on_cached(trainer, batches, setting.steps)),
        STEP: lambda: partial(loops.step_through, loops.on_cached(trainer, batches, setting.steps)),
        TIMM: plain(lambda: loops.student(trainer), "off"),
        TIMM_COMPILED: plain(lambda: loops.student(trainer), mode),
        VISION: plain(lambda: _vision(trainer), "off"),
        VISION_COMPILED: plain(lambda: _vision(trainer), mode),
    }
    skipped = {}
    if broken:
        skipped |= dict.fromkeys((TIMM_COMPILED, VISION_COMPILED), f"torch.compile does not work here: {broken}")
    if not has_vision:
        skipped |= dict.fromkeys((VISION, VISION_COMPILED), f"torchvision has no {setting.model}")
    return {name: make for name, make in makers.items() if name not in skipped}, skipped


def _vision(trainer: Trainer) -> nn.Module:
    model = torchvision.models.get_model(
        trainer.model_options.name, weights=None, num_classes=trainer.loader.num_classes
    )
    return model.to(device=trainer.device, memory_format=torch.channels_last)


def targets(results: Sequence[Figures]) -> list[Target]:
    """What is promised, of each setting."""
    found = []
    for figures in results:
        label = figures.setting.label
        found.append(Target(f"{label}: end to end : step on cached batches", figures.end_to_end, 0.97))
        found.append(
            Target(
                f"{label}: fit loop's time : plain loop's, both on cached batches",
                figures.loop_time,
                1.03,
                at_most=True,
            )
        )
    judged = (cards.MODEL, cards.RESOLUTION)
    comparable = [figures for figures in results if (figures.setting.model, figures.setting.resolution) == judged]
    best = max(comparable, key=lambda figures: figures.timings[STEP].rate.median, default=None)
    if best is None:
        return [*found, cards.published_target(None, None)]
    return [*found, cards.published_target(best.timings[STEP].rate, cards.card_of(best.setting.device))]


def _head(options: BenchOptions, files: Files, results: Sequence[Figures]) -> list[str]:
    first = results[0].setting
    source = options.data or "photographs made for this"
    lessons = "stored views and logits (DR)" if files.task == "dr" else "labels, on views drawn on the fly (ERM)"
    device = torch.cuda.get_device_name(first.device) if first.device.type == "cuda" else "the CPU"
    return [
        f"{files.count} images ({source}); ffdr learns from {lessons}",
        f"on {device}, with {first.threads} decoding threads",
        f"{options.repeats} rounds, each pass once a round; median [95 % interval]; ratios compare the same round",
        "cached batches are the loader's own, kept on the device; a pass with the loader begins with nothing decoded, "
        "so the wait for its first batch is in it",
        "plain loops learn from labels by cross-entropy, with ffdr's optimiser, autocast and channels_last",
    ]


def _table(figures: Figures) -> Table:
    setting = figures.setting
    order = (STEP, FIT, LOADER, BOTH, TIMM, TIMM_COMPILED, VISION, VISION_COMPILED)
    rows = [_row(figures, name) for name in order if name in figures.timings]
    rows += [(name, "—", "", "", "", why) for name, why in figures.skipped.items()]
    compiled = "not compiled" if setting.compile == "off" else f"compiled, mode {setting.compile}"
    memory = "allocated" if setting.device.type == "cuda" else "of the whole process, with all that is timed before"
    notes = [
        f"Batches of {setting.batch_size}, {setting.steps} a pass; ffdr's step is {compiled}. "
        f"{figures.flops / 1e9:.3g} GFLOPs an image, forward and backward; matrix products reach "
        f"{figures.peak.median / 1e12:,.3g} TFLOP/s. Memory: the most in use, {memory}.",
        f"Waiting for data in the fit loop with the loader: {100 * figures.data_wait.median:.1f} % of the time.",
    ]
    headings = ("", "images/s", "× timm, plain loop", "% of matrix products' FLOP/s", "peak memory, MiB", "")
    return Table(setting.label, headings, rows, notes)


def _row(figures: Figures, name: str) -> tuple[str, ...]:
    rate = figures.timings[name].rate
    if name == LOADER:
        return name, rate.text(0), "", "", "", ""
    size = figures.memory[name]
    used = Estimate.of([100 * share for share in figures.utilisation(name).values])
    ratio = rate.over(figures.timings[TIMM].rate)
    return name, rate.text(0), ratio.text(), used.text(1), f"{size / 2**20:,.0f}" if size else "not measured", ""


def _json(results: Sequence[Figures]) -> dict[str, Any]:
    return {
        "settings": {figures.setting.label: _json_one(figures) for figures in results},
        "targets": {target.name: target.json() for target in targets(results)},
    }


def _json_one(figures: Figures) -> dict[str, Any]:
    setting = figures.setting
    return {
        "batch_size": setting.batch_size,
        "steps": setting.steps,
        "compile": setting.compile,
        "device": str(setting.device),
        "flops_an_image": figures.flops,
        "peak_flops_a_second": figures.peak.json(),
        "data_wait": figures.data_wait.json(),
        "end_to_end": figures.end_to_end.json(),
        "fit_loop_time": figures.loop_time.json(),
        "skipped": dict(figures.skipped),
        "passes": {
            name: {
                "images_per_second": timing.rate.json(),
                "seconds": timing.seconds,
                "images": timing.units,
                "peak_bytes": figures.memory.get(name),
                "utilisation": None if name == LOADER else figures.utilisation(name).json(),
            }
            for name, timing in figures.timings.items()
            if name != PRODUCTS
        },
    }
