"""Options of the demo and the measurements."""

from __future__ import annotations

from dataclasses import dataclass

from ffdr.errors import between


@dataclass(frozen=True)
class DemoOptions:
    """``ffdr demo``: the whole path on scikit-learn's handwritten digits."""

    out: str = "results/demo"
    """folder of the table, plot, picture and summary"""
    work: str = "runs/demo"
    """folder of the betons and runs, which are overwritten"""
    seeds: int = 5
    """students trained by each task"""
    epochs: int = 0
    """epochs of a student; 0: as the recipes say"""

    def __post_init__(self) -> None:
        between("demo.seeds", self.seeds, 1, 1000)
        between("demo.epochs", self.epochs, 0, 10**6)


BENCHES = ("loader", "kernels", "epoch")


@dataclass(frozen=True)
class BenchOptions:
    """``ffdr bench``: measurements, each in one paired run."""

    images: int = 1024
    """images of the corpus that is made for the measurement"""
    repeats: int = 7
    """paired repetitions"""
    resolution: int = 224
    """pixels of the views"""
    json: str = ""
    """file to write the figures to; a table and a plot go beside it"""

    def __post_init__(self) -> None:
        between("bench.images", self.images, 64, 10**7)
        between("bench.repeats", self.repeats, 3, 1000)
        between("bench.resolution", self.resolution, 16, 4096)
