"""The trainer: one loop for ERM, KD and DR. ``Trainer.fit`` is the list of what a run does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from ffdr.config.training import TrainOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.loader.protocol import BatchLoader
from ffdr.loader.targets import SparseTargets
from ffdr.models.build import autocast_dtype, save_weights
from ffdr.models.compiling import FixedBatch, set_backends
from ffdr.train.background import BackgroundWriter, snapshot
from ffdr.train.checkpoint import Checkpoints, get_rng, restoring, set_rng
from ffdr.train.identity import DataInfo, identity_defaults, run_identity
from ffdr.train.plan import EpochPlan
from ffdr.train.report.outputs import Findings, Outputs
from ffdr.train.run_folder import RunLog, sole_run
from ffdr.train.signals import StopRequest
from ffdr.train.stopwatch import Stopwatch, stopwatch
from ffdr.train.student import Student, Trial, check_student
from ffdr.train.tracking.build import build_display, build_trackers
from ffdr.train.tracking.callbacks import Run
from ffdr.train.tracking.calling import Callbacks
from ffdr.train.tracking.progress import Reading
from ffdr.train.update.freezing import set_training
from ffdr.train.update.optim import resolution_at
from ffdr.train.update.step import Step
from ffdr.train.update.tasks import LiveTeacher, build_task
from ffdr.train.validate import BrokenOffError, Validation, on_all_ranks, with_epoch_kept
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

READ_EVERY = 50
"""Steps between two looks at the device (loss for the progress bar, the guard's flag, the other ranks' stops)."""


class Trainer:
    """One run: model, optimiser, loaders and folder. ``fit`` trains; every part can be built and called alone.

    Files of the folder ``train.out``: ``recipe.yaml`` (repeats the run) and ``recipe.json`` (the same for scripts),
    ``options.json`` (what the options came to, and versions), ``log.jsonl`` (one line per epoch), ``checkpoints/`` (to
    resume from), ``best.safetensors`` (highest validation top-1 so far), ``model.safetensors`` (the result; averaged
    weights if ``train.ema`` is on), ``report.md`` with its pictures, and ``report.json``.

    An epoch is saved before it is validated and logged: what fails then takes no training with it, and the next run
    begins with that validation.

    On several ranks (``Ranks``) each has its part of every batch, gradients are averaged, and rank 0 alone writes.
    """

    def __init__(
        self,
        options: TrainOptions,
        student: Student,
        data: DataInfo,
        loader: BatchLoader,
        val_loader: BatchLoader | None = None,
        teacher: LiveTeacher | None = None,
        progress: bool | None = None,
        ranks: Ranks | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        """Put the parts together and try the model at every size of the run; writes nothing yet.

        student: trained where it lies. progress: False is silent; None shows a bar on a terminal and a line per epoch
        elsewhere. callbacks: see ``ffdr.train.tracking.callbacks``. Raises UserError for options that don't go
        together or with the data.
        """
        self.options, self.data, self.loader = options, data, loader
        self.model_options, self.model, self.device = student.options, student.model, student.device
        self.architecture = student.architecture
        self.ranks = ranks or Ranks()
        self.out = Path(options.out)
        self._callbacks = Callbacks(callbacks, build_trackers(options), self.ranks, self.device)
        check_student(options, student)
        self.dtype = autocast_dtype(options.precision, self.device)
        self.task = build_task(options, loader.num_classes, data.normalisation, teacher)
        trial = Trial(options, student, self.dtype)
        trial.sizes(options.batch_size // self.ranks.size if val_loader else 0)
        self.plan = EpochPlan.of(options, loader.num_images)
        trial.batch_norm(self.ranks, self.plan)
        self.steps = self.plan.steps if self.plan.tail else len(loader)  # per epoch, on all ranks
        self.step = Step(options, self.model, self.task, self.steps, data.normalisation, self.dtype, self.ranks)
        self.validation = self._build_validation(val_loader)
        self.files = BackgroundWriter()
        self.log = RunLog(self.out)
        self.checkpoints = Checkpoints(self.out / "checkpoints", options.keep)
        self.epoch = 0  # finished epochs
        self.best = -1.0  # highest validation top-1
        self.finished = False  # before ``fit`` did anything
        self._ended = False  # by a callback
        self._outputs: Outputs | None = None  # of the last epoch's validation
        self._record: dict[str, Any] = {}  # of the epoch that is trained, but neither validated nor logged
        self._saved = -1  # step of the last checkpoint
        self._images, self._loss_sum = 0, torch.zeros((), device=self.device)  # of the running epoch
        self._stop = StopRequest()
        title = f"{self.model_options.name}, {options.task}, {options.out}"
        self._display = build_display(options, title, self.steps, progress if self.ranks.rank == 0 else False)

    @property
    def result(self) -> nn.Module:
        """The model that is evaluated and exported."""
        return self.step.ema.module if self.step.ema else self.model

    def fit(self, recipe: TrainRecipe | None = None) -> dict[str, Any]:
        """Train to the last epoch, from the folder's newest checkpoint if there is one; the last epoch's log record.

        A finished run is left as it is, and ``finished`` says so. recipe: kept as ``recipe.yaml`` and ``recipe.json``.

        Ctrl-C or SIGTERM saves a checkpoint after the running step and raises ``Stopped``; the next run goes on with
        the next batch. A callback's ``StopTraining`` makes its epoch the last one.

        Raises UserError for a checkpoint of another run, and for a loss that is not finite; CallbackError.
        """
        with sole_run(self.out) if self.ranks.rank == 0 else nullcontext(), self.ranks.lost_rank_as_user_error():
            self.begin(recipe)
            if self.finished:
                return self.log.records()[-1]
            with self._callbacks:
                run = self._described(recipe)
                self._callbacks.start(run)
                with StopRequest() as self._stop, self._display.running(self.step.count, run.records), self.files:
                    while self._record or not (self._ended or self.epoch >= self.options.epochs):
                        if not self._record:
                            self._record = self.train_epoch()
                            self._save_if_due()
                        self._close_epoch(self._record | self._validate())
                    findings = self._findings()
                self._write_model("model.safetensors")
                if self.ranks.rank == 0:
                    self.log.write_report(f"{self.model_options.name}, {self.options.task}", findings)
                self._callbacks.end((self.log.records() or [{}])[-1])
        return (self.log.records() or [{}])[-1]

    # Verbs of fit, in order.

    def begin(self, recipe: TrainRecipe | None = None) -> None:
        """Resume from the folder's newest checkpoint, or start afresh and clear what an earlier run left.

        Nothing in the folder changes before it is known that this run may go on there.
        """
        if self.ranks.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
        set_backends(self.device, self.dtype)
        defaults = identity_defaults(self.options, self.model_options)
        state = self.checkpoints.newest(self._identity(), defaults) if self.options.resume else None
        self._check_same_step(None if state is None else state["step"])
        if state is not None:
            with restoring(self.checkpoints.folder):
                self._restore(state)
            last = self.epoch if self._ended else self.options.epochs
            self.finished = self.ranks.broadcast(self.log.is_complete(self.epoch, last))
        else:
            if self.options.resume:
                self.log.check_no_weights()
            self._start_afresh()
        if self.ranks.rank == 0 and not self.finished:
            self.log.keep(self.epoch - bool(self._record))
            self.log.write_options(self._resolved(), recipe)
            if recipe and state is None:
                self.log.write_recipe(recipe)

    def _start_afresh(self) -> None:
        if self.ranks.rank == 0:
            self.checkpoints.clear()
            self.log.clear_results()
        torch.manual_seed(self.options.seed + self.ranks.rank)
        self.loader.set_epoch(0)

    def _check_same_step(self, step: int | None) -> None:
        """Refuse to go on from different checkpoints, as ranks do that don't see the same folder."""
        steps = self.ranks.gather(step)
        if len(set(steps)) > 1:
            raise UserError(f"train.out: the ranks see checkpoints of steps {steps} in {self.out}; they must share it")

    def train_epoch(self) -> dict[str, Any]:
        """The steps of one epoch, or what a resumed run has left of it; returns its part of the log record."""
        set_training(self.options, self.model)
        self._display.begin_epoch(self.epoch + 1)
        if self.options.min_resolution:
            self.loader.set_resolution(resolution_at(self.options, self.epoch))
        watch, before = stopwatch(self.device), self._images
        for images, targets, _ in watch.timed(self.plan.batches(self.loader, self.ranks)):
            self._train_batch(images, targets)
            # Every so many steps; alone, whenever a stop is asked for (several ranks have to agree on the step).
            if self.step.count % READ_EVERY == 0 or (self.ranks.size == 1 and self._stop.requested):
                self._read_device(watch, self._images - before)
        if self.step.count != (self.epoch + 1) * self.steps:
            given = self.step.count % self.steps
            raise RuntimeError(f"loader: gave {given} of {self.steps} promised batches")
        self.step.guard.check(self.step.count)
        record = {
            "epoch": self.epoch + 1,
            "step": self.step.count,
            "lr": self.step.rate,
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
        tail = self.plan.tail_at(self.step.count)
        count = tail or len(images) * self.ranks.size
        self._loss_sum += self.step(images, targets, tail) * count
        self._images += count
        self._display.advance()

    def _read_device(self, watch: Stopwatch, images: int) -> None:
        """Wait for the device, show the progress, and stop if that was asked for."""
        self.step.guard.check(self.step.count)
        if self._display.looks:
            loss, lr = self._loss_sum.item() / self._images, self.step.rate
            self._display.read(Reading(loss, images / watch.seconds, watch.data_wait, lr))
        # A stop in the last step of an epoch waits for its end.
        if self.step.count % self.steps != 0 and self.ranks.any(self._stop.requested):
            self.save()
            self._end()

    @property
    def _due_validation(self) -> Validation | None:
        """What scores the epoch that was just trained; None: it is not validated."""
        due = self.epoch % self.options.eval_every == 0 or self.epoch == self.options.epochs
        return self.validation if due else None

    def _validate(self) -> dict[str, Any]:
        """Scores on the validation images when it is their turn, by log key; the best weights are kept."""
        validation = self._due_validation
        if validation is None:
            return {}
        self.step.share_buffers()
        self._outputs = validation.outputs() if self.epoch == self.options.epochs else None
        self._display.validate(self.epoch)
        with self._epoch_kept():
            scores = validation(self.result, lambda: self._stop.requested, self._outputs)
        if scores["top1"] > self.best:
            self.files.wait()  # what fails to be written so far is the checkpoint
            with self._epoch_kept():
                on_all_ranks(self.ranks, self._write_best)
            self.best = scores["top1"]
        self.step.observe(self.epoch, scores["top1"])
        return {f"val_{key}": value for key, value in scores.items() if key != "images"}

    def _findings(self) -> Findings | None:
        """What the report shows of the outputs, on rank 0; of another pass where a callback made the epoch the last."""
        if self.validation is None:
            return None
        if self._outputs is None:
            self._outputs = self.validation.outputs()
            with self._epoch_kept():
                self.validation(self.result, lambda: self._stop.requested, self._outputs)
        return self._outputs.gather()

    @contextmanager
    def _epoch_kept(self, what: str = "validation") -> Iterator[None]:
        """What fails in here leaves the trained epoch in a checkpoint on the disk, and its message says so."""
        try:
            yield
        except Exception as error:
            if self._saved != self.step.count:
                self.save()
            if isinstance(error, BrokenOffError):
                self._end()
            self.files.wait()
            raise with_epoch_kept(error, self.epoch, what) from error

    def _write_best(self) -> None:
        """At once: a later failure would look like one of the checkpoint's."""
        self._write_model("best.safetensors")
        self.files.wait()

    def _log_epoch(self, record: dict[str, Any]) -> None:
        """Log an epoch, and show a line about it."""
        if self.ranks.rank == 0:
            self.log.append(record)
        self._display.end_epoch(record)

    def _save_if_due(self) -> None:
        """A checkpoint when it is its turn, at the end, or before a stop that was asked for."""
        last = self.epoch == self.options.epochs
        stop = self.ranks.any(self._stop.requested)
        if last or stop or self.epoch % self.options.checkpoint_every == 0:
            self.save()
        if stop and (self._due_validation or not last):
            self._end()

    def _close_epoch(self, record: dict[str, Any]) -> None:
        """Log the epoch; a stop that was asked for meanwhile has a checkpoint that knows it."""
        with self._epoch_kept():
            on_all_ranks(self.ranks, lambda: self._log_epoch(record))
        with self._epoch_kept("a callback"):
            asked = self._callbacks.end_epoch(record)
        self._record, self._ended = {}, bool(asked)
        if asked:
            self._display.say(f"epoch {self.epoch}/{self.options.epochs}: ended by {asked}")
            self.save()
        elif self.epoch < self.options.epochs and self.ranks.any(self._stop.requested):
            self.save()
            self._end()

    def _end(self) -> NoReturn:
        """Stop as asked, once the checkpoint is on the disk."""
        self.files.wait()
        self._stop.end()

    def _write_model(self, name: str) -> None:
        """The weights to use, with what their evaluation needs."""
        if self.ranks.rank != 0:
            return
        side = self.options.eval_resolution or self.options.resolution
        info = self.data.model_info(self.architecture, self.loader.num_classes, side)
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
                "record": self._record,
                **({"ended": True} if self._ended else {}),
                **self.step.state_dict(),
            }
            step, copied = self.step.count, snapshot(state)
            self.files.write(lambda: self.checkpoints.save(step, copied))
        self._saved = self.step.count
        self.ranks.barrier()

    def _restore(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state["loader"])
        self.epoch, self.best, self._record = state["epoch"], state["best"], state["record"]
        self._saved, self._ended = state["step"], state["ended"]
        self.step.load_state_dict(state)
        self._images = state["totals"]["images"]
        self._loss_sum.fill_(state["totals"]["loss"])
        if len(state["rng"]) == self.ranks.size:
            set_rng(state["rng"][self.ranks.rank], self.device)
        else:  # another number of ranks: other random numbers, still a function of the run
            torch.manual_seed(hash((self.options.seed, self.step.count, self.ranks.rank)) % 2**63)

    def _build_validation(self, loader: BatchLoader | None) -> Validation | None:
        if loader is None:
            return None
        classes = self.loader.num_classes
        if loader.num_classes != classes:
            raise UserError(f"data.val: {loader.num_classes} classes, but data.train has {classes}")
        forward = FixedBatch(self.result, "train.compile") if self.step.compiled != "off" else None
        names = self.data.class_names
        return Validation(loader, classes, self.ranks, self.dtype, self.options.flip_average, forward, names)

    def _identity(self) -> dict[str, Any]:
        return run_identity(self.options, self.model_options, self.architecture, self.data, self.loader, self.steps)

    def _described(self, recipe: TrainRecipe | None) -> Run:
        """What callbacks are told of this run."""
        config = self._resolved() | (asdict(recipe) if recipe else {})
        return Run(self.out, config, self.options.epochs, self.step.count > 0, self.log.records())

    def _resolved(self) -> dict[str, Any]:
        """All options and what they came to, for ``options.json``."""
        data = self.data.stored() | {"num_classes": self.loader.num_classes, "num_images": self.loader.num_images}
        precision = str(self.dtype or torch.float32).removeprefix("torch.")
        resolved = {"device": str(self.device), "precision": precision, "ranks": self.ranks.size}
        return {
            "train": asdict(self.options),
            "model": asdict(self.model_options),
            "data": data,
            "resolved": resolved,
            **({"validation": self.validation.described()} if self.validation else {}),
        }
