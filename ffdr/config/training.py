"""Options of training."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from ffdr.config.choices import RESIDUALS, SCHEDULERS, TASKS, TRACKERS
from ffdr.config.learning import Batch, Epochs
from ffdr.config.optimizers import check_form, read_optimizer_options
from ffdr.config.options import Between, CompileMode, OneOf, Options, Precision, Resolution, Seed, Share, added
from ffdr.util.errors import UserError, between


@dataclass(frozen=True)
class TrainOptions(Options, section="train"):
    """``ffdr train``: one run."""

    task: Annotated[str, OneOf(TASKS)] = "erm"
    """erm: labels; kd: a live teacher; dr: the reinforced beton"""
    epochs: Epochs = 16
    """passes over the training images"""
    batch_size: Batch = 256
    """images per step, over all ranks"""
    accumulate: int = 1
    """parts in which a rank's share of a batch goes through the model, to save memory"""
    optimizer: str = "sgd"
    """sgd (Nesterov), adamw, or any other of timm's: lamb, lion, muon, adopt,…"""
    lr: Annotated[float, Between(0, 1e3)] = 0.1
    """peak learning rate"""
    momentum: Annotated[float, Between(0, 0.9999)] = 0.9
    """momentum of sgd, and of others that have one"""
    weight_decay: Annotated[float, Between(0, 10)] = 1e-4
    """decay of weights with two or more dimensions; biases and norms are left alone"""
    warmup_epochs: Annotated[float, Between(0, 10**6)] = 1.0
    """linear warm-up, in epochs; train.scheduler follows"""
    label_smoothing: Annotated[float, Between(0, 0.999)] = 0.0
    """share of the target spread over all classes (erm, and the label part of kd)"""
    temperature: Annotated[float, Between(1e-2, 1e3)] = 1.0
    """softens teacher and student alike (kd, dr)"""
    teacher_weight: Share = 1.0
    """weight of the teacher's part of the loss; the rest is the label's (kd, dr)"""
    residual: Annotated[str, OneOf(RESIDUALS)] = "smooth"
    """the probability that top-k leaves out (dr): smooth spreads it over the other classes, renormalise drops it; top1
    keeps only the best entry and spreads all else, hard makes it a label. FKD calls them marginal smoothing, marginal
    re-norm, smoothing, hard"""
    reinforced_share: Share = 1.0
    """share of samples that are stored views (dr); the others are drawn from the policy and learned from their label"""
    ema: Annotated[float, Between(0, 0.999999)] = 0.0
    """decay of the averaged weights that are evaluated and exported; 0: none"""
    clip_grad: Annotated[float, Between(0, 1e9)] = 0.0
    """largest gradient norm; 0: no clipping"""
    resolution: Annotated[int, Between(1, 4096)] = 224
    """pixels of the training views; with train.resolutions only what the model is made for, and evaluated at"""
    min_resolution: int = 0
    """pixels of the training views at the start, which grow over train.ramp; 0: as train.resolution throughout"""
    ramp: tuple[float, float] = (0.74, 0.86)
    """shares of the epochs at which views begin to grow and have grown, in multiples of 32 pixels"""
    eval_resolution: Resolution = 0
    """pixels of the evaluation view; 0: as in training"""
    flip_average: bool = False
    """average the predictions on the evaluation view and its mirror image"""
    precision: Precision = "auto"
    """auto, float32, bfloat16 or float16; auto: bfloat16 where a GPU has it, else float32"""
    compile: CompileMode = "auto"
    """torch.compile's mode for the whole step: auto, off, default, reduce-overhead (CUDA graphs), max-autotune,
    max-autotune-no-cudagraphs; auto: on a GPU, in runs of 3,000 steps and more"""
    sync_batchnorm: bool = False
    """batch statistics over all ranks instead of a rank's own (GPUs only)"""
    seed: Seed = 0
    """seed of weights, order and draws"""
    eval_every: Epochs = 1
    """epochs between validations; the last epoch always validates"""
    checkpoint_every: Epochs = 1
    """epochs between checkpoints; the last epoch always writes one"""
    keep: Annotated[int, Between(1, 10**6)] = 2
    """newest checkpoints to keep"""
    tensorboard: bool = False
    """also log for TensorBoard, as train.trackers=tensorboard does"""
    out: str = ""
    """folder of the run"""
    resume: bool = True
    """go on from the folder's last checkpoint, if there is one"""
    dry_run: bool = False
    """only print the resolved recipe, model size, steps, bytes and a time estimate"""
    scheduler: Annotated[str, OneOf(SCHEDULERS)] = added("cosine")
    """of the learning rate behind the warm-up, by timm: cosine, linear, poly, tanh, step, multistep, plateau (of
    validation top-1)"""
    min_lr: Annotated[float, Between(0, 1e3)] = added(0.0)
    """final learning rate; the scheduler goes no lower"""
    warmup_lr: Annotated[float, Between(0, 1e3)] = added(0.0)
    """learning rate of the first step; 0: the peak's share of one warm-up step"""
    decay_epochs: Annotated[float, Between(0, 10**6)] = added(30.0)
    """epochs from one decay to the next, counted from the start (step)"""
    decay_milestones: tuple[Annotated[float, Between(0, 10**6)], ...] = added(())
    """EPOCH,… of the run after which the rate decays (multistep)"""
    decay_rate: Annotated[float, Between(0, 1)] = added(0.1)
    """factor of each decay (step, multistep, plateau)"""
    power: Annotated[float, Between(1e-3, 100)] = added(0.5)
    """exponent of the decay (poly), timm's --decay-rate"""
    patience_epochs: Annotated[int, Between(0, 10**6)] = added(10)
    """epochs without a better validation top-1 that a decay waits for (plateau)"""
    betas: tuple[Annotated[float, Between(0, 0.999999)], ...] = added(())
    """the optimiser's betas; empty: its own"""
    eps: Annotated[float, Between(0, 1)] = added(0.0)
    """the optimiser's epsilon; 0: its own"""
    nesterov: bool = added(True)
    """Nesterov's momentum where the optimiser has it by itself, such as sgd; false: classical"""
    decay_norms: bool = added(False)
    """weight_decay for norms and biases, too"""
    layer_decay: Share = added(0.0)
    """factor of the learning rate from each layer to the one below it (timm's layer_decay); 0: none"""
    optimizer_options: tuple[str, ...] = added(())
    """NAME=VALUE,… for the optimiser's constructor, as timm's --opt-kwargs"""
    grad_checkpointing: bool = added(False)
    """keep fewer activations, and compute them again in the backward pass (timm's set_grad_checkpointing)"""
    freeze: tuple[str, ...] = added(())
    """PATTERN,… of parameters' names that are not trained, such as stem.*; norms among them keep their statistics"""
    linear_probe: bool = added(False)
    """train the head alone"""
    bce_loss: bool = added(False)
    """binary cross-entropy per class, of labels and teacher alike, in place of softmax's (Wightman et al., 2021)"""
    bce_sum: bool = added(False)
    """sum the binary cross-entropy over the classes, instead of their mean"""
    bce_target_thresh: Annotated[float, Between(0, 0.9999)] = added(0.0)
    """targets above it become 1, others 0 (bce_loss); 0: they stay soft"""
    drop_last: bool = added(True)
    """leave out the last images of an epoch, which fill no batch"""
    resolutions: tuple[Annotated[int, Between(1, 4096)], ...] = added(())
    """pixels of the training views, of which each batch has one, drawn anew; empty: train.resolution throughout"""
    views_per_image: Annotated[int, Between(1, 10**4)] = added(1)
    """views of an image in a batch, of train.batch_size / views_per_image images, each decoded once for all of them; as
    many epochs show what they show with 1, in another order"""
    trackers: tuple[Annotated[str, OneOf(TRACKERS)], ...] = added(())
    """where epochs are also logged, in the run's folder: tensorboard, wandb (offline unless WANDB_MODE says otherwise),
    trackio,…"""
    project: str = added("ffdr")
    """the project that wandb and trackio file the run under"""
    live: bool = added(False)
    """show the run as a live view in the terminal (needs rich)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_form("train.optimizer", self.optimizer)
        read_optimizer_options(self.optimizer_options)
        between("train.accumulate", self.accumulate, 1, self.batch_size)
        between("train.min_resolution", self.min_resolution, 0, self.resolution)
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"train.warmup_epochs: {self.warmup_epochs:g} epochs of warm-up exceed train.epochs={self.epochs}"
                f"; give both, for example --train.epochs={self.epochs} --train.warmup_epochs={self.epochs / 10:g}"
            )
        if not 0 <= self.ramp[0] < self.ramp[1] <= 1:
            raise UserError(f"train.ramp: {self.ramp[0]:g},{self.ramp[1]:g} are not two rising shares in [0, 1]")
        if self.task != "dr" and self.reinforced_share != 1:
            raise UserError(f"train.reinforced_share: task {self.task} has no stored views; leave it out")
        if self.task == "dr" and self.label_smoothing:
            raise UserError("train.label_smoothing: task dr does not smooth labels; leave it out")
        if self.task == "erm" and (self.temperature, self.teacher_weight) != (1, 1):
            raise UserError("train.temperature, train.teacher_weight: task erm has no teacher; leave them out")
        if self.resolutions and self.min_resolution:
            raise UserError("train.min_resolution: views grow or, by train.resolutions, have any size; leave one out")
        if len({*self.resolutions}) < len(self.resolutions):
            raise UserError(f"train.resolutions: {','.join(map(str, self.resolutions))} has a size twice")
        if self.batch_size % self.views_per_image:
            raise UserError(
                f"train.batch_size: {self.batch_size} is no multiple of train.views_per_image={self.views_per_image}"
            )
        if self.views_per_image > self.epochs:
            raise UserError(
                f"train.views_per_image: {self.views_per_image} epochs show every image, but train.epochs={self.epochs}"
            )
        if self.views_per_image > 1 and not self.drop_last:
            raise UserError("train.drop_last: with train.views_per_image above 1 all batches are full; leave it out")
        if self.bce_loss and self.temperature != 1:
            raise UserError(
                f"train.temperature: {self.temperature:g} softens a softmax, and train.bce_loss has none; leave it out"
            )
        if not self.out and not self.dry_run:
            raise UserError("train.out: give the folder of the run, for example --train.out=runs/erm")
        self._check_rates()
        if self.linear_probe and self.freeze:
            raise UserError("train.freeze, train.linear_probe: a linear probe freezes all but the head; leave out one")

    def _check_rates(self) -> None:
        """Raise UserError for learning rates that contradict each other, or decay never."""
        if self.min_lr > self.lr:
            raise UserError(f"train.min_lr: {self.min_lr:g}, the lowest rate, exceeds the peak, train.lr={self.lr:g}")
        if self.warmup_lr > self.lr:
            raise UserError(f"train.warmup_lr: a warm-up from {self.warmup_lr:g} would fall to train.lr={self.lr:g}")
        if self.scheduler == "step" and not 0 < self.decay_epochs < self.epochs:
            raise UserError(
                f"train.decay_epochs: every {self.decay_epochs:g} epochs the rate decays, which is not within "
                f"train.epochs={self.epochs}"
            )
        if self.scheduler == "multistep":
            marks = [self.warmup_epochs, *self.decay_milestones, self.epochs]
            if len(marks) == 2 or any(right <= left for left, right in pairwise(marks)):
                listed = ",".join(f"{mark:g}" for mark in self.decay_milestones) or "none"
                raise UserError(
                    f"train.decay_milestones: {listed} are not rising epochs behind the warm-up of "
                    f"{self.warmup_epochs:g} and before the end, {self.epochs}"
                )
        if self.scheduler == "plateau" and not 0 < self.decay_rate < 1:
            raise UserError(f"train.decay_rate: plateau needs a factor between 0 and 1, not {self.decay_rate:g}")
