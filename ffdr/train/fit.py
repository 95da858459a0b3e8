"""The trainer: one loop for ERM, KD and DR. ``Trainer.fit`` is the list of what a run does."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from tqdm import tqdm

from ffdr.compiling import FixedBatch, set_backends
from ffdr.errors import UserError
from ffdr.evaluate.metrics import evaluate
from ffdr.models import ModelInfo, autocast_dtype, build_model, fixed_size, save_weights
from ffdr.options import ModelOptions, TrainOptions
from ffdr.protocol import BatchLoader
from ffdr.ranks import Ranks
from ffdr.targets import SparseTargets
from ffdr.train.background import BackgroundWriter, snapshot
from ffdr.train.checkpoint import Checkpoints, get_rng, set_rng
from ffdr.train.control import StopRequest, Stopwatch, sole_run, stopwatch
from ffdr.train.log import RunLog
from ffdr.train.optim import resolution_at
from ffdr.train.step import Step
from ffdr.train.tasks import LiveTeacher, build_task

READ_EVERY = 50
"""Steps between two looks at the device (loss for the progress bar, the guard's flag, the other ranks' stops)."""

_FREE = ("out", "resume", "eval_every", "checkpoint_every", "keep", "tensorboard", "compile", "dry_run")
"""Options that a resumed run may change, because they leave the weights alone (``compile``: but for rounding)."""


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
    """of the images"""
    lessons: str = ""
    """what is learned of them: the reinforcement, the policy, the live teacher"""


def build_student(options: TrainOptions, model: ModelOptions, num_classes: int, device: torch.device) -> nn.Module:
    """The model to train, on its device in channels_last; its new weights depend on ``train.seed`` only.

    Seeds torch's global generator.
    """
    torch.manual_seed(options.seed)
    student = build_model(model, num_classes, options.resolution)
    if options.sync_batchnorm:
        student = convert_sync_batchnorm(student)  # timm's: torch's drops the activation that timm's layers hold
    return student.to(device=device, memory_format=torch.channels_last)


class Trainer:
    """One run: model, optimiser, loaders and folder. ``fit`` trains; every part can be built and called alone.

    Files of the folder ``train.out``: ``options.json`` (resolved), ``log.jsonl`` (one line an epoch), ``checkpoints/``
    (to resume from), ``best.safetensors`` (highest validation top-1 so far), ``model.safetensors`` (the result;
    averaged weights if ``train.ema`` is on), ``report.md`` and ``report.png``.

    On several ranks (``Ranks``) each has its part of every batch, gradients are averaged, and rank 0 alone writes.
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
        ranks: Ranks | None = None,
    ) -> None:
        """Build everything; writes nothing yet.

        progress: False is silent; None shows a bar on a terminal and a line an epoch elsewhere.
        Raises UserError for options that don't go together or with the data.
        """
        self.options, self.model_options, self.data = options, model, data
        self.loader, self.val_loader = loader, val_loader
        self.device, self.ranks = torch.device(device), ranks or Ranks()
        self.out = Path(options.out)
        self._check()
        self.dtype = autocast_dtype(options.precision, self.device)
        self.task = build_task(options, loader.num_classes, data.mean, data.std, teacher)
        self.model = build_student(options, model, loader.num_classes, self.device)
        self.step = Step(
            options, self.model, self.task, len(loader), self.device, self.dtype, self.ranks, data.mean, data.std
        )
        self._evaluated = FixedBatch(self.result, "train.compile") if self.step.compiled != "off" else self.result
        self.files = BackgroundWriter()
        self.log = RunLog(self.out, options.tensorboard)
        self.checkpoints = Checkpoints(self.out / "checkpoints", options.keep)
        self.epoch = 0  # finished epochs
        self.best = -1.0  # highest validation top-1
        self._images, self._loss_sum = 0, torch.zeros((), device=self.device)  # of the running epoch
        self._stop = StopRequest()
        self._progress = progress if self.ranks.rank == 0 else False
        self._bar = tqdm(disable=True)

    @property
    def result(self) -> nn.Module:
        """The model that is evaluated and exported."""
        return self.step.ema.module if self.step.ema else self.model

    def fit(self) -> dict[str, Any]:
        """Train to the last epoch, from the folder's newest checkpoint if there is one; the last epoch's log record.

        Ctrl-C or SIGTERM saves a checkpoint after the running step and raises ``Stopped``; the next run goes on with
        the next batch. Raises UserError for a checkpoint of another run, and for a loss that is not finite.
        """
        with sole_run(self.out) if self.ranks.rank == 0 else nullcontext(), self.ranks.lost_told():
            self._begin()
            with StopRequest() as self._stop, self._new_bar() as self._bar, self.files:
                while self.epoch < self.options.epochs:
                    record = self._train_epoch()
                    record |= self._validate()
                    self._tell(record)
                    self._save_if_due()
            self._export()
        return (self.log.records() or [{}])[-1]

    # Verbs of fit, in order.

    def _begin(self) -> None:
        """Resume from the folder's newest checkpoint, or start afresh and clear what an earlier run left."""
        if self.ranks.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
        set_backends(self.device, self.dtype)
        state = self.checkpoints.newest(self._identity()) if self.options.resume else None
        self._agree(None if state is None else state["step"])
        if state is not None:
            self._restore(state)
        else:
            if self.ranks.rank == 0:
                self.checkpoints.clear()
                for name in ("best.safetensors", "model.safetensors"):
                    (self.out / name).unlink(missing_ok=True)
            torch.manual_seed(self.options.seed + self.ranks.rank)
            self.loader.set_epoch(0)
        if self.ranks.rank == 0:
            self.log.keep(self.epoch)
            self.log.write_options(self._resolved())

    def _agree(self, step: int | None) -> None:
        """Refuse to go on from different checkpoints, as ranks do that don't see the same folder."""
        steps = self.ranks.gather(step)
        if len(set(steps)) > 1:
            raise UserError(f"train.out: the ranks see checkpoints of steps {steps} in {self.out}; they must share it")

    def _train_epoch(self) -> dict[str, Any]:
        """The steps of one epoch, or what a resumed run has left of it; returns its part of the log record."""
        self.model.train()
        self._bar.set_description(f"epoch {self.epoch + 1}/{self.options.epochs}")
        if self.options.min_resolution:
            self.loader.set_resolution(resolution_at(self.options, self.epoch))
        watch, before = stopwatch(self.device), self._images
        for images, targets, _ in watch.timed(self.loader):
            self._train_batch(images, targets)
            if self._time_to_look():
                self._look(watch, self._images - before)
        if self.step.count != (self.epoch + 1) * len(self.loader):
            given = self.step.count % len(self.loader)
            raise RuntimeError(f"loader: gave {given} of {len(self.loader)} promised batches")
        self.step.guard.check(self.step.count)
        record = {
            "epoch": self.epoch + 1,
            "step": self.step.count,
            "lr": self.step.optimizer.param_groups[0]["lr"],
            "train_loss": self._loss_sum.item() / self._images,  # waits for the device: the clock stops after it
            "images_per_second": (self._images - before) / watch.seconds,
            "data_wait": watch.data_wait,
            "seconds": watch.seconds,
        }
        self.epoch, self._images = self.epoch + 1, 0
        self._loss_sum.zero_()
        self.loader.set_epoch(self.epoch)
        return record

    def _train_batch(self, images: torch.Tensor, targets: SparseTargets) -> None:
        loss = self.step(images, targets)
        count = len(images) * self.ranks.size
        self._loss_sum += loss * count
        self._images += count
        self._bar.update()

    def _time_to_look(self) -> bool:
        """Every so many steps; alone, whenever a stop is asked for (several ranks have to agree on the step)."""
        return self.step.count % READ_EVERY == 0 or (self.ranks.size == 1 and self._stop.requested)

    def _validate(self) -> dict[str, Any]:
        """Scores on the validation images when it is their turn, by log key; the best weights are kept."""
        due = self.epoch % self.options.eval_every == 0 or self.epoch == self.options.epochs
        if self.val_loader is None or not due:
            return {}
        self.step.share_buffers()
        flip = self.options.flip_average
        scores = evaluate(self.result, self.val_loader, self.loader.num_classes, self.dtype, flip, self._evaluated)
        if scores["top1"] > self.best:
            self.best = scores["top1"]
            self._write_model("best.safetensors")
        return {f"val_{key}": value for key, value in scores.items() if key != "images"}

    def _tell(self, record: dict[str, Any]) -> None:
        """Log an epoch, and show a line of it."""
        if self.ranks.rank == 0:
            self.log.append(record)
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

    def _save_if_due(self) -> None:
        """A checkpoint when it is its turn, at the end, or before a stop that was asked for."""
        last = self.epoch == self.options.epochs
        stop = self.ranks.any(self._stop.requested)
        if last or stop or self.epoch % self.options.checkpoint_every == 0:
            self.save()
        if stop and not last:
            self._end()

    def _end(self) -> NoReturn:
        """Stop as asked, once the checkpoint is on the disk."""
        self.files.wait()
        self._stop.end()

    def _export(self) -> None:
        """``model.safetensors``, the weights to use and how to feed them, and the report."""
        self._write_model("model.safetensors")
        if self.ranks.rank == 0:
            self.log.write_report(f"{self.model_options.name}, {self.options.task}")

    def _write_model(self, name: str) -> None:
        if self.ranks.rank != 0:
            return
        info = ModelInfo(
            name=self.model_options.name,
            num_classes=self.loader.num_classes,
            resolution=self.options.eval_resolution or self.options.resolution,
            mean=self.data.mean,
            std=self.data.std,
            center=self.data.center,
            classes=self.data.classes,
            fingerprint=self.data.fingerprint,
            options=self.model_options.options,
        )
        state = snapshot(self.result.state_dict())
        self.files.write(lambda: save_weights(self.out / name, state, info))

    # State.

    def save(self) -> None:
        """Write a checkpoint. Raises UserError rather than keep weights that are not finite."""
        self.step.guard.check(self.step.count)
        self.step.share_buffers()
        if not all(torch.stack([p.isfinite().all() for p in self.model.parameters()]).tolist()):
            raise UserError(
                f"train: the weights are not finite at step {self.step.count}; the checkpoint before is kept"
            )
        rng = self.ranks.gather(get_rng(self.device))
        if self.ranks.rank == 0:
            state = {
                "identity": self._identity(),
                "epoch": self.epoch,
                "best": self.best,
                "rng": rng,
                "loader": self.loader.state_dict(),
                "totals": {"images": self._images, "loss": self._loss_sum.item()},
                **self.step.state_dict(),
            }
            step, copied = self.step.count, snapshot(state)
            self.files.write(lambda: self.checkpoints.save(step, copied))
        self.ranks.barrier()

    def _restore(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state["loader"])
        self.epoch, self.best = state["epoch"], state["best"]
        self.step.load_state_dict(state)
        self._images = state["totals"]["images"]
        self._loss_sum.fill_(state["totals"]["loss"])
        if len(state["rng"]) == self.ranks.size:
            set_rng(state["rng"][self.ranks.rank], self.device)
        else:  # another number of ranks: other random numbers, still a function of the run
            torch.manual_seed(hash((self.options.seed, self.step.count, self.ranks.rank)) % 2**63)

    def _identity(self) -> dict[str, Any]:
        """What makes this run this run, by option name; a checkpoint with anything else is refused."""
        identity = {f"train.{key}": value for key, value in asdict(self.options).items() if key not in _FREE}
        identity |= {f"model.{key}": value for key, value in asdict(self.model_options).items()}
        identity |= {f"data.{key}": value for key, value in asdict(self.data).items()}
        return identity | {"data.num_classes": self.loader.num_classes, "data.batches": len(self.loader)}

    def _resolved(self) -> dict[str, Any]:
        """All options and what they came to, for ``options.json``."""
        data = asdict(self.data) | {"num_classes": self.loader.num_classes, "num_images": self.loader.num_images}
        precision = str(self.dtype or torch.float32).removeprefix("torch.")
        resolved = {"device": str(self.device), "precision": precision, "ranks": self.ranks.size}
        return {
            "train": asdict(self.options),
            "model": asdict(self.model_options),
            "data": data,
            "resolved": resolved,
        }

    def _check(self) -> None:
        """Raise UserError before any slow work for what can't go together."""
        options, name, classes = self.options, self.model_options.name, self.loader.num_classes
        if self.val_loader is not None and self.val_loader.num_classes != classes:
            raise UserError(f"data.val: {self.val_loader.num_classes} classes, but data.train has {classes}")
        if options.sync_batchnorm and self.device.type != "cuda":
            raise UserError("train.sync_batchnorm: needs GPUs; leave it out on a CPU")
        for key in ("eval_resolution", "min_resolution"):
            size = getattr(options, key)
            if size not in (0, options.resolution) and timm.is_model(name) and fixed_size(name):
                raise UserError(
                    f"train.{key}: {name} takes images of one size only, so {size} must be "
                    f"train.resolution={options.resolution}"
                )

    # What the user sees while it runs.

    def _new_bar(self) -> tqdm:
        hidden = None if self._progress is None else not self._progress
        total = self.options.epochs * len(self.loader)
        return tqdm(total=total, initial=self.step.count, unit="step", disable=hidden, dynamic_ncols=True)

    def _look(self, watch: Stopwatch, images: int) -> None:
        """Wait for the device, show how it goes, and stop if that was asked for."""
        self.step.guard.check(self.step.count)
        if not self._bar.disable:
            loss = self._loss_sum.item() / self._images
            rate = images / watch.seconds
            self._bar.set_postfix_str(f"{rate:,.0f} images/s, data wait {watch.data_wait:.0%}, loss {loss:.4f}")
        # A stop in the last step of an epoch waits for its end.
        if self.step.count % len(self.loader) != 0 and self.ranks.any(self._stop.requested):
            self.save()
            self._end()
