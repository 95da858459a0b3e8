"""What the loader brings to the device, and whether the trainer waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numba
import torch

from ffdr.bench import loops
from ffdr.bench.gpu.site import Ready, Row, Site, timed
from ffdr.bench.loops import CachedBatches
from ffdr.bench.timing import Workload, time_in_turn
from ffdr.loader.loader import ReinforcedLoader
from ffdr.train.fit import Trainer
from ffdr.util.machine import thread_count

# Names of rows.
DR, ERM, CACHED = "DR, fit loop with the loader", "ERM, fit loop with the loader", "DR, step on cached batches"


def prepare_loader(site: Site) -> Ready:
    """JPEGs and coefficients, on all cores and on all but one; kernels are compiled by one batch of each."""
    cores, sizes = thread_count(0), site.sizes
    make = partial(
        ReinforcedLoader,
        batch_size=sizes.batch_size,
        resolution=sizes.resolution,
        device=site.device,
        dtype=torch.uint8,
    )
    loaders = {
        f"{label}, {threads} threads": make(images, site.reinforced, workers=threads)
        for label, images in (("JPEG", site.jpegs), ("coefficients", site.images))
        for threads in sorted({cores, max(1, cores - 1)}, reverse=True)
    }
    for loader in loaders.values():
        next(iter(loader))
        loader.set_epoch(0)
    work = {name: Workload(partial(_take, loader), len(loader) * loader.batch_size) for name, loader in loaders.items()}
    return Ready(lambda: (row | {"numba_threads": _layer()} for row in site.rows(work)))


def _layer() -> str:
    try:
        return numba.threading_layer()
    except ValueError:
        return "none in use"


def _take(loader: ReinforcedLoader) -> None:
    """One epoch; every batch is waited for where it is to be used, by an event."""
    for images, _, _ in loader:
        if images.device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
            arrived.synchronize()


def prepare_epochs(site: Site, compile: str) -> Ready:
    """The trainer as ``ffdr train`` builds it, on DR and on ERM; without torch.compile where that breaks it."""
    note = ""
    try:
        dr, erm = _warm_trainers(site, compile)
    except Exception as error:
        if compile == "off":
            raise
        note = f"train.compile={compile} failed ({type(error).__name__}: {str(error)[:200]}); this is without it"
        dr, erm = _warm_trainers(site, "off")
    return Ready(partial(_epochs, site, dr, erm, note))


def _warm_trainers(site: Site, compile: str) -> list[Trainer]:
    """For dr and for erm, both compiled."""
    setting, trainers = site.setting(compile=compile), []
    for task in ("dr", "erm"):
        out = site.folder / f"epochs-{task}-{compile}"
        trainers.append(loops.new_trainer(setting, site.training_files(task), out))
        loops.train_on_last(trainers[-1], min(3, setting.steps))
    return trainers


def _epochs(site: Site, dr: Trainer, erm: Trainer, note: str) -> Iterator[Row]:
    setting = site.setting()
    waits: dict[str, list[float]] = {DR: [], ERM: []}
    kept = CachedBatches(loops.read_last(dr.loader, setting.steps), setting.steps, dr.loader.num_classes)

    def fit(name: str, trainer: Trainer) -> None:
        waits[name].append(loops.train_on_last(trainer, setting.steps)["data_wait"])

    work = {
        DR: Workload(partial(fit, DR, dr), setting.images),
        CACHED: Workload(partial(loops.step_through, dr, kept), setting.images),
        ERM: Workload(partial(fit, ERM, erm), setting.images),
    }
    for name, timing in time_in_turn(work, site.sizes.repeats).items():
        more: dict[str, Any] = {"data_wait": waits[name][-site.sizes.repeats :]} if name in waits else {}
        if note:
            more["note"] = note
        yield timed(name, timing, compile=(erm if name == ERM else dr).step.compiled, **more)
