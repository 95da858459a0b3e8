"""The background: photographs, their betons, and Numba's kernels, made by half of the cores while models compile.

``python -m ffdr.bench.gpu.files FOLDER gpu|cpu PROCESSES`` writes ``jpg.beton``, ``dct.beton`` and ``views.beton`` into
the folder and, when all are there, ``ready.json`` with the seconds that each part took.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import make_photos_at_once, reinforce_untaught, repeat_photos, write_photos
from ffdr.bench.gpu.plan import CPU, GPU, Sizes
from ffdr.bench.loading.startup import start_seconds
from ffdr.beton.read import ReinforcedBeton
from ffdr.config.files import TranscodeOptions
from ffdr.loader.decode import blank_views
from ffdr.loader.views import StoredViews
from ffdr.util.atomic import atomic_write
from ffdr.write.transcode import transcode

JPG, DCT, RAW, VIEWS, READY = "jpg.beton", "dct.beton", "raw.beton", "views.beton", "ready.json"
_FEW = 16
"""Photographs that are enough to have all kernels compiled."""


def make_files(folder: Path, sizes: Sizes, processes: int) -> None:
    """Everything. With several processes kernels are compiled on a few photographs while the others are made.

    The loader's kernels, which take longest, are compiled by processes of their own, beside all else.
    """
    laps = _Laps()
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(2) as others:
        kernels = (
            thread.submit(_betons, _photos(folder / "few", sizes, _FEW, 1, 1), sizes, 1) if processes > 1 else None
        )
        photos = _photos(folder, sizes, sizes.photos, sizes.copies, processes)
        laps.lap("photographs")
        if kernels is not None:
            few = kernels.result()  # else every process would compile the same
            laps.lap("kernels that write")
            starts = {name: others.submit(start_seconds, few / name, few / VIEWS, 8, 64) for name in (JPG, DCT)}
        else:
            raw = write_photos(photos, folder / RAW, mode="raw")  # written at once; the kernels are the same
            starts = {RAW: others.submit(start_seconds, raw, "", 8, 64)}
        _betons(photos, sizes, processes)
        laps.lap("betons and views")
        for name, start in starts.items():
            laps.seconds[f"import to first batch, {name}"] = start.result()
    laps.lap("kernels that read, beyond that")
    atomic_write(folder / READY, json.dumps({"seconds": laps.seconds}) + "\n")


class _Laps:
    """Seconds by what was done in them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """What was done since the last one."""
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now


def _photos(folder: Path, sizes: Sizes, count: int, copies: int, processes: int) -> Path:
    photos = make_photos_at_once(folder / "photos", count, processes, sizes.classes, *sizes.photo)
    repeat_photos(photos, copies)
    return photos


def _betons(photos: Path, sizes: Sizes, processes: int) -> Path:
    """Beside the photographs; their folder."""
    folder = photos.parent
    images = write_photos(photos, folder / JPG, processes=processes)
    packing = TranscodeOptions(str(images), str(folder / DCT), "dct", workers=processes, overwrite=True)
    transcode(packing, progress=False)
    reinforce_untaught(images, folder / VIEWS, Policy(), sizes.views)
    _read_views(folder)
    return folder


def _read_views(folder: Path) -> None:
    """Has the kernels compiled that read stored views."""
    source = StoredViews(ReinforcedBeton.open(folder / VIEWS), 0)
    views, mixes = blank_views(1)
    ids, log_probs = (np.empty((1, source.entries), kind) for kind in (np.int32, np.float32))
    source.fill(0, np.zeros(1, np.int64), views, mixes, ids, log_probs)


if __name__ == "__main__":
    make_files(Path(sys.argv[1]), GPU if sys.argv[2] == "gpu" else CPU, int(sys.argv[3]))
