"""The pipelines that ``ffdr bench loader`` compares, ready to be timed: each reads its whole epoch in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import make_photos, reinforce_untaught, write_photos
from ffdr.bench.loading.drivers import (
    Room,
    collect,
    decode_all,
    time_stages,
)
from ffdr.bench.loading.peers import (
    dali_pass,
    has_dali,
    published_pass,
    torchvision_pass,
)
from ffdr.bench.loading.stock import stock_loader, write_stock
from ffdr.bench.timing import Work
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import ExportOptions, TranscodeOptions
from ffdr.loader.decode import Replayer, blank_views
from ffdr.loader.loader import ReinforcedLoader
from ffdr.loader.views import StoredViews
from ffdr.mldr.exporting import export_archive
from ffdr.write.transcode import transcode

BATCH = 64
FULL = Policy()
"""Crop, flip, two RandAugment operations, erasing of a quarter of the images."""
CROP_FLIP = replace(FULL, randaugment=0.0, erase=0.0)
MIXING = replace(FULL, mixup=1.0, cutmix=0.5)
"""Every view has a partner."""
PUBLISHED_VIEWS = 400
"""Views an image of the published ImageNet+."""
_VIEWS = 16

# Names of the pipelines.
ERM = "ffdr ERM, full policy"
DR = "ffdr DR, full policy"
CROPS = "ffdr DR, crop and flip"
MIXED = "ffdr DR, full policy, mixup and cutmix"
EVALUATION = "ffdr evaluation view"
RAW = "ffdr DR, crop and flip, raw images"
TWO = "ffdr DR, full policy, 2 threads on 2 cores"
PACKED = "ffdr DR, full policy, packed"
PACKED_CROPS = "ffdr DR, crop and flip, packed"
PACKED_MIXED = "ffdr DR, full policy, mixup and cutmix, packed"
PACKED_TWO = "ffdr DR, full policy, packed, 2 threads on 2 cores"
PORTABLE = "ffdr DR, full policy, packed, without AVX2"
DECODE = "bound: decoding the segments alone"
STOCK = "stock FFCV, crop and flip"
STOCK_ON_OURS = "stock FFCV, crop and flip, ffdr's file"
STOCK_HALF = "stock FFCV, crop and flip, half raw"
TORCHVISION_CROPS = "torchvision, crop and flip"
TORCHVISION = "torchvision, full policy"
PUBLISHED = "one pickle an image, full policy"
DALI = "DALI on CPU, crop and flip"
STAGES_OF = "stages of "
"""Beginning of the name of a ``StageClock``."""


@dataclass(frozen=True)
class Files:
    """The same pictures in every form."""

    photos: Path
    """ImageFolder of JPEGs"""
    jpg: Path
    """ffdr's beton"""
    raw: Path
    """the same with raw pixels"""
    packed: Path
    """``jpg`` with packed coefficients"""
    half: Path
    """half of the images raw, half as JPEG: stock FFCV's way to trade bytes for speed"""
    stock: Path
    """stock FFCV's beton"""
    crops: Path
    """reinforced: crop and flip"""
    full: Path
    """reinforced: full policy"""
    mixing: Path
    """reinforced: full policy and mixing"""
    published: Path
    """the views of ``full`` as one pickle an image"""


def make_files(folder: Path, count: int, resolution: int) -> Files:
    """Make them all in a folder.

    The ImageFolder holds the JPEGs that stock FFCV's writer made, so that everybody decodes the same coefficients.
    """
    originals = make_photos(folder / "originals", count)
    stock = write_stock(originals, folder / "stock.beton")
    photos = _extract(stock, originals, folder / "photos")
    modes = ("jpg", "raw", "proportion")
    jpg, raw, half = (write_photos(originals, folder / f"{mode}.beton", mode) for mode in modes)
    full = reinforce_untaught(jpg, folder / "full.beton", FULL, PUBLISHED_VIEWS)
    export = ExportOptions(str(full), str(jpg), str(folder / "published"), resolution)
    return Files(
        photos=photos,
        jpg=jpg,
        raw=raw,
        packed=transcode(TranscodeOptions(str(jpg), str(folder / "packed.beton")), progress=False),
        half=half,
        stock=stock,
        crops=reinforce_untaught(jpg, folder / "crops.beton", CROP_FLIP, _VIEWS),
        full=full,
        mixing=reinforce_untaught(jpg, folder / "mixing.beton", MIXING, _VIEWS),
        published=export_archive(export, progress=False),
    )


def _extract(beton: Path, originals: Path, folder: Path) -> Path:
    """The JPEGs of a beton as files, named as those it was written from."""
    images = ImageBeton.open(beton)
    for i, original in enumerate(sorted(originals.glob("*/*"))):
        path = folder / original.relative_to(originals)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.data(i).tobytes())
    return folder


class StageClock:
    """Replays the views that a loader of seed 0 shows in its n-th epoch, epoch after epoch, and notes each stage."""

    def __init__(self, images: ImageBeton, reinforced: Path, resolution: int) -> None:
        self.room = Room(images, resolution)
        self.views = StoredViews(ReinforcedBeton.open(reinforced, images), seed=0)
        self.index = np.arange(len(images) // BATCH * BATCH)
        self.laps: list[np.ndarray] = []
        """For each call: seconds an image in each of ``drivers.STAGES``."""

    def records(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """views (n, 2) and mixes (n,)."""
        count = len(self.index)
        views, mixes = blank_views(count)
        ids, log_probs = np.empty((count, self.views.entries), np.int32), np.empty((count, self.views.entries), "f4")
        self.views.fill(epoch, self.index, views, mixes, ids, log_probs)
        return views, mixes

    def __call__(self) -> None:
        """One epoch."""
        spent = time_stages(self.room, self.index, *self.records(len(self.laps)))
        self.laps.append(spent / len(self.index))


def pipelines(files: Files, resolution: int, clocks: dict[str, StageClock]) -> dict[str, Work]:
    """All of them by name, and ``clocks`` too, which run beside the loaders of the same name. DALI only where it is
    installed, two threads only where there are two cores."""
    images = ImageBeton.open(files.jpg)
    units = len(images) // BATCH * BATCH
    # FFCV first: see stock_loader.
    passes: dict[str, Any] = {
        name: _warm(stock_loader(beton, BATCH, resolution, CROP_FLIP))
        for name, beton in ((STOCK, files.stock), (STOCK_ON_OURS, files.jpg), (STOCK_HALF, files.half))
    }
    passes |= {name: _reader(loader) for name, loader in _loaders(files, resolution).items()}
    passes[TORCHVISION_CROPS] = torchvision_pass(files.photos, BATCH, resolution, CROP_FLIP)
    passes[TORCHVISION] = torchvision_pass(files.photos, BATCH, resolution, FULL)
    passes[PUBLISHED] = published_pass(files.photos, files.published, BATCH, resolution)
    if has_dali():
        passes[DALI] = dali_pass(files.photos, BATCH, resolution, CROP_FLIP)
    clock = clocks[DR]
    jpegs, parts = collect(images, clock.room, clock.index, clock.records(0)[0])
    passes[DECODE] = lambda: decode_all(clock.room.decoder, jpegs, parts, clock.room.canvas)
    passes |= {STAGES_OF + name: clock for name, clock in clocks.items()}
    return {name: Work(run, units, cores=2 if name in (TWO, PACKED_TWO) else 1) for name, run in passes.items()}


def _loaders(files: Files, resolution: int) -> dict[str, ReinforcedLoader]:
    def make(beton: Path, reinforced: Path | None = None, workers: int = 1, **options: Any) -> ReinforcedLoader:
        return ReinforcedLoader(
            beton,
            reinforced,
            batch_size=BATCH,
            resolution=resolution,
            dtype=torch.uint8,
            drop_last=True,
            workers=workers,
            reuse_buffers=True,  # as FFCV's own loader hands out its buffers
            **options,
        )

    loaders = {
        ERM: make(files.jpg, policy=FULL),
        DR: make(files.jpg, files.full),
        CROPS: make(files.jpg, files.crops),
        MIXED: make(files.jpg, files.mixing),
        EVALUATION: make(files.jpg),
        RAW: make(files.raw, files.crops),
        PACKED: make(files.packed, files.full),
        PACKED_CROPS: make(files.packed, files.crops),
        PACKED_MIXED: make(files.packed, files.mixing),
        PORTABLE: make(files.packed, files.full),
    }
    slow = Replayer(ImageBeton.open(files.packed), resolution, threads=1, portable=True)
    loaders[PORTABLE]._stream.replay.replayer = slow  # no user would choose it, so there is no option
    if len(os.sched_getaffinity(0)) > 1:
        loaders[TWO] = make(files.jpg, files.full, workers=2)
        loaders[PACKED_TWO] = make(files.packed, files.full, workers=2)
    return loaders


def _reader(batches: Iterable) -> Any:
    def read() -> None:
        for _ in batches:
            pass

    return read


def _warm(batches: Iterable) -> Any:
    read = _reader(batches)
    read()
    return read
