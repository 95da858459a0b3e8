"""``ffdr bench files``: importing archives, reading records, writing coefficient images, opening a large file."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import make_photos, reinforce_untaught, write_photos
from ffdr.bench.results import Report, Summary, Table, bench
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Workload, single_threaded_libraries, time_in_turn
from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import ExportOptions, ImportOptions, TranscodeOptions, WriteOptions
from ffdr.config.measuring import BenchOptions
from ffdr.loader.views import StoredViews, ViewBatch
from ffdr.mldr.exporting import export_archive
from ffdr.mldr.importing import import_archives
from ffdr.write.copy.transcode import transcode
from ffdr.write.images import write_images

VIEWS = 10
"""Views per image of the archives."""
BATCH = 1024
READS = 200 * BATCH
POLICIES = {"plain": Policy(), "mixing": Policy(mixup=0.5, cutmix=0.5)}
PHOTOS, SIZE = 96, (500, 375)
"""Photographs that are written, and their width and height in pixels."""
IMAGENET = (1_281_167, 400)
"""Images, views per image."""

_OPEN = """
import sys, time
import numpy, ffdr.beton.read
start = time.perf_counter()
ffdr.beton.read.ReinforcedBeton.open(sys.argv[1])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - start, int(peak) / 1024)
"""


@bench(then="ffdr bench doctor")
def bench_files(options: BenchOptions, folder: Path) -> Report:
    """Measure each verb on one core, and how an opened file of ImageNet's size fares."""
    with single_threaded_libraries():
        digits = WriteOptions(source="digits", out=str(folder / "digits.beton"), mode="raw")
        images = ImageBeton.open(write_images(digits, progress=False))
        timings = time_in_turn(_archives(folder, images) | _writers(folder), options.repeats)
        large = _sparse(folder / "imagenet.beton")
        opened = np.array([_open(large) for _ in range(options.repeats)])
    rates = {name: timing.rate for name, timing in timings.items()}
    seconds, mebibytes = Estimate.of(opened[:, 0]), Estimate.of(opened[:, 1])
    setting = [
        f"{len(images)} entries of {VIEWS} views with top-10 in a .tar.gz, from decompression to the finished file",
        f"records and logits of {READS} random views, in batches of {BATCH}, of a file in the page cache",
        f"{PHOTOS} JPEG files of {SIZE[0]}×{SIZE[1]} px, quality 95, written with --write.mode=dct, or transcoded from "
        "a beton and back; learning the codebooks, manifest and read-back included",
        "the large file's data is a hole; its tables are whole, and checked",
        f"one core; {options.repeats} rounds, each workload once per round; median [95 % interval]",
    ]
    table = Table("Rates", ("", "per second"), [(name, rate.text(0)) for name, rate in rates.items()])
    figures = {"rates": {name: rate.json() for name, rate in rates.items()}}
    return Report("Files", setting, [table], summary(rates, seconds, mebibytes), figures)


def summary(rates: Mapping[str, Estimate], seconds: Estimate, mebibytes: Estimate) -> Summary:
    """The figures that others build on. seconds, mebibytes: of opening the large file."""
    return {
        "import, images/s (10 views, +RA/RE)": rates["import, plain"],
        "import, images/s (10 views, +M*+R*)": rates["import, mixing"],
        "record reads/s, no mixing": rates["read, plain"],
        "record reads/s, mixing": rates["read, mixing"],
        "writing coefficient images from JPEG files, images/s": rates["write, coefficients"],
        "opening 1,281,167 images × 400 views, seconds": seconds,
        "opening them, peak memory of the process, MiB": mebibytes,
    }


def _archives(folder: Path, images: ImageBeton) -> dict[str, Workload]:
    """Importing the archive of each policy, and reading the records that it is of."""
    work = {}
    for name, policy in POLICIES.items():
        full = reinforce_untaught(images.path, folder / f"{name}.beton", policy, VIEWS)
        archive = folder / f"{name}.tar.gz"
        export_archive(ExportOptions(str(full), str(images.path), str(archive), 224), progress=False)
        run = _anew(partial(_import, archive, images.path), folder, archive.name)
        work[f"import, {name}"] = Workload(run, len(images), cores=1)
        work[f"read, {name}"] = Workload(_read(StoredViews(ReinforcedBeton.open(full, images), seed=0)), READS, cores=1)
    return work


def _writers(folder: Path) -> dict[str, Workload]:
    """Writing JPEG files as coefficient images, and transcoding both ways."""
    photos = make_photos(folder / "photos", PHOTOS, 0, *SIZE)
    jpegs = write_photos(photos, folder / "jpegs.beton")
    coefficients = transcode(TranscodeOptions(str(jpegs), str(folder / "coefficients.beton")), progress=False)
    runs: dict[str, Callable[[Path], object]] = {
        "write, coefficients": partial(write_photos, photos, mode="dct", processes=1),
        "transcode, JPEG to coefficients": partial(_transcode, jpegs),
        "transcode, coefficients to JPEG": partial(_transcode, coefficients),
    }
    return {name: Workload(_anew(run, folder, name), PHOTOS, cores=1) for name, run in runs.items()}


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
    batch = ViewBatch.blank(BATCH, source.entries)

    def run() -> None:
        epoch = next(epochs)
        for part in index:
            source.fill(np.full_like(part, epoch), part, batch)

    return run


def _sparse(path: Path) -> Path:
    """A reinforced beton of ImageNet's size whose data is a hole."""
    count, views = IMAGENET
    header = ReinforcedHeader(views, 10, 1000, count, "0" * 32, False, Policy().settings(), ("none",), 224, 0)
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
