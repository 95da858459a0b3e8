"""What is measured, at which sizes, in which order, and what each part costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ffdr.config.choices import GPU_STAGES

SETUP, TESTS, STEPS, LOADER, EPOCHS, TEACHER, EVALUATION, HEALTH, PROFILE = GPU_STAGES

STEP, FIT, BARE = "step", "fit loop", "plain loop"
"""How a batch is learned from: ffdr's step, its whole loop, or a loop written by hand."""
_EMA = 0.9998


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    photos: int
    """different photographs"""
    copies: int
    """times that each stands in the files"""
    photo: tuple[int, int]
    """width and height, pixels; zeros: ImageNet's"""
    classes: int
    views: int
    """stored per image"""
    model: str
    resolution: int
    batch_size: int
    steps: int
    """of a timed pass on random batches"""
    repeats: int
    """timed passes"""
    small_model: str
    """of which a step is short"""
    small_resolution: int
    growing: tuple[int, ...]
    """resolutions through which views grow"""
    health_epochs: int


GPU = Sizes(
    photos=1536,
    copies=4,
    photo=(0, 0),
    classes=1000,
    views=4,
    model="resnet50",
    resolution=224,
    batch_size=256,
    steps=16,
    repeats=5,
    small_model="resnet18",
    small_resolution=128,
    growing=(96, 112, 128),
    health_epochs=10,
)
CPU = Sizes(
    photos=64,
    copies=1,
    photo=(72, 56),
    classes=10,
    views=2,
    model="test_resnet",
    resolution=32,
    batch_size=8,
    steps=2,
    repeats=3,
    small_model="test_efficientnet",
    small_resolution=32,
    growing=(32, 64),
    health_epochs=4,
)


@dataclass(frozen=True)
class Line:
    """One way to learn from random batches; a row of the table."""

    how: str
    """STEP, FIT or BARE"""
    precision: str
    """float32, bfloat16 or float16"""
    compile: str
    """torch.compile's mode, or off"""

    @property
    def label(self) -> str:
        """``step, compiled, bfloat16``."""
        words = {"off": "eager", "default": "compiled", "reduce-overhead": "CUDA graphs"}
        return f"{self.how}, {words.get(self.compile, self.compile)}, {self.precision}"


@dataclass(frozen=True)
class GpuJob:
    """A part of a stage that is prepared and measured by itself."""

    stage: str
    name: str
    kind: str
    """key of ``worker.KINDS``"""
    seconds: float
    """that measuring takes"""
    memory: float = 1.0
    """GB of the GPU's memory while it gets ready and is measured"""
    keeps: float = 1.0
    """GB that it holds in between"""
    needs_files: bool = False
    extra: bool = False
    """measured when all else is"""
    arguments: dict[str, Any] = field(default_factory=dict)
    """for its kind; plain data"""


def jobs(sizes: Sizes, gpu: bool, stages: Sequence[str]) -> list[GpuJob]:
    """All jobs of the stages (empty: all), the most important first; ``tests`` and ``profile`` have none."""
    found = _gpu_jobs(sizes) if gpu else _cpu_jobs(sizes)
    return [job for job in found if not stages or job.stage in stages or (job.stage == STEPS and PROFILE in stages)]


def _gpu_jobs(sizes: Sizes) -> list[GpuJob]:
    half = ("bfloat16", "float16")
    base = sizes.model, sizes.resolution, sizes.batch_size
    small = sizes.small_model, sizes.small_resolution, sizes.batch_size
    both = [Line(STEP, "bfloat16", mode) for mode in ("off", "default")]
    trio = [Line(how, "bfloat16", "default") for how in (STEP, FIT, BARE)]
    return [
        GpuJob(SETUP, "set-up", "hardware", 6, 13),
        _steps(*base, trio, seconds=16),
        *[_steps(*base, [Line(STEP, precision, "off")], seconds=9) for precision in half],
        _steps(*base, [Line(STEP, "float16", "default")], seconds=6),
        *[_steps(*base, [Line(STEP, precision, "reduce-overhead")], seconds=6, keeps=13) for precision in half],
        *_with_files(sizes, 12, compile="auto"),
        _steps(*small, trio, seconds=9),
        _steps(*small, [Line(STEP, "bfloat16", "reduce-overhead")], seconds=5, keeps=5),
        # Larger batches compile before it is known what wins at 256.
        *[_steps(*base[:2], n, [Line(STEP, "float16", "default")], seconds=n / 64) for n in (512, 1024)],
        *[
            _steps(name, size, sizes.batch_size, both, _EMA, seconds=12, extra=True)
            for name, size in (("vit_small_patch16_224", 224), ("efficientnet_b2", 256))
        ],
    ]


def _cpu_jobs(sizes: Sizes) -> list[GpuJob]:
    base = sizes.model, sizes.resolution, sizes.batch_size
    small = sizes.small_model, sizes.small_resolution, sizes.batch_size
    return [
        GpuJob(SETUP, "set-up", "hardware", 1),
        _steps(*base, [Line(how, "float32", "default") for how in (STEP, FIT, BARE)], seconds=1),
        _steps(*base, [Line(STEP, "float32", "off")], seconds=1),
        _steps(*base, [Line(STEP, "bfloat16", "off")], seconds=1),
        *_with_files(sizes, 1, compile="off"),
        _steps(*small, [Line(STEP, "float32", "off")], _EMA, seconds=1),
    ]


def _with_files(sizes: Sizes, memory: float, compile: str) -> list[GpuJob]:
    gpu = memory > 1
    return [
        GpuJob(LOADER, "loader", "loader", 14 if gpu else 1, memory / 4, needs_files=True),
        GpuJob(
            EPOCHS, "epochs", "epochs", 22 if gpu else 1, 2 * memory, 2 * memory, True, arguments={"compile": compile}
        ),
        GpuJob(HEALTH, "health", "health", 12 if gpu else 1, memory / 2, memory / 2, needs_files=True),
        GpuJob(TEACHER, "teacher", "teacher", 22 if gpu else 1, memory / 2, needs_files=True),
        GpuJob(EVALUATION, "evaluation", "evaluation", 10 if gpu else 1, memory / 2, needs_files=True),
    ]


def _steps(
    model: str, resolution: int, batch_size: int, lines: Sequence[Line], ema: float = 0.0, *, seconds: float,
    keeps: float = 2.5, extra: bool = False,
) -> GpuJob:  # fmt: skip
    """The lines are timed in turn, in one process."""
    sort = f" {lines[0].label}" if len(lines) == 1 else ""
    name = f"{model}@{resolution} px, {batch_size}{sort}"
    memory = max(3.0, 14.0 * batch_size / 256 * (resolution / 224) ** 2)  # some is tried out while compiling
    arguments = {
        "model": model,
        "resolution": resolution,
        "batch_size": batch_size,
        "ema": ema,
        "lines": [asdict(line) for line in lines],
    }
    return GpuJob(STEPS, name, "steps", seconds, max(memory, keeps), keeps, extra=extra, arguments=arguments)
