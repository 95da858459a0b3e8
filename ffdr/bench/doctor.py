"""``ffdr bench doctor``: what limits training on this machine, and which setting to change.

Each stage of training is timed alone (reading, decoding, copying, the step), then all of them together, on the user's
own files or on photographs that are made for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ffdr.augment.policy import Policy
from ffdr.bench import diagnosis, loops, settings
from ffdr.bench.capacity import PeakMemory, memory_figure, pinned_copies
from ffdr.bench.diagnosis import Diagnosis, Measured
from ffdr.bench.loading.reading import ReadRates, read_rates
from ffdr.bench.results import Report, Table, bench
from ffdr.bench.settings import Setting, TrainingFiles
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Workload, time_in_turn
from ffdr.beton.layout import JPG
from ffdr.beton.read import ImageBeton
from ffdr.config.measuring import BenchOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.util.machine import thread_count

_DECODED = 512
"""Images of a pass that only decodes: enough for a steady rate."""
_COPIES = 16
"""Batches of a pass that only copies."""


@bench(then="ffdr bench train")
def bench_doctor(options: BenchOptions, folder: Path) -> Report:
    """Measure the stages, report their rates and the diagnosis.

    Raises:
        UserError: files, models or options that don't go together.
    """
    setting = settings.plan(options)[0]
    files = settings.training_files(options, folder, max(setting.images, _DECODED))
    setting = setting.within(files.count)
    measured, rates = examine(setting, files, folder / "run", options.repeats)
    found = diagnosis.diagnose(measured)
    stages = ", ".join(f"{diagnosis.WORDS[stage]} {rate:,.0f}" for stage, rate in measured.stages.items())
    head = [
        f"{files.count} images ({settings.source(options)}), {setting.label}, batches of {setting.batch_size}",
        f"{measured.threads} decoding threads on {measured.cores} cores; {options.repeats} rounds, each stage once "
        "per round; median [95 % interval]; reading is timed once",
        f"what counts after the first epoch, images/s: {stages}",
    ]
    figures = {
        "measured": asdict(measured),
        "rates": {name: rate.json() for name, rate in rates.items()},
        "diagnosis": asdict(found),
    }
    return Report("Doctor", head, _tables(measured, rates, found), {}, figures)


def examine(setting: Setting, files: TrainingFiles, out: Path, repeats: int) -> tuple[Measured, dict[str, Estimate]]:
    """All that the diagnosis needs; and the rates of what was timed in turn, by stage, images/s."""
    images = ImageBeton.open(files.images)
    # First: what is mapped and read by the loader can't be taken out of memory.
    reading = read_rates(images, setting.threads)
    peak = PeakMemory(setting.device)
    trainer = loops.new_trainer(setting, files, out)
    used = peak.of_second(lambda: loops.train_on_last(trainer, setting.steps))
    batches = loops.read_last(trainer.loader, setting.steps)
    step = loops.on_cached(trainer, batches, setting.steps)
    loader = _decoder(setting, files)
    decoded = min(len(loader), -(-_DECODED // setting.batch_size))
    work = {
        diagnosis.DECODE: Workload(lambda: loops.read_last(loader, decoded), decoded * setting.batch_size),
        diagnosis.STEP: Workload(lambda: loops.step_through(step), setting.images),
        diagnosis.TOGETHER: Workload(lambda: loops.train_on_last(trainer, setting.steps), setting.images),
    }
    if setting.device.type == "cuda":
        shape = (setting.batch_size, setting.resolution, setting.resolution, 3)
        copies = pinned_copies(setting.device, shape, _COPIES)
        work[diagnosis.COPY] = replace(copies, units=_COPIES * setting.batch_size)
    rates = {name: timing.rate for name, timing in time_in_turn(work, repeats).items()}
    return _measured(setting, files, reading, rates, used), rates


def _measured(
    setting: Setting, files: TrainingFiles, reading: ReadRates, rates: Mapping[str, Estimate], peak: int | None
) -> Measured:
    images = ImageBeton.open(files.images)
    copy = rates.get(diagnosis.COPY)
    share = None
    if setting.device.type == "cuda" and peak is not None:
        share = peak / torch.cuda.get_device_properties(setting.device).total_memory
    return Measured(
        disk=reading.disk,
        pages=reading.pages,
        memory=reading.memory,
        decode=rates[diagnosis.DECODE].median,
        copy=copy.median if copy else None,
        step=rates[diagnosis.STEP].median,
        training=rates[diagnosis.TOGETHER].median,
        file_bytes=sum(os.path.getsize(path) for path in (files.images, files.reinforced) if path),
        free_bytes=memory_figure("/proc/meminfo", "MemAvailable"),  # with the pages of other files in the cache
        cores=thread_count(0),
        threads=setting.threads,
        side=float(images.sizes.min(axis=1).mean()),
        resolution=setting.resolution,
        jpeg=bool((images.modes == JPG).any()),
        precision=setting.precision_name,
        compiled=setting.compile != "off",
        memory_share=share,
    )


def _decoder(setting: Setting, files: TrainingFiles) -> ReinforcedLoader:
    """The loader of the run, but for its end: pixels stay in memory as they are."""
    return ReinforcedLoader(
        files.images,
        (files.reinforced or files.images) if files.task == "dr" else None,
        policy=None if files.task == "dr" else Policy(),
        batch_size=setting.batch_size,
        resolution=setting.resolution,
        dtype=torch.uint8,
        workers=setting.workers,
        reuse_buffers=True,
    )


def _tables(m: Measured, rates: Mapping[str, Estimate], found: Diagnosis) -> list[Table]:
    """The stages with the findings, and what to change."""

    def cell(rate: float | None) -> str:
        return "not measured" if rate is None else f"{rate:,.0f}"

    def timed(stage: str) -> str:
        return rates[stage].text(0) if stage in rates else "there is no GPU"

    rows = [
        ("read from the disk, single images", cell(m.disk)),
        ("read from the disk, whole pages of the file", cell(m.pages)),
        ("read from memory, single images", cell(m.memory)),
        ("decode and replay", timed(diagnosis.DECODE)),
        ("the same, per thread", f"{rates[diagnosis.DECODE].median / m.threads:,.0f}"),
        ("copy to the GPU", timed(diagnosis.COPY)),
        ("step on cached batches", timed(diagnosis.STEP)),
        ("training: all together", timed(diagnosis.TOGETHER)),
        ("training, if the stages did not disturb each other", cell(m.expected)),
    ]
    notes = [" ".join(found.sentences)]
    if m.disk is None:
        notes.append("The disk can't be measured: the system keeps the file in memory.")
    changes = [(str(number), change) for number, change in enumerate(found.settings, 1)]
    return [
        Table("Stages, images/s", ("", "images/s"), rows, notes),
        Table("What to change, the most promising first", ("", ""), changes),
    ]
