"""``ffdr bench files``: importing archives, reading records, packing images, opening a file of ImageNet's size."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import make_photos, reinforce_untaught, write_photos
from ffdr.bench.report import Table, Target, check_report, report, target_table
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Work, single_threaded_libraries, time_in_turn
from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import (
    ExportOptions,
    ImportOptions,
    TranscodeOptions,
    WriteOptions,
)
from ffdr.config.measuring import BenchOptions
from ffdr.loader.decode import blank_views
from ffdr.loader.views import StoredViews
from ffdr.mldr.exporting import export_archive
from ffdr.mldr.importing import import_archives
from ffdr.write.images import write_images
from ffdr.write.transcode import transcode

VIEWS = 10
"""Views an image of the archives, as many as their published "NS" in the promise."""
BATCH = 1024
READS = 200 * BATCH
POLICIES = {"plain": Policy(), "mixing": Policy(mixup=0.5, cutmix=0.5)}
PHOTOS, SIZE = 96, (500, 375)
"""Photographs that are packed, and their width and height in pixels."""
IMAGENET = (1_281_167, 400)
"""Images, views an image."""

_OPEN = """
import sys, time
import numpy, ffdr.beton.read
start = time.perf_counter()
ffdr.beton.read.ReinforcedBeton.open(sys.argv[1])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - start, int(peak) / 1024)
"""


def bench_files(options: BenchOptions) -> None:
    """Measure, print and store."""
    check_report(options.json)
    with tempfile.TemporaryDirectory() as folder, single_threaded_libraries():
        work, images = _work(Path(folder))
        timings = time_in_turn(work, options.repeats)
        opened = np.array([_open(_sparse(Path(folder) / "imagenet.beton")) for _ in range(options.repeats)])
    rates = {name: timing.rate for name, timing in timings.items()}
    seconds, mebibytes = Estimate.of(opened[:, 0]), Estimate.of(opened[:, 1])
    targets = [
        Target("import, images a second (10 views, +RA/RE)", rates["import, plain"], 2000),
        Target("import, images a second (10 views, +M*+R*)", rates["import, mixing"], 2000),
        Target("record reads a second, no mixing", rates["read, plain"], 1_000_000),
        Target("record reads a second, mixing", rates["read, mixing"], 1_000_000),
        Target("writing packed coefficients from JPEG files, images a second", rates["write, packed"], 40),
        Target("opening 1,281,167 images × 400 views, seconds", seconds, 2, at_most=True),
        Target("opening them, peak memory of the process, MiB", mebibytes, 200, at_most=True),
    ]
    setting = [
        f"{images} entries of {VIEWS} views with top-10 in a .tar.gz, from decompression to the finished file",
        f"records and logits of {READS} random views, in batches of {BATCH}, of a file in the page cache",
        f"{PHOTOS} JPEG files of {SIZE[0]}×{SIZE[1]} px, quality 95, written with --write.mode=dct, or transcoded from "
        "a beton and back; learning the codebooks, manifest and read-back included",
        "the large file's data is a hole; its tables are whole, and checked",
        f"one core; {options.repeats} rounds, each piece once a round; median [95 % interval]",
    ]
    rows = [(name, rate.text(0)) for name, rate in rates.items()]
    figures = {
        "rates": {name: rate.json() for name, rate in rates.items()},
        "targets": {target.name: target.json() for target in targets},
    }
    report(options.json, "Files", setting, [Table("A second", ("", ""), rows), target_table(targets)], figures)


def _work(folder: Path) -> tuple[dict[str, Work], int]:
    """Imports and reads by name, and the number of images."""
    beton = write_images(WriteOptions(source="digits", out=str(folder / "digits.beton"), mode="raw"), progress=False)
    images = ImageBeton.open(beton)
    work = {}
    for name, policy in POLICIES.items():
        full = reinforce_untaught(beton, folder / f"{name}.beton", policy, VIEWS)
        archive = folder / f"{name}.tar.gz"
        export_archive(ExportOptions(str(full), str(beton), str(archive), 224), progress=False)
        work[f"import, {name}"] = Work(
            _anew(partial(_import, archive, beton), folder, archive.name), len(images), cores=1
        )
        work[f"read, {name}"] = Work(_read(StoredViews(ReinforcedBeton.open(full, images), seed=0)), READS, cores=1)
    photos = make_photos(folder / "photos", PHOTOS, 0, *SIZE)
    jpegs = write_photos(photos, folder / "jpegs.beton")
    packed = transcode(TranscodeOptions(str(jpegs), str(folder / "packed.beton")), progress=False)
    for name, run in (
        ("write, packed", partial(_write_packed, photos)),
        ("transcode, JPEG to packed", partial(_transcode, jpegs)),
        ("transcode, packed to JPEG", partial(_transcode, packed)),
    ):
        work[name] = Work(_anew(run, folder, name), PHOTOS, cores=1)
    return work, len(images)


def _write_packed(photos: Path, out: Path) -> None:
    options = WriteOptions(source="imagefolder", path=str(photos), split="", out=str(out), mode="dct", workers=1)
    write_images(options, progress=False)


def _transcode(beton: Path, out: Path) -> None:
    transcode(TranscodeOptions(str(beton), str(out), workers=1), progress=False)


def _anew(run: Callable[[Path], object], folder: Path, name: str) -> Callable[[], object]:
    """Writes a new file each time."""
    number = itertools.count()
    return lambda: run(folder / f"{name}-{next(number)}.beton")


def _import(archive: Path, images: Path, out: Path) -> None:
    import_archives(ImportOptions((str(archive),), str(images), str(out)), progress=False)


def _read(source: StoredViews) -> Callable[[], object]:
    """Reads random views, those of a new epoch each time."""
    rng, epochs = np.random.default_rng(0), itertools.count()
    index = rng.integers(0, len(source.reinforced), (READS // BATCH, BATCH))
    views, mixes = blank_views(BATCH)
    ids, log_probs = np.empty((BATCH, source.entries), np.int32), np.empty((BATCH, source.entries), np.float32)

    def run() -> None:
        epoch = next(epochs)
        for part in index:
            source.fill(epoch, part, views, mixes, ids, log_probs)

    return run


def _sparse(path: Path) -> Path:
    """A reinforced beton of ImageNet's size whose data is a hole."""
    if path.exists():
        return path
    count, views = IMAGENET
    header = ReinforcedHeader(views, 10, 1000, count, "0" * 32, False, asdict(Policy()), ("none",), 224, 0)
    specs, sample = header.specs(), header.view_bytes + header.logit_bytes
    metadata = np.zeros(count, layout.metadata_dtype(specs))
    metadata["aug_params"] = layout.equal_regions(layout.data_start(specs, count), sample, count, layout.PAGE_SIZE)
    metadata["logits"] = metadata["aug_params"] + np.uint64(header.view_bytes)
    allocations = np.empty((count, 2), layout.ALLOC_DTYPE)
    allocations["sample_id"] = np.arange(count)[:, None]
    allocations["ptr"] = np.stack([metadata["aug_params"], metadata["logits"]], axis=1)
    allocations["size"] = header.view_bytes, header.logit_bytes
    with path.open("w+b") as file:
        file.seek(int(metadata["aug_params"][-1]) + sample)
        sums = np.zeros(count, "<u4")
        layout.write_tables(file, specs, layout.PAGE_SIZE, metadata, sums, [allocations.ravel()])
    return path


def _open(path: Path) -> tuple[float, float]:
    """Seconds and peak MiB of opening a file in a process of its own."""
    run = subprocess.run([sys.executable, "-c", _OPEN, str(path)], check=True, capture_output=True, text=True)
    seconds, mebibytes = map(float, run.stdout.split())
    return seconds, mebibytes
