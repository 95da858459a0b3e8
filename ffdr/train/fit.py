"""The trainer: one loop for ERM, KD and DR. ``Trainer.fit`` is the list of what a run does."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn
from tqdm import tqdm

from ffdr import __version__
from ffdr.errors import UserError
from ffdr.evaluate.metrics import evaluate
from ffdr.models import ModelInfo, autocast_dtype, build_model, fixed_size, save_model
from ffdr.options import ModelOptions, TrainOptions
from ffdr.protocol import BatchLoader
from ffdr.targets import SparseTargets
from ffdr.train.checkpoint import get_rng, load_checkpoint, save_checkpoint, set_rng
from ffdr.train.log import JsonLog
from ffdr.train.optim import build_optimizer, build_schedule, has_fused
from ffdr.train.step import FiniteGuard, StopRequest, Stopwatch
from ffdr.train.tasks import LiveTeacher, build_task

READ_EVERY = 50
"""Steps between two looks at the device (loss for the progress bar, the guard's flag)."""

_FREE = ("out", "resume", "eval_every", "checkpoint_every")
"""Options that a resumed run may change, because they leave the weights alone."""


@dataclass(frozen=True)
class DataInfo:
    """What the trainer must know of the data beyond its batches."""

    mean: tuple[float, ...]
    """per-channel mean in [0, 1] that the loaders subtract"""
    std: tuple[float, ...]
    """per-channel standard deviation in [0, 1] that they divide by"""
    center: float = 0.875
    """share of the resized short side that the evaluation view keeps"""
    classes: str = ""
    """digest of the class names (``ffdr.models.class_digest``)"""
    fingerprint: str = ""
    """stands for everything trained on: images and, for DR, the reinforcement"""


def build_ema(options: TrainOptions, model: nn.Module) -> ModelEmaV3 | None:
    """Averaged weights, or None. The decay is ramped up, so that a short run forgets its random start."""
    return ModelEmaV3(model, decay=options.ema, use_warmup=True) if options.ema > 0 else None


def build_student(options: TrainOptions, model: ModelOptions, num_classes: int, device: torch.device) -> nn.Module:
    """The model to train, on its device in channels_last; its new weights depend on ``train.seed`` only.

    Seeds torch's global generator.
    """
    torch.manual_seed(options.seed)
    student = build_model(model, num_classes, options.resolution)
    return student.to(device=device, memory_format=torch.channels_last)


class Trainer:
    """One run: model, optimiser, loaders and folder. ``fit`` trains; every part can be built and called alone.

    Files of the folder ``train.out``: ``options.json`` (resolved), ``log.jsonl`` (one line an epoch), ``last.pt`` (to
    resume from), ``model.safetensors`` (the result; averaged weights if ``train.ema`` is on).
    """

    def __init__(
        self,
        options: TrainOptions,
        model: ModelOptions,
        data: DataInfo,
        loader: BatchLoader,
        val_loader: BatchLoader | None = None,
        teacher: LiveTeacher | None = None,
        device: torch.device | str = "cpu",
        progress: bool | None = None,
    ) -> None:
        """Build everything; writes nothing yet.

        progress: False is silent; None shows a bar on a terminal and a line an epoch elsewhere.
        Raises UserError for options that don't go together or with the data.
        """
        self.options, self.model_options, self.data = options, model, data
        self.loader, self.val_loader = loader, val_loader
        self.device = torch.device(device)
        self.out = Path(options.out)
        self._check()
        self.dtype = autocast_dtype(options.precision, self.device)
        self.task = build_task(options, loader.num_classes, data.mean, data.std, teacher)
        self.model = build_student(options, model, loader.num_classes, self.device)
        self.optimizer = build_optimizer(options, self.model, self.device)
        self.schedule = build_schedule(options, self.optimizer, len(loader))
        self.ema = build_ema(options, self.model)
        scaled = self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        # Flags need a fused optimiser to obey them, and gain nothing where reading a loss is free.
        lazy = self.device.type != "cpu" and has_fused(self.device)
        self.guard = FiniteGuard(self.optimizer, self.device, scaled, lazy)
        self.log = JsonLog(self.out / "log.jsonl")
        self.epoch = self.step = 0  # finished epochs and steps
        self._images, self._loss_sum = 0, torch.zeros((), device=self.device)  # of the running epoch
        self._stop = StopRequest()
        self._progress = progress
        self._bar = tqdm(disable=True)

    @property
    def result(self) -> nn.Module:
        """The model that is evaluated and exported."""
        return self.ema.module if self.ema else self.model

    def fit(self) -> dict[str, Any]:
        """Train to the last epoch, from the folder's checkpoint if there is one; the last epoch's log record.

        Ctrl-C or SIGTERM saves a checkpoint after the running step and raises KeyboardInterrupt; the next run goes on
        with the next batch. Raises UserError for a checkpoint of another run, and for a loss that is not finite.
        """
        self._begin()
        with StopRequest() as self._stop, self._new_bar() as self._bar:
            while self.epoch < self.options.epochs:
                record = self._train_epoch()
                record |= self._validate()
                self._tell(record)
                self.log.append(record)
                self._save_if_due()
        self._export()
        return (self.log.records() or [{}])[-1]

    # Verbs of fit, in order.

    def _begin(self) -> None:
        """Resume from the folder's checkpoint, or start afresh and clear what an earlier run left."""
        self.out.mkdir(parents=True, exist_ok=True)
        last = self.out / "last.pt"
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has the same shape
        if self.options.resume and last.exists():
            self._restore(load_checkpoint(last, self._identity()))
        else:
            for name in ("last.pt", "model.safetensors"):
                (self.out / name).unlink(missing_ok=True)
            torch.manual_seed(self.options.seed)
            self.loader.set_epoch(0)
        self.log.keep(self.epoch)
        self._write_options()

    def _train_epoch(self) -> dict[str, Any]:
        """The steps of one epoch, or what a resumed run has left of it; returns its part of the log record."""
        self.model.train()
        self._bar.set_description(f"epoch {self.epoch + 1}/{self.options.epochs}")
        watch, before = Stopwatch(), self._images
        for images, targets, _ in watch.timed(self.loader):
            self._step(images, targets)
            if self.step % READ_EVERY == 0:
                self._look(watch, self._images - before)
            if self._stop.requested and self.step % len(self.loader) != 0:
                self.save()
                raise KeyboardInterrupt
        if self.step != (self.epoch + 1) * len(self.loader):
            raise RuntimeError(f"loader: gave {self.step % len(self.loader)} of {len(self.loader)} promised batches")
        self.guard.check(self.step)
        record = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": self._loss_sum.item() / self._images,  # waits for the device: the clock stops after it
            "images_per_second": (self._images - before) / watch.seconds,
            "data_wait": watch.data_wait,
            "seconds": watch.seconds,
        }
        self.epoch, self._images = self.epoch + 1, 0
        self._loss_sum.zero_()
        self.loader.set_epoch(self.epoch)
        return record

    def _step(self, images: torch.Tensor, targets: SparseTargets) -> None:
        """One update of the weights. Nothing here waits for a GPU."""
        self.schedule.step_update(self.step)
        with torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext():
            loss, _ = self.task(self.model, images, targets)
        self.guard.watch(loss, self.step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.options.clip_grad > 0:
            self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if self.ema:
            self.ema.update(self.model, self.step)
        self._loss_sum += loss.detach() * len(images)
        self._images += len(images)
        self._bar.update()

    def _clip(self) -> None:
        """Scale the gradients so that their norm is at most ``train.clip_grad``."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_grad)
        if not self.scaler.is_enabled():  # a scaler looks for its scale by overflowing now and then
            self.guard.watch(norm, self.step + 1)

    def _validate(self) -> dict[str, Any]:
        """Scores on the validation images when it is their turn, by log key."""
        due = self.epoch % self.options.eval_every == 0 or self.epoch == self.options.epochs
        if self.val_loader is None or not due:
            return {}
        scores = evaluate(self.result, self.val_loader, self.loader.num_classes, self.dtype)
        return {f"val_{key}": value for key, value in scores.items() if key != "images"}

    def _save_if_due(self) -> None:
        """A checkpoint when it is its turn, at the end, or before a stop that was asked for."""
        last = self.epoch == self.options.epochs
        if last or self._stop.requested or self.epoch % self.options.checkpoint_every == 0:
            self.save()
        if self._stop.requested and not last:
            raise KeyboardInterrupt

    def _export(self) -> None:
        """``model.safetensors``: the weights to use and how to feed them."""
        info = ModelInfo(
            name=self.model_options.name,
            num_classes=self.loader.num_classes,
            resolution=self.options.eval_resolution or self.options.resolution,
            mean=self.data.mean,
            std=self.data.std,
            center=self.data.center,
            classes=self.data.classes,
            fingerprint=self.data.fingerprint,
        )
        save_model(self.out / "model.safetensors", self.result, info)

    # State.

    def save(self) -> None:
        """Write ``last.pt``. Raises UserError rather than replace a good checkpoint by weights that are not finite."""
        self.guard.check(self.step)
        if not all(torch.stack([p.isfinite().all() for p in self.model.parameters()]).tolist()):
            raise UserError(f"train: the weights are not finite at step {self.step}; the checkpoint before is kept")
        save_checkpoint(
            self.out / "last.pt",
            {
                "identity": self._identity(),
                "epoch": self.epoch,
                "step": self.step,
                "model": self.model.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema else {},
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "rng": get_rng(self.device),
                "loader": self.loader.state_dict(),
                "totals": {"images": self._images, "loss": self._loss_sum.item()},
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state["loader"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._images = state["totals"]["images"]
        self._loss_sum.fill_(state["totals"]["loss"])
        set_rng(state["rng"], self.device)

    def _identity(self) -> dict[str, Any]:
        """What makes this run this run, by option name; a checkpoint with anything else is refused."""
        identity = {f"train.{key}": value for key, value in asdict(self.options).items() if key not in _FREE}
        identity |= {f"model.{key}": value for key, value in asdict(self.model_options).items()}
        identity |= {f"data.{key}": value for key, value in asdict(self.data).items()}
        return identity | {"data.num_classes": self.loader.num_classes, "data.batches": len(self.loader)}

    def _write_options(self) -> None:
        sections = {"train": asdict(self.options), "model": asdict(self.model_options), "data": asdict(self.data)}
        sections["data"] |= {"num_classes": self.loader.num_classes, "num_images": self.loader.num_images}
        precision = str(self.dtype or torch.float32).removeprefix("torch.")
        versions = {"ffdr": __version__, "torch": torch.__version__, "timm": timm.__version__}
        sections["resolved"] = {"device": str(self.device), "precision": precision, "versions": versions}
        (self.out / "options.json").write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")

    def _check(self) -> None:
        """Raise UserError before any slow work for what can't go together."""
        name, classes = self.model_options.name, self.loader.num_classes
        if self.val_loader is not None and self.val_loader.num_classes != classes:
            raise UserError(f"data.val: {self.val_loader.num_classes} classes, but data.train has {classes}")
        size = self.options.eval_resolution
        if size not in (0, self.options.resolution) and timm.is_model(name) and fixed_size(name):
            raise UserError(
                f"train.eval_resolution: {name} takes images of one size only, so {size} must be "
                f"train.resolution={self.options.resolution}"
            )

    # What the user sees.

    def _new_bar(self) -> tqdm:
        hidden = None if self._progress is None else not self._progress
        total = self.options.epochs * len(self.loader)
        return tqdm(total=total, initial=self.step, unit="step", disable=hidden, dynamic_ncols=True)

    def _look(self, watch: Stopwatch, images: int) -> None:
        self.guard.check(self.step)
        if not self._bar.disable:
            loss = self._loss_sum.item() / self._images
            rate = images / watch.seconds
            self._bar.set_postfix_str(f"{rate:,.0f} images/s, data wait {watch.data_wait:.0%}, loss {loss:.4f}")

    def _tell(self, record: dict[str, Any]) -> None:
        if self._progress is False:
            return
        parts = [
            f"epoch {record['epoch']}/{self.options.epochs}",
            f"loss {record['train_loss']:.4f}",
            *([f"val top-1 {record['val_top1']:.2%}"] if "val_top1" in record else []),
            f"{record['images_per_second']:,.0f} images/s",
            f"data wait {record['data_wait']:.0%}",
        ]
        self._bar.write("  ".join(parts))
