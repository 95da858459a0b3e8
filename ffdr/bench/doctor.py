"""``ffdr bench doctor``: what limits training on this machine, and which setting to change.

Each stage of training is timed alone (reading, decoding, copying, the step), then all of them together, on the user's
own files or on photographs that are made for it.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ffdr.augment.policy import Policy
from ffdr.bench import diagnosis, loops
from ffdr.bench.capacity import PeakMemory, pinned_copies
from ffdr.bench.diagnosis import Diagnosis, Measured
from ffdr.bench.loading.reading import ReadRates, read_rates
from ffdr.bench.loops import Files, Setting
from ffdr.bench.report import Table, check_report, report
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Work, time_in_turn
from ffdr.beton.layout import JPG
from ffdr.beton.read import ImageBeton
from ffdr.config.measuring import BenchOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.util.cores import thread_count

_DECODED = 512
"""Images of a pass that only decodes: enough for a steady rate."""
_COPIES = 16
"""Batches of a pass that only copies."""


def bench_doctor(options: BenchOptions) -> None:
    """Measure the stages, print their rates and the diagnosis, and with ``options.json`` store both.

    Raises:
        UserError: a report that could not be written; files, models or options that don't go together.
    """
    check_report(options.json)
    setting = loops.plan(options)[0]
    with tempfile.TemporaryDirectory() as folder:
        files = loops.training_files(options, Path(folder), max(setting.images, _DECODED))
        setting = setting.within(files.count)
        measured, rates = examine(setting, files, Path(folder) / "run", options.repeats)
    found = diagnosis.diagnose(measured)
    stages = ", ".join(f"{diagnosis.WORDS[stage]} {rate:,.0f}" for stage, rate in measured.stages.items())
    head = [
        f"{files.count} images ({options.data or 'photographs made for this'}), {setting.label}, batches of "
        f"{setting.batch_size}",
        f"{measured.threads} decoding threads on {measured.cores} cores; {options.repeats} rounds, each stage once a "
        "round; median [95 % interval]; reading is timed once",
        f"what counts after the first epoch, images/s: {stages}",
    ]
    content = {"measured": asdict(measured), "rates": {name: rate.json() for name, rate in rates.items()}}
    content |= {"diagnosis": asdict(found)}
    report(options.json, "Doctor", head, _tables(measured, rates, found), content, "ffdr bench train")


def examine(setting: Setting, files: Files, out: Path, repeats: int) -> tuple[Measured, dict[str, Estimate]]:
    """All that the diagnosis needs; and the rates of what was timed in turn, by stage, images a second."""
    images = ImageBeton.open(files.images)
    threads = setting.threads
    reading = read_rates(images, threads)  # first: what is mapped and read by the loader can't be taken out of memory
    peak = PeakMemory(setting.device)
    trainer = loops.new_trainer(setting, files, out)
    loops.train_on_last(trainer, setting.steps)
    peak.restart()
    loops.train_on_last(trainer, setting.steps)
    used = peak.bytes
    batches = loops.read_last(trainer.loader, setting.steps)
    step = loops.on_cached(trainer, batches, setting.steps)
    loader = _decoder(setting, files)
    decoded = min(len(loader), -(-_DECODED // setting.batch_size))
    work = {
        diagnosis.DECODE: Work(lambda: loops.read_last(loader, decoded), decoded * setting.batch_size),
        diagnosis.STEP: Work(lambda: loops.step_through(step), setting.images),
        diagnosis.TOGETHER: Work(lambda: loops.train_on_last(trainer, setting.steps), setting.images),
    }
    if setting.device.type == "cuda":
        shape = (setting.batch_size, setting.resolution, setting.resolution, 3)
        copies = pinned_copies(setting.device, shape, _COPIES)
        work[diagnosis.COPY] = replace(copies, units=_COPIES * setting.batch_size)
    rates = {name: timing.rate for name, timing in time_in_turn(work, repeats).items()}
    return _measured(setting, files, images, reading, rates, used), rates


def _measured(
    setting: Setting,
    files: Files,
    images: ImageBeton,
    reading: ReadRates,
    rates: dict[str, Estimate],
    peak: int | None,
) -> Measured:
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
        free_bytes=free_memory(),
        cores=thread_count(0),
        threads=setting.threads,
        side=float(images.sizes.min(axis=1).mean()),
        resolution=setting.resolution,
        jpeg=bool((images.modes == JPG).any()),
        precision=str(setting.dtype or torch.float32).removeprefix("torch."),
        compiled=setting.compile != "off",
        memory_share=share,
    )


def _decoder(setting: Setting, files: Files) -> ReinforcedLoader:
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


def free_memory() -> int:
    """Bytes that the system could give to a file's pages, those of other files in its cache included."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None, "Linux tells what is available"
    return 1024 * int(found[1])


def _tables(m: Measured, rates: dict[str, Estimate], found: Diagnosis) -> list[Table]:
    """The stages with what was found, and what to change."""

    def cell(rate: float | None) -> str:
        return "not measured" if rate is None else f"{rate:,.0f}"

    def timed(stage: str) -> str:
        return rates[stage].text(0) if stage in rates else "there is no GPU"

    rows = [
        ("read from the disk, single images", cell(m.disk)),
        ("read from the disk, whole pages of the file", cell(m.pages)),
        ("read from memory, single images", cell(m.memory)),
        ("decode and replay", timed(diagnosis.DECODE)),
        ("the same, a thread", f"{rates[diagnosis.DECODE].median / m.threads:,.0f}"),
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
        Table("Stages, images a second", ("", "images/s"), rows, notes),
        Table("What to change, the most promising first", ("", ""), changes),
    ]
