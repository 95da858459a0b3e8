"""``ffdr bench loader``: images/s per core, of ffdr and of its peers, side by side in one run.

Every pipeline reads the same pictures from the page cache, with one decoding thread, all threads of the process held on
one core, and ends in batches of uint8 pixels (not normalised) and labels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.augment.laps import STAGES
from ffdr.bench.loading import pipelines as p
from ffdr.bench.loading.charts import plot_bytes, plot_loader
from ffdr.bench.loading.startup import import_seconds, start_seconds
from ffdr.bench.loading.stock import QUALITY
from ffdr.bench.results import Report, Summary, Table, bench, rounds
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing, single_threaded_libraries, time_in_turn
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.codec.dct.learn import learn
from ffdr.codec.dct.pack import pack
from ffdr.codec.jpeg.read import read_jpeg
from ffdr.codec.jpeg.segments import encode_jpeg
from ffdr.config.measuring import BenchOptions

SAMPLE = 256
"""Images that codebooks are learned from, as ``ffdr write`` does."""
_SECOND = 3
"""How often a second start is timed."""
IMPORT = "of which importing PyTorch"
REST = "the rest"
"""Order, records, targets, queues, Python."""
PLAIN, AS_STOCK = "JPEG : the same without markers and table", "JPEG : as stock FFCV stores them"
COEFFICIENTS_90, COEFFICIENTS_80 = (f"coefficients : optimised JPEG, quality {quality}" for quality in (90, 80))
"""Which stored bytes relative to which."""

StageCosts = Mapping[str, tuple[Estimate, Estimate]]
"""By stage: seconds per image, and share of the loader's time."""


@dataclass(frozen=True)
class LoadingResults:
    """Everything that is measured."""

    timings: Mapping[str, Timing]
    """by pipeline"""
    stages: Mapping[str, StageCosts]
    """by pipeline"""
    bytes: Mapping[str, float]
    """of ffdr's stored images, relative to other encodings"""
    image_bytes: Mapping[str, float]
    """per image, by crop-and-flip pipeline"""
    start: Mapping[str, Estimate]
    """seconds from import to first batch: ``first start``, ``coefficients, second start``"""

    def ratio(self, name: str, base: str) -> Estimate | None:
        """How many times as fast; None where one of them was not measured."""
        if name in self.timings and base in self.timings:
            return self.timings[name].rate.over(self.timings[base].rate)
        return None


@bench(then="ffdr bench doctor")
def bench_loader(options: BenchOptions, folder: Path) -> Report:
    """Time all pipelines in turn; the pictures show their rates, the stages, and what a stored byte buys."""
    print(f"making {options.images} photographs and their files", file=sys.stderr)
    corpus = p.make_corpus(folder, options.images, options.resolution)
    setting = _setting(options, ImageBeton.open(corpus.jpg))
    results = measure(corpus, options.repeats, options.resolution, folder)
    stored = {name: results.timings[name].rate for name in results.image_bytes}
    return Report(
        "Loader",
        setting,
        [_rate_table(results), _stage_table(results), _other_table(results)],
        summary(results),
        _json(results),
        {
            ".png": partial(plot_loader, timings=results.timings, stages=results.stages[p.DR]),
            "_bytes.png": partial(plot_bytes, rates=stored, sizes=results.image_bytes),
        },
    )


def measure(corpus: p.Corpus, repeats: int, resolution: int, folder: Path) -> LoadingResults:
    """All that is measured on a corpus; compiled kernels of the starts go into the folder."""
    clocks = p.stage_clocks(corpus, resolution)
    with single_threaded_libraries():
        timings = time_in_turn(p.pipelines(corpus, resolution, clocks), repeats)
    stages = {name: stage_costs(timings[name], np.array(clock.laps[-repeats:])) for name, clock in clocks.items()}
    timings = {name: timing for name, timing in timings.items() if not name.startswith(p.STAGES_OF)}
    start = start_times(corpus, resolution, folder)
    return LoadingResults(timings, stages, stored_bytes(corpus), image_bytes(corpus), start)


def start_times(corpus: p.Corpus, resolution: int, folder: Path) -> dict[str, Estimate]:
    """Seconds from import to first batch with an empty cache of compiled kernels, and with what that left there; and
    how many of them any program needs that imports PyTorch."""
    times = {IMPORT: Estimate.of([import_seconds("torch") for _ in range(_SECOND)])}
    for form, beton in (("", corpus.jpg), ("coefficients, ", corpus.coefficients)):
        cache = folder / f"kernels for {beton.stem}"
        first, *second = (start_seconds(beton, corpus.full, p.BATCH, resolution, cache) for _ in range(1 + _SECOND))
        times[f"{form}first start"] = Estimate.of([first])
        times[f"{form}second start"] = Estimate.of(second)
    return times


def stage_costs(loader: Timing, laps: np.ndarray) -> StageCosts:
    """Of each stage and the rest.

    laps: (repeats, stages) seconds per image, timed in the same rounds as the loader.
    """
    total = np.array(loader.time.values)
    parts = dict(zip(STAGES, laps.T, strict=True)) | {REST: total - laps.sum(axis=1)}
    return {name: (Estimate.of(part), Estimate.of(part / total)) for name, part in parts.items()}


def stored_bytes(corpus: p.Corpus) -> dict[str, float]:
    """ffdr's stored images relative to the same JPEGs in other forms; coefficients with their coding."""
    images, stock, raw, coefficients = map(ImageBeton.open, (corpus.jpg, corpus.stock, corpus.raw, corpus.coefficients))
    pixels = [decode_image(raw, i) for i in range(len(raw))]
    plain = sum(len(encode_jpeg(image, QUALITY, growth=0.0)) for image in pixels)
    assert coefficients.coding is not None
    mine = int(images.data_size.sum())
    return {
        PLAIN: mine / plain,
        AS_STOCK: mine / int(stock.data_size.sum()),
        COEFFICIENTS_90: (int(coefficients.data_size.sum()) + len(coefficients.coding.pack())) / plain,
        COEFFICIENTS_80: _coefficient_bytes([encode_jpeg(image, 80, growth=0.0) for image in pixels]),
    }


def _coefficient_bytes(jpegs: list[bytes]) -> float:
    """The JPEGs as coefficient images, relative to themselves."""
    images = [read_jpeg(jpeg)[0] for jpeg in jpegs]
    coding = learn(images[:: max(1, len(jpegs) // SAMPLE)])
    packed = sum(len(pack(image, coding)) for image in images) + len(coding.pack())
    return packed / sum(map(len, jpegs))


def image_bytes(corpus: p.Corpus) -> dict[str, float]:
    """Bytes per image of the file that each crop-and-flip pipeline reads."""
    betons = {p.CROPS: corpus.jpg, p.COEFFICIENTS_CROPS: corpus.coefficients, p.RAW: corpus.raw}
    betons |= {p.STOCK: corpus.stock, p.STOCK_HALF: corpus.half}
    return {name: float(ImageBeton.open(beton).data_size.mean()) for name, beton in betons.items()}


def summary(results: LoadingResults) -> Summary:
    """ffdr beside its peers, its own variants beside each other, bytes and seconds."""
    ratio, sizes = results.ratio, results.bytes
    decode = results.stages[p.DR]["decode"][1]
    return {
        "full policy : stock FFCV's crop and flip": ratio(p.DR, p.STOCK),
        "crop and flip : the same of stock FFCV": ratio(p.CROPS, p.STOCK),
        "full policy, 4 views per decode : stock FFCV's crop and flip": ratio(p.DR_FOUR, p.STOCK),
        "evaluation view : stock FFCV's crop and flip": ratio(p.EVALUATION, p.STOCK),
        "full policy : the same of torchvision": ratio(p.DR, p.TORCHVISION),
        "full policy, 4 views per decode : the same of torchvision": ratio(p.DR_FOUR, p.TORCHVISION),
        "full policy : one pickle per image": ratio(p.DR, p.PUBLISHED),
        "crop and flip : DALI on CPU": ratio(p.CROPS, p.DALI),
        "crop and flip : SPDL": ratio(p.CROPS, p.SPDL),
        "crop and flip : LitData": ratio(p.CROPS, p.LITDATA),
        "mixing : full policy": ratio(p.MIXED, p.DR),
        "evaluation view : crop and flip": ratio(p.EVALUATION, p.CROPS),
        "epoch time, DR, full policy, 4 views per decode : ERM, crop and flip": ratio(p.ERM_CROPS, p.DR_FOUR),
        "share of the time outside JPEG decoding": Estimate.of([1 - share for share in decode.values]),
        "two threads : one": ratio(p.TWO, p.DR),
        "raw images, crop and flip : stock FFCV on JPEGs": ratio(p.RAW, p.STOCK),
        "coefficients, full policy : stock FFCV's crop and flip": ratio(p.COEFFICIENTS, p.STOCK),
        "coefficients, crop and flip : the same of stock FFCV": ratio(p.COEFFICIENTS_CROPS, p.STOCK),
        "coefficients, full policy, 4 views per decode : stock FFCV's crop and flip": ratio(
            p.COEFFICIENTS_FOUR, p.STOCK
        ),
        "coefficients, mixing : stock FFCV's crop and flip": ratio(p.COEFFICIENTS_MIXED, p.STOCK),
        "coefficients, full policy : the same of torchvision": ratio(p.COEFFICIENTS, p.TORCHVISION),
        "coefficients, mixing : full policy": ratio(p.COEFFICIENTS_MIXED, p.COEFFICIENTS),
        "coefficients, mixing, 2 views per decode : 1": ratio(p.COEFFICIENTS_MIXED_PAIRS, p.COEFFICIENTS_MIXED),
        "coefficients, evaluation view : crop and flip": ratio(p.COEFFICIENTS_EVALUATION, p.COEFFICIENTS_CROPS),
        "coefficients, two threads : one": ratio(p.COEFFICIENTS_TWO, p.COEFFICIENTS),
        **{f"bytes, {name}": Estimate.of([sizes[name]]) for name in (PLAIN, COEFFICIENTS_90, COEFFICIENTS_80)},
        **{f"seconds to the first batch, {name}": seconds for name, seconds in results.start.items()},
    }


def _setting(options: BenchOptions, images: ImageBeton) -> list[str]:
    width, height = images.sizes.mean(axis=0)
    size = images.data_size.mean() / 1024
    return [
        f"{len(images)} photographs, {width:.0f}×{height:.0f} px on average, JPEG quality {QUALITY}, {size:.0f} KiB",
        f"{options.resolution} px output, batches of {p.BATCH}; crops of 8 to 100 % of the area, ratio 3/4 to 4/3",
        "all files in the page cache; one decoding thread, and all threads of the process on one core; every batch "
        "ends as uint8 pixels and labels in memory, not normalised",
        rounds(options, "pipeline"),
        "full policy: crop, flip, two RandAugment operations on every image, erasing on a quarter; mixup and cutmix: "
        f"every image has a partner (mixup alpha {p.MIXING.mixup_alpha:g} and, on half of them, cutmix), and both are "
        "decoded, resized and augmented where both can be seen",
        "several views per decode: a batch holds that many views of each of its images, made from one decode",
        "torchvision, DALI and SPDL read the JPEGs that stock FFCV stores, from an ImageFolder, LitData from its "
        "chunks, all in this process; one pickle per image: the published format, "
        f"{p.PUBLISHED_VIEWS} views per file, replayed by torchvision on Pillow's images",
    ]


def _rate_table(results: LoadingResults) -> Table:
    def ratio(name: str, base: str) -> str:
        found = results.ratio(name, base)
        return found.text() if found else ""

    rows = [
        (
            name,
            timing.rate.text(0),
            ratio(name, p.STOCK),
            ratio(name, p.TORCHVISION),
            f"{results.image_bytes[name] / 1024:.1f}" if name in results.image_bytes else "",
        )
        for name, timing in sorted(results.timings.items(), key=lambda item: -item[1].rate.median)
    ]
    rows += [(name, "not installed", "", "", "") for name in p.PEERS if name not in results.timings]
    headings = ("", "images/s", "× stock FFCV", "× torchvision, full policy", "KiB per image")
    return Table("Images/s, one core", headings, rows)


def _stage_table(results: LoadingResults) -> Table:
    rows = []
    for name, stages in results.stages.items():
        costs = [stages[stage][0] for stage in (*STAGES, REST)]
        rows.append((name, *(f"{1e6 * seconds.median:.1f}" for seconds in (*costs, results.timings[name].time))))
    note = f"Stages of the very replay, on the same views; {REST}: checks, and what the loader takes on top."
    return Table("Where the time goes, µs per image", ("", *STAGES, REST, "all"), rows, [note])


def _other_table(results: LoadingResults) -> Table:
    rows = [(f"stored bytes, {name}", f"{x:.4f}") for name, x in results.bytes.items()]
    rows += [(f"import to first batch, {name}, seconds", x.text(1)) for name, x in results.start.items()]
    notes = ["The first start compiles all kernels that it needs, the second finds them on disk."]
    return Table("Bytes and start", ("", ""), rows, notes)


def _json(results: LoadingResults) -> dict[str, Any]:
    stock = results.timings[p.STOCK].rate
    return {
        "pipelines": {
            name: timing.json() | {"times_stock": timing.rate.over(stock).json()}
            for name, timing in results.timings.items()
        },
        "stages": {
            name: {stage: {"seconds": cost.json(), "share": share.json()} for stage, (cost, share) in stages.items()}
            for name, stages in results.stages.items()
        },
        "stored_bytes": dict(results.bytes),
        "image_bytes": dict(results.image_bytes),
        "start_seconds": {name: seconds.json() for name, seconds in results.start.items()},
    }
