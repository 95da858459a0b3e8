"""What the loader brings to the device, and whether the trainer waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import torch

from ffdr.bench import loops
from ffdr.bench.gpu.place import Place, Ready, Row, timed
from ffdr.bench.loops import CachedBatches
from ffdr.bench.timing import Work, time_in_turn
from ffdr.loader.loader import ReinforcedLoader
from ffdr.train.fit import Trainer
from ffdr.util.cores import thread_count

# Names of rows.
DR, ERM, CACHED = "DR, fit loop with the loader", "ERM, fit loop with the loader", "DR, step on cached batches"


def prepare_loader(place: Place) -> Ready:
    """JPEGs and coefficients, on all cores and on all but one; kernels are compiled by one batch of each."""
    cores = thread_count(0)
    loaders = {
        f"{label}, {threads} threads": _loader(place, images, threads)
        for label, images in (("JPEG", place.jpegs), ("coefficients", place.images))
        for threads in sorted({cores, max(1, cores - 1)}, reverse=True)
    }
    for loader in loaders.values():
        next(iter(loader))
        loader.set_epoch(0)

    def measure() -> Iterator[Row]:
        work = {
            name: Work(lambda loader=loader: _take(loader), len(loader) * loader.batch_size)
            for name, loader in loaders.items()
        }
        for name, timing in time_in_turn(work, place.sizes.repeats).items():
            yield timed(name, timing, numba_threads=_layer())

    return Ready(measure)


def _layer() -> str:
    try:
        return numba.threading_layer()
    except ValueError:
        return "none in use"


def _loader(place: Place, images: Path, threads: int) -> ReinforcedLoader:
    return ReinforcedLoader(
        images,
        place.reinforced,
        batch_size=place.sizes.batch_size,
        resolution=place.sizes.resolution,
        device=place.device,
        dtype=torch.uint8,
        workers=threads,
    )


def _take(loader: ReinforcedLoader) -> None:
    """One epoch; every batch is waited for where it is to be used, by an event."""
    for images, _, _ in loader:
        if images.device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
            arrived.synchronize()


def prepare_epochs(place: Place, compile: str) -> Ready:
    """The trainer as ``ffdr train`` builds it, on DR and on ERM; without torch.compile where that breaks it."""
    trainers, note = {}, ""
    for task in ("dr", "erm"):
        try:
            trainers[task] = _warm_trainer(place, task, compile)
        except Exception as error:
            if compile == "off":
                raise
            note = f"train.compile={compile} failed ({type(error).__name__}: {str(error)[:200]}); this is without it"
            trainers = {name: _warm_trainer(place, name, "off") for name in ("dr", "erm")[: len(trainers) + 1]}
            compile = "off"
    return Ready(lambda: _epochs(place, trainers["dr"], trainers["erm"], note))


def _warm_trainer(place: Place, task: str, compile: str) -> Trainer:
    setting = place.setting(compile=compile)
    trainer = loops.new_trainer(setting, place.training_files(task), place.folder / f"epochs-{task}-{compile}")
    loops.train_on_last(trainer, min(3, setting.steps))
    return trainer


def _epochs(place: Place, dr: Trainer, erm: Trainer, note: str) -> Iterator[Row]:
    setting = place.setting()
    waits: dict[str, list[float]] = {DR: [], ERM: []}
    kept = CachedBatches(loops.read_last(dr.loader, setting.steps), setting.steps, dr.loader.num_classes)

    def fit(name: str, trainer: Trainer) -> Any:
        return lambda: waits[name].append(loops.train_on_last(trainer, setting.steps)["data_wait"])

    work = {
        DR: Work(fit(DR, dr), setting.images),
        CACHED: Work(lambda: loops.step_through(dr, kept), setting.images),
        ERM: Work(fit(ERM, erm), setting.images),
    }
    for name, timing in time_in_turn(work, place.sizes.repeats).items():
        more: dict[str, Any] = {"data_wait": waits[name][-place.sizes.repeats :]} if name in waits else {}
        if note:
            more["note"] = note
        yield timed(name, timing, compile=loops.compiled(erm if name == ERM else dr), **more)
