"""What every measurement gets, and what it gives back."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ffdr.bench.gpu.plan import Sizes
from ffdr.bench.settings import Setting, TrainingFiles
from ffdr.bench.timing import Timing, Workload, time_in_turn

Row = dict[str, Any]
"""Plain data: what was measured of one thing. ``name`` says of which."""


@dataclass(frozen=True)
class Site:
    """Where a measurement takes place."""

    device: torch.device
    sizes: Sizes
    folder: Path
    """of files that nobody needs afterwards"""
    files: Path
    """folder of the betons (``files.py``)"""

    @property
    def images(self) -> Path:
        """Beton of coefficients."""
        return self.files / "dct.beton"

    @property
    def jpegs(self) -> Path:
        """Beton of JPEGs."""
        return self.files / "jpg.beton"

    @property
    def reinforced(self) -> Path:
        """Views of both."""
        return self.files / "views.beton"

    @property
    def count(self) -> int:
        """Images in each beton."""
        return self.sizes.photos * self.sizes.copies

    def training_files(self, task: str) -> TrainingFiles:
        """Coefficients, with views (dr) or without (erm)."""
        return TrainingFiles(self.images, self.count, str(self.reinforced) if task == "dr" else "", task)

    def setting(self, precision: str = "auto", compile: str = "off", small: bool = False) -> Setting:
        """The main model's, or the small one's; a pass is one epoch of the files."""
        sizes = self.sizes
        return Setting(
            model=sizes.small_model if small else sizes.model,
            precision=precision,
            resolution=sizes.small_resolution if small else sizes.resolution,
            batch_size=sizes.batch_size,
            steps=self.count // sizes.batch_size,
            compile=compile,
            workers=0,
            device=self.device,
        )

    def rows(self, work: Mapping[str, Workload]) -> Iterator[Row]:
        """Time the workloads in turn; a row of each."""
        for name, timing in time_in_turn(work, self.sizes.repeats).items():
            yield timed(name, timing)


@dataclass(frozen=True)
class Ready:
    """A measurement that only waits for its turn."""

    measure: Callable[[], Iterator[Row]]
    """its rows, each as soon as it is known"""
    profile: Callable[[str], Row] | None = None
    """where the time of a row goes, by the row's name"""


def timed(name: str, timing: Timing, **more: Any) -> Row:
    """A row of one workload: images (or bytes, operations) per second."""
    return {"name": name, "rate": timing.rate.json(), "seconds": timing.seconds, "units": timing.units, **more}


def failure(error: BaseException) -> Row:
    """What is kept of an exception."""
    line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return {"failed": line, "traceback": "".join(traceback.format_exception(error))[-8000:]}
