"""Options of the demo and the measurements."""

from __future__ import annotations

from dataclasses import dataclass

from ffdr.config.choices import COMPILE, GPU_STAGES, PRECISIONS
from ffdr.config.learning import switched
from ffdr.util.errors import UserError, between, one_of


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


@dataclass(frozen=True)
class BenchOptions:
    """``ffdr bench``: measurements, each in one paired run."""

    images: int = 512
    """images of the corpus that is made for the measurement (loader, kernels, epoch)"""
    repeats: int = 7
    """paired repetitions"""
    resolution: int = 224
    """pixels of the views (loader, kernels, epoch)"""
    models: tuple[str, ...] = ()
    """timm models, one or several (train, eval), the first (doctor); empty: resnet50 on a GPU, else resnet18"""
    precisions: tuple[str, ...] = ("auto",)
    """auto, float32, bfloat16, float16, one or several (train, eval), the first (doctor)"""
    resolutions: tuple[int, ...] = ()
    """pixels of the views, one or several (train, eval), the first (doctor); empty: 224 on a GPU, else 128"""
    batch_size: int = 0
    """images a step (train, eval, doctor); 0: 256 on a GPU, else 16"""
    steps: int = 0
    """steps of one timed pass (train, eval, doctor); 0: 32 on a GPU, else 2"""
    compile: str = ""
    """torch.compile's mode of ffdr's step, as train.compile; empty: what train.compile=auto comes to in a long run
    (train, doctor)"""
    data: str = ""
    """image beton to train on (train, doctor) or to evaluate (eval); empty: photographs are made"""
    reinforced: str = ""
    """reinforced beton of these images; empty: the one packed with them, or views drawn on the fly and labels"""
    workers: int = 0
    """decoding threads (train, eval, doctor); 0: one a core"""
    seconds: int = 460
    """wall seconds for all that is measured (gpu); what does not fit is skipped"""
    device: str = ""
    """cuda, or cpu to try everything at tiny sizes (gpu); empty: the GPU, if there is one"""
    stages: tuple[str, ...] = ()
    """set-up, tests, steps, loader, epochs, teacher, evaluation, health, profile (gpu); empty: all"""
    json: str = ""
    """file to write the figures to; a table and a plot go beside it"""

    def __post_init__(self) -> None:
        between("bench.images", self.images, 64, 10**7)
        between("bench.repeats", self.repeats, 3, 1000)
        between("bench.resolution", self.resolution, 16, 4096)
        between("bench.batch_size", self.batch_size, 0, 10**6)
        between("bench.steps", self.steps, 0, 10**6)
        between("bench.workers", self.workers, 0, 1024)
        between("bench.seconds", self.seconds, 1, 10**6)
        object.__setattr__(self, "compile", switched(self.compile))
        one_of("bench.compile", self.compile, ("", *COMPILE))
        one_of("bench.device", self.device, ("", "cpu", "cuda"))
        for stage in self.stages:
            one_of("bench.stages", stage, GPU_STAGES)
        for precision in self.precisions:
            one_of("bench.precisions", precision, PRECISIONS)
        for resolution in self.resolutions:
            between("bench.resolutions", resolution, 16, 4096)
        if not self.precisions:
            raise UserError(f"bench.precisions: name at least one of {', '.join(PRECISIONS)}")
        if self.reinforced and not self.data:
            raise UserError("bench.data: bench.reinforced needs the image beton that it belongs to")
