"""The background: photographs, their betons, and Numba's kernels, made by half of the cores while models compile.

``python -m ffdr.bench.gpu.files FOLDER gpu|cpu PROCESSES`` writes ``jpg.beton``, ``dct.beton`` and ``views.beton`` into
the folder and, when all are there, ``ready.json`` with the seconds that each part took.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import make_photos_at_once, reinforce_untaught, repeat_photos, write_photos
from ffdr.bench.gpu.plan import CPU, GPU, Sizes
from ffdr.bench.loading.startup import start_seconds
from ffdr.beton.read import ReinforcedBeton
from ffdr.config.files import TranscodeOptions
from ffdr.loader.views import StoredViews, ViewBatch
from ffdr.util.atomic import atomic_write
from ffdr.write.copy.transcode import transcode

JPG, DCT, RAW, VIEWS, READY = "jpg.beton", "dct.beton", "raw.beton", "views.beton", "ready.json"
_FEW = 16
"""Photographs that are enough to have all kernels compiled."""


def make_files(folder: Path, sizes: Sizes, processes: int) -> None:
    """Everything. With several processes kernels are compiled on a few photographs while the others are made.

    The loader's kernels, which take longest, are compiled by processes of their own, beside all else.
    """
    seconds: dict[str, float] = {}
    begun = time.monotonic()

    def lap(name: str) -> None:
        nonlocal begun
        now = time.monotonic()
        seconds[name], begun = now - begun, now

    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(2) as others:
        kernels = None
        if processes > 1:
            kernels = thread.submit(
                _betons, _photos(folder / "few", replace(sizes, photos=_FEW, copies=1), 1), sizes, 1
            )
        photos = _photos(folder, sizes, processes)
        lap("photographs")
        if kernels is not None:
            few = kernels.result()  # else every process would compile the same
            lap("kernels that write")
            starts = {name: others.submit(start_seconds, few / name, few / VIEWS, 8, 64) for name in (JPG, DCT)}
        else:
            raw = write_photos(photos, folder / RAW, mode="raw")  # written at once; the kernels are the same
            starts = {RAW: others.submit(start_seconds, raw, "", 8, 64)}
        _betons(photos, sizes, processes)
        lap("betons and views")
        for name, start in starts.items():
            seconds[f"import to first batch, {name}"] = start.result()
    lap("kernels that read, beyond that")
    atomic_write(folder / READY, json.dumps({"seconds": seconds}) + "\n")


def _photos(folder: Path, sizes: Sizes, processes: int) -> Path:
    photos = make_photos_at_once(folder / "photos", sizes.photos, processes, sizes.classes, sizes.photo)
    repeat_photos(photos, sizes.copies)
    return photos


def _betons(photos: Path, sizes: Sizes, processes: int) -> Path:
    """Beside the photographs; their folder."""
    folder = photos.parent
    images = write_photos(photos, folder / JPG, processes=processes)
    coefficients = TranscodeOptions(str(images), str(folder / DCT), "dct", workers=processes, overwrite=True)
    transcode(coefficients, progress=False)
    reinforce_untaught(images, folder / VIEWS, Policy(), sizes.views)
    _read_views(folder)
    return folder


def _read_views(folder: Path) -> None:
    """Has the kernels compiled that read stored views."""
    source = StoredViews(ReinforcedBeton.open(folder / VIEWS), 0)
    first = np.zeros(1, np.int64)
    source.fill(first, first, ViewBatch.blank(1, source.entries))


if __name__ == "__main__":
    make_files(Path(sys.argv[1]), GPU if sys.argv[2] == "gpu" else CPU, int(sys.argv[3]))
