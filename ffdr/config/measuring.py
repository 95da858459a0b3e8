"""Options of the demo and the measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ffdr.config.choices import COMPILE, GPU_STAGES, PRECISIONS
from ffdr.config.options import Between, OneOf, Options, Precision, Threads
from ffdr.util.errors import UserError

Most = Annotated[int, Between(0, 10**6)]
Pixels = Annotated[int, Between(16, 4096)]


@dataclass(frozen=True)
class DemoOptions(Options, section="demo"):
    """``ffdr demo``: the whole path on scikit-learn's handwritten digits."""

    out: str = "ffdr-demo"
    """folder of the table, plot, picture and summary; in a checkout, results/demo renews those that are kept there"""
    work: str = "runs/demo"
    """folder of the betons and runs, which are overwritten"""
    seeds: Annotated[int, Between(1, 1000)] = 5
    """students trained per task"""
    epochs: Most = 0
    """epochs per student; 0: as the recipes say"""


@dataclass(frozen=True)
class BenchOptions(Options, section="bench"):
    """``ffdr bench``: measurements, each in one paired run."""

    images: Annotated[int, Between(64, 10**7)] = 512
    """images made for the measurement (loader, kernels, epoch)"""
    repeats: Annotated[int, Between(3, 1000)] = 7
    """paired repetitions"""
    resolution: Pixels = 224
    """pixels of the views (loader, kernels, epoch)"""
    models: tuple[str, ...] = ()
    """timm models, one or several (train, eval), the first (doctor); empty: resnet50 on a GPU, else resnet18"""
    precisions: tuple[Precision, ...] = ("auto",)
    """auto, float32, bfloat16, float16, one or several (train, eval), the first (doctor)"""
    resolutions: tuple[Pixels, ...] = ()
    """pixels of the views, one or several (train, eval), the first (doctor); empty: 224 on a GPU, else 128"""
    batch_size: Most = 0
    """images per step (train, eval, doctor); 0: 256 on a GPU, else 16"""
    steps: Most = 0
    """steps per timed pass (train, eval, doctor); 0: 32 on a GPU, else 2"""
    compile: Annotated[str, OneOf(COMPILE, is_switch=True, or_empty=True)] = ""
    """torch.compile's mode of ffdr's step, as train.compile; empty: what train.compile=auto comes to in a long run
    (train, doctor)"""
    data: str = ""
    """image beton to train on (train, doctor) or to evaluate (eval); empty: photographs are made"""
    reinforced: str = ""
    """reinforced beton of these images; empty: the one merged with them, or views drawn on the fly, with labels"""
    workers: Threads = 0
    """decoding threads (train, eval, doctor); 0: one per core"""
    seconds: Annotated[int, Between(1, 10**6)] = 460
    """wall seconds for the whole measurement (gpu); what does not fit is skipped"""
    device: Annotated[str, OneOf(("cpu", "cuda"), or_empty=True)] = ""
    """cuda, or cpu to try everything at tiny sizes (gpu); empty: the GPU, if there is one"""
    stages: tuple[Annotated[str, OneOf(GPU_STAGES)], ...] = ()
    """set-up, tests, steps, loader, epochs, teacher, evaluation, health, profile (gpu); empty: all"""
    json: str = ""
    """file to write the results to; a table and a plot go beside it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.precisions:
            raise UserError(f"bench.precisions: name at least one of {', '.join(PRECISIONS)}")
        if self.reinforced and not self.data:
            raise UserError("bench.data: bench.reinforced needs the image beton that it belongs to")
