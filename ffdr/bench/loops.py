"""What ``ffdr bench train`` and ``doctor`` time: ffdr's training, its parts, and loops as one writes them by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import TOPK, make_photos, reinforce_untaught, write_photos
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import (
    DataOptions,
    ModelOptions,
    TeacherOptions,
    TrainOptions,
)
from ffdr.config.measuring import BenchOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.loader.protocol import Batch, BatchLoader
from ffdr.loader.targets import SparseTargets
from ffdr.models.build import autocast_dtype, best_device, check_name
from ffdr.models.compiling import CUDA_GRAPHS, train_mode
from ffdr.models.compiling import why_not as why_not_compile
from ffdr.train.fit import DataInfo, Trainer
from ffdr.train.optim import build_optimizer
from ffdr.train.run import build_trainer
from ffdr.train.student import build_student
from ffdr.util.cores import thread_count
from ffdr.util.errors import UserError

_VIEWS = 8
_EPOCHS = 10**4
"""More than are ever timed, so that the learning rate stays where it is."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CACHED = 4
"""Different batches that are kept on the device."""


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
    def threads(self) -> int:
        """That decode."""
        return thread_count(self.workers, gpu=self.device.type == "cuda")

    @property
    def images(self) -> int:
        """Of one timed pass."""
        return self.batch_size * self.steps

    def within(self, count: int) -> Setting:
        """The same with no more steps than ``count`` images fill.

        Raises:
            UserError: they do not fill one.
        """
        if count < self.batch_size:
            raise UserError(f"bench.batch_size: {count} images do not fill one batch of {self.batch_size}")
        return replace(self, steps=min(self.steps, count // self.batch_size))

    @property
    def label(self) -> str:
        """``resnet50, 224 px, bfloat16``."""
        return f"{self.model}, {self.resolution} px, {str(self.dtype or torch.float32).removeprefix('torch.')}"


@dataclass(frozen=True)
class Files:
    """What is trained on."""

    images: Path
    count: int
    """of images"""
    reinforced: str
    """empty: packed with the images, or there is none"""
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
    mode = train_mode(asked or "auto", device, _EPOCHS)
    if mode == "off":
        return "off"
    reason = why_not_compile(device)
    if reason and asked not in ("", "auto"):
        raise UserError(f"bench.compile: torch.compile does not work here ({reason}); use off")
    return "off" if reason else mode


def training_files(options: BenchOptions, folder: Path, count: int) -> Files:
    """The user's files, or ``count`` photographs with views of the full policy, made in a folder.

    Raises:
        UserError: files that can't be opened or don't belong together.
    """
    if not options.data:
        images = write_photos(make_photos(folder / "photos", count), folder / "images.beton")
        reinforced = reinforce_untaught(images, folder / "reinforced.beton", Policy(), _VIEWS)
        return Files(images, count, str(reinforced), "dr")
    images = ImageBeton.open(options.data)
    if options.reinforced:
        ReinforcedBeton.open(options.reinforced, images)
    taught = options.reinforced or "aug_params" in images.field_names
    return Files(images.path, images.num_images, options.reinforced, "dr" if taught else "erm")


def new_trainer(setting: Setting, files: Files, out: Path) -> Trainer:
    """The trainer that ``ffdr train`` would build, ready for its first epoch.

    Raises:
        UserError: a model that can't take the images.
    """
    recipe = TrainRecipe(
        train=_train_options(setting, out, files.task),
        data=DataOptions(train=str(files.images), reinforced=files.reinforced, workers=setting.workers),
        model=ModelOptions(name=setting.model),
        policy=Policy(),
        teacher=TeacherOptions(),
    )
    trainer = build_trainer(recipe, progress=False)
    trainer._begin()
    return trainer


def random_trainer(setting: Setting, out: Path, num_classes: int = 1000) -> Trainer:
    """The same, on random pixels and a made-up teacher's top-k that lie on the device (task dr).

    Raises:
        UserError: a model that can't take the images.
    """
    generator = torch.Generator(setting.device).manual_seed(0)
    batches = [_random_batch(setting, num_classes, generator) for _ in range(CACHED)]
    loader = CachedBatches(batches, setting.steps, num_classes)
    options, model = _train_options(setting, out, "dr"), ModelOptions(name=setting.model)
    trainer = Trainer(options, model, DataInfo(_MEAN, _STD), loader, device=setting.device, progress=False)
    trainer._begin()
    return trainer


def _random_batch(setting: Setting, num_classes: int, generator: torch.Generator) -> Batch:
    """As the loader gives it on a GPU: uint8 in channels_last, top-10."""
    count, side, on = setting.batch_size, setting.resolution, {"device": setting.device, "generator": generator}
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, **on).permute(0, 3, 1, 2)
    ids = torch.rand(count, num_classes, **on).topk(min(TOPK, num_classes), dim=1).indices
    log_probs = torch.randn(ids.shape, **on).log_softmax(1).sort(1, descending=True).values - 0.1
    return pixels, SparseTargets(ids, log_probs, ids[:, 0].clone()), torch.arange(count)


def _train_options(setting: Setting, out: Path, task: str) -> TrainOptions:
    return TrainOptions(
        task=task,
        epochs=_EPOCHS,
        batch_size=setting.batch_size,
        lr=1e-3,
        warmup_epochs=0,
        resolution=setting.resolution,
        precision=setting.precision,
        compile=setting.compile,
        ema=setting.ema,
        out=str(out),
    )


def on_cached(trainer: Trainer, batches: Sequence[Batch], count: int) -> Trainer:
    """A new trainer of the same options, whose epochs are ``count`` batches that lie on the device."""
    loader = CachedBatches(batches, count, trainer.loader.num_classes)
    options, model, device = trainer.options, trainer.model_options, trainer.device
    other = Trainer(options, model, trainer.data, loader, device=device, progress=False)
    other._begin()
    return other


def train_on_last(trainer: Trainer, count: int) -> dict[str, Any]:
    """The trainer's own loop over the last batches of its epoch, as in a run that is resumed there; its log record.

    An epoch of ImageNet takes too long to time. Its first batches would not do: a pass that is broken off waits for
    batches that are decoded in advance for nobody.
    """
    _rewind(trainer.loader, trainer.epoch, count)
    trainer.step.count = (trainer.epoch + 1) * len(trainer.loader) - count
    return trainer._train_epoch()


def read_last(loader: BatchLoader, count: int) -> list[Batch]:
    """The last batches of the loader's next epoch, all on the device; the first few of them are kept."""
    _rewind(loader, loader.state_dict()["epoch"], count)
    kept: list[Batch] = []
    for batch in loader:
        if len(kept) < CACHED:
            kept.append(batch)
    wait(kept[0][0].device)
    return kept


def _rewind(loader: BatchLoader, epoch: int, count: int) -> None:
    """The next pass is the last ``count`` batches of an epoch."""
    loader.load_state_dict(loader.state_dict() | {"epoch": epoch, "batch": len(loader) - count})


def step_through(trainer: Trainer, batches: BatchLoader | None = None) -> None:
    """One pass of the trainer's step over its batches, or over others, without the loop around it."""
    trainer.model.train()
    for images, targets, _ in batches or trainer.loader:
        trainer.step(images, targets)
    wait(trainer.device)


def train_epoch(trainer: Trainer) -> dict[str, Any]:
    """The trainer's own loop over all its batches, whatever its step did before; its log record."""
    trainer.step.count = trainer.epoch * len(trainer.loader)
    return trainer._train_epoch()


def compiled(trainer: Trainer) -> str:
    """torch.compile's mode that the trainer's step is in; off where that failed."""
    return trainer.step.compiled


def student(trainer: Trainer) -> nn.Module:
    """Another model like the trainer's, with the same first weights."""
    return build_student(trainer.options, trainer.model_options, trainer.loader.num_classes, trainer.device)


def bare_loop(trainer: Trainer, setting: Setting, compile: str, model: nn.Module | None = None) -> BareLoop:
    """A loop written by hand that trains a model like the trainer's on its batches. compile: as torch.compile has it,
    or off."""
    model = model or student(trainer)
    return BareLoop(model, trainer.options, setting.dtype, compile, trainer.data.mean, trainer.data.std)


class CachedBatches:
    """The same batches again and again, as a loader (``BatchLoader``) that costs nothing."""

    def __init__(self, batches: Sequence[Batch], count: int, num_classes: int) -> None:
        self._batches, self._count, self.num_classes = batches, count, num_classes
        self.num_images = count * len(batches[0][0])
        self._epoch = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return islice(cycle(self._batches), self._count)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is next; all are alike."""
        self._epoch = epoch

    def set_resolution(self, resolution: int) -> None:
        """Refused: what lies on the device has its size."""
        raise UserError(f"resolution: cached batches can't be turned into {resolution} px")

    def state_dict(self) -> dict[str, Any]:
        """The coming epoch."""
        return {"epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that epoch."""
        self._epoch = state["epoch"]


class BareLoop:
    """Training as one writes it by hand: autocast, cross-entropy with the labels, backward, the same optimiser.

    Compiled, all from the pixels to the loss is one graph of fixed shapes: the fastest loop that can be had without
    writing kernels.
    """

    def __init__(
        self,
        model: nn.Module,
        options: TrainOptions,
        dtype: torch.dtype | None,
        compile: str,
        mean: Sequence[float] = _MEAN,
        std: Sequence[float] = _STD,
    ) -> None:
        """model: on its device, in channels_last; compile: torch.compile's mode, or off; mean, std: of pixels in
        [0, 1], for batches of uint8."""
        self.model = model
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(options, model, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype is torch.float16)
        loss = _bare_loss(model, dtype, mean, std, self.device)
        self.loss = loss if compile == "off" else torch.compile(loss, mode=compile, dynamic=False)
        self._replays = compile in CUDA_GRAPHS

    def __call__(self, loader: BatchLoader) -> None:
        """One pass."""
        self.model.train()
        for images, targets, _ in loader:
            self.optimizer.zero_grad(set_to_none=True)
            if self._replays:
                # Once anyone in the process says where a step begins, as ffdr's step does, all have to: what doesn't is
                # taken for the rest of the step before, and recorded behind it, again and again.
                torch.compiler.cudagraph_mark_step_begin()
            self.scaler.scale(self.loss(images, targets.label)).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        wait(self.device)


def _bare_loss(
    model: nn.Module, dtype: torch.dtype | None, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """From images (B, 3, H, W), uint8 or normalised, and labels (B,) to the mean loss."""
    shift, scale = (255 * torch.tensor(tuple(values), device=device).view(1, 3, 1, 1) for values in (mean, std))

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if images.dtype == torch.uint8:
            images = ((images - shift) / scale).to(dtype or torch.float32)
        with torch.autocast(images.device.type, dtype) if dtype else nullcontext():
            logits = model(images)
        return F.cross_entropy(logits.float(), labels)

    return loss


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
