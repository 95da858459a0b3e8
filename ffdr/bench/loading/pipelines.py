"""The pipelines that ``ffdr bench loader`` compares, ready to be timed: each reads its whole epoch in one call."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import make_photos, reinforce_untaught, write_photos
from ffdr.bench.loading.chunks import chunk_loader, has_litdata, write_chunks
from ffdr.bench.loading.drivers import Scratch, collect, decode_all
from ffdr.bench.loading.peers import (
    EpochPass,
    dali_pass,
    exhaust,
    has_dali,
    has_spdl,
    published_pass,
    spdl_pass,
    torchvision_pass,
)
from ffdr.bench.loading.stock import stock_loader, write_stock
from ffdr.bench.timing import Workload
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import Records
from ffdr.config.files import ExportOptions, TranscodeOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.loader.order import EpochOrder, OrderSettings, view_epochs
from ffdr.loader.replay.replayer import Replayer
from ffdr.loader.sources import open_views
from ffdr.loader.views import ViewBatch
from ffdr.mldr.exporting import export_archive
from ffdr.write.copy.transcode import transcode

BATCH = 64
FULL = Policy()
"""Crop, flip, two RandAugment operations, erasing of a quarter of the images."""
CROP_FLIP = replace(FULL, randaugment=0.0, erase=0.0)
MIXING = replace(FULL, mixup=1.0, cutmix=0.5)
"""Every view has a partner."""
PUBLISHED_VIEWS = 400
"""Views per image of the published ImageNet+."""
_VIEWS = 16

# Names of the pipelines.
ERM = "ffdr ERM, full policy"
ERM_CROPS = "ffdr ERM, crop and flip"
DR = "ffdr DR, full policy"
DR_FOUR = "ffdr DR, full policy, 4 views per decode"
CROPS = "ffdr DR, crop and flip"
MIXED = "ffdr DR, full policy, mixup and cutmix"
EVALUATION = "ffdr evaluation view"
RAW = "ffdr DR, crop and flip, raw images"
TWO = "ffdr DR, full policy, 2 threads on 2 cores"
COEFFICIENTS = "ffdr DR, full policy, coefficients"
COEFFICIENTS_FOUR = "ffdr DR, full policy, coefficients, 4 views per decode"
COEFFICIENTS_CROPS = "ffdr DR, crop and flip, coefficients"
COEFFICIENTS_MIXED = "ffdr DR, full policy, mixup and cutmix, coefficients"
COEFFICIENTS_MIXED_PAIRS = "ffdr DR, full policy, mixup and cutmix, coefficients, 2 views per decode"
COEFFICIENTS_EVALUATION = "ffdr evaluation view, coefficients"
COEFFICIENTS_TWO = "ffdr DR, full policy, coefficients, 2 threads on 2 cores"
DECODE = "bound: decoding the segments alone"
STOCK = "stock FFCV, crop and flip"
STOCK_ON_OURS = "stock FFCV, crop and flip, ffdr's file"
STOCK_HALF = "stock FFCV, crop and flip, half raw"
TORCHVISION_CROPS = "torchvision, crop and flip"
TORCHVISION = "torchvision, full policy"
PUBLISHED = "one pickle per image, full policy"
DALI = "DALI on CPU, crop and flip"
SPDL = "SPDL, crop and flip"
LITDATA = "LitData, crop and flip"
PEERS = {DALI: has_dali, SPDL: has_spdl, LITDATA: has_litdata}
"""Those that not everybody has; whether one is installed."""
STAGES_OF = "stages of "
"""Beginning of the name of a ``StageClock``."""


@dataclass(frozen=True)
class Corpus:
    """The same pictures in every form."""

    photos: Path
    """ImageFolder of JPEGs"""
    jpg: Path
    """ffdr's beton"""
    raw: Path
    """the same with raw pixels"""
    coefficients: Path
    """``jpg`` with coefficient images"""
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
    """the views of ``full`` as one pickle per image"""
    chunks: Path | None
    """LitData's, where it is installed"""


def make_corpus(folder: Path, count: int, resolution: int) -> Corpus:
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
    return Corpus(
        photos=photos,
        jpg=jpg,
        raw=raw,
        coefficients=transcode(TranscodeOptions(str(jpg), str(folder / "coefficients.beton")), progress=False),
        half=half,
        stock=stock,
        crops=reinforce_untaught(jpg, folder / "crops.beton", CROP_FLIP, _VIEWS),
        full=full,
        mixing=reinforce_untaught(jpg, folder / "mixing.beton", MIXING, _VIEWS),
        published=export_archive(export, progress=False),
        chunks=write_chunks(photos, folder / "chunks") if has_litdata() else None,
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
    """Replays the views that a loader of seed 0 shows in its n-th epoch, epoch after epoch, and notes each stage.

    reinforced: None for the evaluation view. views_per_image: as the loader's.
    """

    def __init__(self, beton: Path, reinforced: Path | None, resolution: int, views_per_image: int = 1) -> None:
        images = ImageBeton.open(beton)
        self.replayer = Replayer(images, resolution, threads=1)
        self.views, _ = open_views(images, reinforced, None, reinforced_share=1, center=0.875, seed=0)
        settings = OrderSettings("random", BATCH, drop_last=True, views_per_image=views_per_image)
        self.order = EpochOrder(settings, images.data_ptr, images.page_size)
        self.laps: list[np.ndarray] = []
        """For each call: seconds per image in each of ``laps.STAGES``."""

    def epoch(self, number: int) -> tuple[np.ndarray, Records]:
        """Spans and records of all views of an epoch."""
        index = self.order.sample_order(number)
        batch = ViewBatch.blank(len(index), self.views.entries)
        self.views.fill(view_epochs(number, len(index), self.order.settings.views_per_image), index, batch)
        return self.replayer.spans(index), batch.records

    def __call__(self) -> None:
        """One epoch."""
        spans, records = self.epoch(len(self.laps))
        spent = self.replayer.time_stages(spans, records, self.order.settings.views_per_image)
        self.laps.append(np.array(list(spent.values())) / len(spans))


def stage_clocks(corpus: Corpus, resolution: int) -> dict[str, StageClock]:
    """By the name of the loader that shows the same views."""
    return {
        DR: StageClock(corpus.jpg, corpus.full, resolution),
        DR_FOUR: StageClock(corpus.jpg, corpus.full, resolution, 4),
        MIXED: StageClock(corpus.jpg, corpus.mixing, resolution),
        EVALUATION: StageClock(corpus.jpg, None, resolution),
        COEFFICIENTS: StageClock(corpus.coefficients, corpus.full, resolution),
        COEFFICIENTS_FOUR: StageClock(corpus.coefficients, corpus.full, resolution, 4),
        COEFFICIENTS_MIXED: StageClock(corpus.coefficients, corpus.mixing, resolution),
        COEFFICIENTS_EVALUATION: StageClock(corpus.coefficients, None, resolution),
    }


def pipelines(corpus: Corpus, resolution: int, clocks: dict[str, StageClock]) -> dict[str, Workload]:
    """All of them by name, and ``clocks`` too, which run beside the loaders of the same name.

    Of ``PEERS`` only what is installed, two threads only where there are two cores.
    """
    images = ImageBeton.open(corpus.jpg)
    # FFCV first: see stock_loader.
    passes: dict[str, EpochPass] = {}
    for name, beton in ((STOCK, corpus.stock), (STOCK_ON_OURS, corpus.jpg), (STOCK_HALF, corpus.half)):
        passes[name] = partial(exhaust, stock_loader(beton, BATCH, resolution, CROP_FLIP))
        passes[name]()
    passes |= {name: partial(exhaust, loader) for name, loader in _loaders(corpus, resolution).items()}
    passes[TORCHVISION_CROPS] = torchvision_pass(corpus.photos, BATCH, resolution, CROP_FLIP)
    passes[TORCHVISION] = torchvision_pass(corpus.photos, BATCH, resolution, FULL)
    passes[PUBLISHED] = published_pass(corpus.photos, corpus.published, BATCH, resolution)
    if has_dali():
        passes[DALI] = dali_pass(corpus.photos, BATCH, resolution, CROP_FLIP)
    if has_spdl():
        passes[SPDL] = spdl_pass(corpus.photos, BATCH, resolution, CROP_FLIP)
    if corpus.chunks:
        passes[LITDATA] = partial(exhaust, chunk_loader(corpus.chunks, BATCH, resolution, CROP_FLIP))
    spans, records = clocks[DR].epoch(0)
    scratch = Scratch(images, resolution)
    jpegs, parts = collect(images, scratch, spans, records.views)
    passes[DECODE] = lambda: decode_all(scratch.decoder, jpegs, parts, scratch.canvas)
    passes |= {STAGES_OF + name: clock for name, clock in clocks.items()}
    full, two = len(images) // BATCH * BATCH, (TWO, COEFFICIENTS_TWO)
    return {
        name: Workload(run, len(images) if name == LITDATA else full, cores=2 if name in two else 1)
        for name, run in passes.items()
    }


def _loaders(corpus: Corpus, resolution: int) -> dict[str, ReinforcedLoader]:
    make = partial(
        ReinforcedLoader,
        batch_size=BATCH,
        resolution=resolution,
        dtype=torch.uint8,
        drop_last=True,
        workers=1,
        reuse_buffers=True,  # as FFCV's own loader hands out its buffers
    )
    loaders = {
        ERM: make(corpus.jpg, policy=FULL),
        ERM_CROPS: make(corpus.jpg, policy=CROP_FLIP),
        DR: make(corpus.jpg, corpus.full),
        DR_FOUR: make(corpus.jpg, corpus.full, views_per_image=4),
        CROPS: make(corpus.jpg, corpus.crops),
        MIXED: make(corpus.jpg, corpus.mixing),
        EVALUATION: make(corpus.jpg),
        RAW: make(corpus.raw, corpus.crops),
        COEFFICIENTS: make(corpus.coefficients, corpus.full),
        COEFFICIENTS_FOUR: make(corpus.coefficients, corpus.full, views_per_image=4),
        COEFFICIENTS_CROPS: make(corpus.coefficients, corpus.crops),
        COEFFICIENTS_MIXED: make(corpus.coefficients, corpus.mixing),
        COEFFICIENTS_MIXED_PAIRS: make(corpus.coefficients, corpus.mixing, views_per_image=2),
        COEFFICIENTS_EVALUATION: make(corpus.coefficients),
    }
    if len(os.sched_getaffinity(0)) > 1:
        loaders[TWO] = make(corpus.jpg, corpus.full, workers=2)
        loaders[COEFFICIENTS_TWO] = make(corpus.coefficients, corpus.full, workers=2)
    return loaders
