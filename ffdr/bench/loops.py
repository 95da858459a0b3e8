"""What ``ffdr bench train``, ``doctor`` and ``gpu`` time: ffdr's training, its parts, and loops written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import TOPK
from ffdr.bench.settings import EPOCHS, Setting, TrainingFiles
from ffdr.config.learning import DataOptions, ModelOptions, TeacherOptions
from ffdr.config.training import TrainOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.loader.protocol import Batch, BatchLoader
from ffdr.loader.targets import SparseTargets
from ffdr.models.compiling import CUDA_GRAPHS
from ffdr.train.build import build_trainer
from ffdr.train.fit import DataInfo, Trainer
from ffdr.train.stopwatch import wait
from ffdr.train.student import build_student
from ffdr.train.update.optim import build_optimizer
from ffdr.util.errors import UserError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CACHED = 4
"""Different batches that are kept on the device."""


# Trainers, ready for their first epoch.


def new_trainer(setting: Setting, files: TrainingFiles, out: Path) -> Trainer:
    """The trainer that ``ffdr train`` would build.

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
    trainer.begin()
    return trainer


def random_trainer(setting: Setting, out: Path, num_classes: int) -> Trainer:
    """The same, on random pixels and a made-up teacher's top-k that lie on the device (task dr).

    Raises:
        UserError: a model that can't take the images.
    """
    generator = torch.Generator(setting.device).manual_seed(0)
    batches = [_random_batch(setting, num_classes, generator) for _ in range(CACHED)]
    loader = CachedBatches(batches, setting.steps, num_classes)
    options, model = _train_options(setting, out, "dr"), ModelOptions(name=setting.model)
    student = build_student(options, model, num_classes, setting.device)
    trainer = Trainer(options, student, DataInfo(_MEAN, _STD), loader, progress=False)
    trainer.begin()
    return trainer


def on_cached(trainer: Trainer, batches: Sequence[Batch], count: int) -> Trainer:
    """A new trainer of the same options, whose epochs are ``count`` batches that lie on the device."""
    loader = CachedBatches(batches, count, trainer.loader.num_classes)
    student = build_student(trainer.options, trainer.model_options, loader.num_classes, trainer.device)
    other = Trainer(trainer.options, student, trainer.data, loader, progress=False)
    other.begin()
    return other


def _random_batch(setting: Setting, num_classes: int, generator: torch.Generator) -> Batch:
    """As the loader gives it on a GPU: uint8 in channels_last, top-10."""
    count, side, device = setting.batch_size, setting.resolution, setting.device
    shape = (count, side, side, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator).permute(0, 3, 1, 2)
    order = torch.rand(count, num_classes, device=device, generator=generator)
    ids = order.topk(min(TOPK, num_classes), dim=1).indices
    log_probs = torch.randn(ids.shape, device=device, generator=generator).log_softmax(1)
    targets = SparseTargets(ids, log_probs.sort(1, descending=True).values - 0.1, ids[:, 0].clone())
    return pixels, targets, torch.arange(count)


def _train_options(setting: Setting, out: Path, task: str) -> TrainOptions:
    return TrainOptions(
        task=task,
        epochs=EPOCHS,
        batch_size=setting.batch_size,
        lr=1e-3,
        warmup_epochs=0,
        resolution=setting.resolution,
        precision=setting.precision,
        compile=setting.compile,
        ema=setting.ema,
        out=str(out),
    )


# Passes to time.


def train_on_last(trainer: Trainer, count: int) -> dict[str, Any]:
    """The trainer's own loop over the last batches of its epoch, as in a run that is resumed there; its log record.

    An epoch of ImageNet takes too long to time. Its first batches would not do: a pass that is broken off waits for
    batches that are decoded in advance for nobody.
    """
    _rewind(trainer.loader, trainer.epoch, count)
    trainer.step.count = (trainer.epoch + 1) * len(trainer.loader) - count
    return trainer.train_epoch()


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
    return trainer.train_epoch()


def student(trainer: Trainer) -> nn.Module:
    """Another model like the trainer's, with the same first weights."""
    return build_student(trainer.options, trainer.model_options, trainer.loader.num_classes, trainer.device).model


def bare_loop(trainer: Trainer, setting: Setting, compile: str, model: nn.Module | None = None) -> BareLoop:
    """A loop written by hand that trains a model like the trainer's, or another, on batches like the trainer's."""
    mean, std = trainer.data.mean, trainer.data.std
    return BareLoop(model or student(trainer), trainer.options, setting.dtype, compile, mean, std)


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
    """Training written by hand: autocast, cross-entropy with the labels, backward, the same optimiser.

    Compiled, all from the pixels to the loss is one graph of fixed shapes: the fastest loop that can be had without
    writing kernels.

    Args:
        model: on its device, in channels_last.
        options: of the optimiser.
        dtype: of autocast; None: float32.
        compile: torch.compile's mode, or off.
        mean, std: of pixels in [0, 1], for batches of uint8.
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
    shift, scale = pixel_scale(mean, device), pixel_scale(std, device)

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if images.dtype == torch.uint8:
            images = ((images - shift) / scale).to(dtype or torch.float32)
        with torch.autocast(images.device.type, dtype) if dtype else nullcontext():
            logits = model(images)
        return F.cross_entropy(logits.float(), labels)

    return loss


def pixel_scale(values: Sequence[float], device: torch.device) -> torch.Tensor:
    """Per-channel values of pixels in [0, 1] for pixels in 0..255: (1, 3, 1, 1)."""
    return 255 * torch.tensor(tuple(values), device=device).view(1, 3, 1, 1)
