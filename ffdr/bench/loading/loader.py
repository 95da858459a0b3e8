"""``ffdr bench loader``: images a second a core, of ffdr and of its peers, side by side in one run.

Every pipeline reads the same pictures from the page cache, with one decoding thread, all threads of the process held on
one core, and ends in batches of uint8 pixels (not normalised) and labels.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.bench.loading import pipelines as p
from ffdr.bench.loading.drivers import STAGES
from ffdr.bench.loading.startup import start_seconds
from ffdr.bench.loading.stock import QUALITY
from ffdr.bench.plot import plot_bytes, plot_loader
from ffdr.bench.report import Table, Target, check_report, report, target_table
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
REST = "the rest"
"""Order, records, targets, queues, Python."""
PLAIN, AS_STOCK = "JPEG : the same without markers and table", "JPEG : as stock FFCV stores them"
PACKED_90, PACKED_80 = "packed : optimised JPEG, quality 90", "packed : optimised JPEG, quality 80"
"""Which stored bytes relative to which."""


@dataclass(frozen=True)
class Figures:
    """Everything that is measured."""

    timings: Mapping[str, Timing]
    """By pipeline."""
    stages: Mapping[str, Mapping[str, tuple[Estimate, Estimate]]]
    """By pipeline and stage: seconds an image, and share of the loader's time."""
    bytes: Mapping[str, float]
    """Of ffdr's stored images, relative to other encodings."""
    image_bytes: Mapping[str, float]
    """An image, by crop-and-flip pipeline."""
    start: Mapping[str, float]
    """Seconds from import to first batch."""

    def ratio(self, name: str, base: str) -> Estimate | None:
        """How many times as fast; None where one of them was not measured."""
        if name in self.timings and base in self.timings:
            return self.timings[name].rate.over(self.timings[base].rate)
        return None


def bench_loader(options: BenchOptions) -> None:
    """Measure, print tables, and with ``options.json`` store them beside the figures, with a plot.

    Raises:
        UserError: a report that could not be written.
    """
    check_report(options.json)
    with tempfile.TemporaryDirectory() as folder:
        print(f"making {options.images} photographs and their files", file=sys.stderr)
        files = p.make_files(Path(folder), options.images, options.resolution)
        setting = _setting(options, ImageBeton.open(files.jpg))
        figures = measure(files, options.repeats, options.resolution, Path(folder))
    tables = [_rate_table(figures), target_table(targets(figures)), _stage_table(figures), _other_table(figures)]
    report(options.json, "Loader", setting, tables, _json(figures))
    if options.json:
        picture = Path(options.json).with_suffix(".png")
        plot_loader(picture, figures.timings, figures.stages[p.DR])
        rates = {name: figures.timings[name].rate for name in figures.image_bytes}
        plot_bytes(picture.with_stem(picture.stem + "_bytes"), rates, figures.image_bytes)


def measure(files: p.Files, repeats: int, resolution: int, folder: Path) -> Figures:
    """All figures of the files' pictures."""
    images = ImageBeton.open(files.jpg)
    clocks = {
        name: p.StageClock(beton, reinforced, resolution)
        for name, beton, reinforced in (
            (p.DR, images, files.full),
            (p.MIXED, images, files.mixing),
            (p.PACKED, ImageBeton.open(files.packed), files.full),
        )
    }
    with single_threaded_libraries():
        timings = time_in_turn(p.pipelines(files, resolution, clocks), repeats)
    stages = {name: stage_shares(timings[name], np.array(clock.laps[-repeats:])) for name, clock in clocks.items()}
    timings = {name: timing for name, timing in timings.items() if not name.startswith(p.STAGES_OF)}
    cache = folder / "kernels"
    start = {name: start_seconds(files.jpg, files.full, p.BATCH, resolution, cache) for name in ("first", "second")}
    return Figures(timings, stages, stored_bytes(files), image_bytes(files), start)


def stage_shares(loader: Timing, laps: np.ndarray) -> dict[str, tuple[Estimate, Estimate]]:
    """For each stage and the rest: seconds an image, and share of the loader's time.

    laps: (repeats, stages) seconds an image, timed in the same rounds as the loader.
    """
    total = np.array(loader.time.values)
    parts = dict(zip(STAGES, laps.T, strict=True)) | {REST: total - laps.sum(axis=1)}
    return {name: (Estimate.of(part), Estimate.of(part / total)) for name, part in parts.items()}


def stored_bytes(files: p.Files) -> dict[str, float]:
    """ffdr's stored images relative to the same JPEGs in other forms; packed ones with their coding."""
    images, stock, raw, packed = map(ImageBeton.open, (files.jpg, files.stock, files.raw, files.packed))
    pixels = [decode_image(raw, i) for i in range(len(raw))]
    plain = sum(len(encode_jpeg(image, QUALITY, growth=0.0)) for image in pixels)
    assert packed.coding is not None
    mine = int(images.data_size.sum())
    return {
        PLAIN: mine / plain,
        AS_STOCK: mine / int(stock.data_size.sum()),
        PACKED_90: (int(packed.data_size.sum()) + len(packed.coding.pack())) / plain,
        PACKED_80: _packed_bytes([encode_jpeg(image, 80, growth=0.0) for image in pixels]),
    }


def _packed_bytes(jpegs: list[bytes]) -> float:
    """The JPEGs packed, relative to themselves."""
    coefficients = [read_jpeg(jpeg)[0] for jpeg in jpegs]
    coding = learn(coefficients[:: max(1, len(jpegs) // SAMPLE)])
    packed = sum(len(pack(image, coding)) for image in coefficients) + len(coding.pack())
    return packed / sum(map(len, jpegs))


def image_bytes(files: p.Files) -> dict[str, float]:
    """Bytes an image of the file that each crop-and-flip pipeline reads."""
    betons = {p.CROPS: files.jpg, p.PACKED_CROPS: files.packed, p.RAW: files.raw}
    betons |= {p.STOCK: files.stock, p.STOCK_HALF: files.half}
    return {name: float(ImageBeton.open(beton).data_size.mean()) for name, beton in betons.items()}


def targets(figures: Figures) -> list[Target]:
    """What is promised."""
    decode = figures.stages[p.DR]["decode"][1]
    outside = Estimate.of([1 - share for share in decode.values])
    return [
        Target("full policy : stock FFCV's crop and flip", figures.ratio(p.DR, p.STOCK), 2.5),
        Target("crop and flip : the same of stock FFCV", figures.ratio(p.CROPS, p.STOCK), 2.9),
        Target("full policy : the same of torchvision", figures.ratio(p.DR, p.TORCHVISION), 8),
        Target("full policy : one pickle an image", figures.ratio(p.DR, p.PUBLISHED), 10),
        Target("crop and flip : DALI on CPU", figures.ratio(p.CROPS, p.DALI), 3),
        Target("mixing : full policy", figures.ratio(p.MIXED, p.DR), 0.55),
        Target("share of the time outside JPEG decoding", outside, 0.28, at_most=True),
        Target("two threads : one", figures.ratio(p.TWO, p.DR), 1.85),
        Target("raw images, crop and flip : stock FFCV on JPEGs", figures.ratio(p.RAW, p.STOCK), 8),
        Target("bytes, " + PLAIN, Estimate.of([figures.bytes[PLAIN]]), 1.01, at_most=True),
        Target("packed, full policy : stock FFCV's crop and flip", figures.ratio(p.PACKED, p.STOCK), 5.5),
        Target("packed, crop and flip : the same of stock FFCV", figures.ratio(p.PACKED_CROPS, p.STOCK), 7.5),
        Target("packed, mixing : full policy", figures.ratio(p.PACKED_MIXED, p.PACKED), 0.55),
        Target("packed, without AVX2 : stock FFCV's crop and flip", figures.ratio(p.PORTABLE, p.STOCK), 4),
        Target("packed, two threads : one", figures.ratio(p.PACKED_TWO, p.PACKED), 1.85),
        Target("bytes, " + PACKED_90, Estimate.of([figures.bytes[PACKED_90]]), 1.2, at_most=True),
        Target("bytes, " + PACKED_80, Estimate.of([figures.bytes[PACKED_80]]), 1.3, at_most=True),
        Target("seconds to the first batch, second start", Estimate.of([figures.start["second"]]), 5, at_most=True),
    ]


def _setting(options: BenchOptions, images: ImageBeton) -> list[str]:
    width, height = images.sizes.mean(axis=0)
    size = images.data_size.mean() / 1024
    return [
        f"{len(images)} photographs, {width:.0f}×{height:.0f} px on average, JPEG quality {QUALITY}, {size:.0f} KiB",
        f"{options.resolution} px output, batches of {p.BATCH}; crops of 8 to 100 % of the area, ratio 3/4 to 4/3",
        "all files in the page cache; one decoding thread, and all threads of the process on one core; every batch "
        "ends as uint8 pixels and labels in memory, not normalised",
        f"{options.repeats} rounds, each pipeline once a round; median [95 % interval]; ratios compare the same round",
        "full policy: crop, flip, two RandAugment operations on every image, erasing on a quarter; mixup and cutmix: "
        f"every image has a partner (mixup alpha {p.MIXING.mixup_alpha:g} and, on half of them, cutmix), and both are "
        "decoded, resized and augmented where both can be seen",
        "torchvision and DALI read the JPEGs that stock FFCV stores, from an ImageFolder; one pickle an image: the "
        f"published format, {p.PUBLISHED_VIEWS} views a file, replayed by torchvision on Pillow's images",
    ]


def _rate_table(figures: Figures) -> Table:
    rows = [
        (
            name,
            timing.rate.text(0),
            _ratio(figures.ratio(name, p.STOCK)),
            _ratio(figures.ratio(name, p.TORCHVISION)),
            f"{figures.image_bytes[name] / 1024:.1f}" if name in figures.image_bytes else "",
        )
        for name, timing in sorted(figures.timings.items(), key=lambda item: -item[1].rate.median)
    ]
    if p.DALI not in figures.timings:
        rows.append((p.DALI, "not installed", "", "", ""))
    return Table(
        "Images a second, one core",
        ("", "images/s", "× stock FFCV", "× torchvision, full policy", "KiB an image"),
        rows,
    )


def _ratio(ratio: Estimate | None) -> str:
    return ratio.text() if ratio else ""


def _stage_table(figures: Figures) -> Table:
    columns = [figures.stages[name] for name in (p.DR, p.MIXED, p.PACKED)]
    rows = []
    for stage in columns[0]:
        cells = [(1e6 * seconds.median, 100 * share.median) for seconds, share in (column[stage] for column in columns)]
        rows.append((stage, *(text for cost, share in cells for text in (f"{cost:.1f}", f"{share:.1f}"))))
    return Table(
        "Where the time goes",
        ("", "full policy, µs an image", "%", "with mixing, µs an image", "%", "packed, µs an image", "%"),
        rows,
        [f"The same kernels on the same views, timed one by one; {REST}: what the loader takes on top."],
    )


def _other_table(figures: Figures) -> Table:
    rows = [(f"stored bytes, {name}", f"{x:.4f}") for name, x in figures.bytes.items()]
    rows += [(f"import to first batch, {name} start, seconds", f"{x:.1f}") for name, x in figures.start.items()]
    notes = ["The first start compiles all kernels, the second finds them on disk."]
    return Table("Bytes and start", ("", ""), rows, notes)


def _json(figures: Figures) -> dict[str, Any]:
    pipelines = {}
    for name, timing in figures.timings.items():
        ratio = figures.ratio(name, p.STOCK)
        assert ratio is not None
        pipelines[name] = {
            "images_per_second": timing.rate.json(),
            "times_stock": ratio.json(),
            "seconds": timing.seconds,
            "images": timing.units,
        }
    return {
        "pipelines": pipelines,
        "targets": {target.name: target.json() for target in targets(figures)},
        "stages": {
            name: {stage: {"seconds": cost.json(), "share": share.json()} for stage, (cost, share) in stages.items()}
            for name, stages in figures.stages.items()
        },
        "stored_bytes": dict(figures.bytes),
        "image_bytes": dict(figures.image_bytes),
        "start_seconds": dict(figures.start),
    }
