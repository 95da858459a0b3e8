"""Which configurations of training ``ffdr bench train``, ``eval`` and ``doctor`` time, and on which files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import make_photos, reinforce_untaught, write_photos
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.measuring import BenchOptions
from ffdr.models.build import autocast_dtype, best_device, check_name
from ffdr.models.compiling import train_mode
from ffdr.models.compiling import why_not as why_not_compile
from ffdr.util.errors import UserError
from ffdr.util.machine import thread_count

EPOCHS = 10**4
"""More than are ever timed, so that the learning rate stays where it is."""
_VIEWS = 8


@dataclass(frozen=True)
class Setting:
    """One configuration to time."""

    model: str
    precision: str
    """as ``train.precision``"""
    resolution: int
    batch_size: int
    steps: int
    """of one timed pass"""
    compile: str
    """as ``train.compile``"""
    workers: int
    device: torch.device
    ema: float = 0.0
    """as ``train.ema``"""

    @property
    def dtype(self) -> torch.dtype | None:
        """What autocast computes in; None: float32."""
        return autocast_dtype(self.precision, self.device, "bench.precisions")

    @property
    def precision_name(self) -> str:
        """What ``precision`` comes to on the device: ``bfloat16``."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    @property
    def threads(self) -> int:
        """That decode."""
        return thread_count(self.workers, gpu=self.device.type == "cuda")

    @property
    def images(self) -> int:
        """Of one timed pass."""
        return self.batch_size * self.steps

    @property
    def label(self) -> str:
        """``resnet50, 224 px, bfloat16``."""
        return f"{self.model}, {self.resolution} px, {self.precision_name}"

    def within(self, count: int) -> Setting:
        """The same with no more steps than ``count`` images fill.

        Raises:
            UserError: they do not fill one.
        """
        if count < self.batch_size:
            raise UserError(f"bench.batch_size: {count} images do not fill one batch of {self.batch_size}")
        return replace(self, steps=min(self.steps, count // self.batch_size))


@dataclass(frozen=True)
class TrainingFiles:
    """What is trained on."""

    images: Path
    count: int
    """of images"""
    reinforced: str
    """empty: merged with the images, or there is none"""
    task: str
    """dr, or erm where there is no reinforcement"""


def plan(options: BenchOptions, device: torch.device | None = None) -> list[Setting]:
    """Every model in every precision at every resolution; what is left open becomes what suits the device.

    Raises:
        UserError: a model that timm doesn't know; a precision that the device doesn't have; no compiler for
            ``bench.compile``.
    """
    device = device or best_device()
    gpu = device.type == "cuda"
    settings = [
        Setting(
            model=model,
            precision=precision,
            resolution=resolution,
            batch_size=options.batch_size or (256 if gpu else 16),
            steps=options.steps or (32 if gpu else 2),
            compile=_compile_mode(options.compile, device),
            workers=options.workers,
            device=device,
        )
        for model in options.models or ("resnet50" if gpu else "resnet18",)
        for precision in options.precisions
        for resolution in options.resolutions or (224 if gpu else 128,)
    ]
    for setting in settings:
        check_name(setting.model)
        _ = setting.dtype
    return settings


def _compile_mode(asked: str, device: torch.device) -> str:
    """What ffdr's own choice comes to in a run that is long enough."""
    mode = train_mode(asked or "auto", device, EPOCHS)
    if mode == "off":
        return "off"
    reason = why_not_compile(device)
    if reason and asked not in ("", "auto"):
        raise UserError(f"bench.compile: torch.compile does not work here ({reason}); use off")
    return "off" if reason else mode


def source(options: BenchOptions) -> str:
    """Where the images come from, in words."""
    return options.data or "photographs made for this"


def training_files(options: BenchOptions, folder: Path, count: int) -> TrainingFiles:
    """The user's files, or ``count`` photographs with views of the full policy, made in a folder.

    Raises:
        UserError: files that can't be opened or don't belong together.
    """
    if not options.data:
        made = write_photos(make_photos(folder / "photos", count), folder / "images.beton")
        reinforced = reinforce_untaught(made, folder / "reinforced.beton", Policy(), _VIEWS)
        return TrainingFiles(made, count, str(reinforced), "dr")
    images = ImageBeton.open(options.data)
    if options.reinforced:
        ReinforcedBeton.open(options.reinforced, images)
    taught = options.reinforced or "aug_params" in images.field_names
    return TrainingFiles(images.path, images.num_images, options.reinforced, "dr" if taught else "erm")
