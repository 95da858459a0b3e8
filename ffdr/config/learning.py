"""Options of teachers, training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ffdr.config.architecture import read_options
from ffdr.config.choices import CLASSES, OPTIMIZERS, ORDERS, RESIDUALS, TASKS
from ffdr.config.options import (
    Between,
    CompileMode,
    OneOf,
    Options,
    Precision,
    Resolution,
    Seed,
    Share,
    Switch,
    Threads,
)
from ffdr.util.arguments import per_channel
from ffdr.util.errors import UserError, between
from ffdr.util.text import split_list

Batch = Annotated[int, Between(1, 10**6)]
Epochs = Annotated[int, Between(1, 10**6)]
Classes = Annotated[str, OneOf(CLASSES)]


def _split_texts(options: Options, *names: str) -> None:
    """Make tuples of what a caller in Python gave as one text."""
    for name in names:
        value = getattr(options, name)
        parts = (split_list(value) if value else ()) if isinstance(value, str) else value
        object.__setattr__(options, name, tuple(part.strip() for part in parts))


@dataclass(frozen=True)
class TeacherOptions(Options, section="teacher"):
    """The teacher: one model, or several averaged in probability space."""

    models: tuple[str, ...] = ()
    """NAME[:CHECKPOINT],… — names as model.name takes them; a checkpoint of ffdr train or one that timm loads; a comma
    within a path is written \\, or the list as YAML's"""
    resolution: Resolution = 0
    """pixels the teacher sees; 0: what its checkpoint or timm's configuration says"""
    batch_size: Batch = 256
    """views per forward pass"""
    precision: Precision = "auto"
    """auto, float32, bfloat16 or float16; auto: bfloat16 where a GPU has it, else float32"""
    compile: Switch = "auto"
    """run every teacher through torch.compile: auto, on, off; auto: on a GPU, from 3,000 batches on"""
    classes: Classes = "same"
    """same: refuse teachers of other class names, or of another order, as far as that can be known; any: allow all
    names, for class folders that were renamed"""
    module: tuple[str, ...] = ()
    """Python to import first, FILE.py or a dotted name,…; it registers models with timm (timm.models.register_model)"""
    options: tuple[str, ...] = ()
    """MODEL:NAME=VALUE,… for timm's models, as model.options has them; MODEL is one of teacher.models by its name, or
    by its number from 0: resnext50_32x4d:base_width=8,1:drop_rate=0.1"""

    def __post_init__(self) -> None:
        _split_texts(self, "models", "module", "options")
        super().__post_init__()


@dataclass(frozen=True)
class ReinforceOptions(Options, section="reinforce"):
    """``ffdr reinforce``: draw views, replay them, let the teacher label them, store both."""

    images: str = ""
    """image beton to reinforce"""
    out: str = ""
    """reinforced beton to write"""
    views: Annotated[int, Between(1, 65535)] = 10
    """views per image (K; the paper's NS)"""
    topk: Annotated[int, Between(1, 65535)] = 10
    """teacher entries stored per view (k); never more than there are classes"""
    resolution: Resolution = 0
    """pixels at which every teacher sees the views; 0: each its own"""
    seed: Seed = 0
    """seed of the draws"""
    workers: Threads = 0
    """threads that replay; 0: one per core"""
    dry_run: bool = False
    """only print bytes, views and a time estimate from a short measured sample"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("images", "out", what="give the path of a .beton file")


@dataclass(frozen=True)
class DataOptions(Options, section="data"):
    """The data to train on and to validate with."""

    train: str = ""
    """image beton"""
    reinforced: str = ""
    """reinforced beton of the same images (task dr); empty: the one merged with them"""
    val: str = ""
    """image beton to validate with; empty: no validation"""
    mean: tuple[float, ...] = ()
    """per-channel mean in [0, 1] to subtract; empty: the manifest's"""
    std: tuple[float, ...] = ()
    """per-channel standard deviation in [0, 1] to divide by; empty: the manifest's"""
    center: Annotated[float, Between(0.1, 1.0)] = 0.875
    """evaluation view: share of the resized short side that the centre crop keeps (224 of 256)"""
    workers: Threads = 0
    """decoding threads; 0: one per core"""
    order: Annotated[str, OneOf(ORDERS)] = "random"
    """of the training images: random, quasi_random (reads stay local on a disk), sequential"""
    os_cache: bool = True
    """read through the system's page cache; false: pages held by this process, for files larger than memory"""
    images: Annotated[int, Between(0, 2**32 - 1)] = 0
    """how many images data.train has, for a dry run before it is written; 0: open the file"""
    classes: Annotated[int, Between(0, 1 << 16)] = 0
    """how many classes data.train has, likewise"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("mean", "std"):
            if getattr(self, key):
                per_channel(f"data.{key}", getattr(self, key))


@dataclass(frozen=True)
class ModelOptions(Options, section="model"):
    """The model that is trained or evaluated."""

    name: str = ""
    """any model of timm (resnet50, resnet50.a1_in1k) or of model.module; torchvision:NAME; hf-hub:ORG/NAME or
    local-dir:FOLDER, with timm's config.json"""
    drop_path: Annotated[float, Between(0, 0.99)] = 0.0
    """stochastic depth, where the model has it"""
    options: tuple[str, ...] = ()
    """NAME=VALUE,… for the model's constructor, such as zero_init_last=false of timm's ResNets (resnetblur50 is one
    with BlurPool)"""
    checkpoint: str = ""
    """weights to start from; a head of another size is made anew"""
    pretrained: bool = False
    """start from the name's pretrained weights, where model.checkpoint names no others, instead of random ones"""
    module: tuple[str, ...] = ()
    """Python to import first, FILE.py or a dotted name,…; it registers models with timm (timm.models.register_model)"""

    def __post_init__(self) -> None:
        _split_texts(self, "module")
        super().__post_init__()
        names = read_options(self.options)
        if self.drop_path and "drop_path_rate" in names:
            raise UserError("model.options: drop_path_rate is what model.drop_path says; give one of both")


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
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "sgd"
    """sgd (Nesterov) or adamw"""
    lr: Annotated[float, Between(0, 1e3)] = 0.1
    """peak learning rate"""
    momentum: Annotated[float, Between(0, 0.9999)] = 0.9
    """momentum of sgd"""
    weight_decay: Annotated[float, Between(0, 10)] = 1e-4
    """decay of weights with two or more dimensions; biases and norms are left alone"""
    warmup_epochs: Annotated[float, Between(0, 10**6)] = 1.0
    """linear warm-up, in epochs; a cosine per step follows"""
    label_smoothing: Annotated[float, Between(0, 0.999)] = 0.0
    """share of the target spread over all classes (erm, and the label part of kd)"""
    temperature: Annotated[float, Between(1e-2, 1e3)] = 1.0
    """softens teacher and student alike (kd, dr)"""
    teacher_weight: Share = 1.0
    """weight of the teacher's part of the loss; the rest is the label's (kd, dr)"""
    residual: Annotated[str, OneOf(RESIDUALS)] = "smooth"
    """the probability that top-k leaves out (dr): smooth spreads it over the other classes, renormalise drops it"""
    reinforced_share: Share = 1.0
    """share of samples that are stored views (dr); the others are drawn from the policy and learned from their label"""
    ema: Annotated[float, Between(0, 0.999999)] = 0.0
    """decay of the averaged weights that are evaluated and exported; 0: none"""
    clip_grad: Annotated[float, Between(0, 1e9)] = 0.0
    """largest gradient norm; 0: no clipping"""
    resolution: Annotated[int, Between(1, 4096)] = 224
    """pixels of the training views"""
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
    """also log for TensorBoard"""
    out: str = ""
    """folder of the run"""
    resume: bool = True
    """go on from the folder's last checkpoint, if there is one"""
    dry_run: bool = False
    """only print the resolved recipe, model size, steps, bytes and a time estimate"""

    def __post_init__(self) -> None:
        super().__post_init__()
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
        if not self.out and not self.dry_run:
            raise UserError("train.out: give the folder of the run, for example --train.out=runs/erm")


@dataclass(frozen=True)
class EvalOptions(Options, section="eval"):
    """``ffdr eval``: accuracy and calibration of one model, on one data set or on a suite of them."""

    checkpoint: str = ""
    """model.safetensors of a run; empty: --model.name with its pretrained or --model.checkpoint weights"""
    data: str = ""
    """image beton, or folder of images with one subfolder per class, of the model's own classes"""
    resolution: Resolution = 0
    """pixels; 0: what the checkpoint says"""
    batch_size: Batch = 256
    """images per forward pass, on each rank"""
    workers: Threads = 0
    """decoding threads; 0: one per core"""
    precision: Precision = "auto"
    """auto, float32, bfloat16 or float16; auto: bfloat16 where a GPU has it, else float32, as in training"""
    flip_average: bool = False
    """average the predictions on the evaluation view and its mirror image"""
    classes: Classes = "same"
    """same: refuse data of other class names than the model's, or of another order, as far as that can be known;
    any: allow all names, for class folders that were renamed"""
    compile: Switch = "auto"
    """run the model through torch.compile: auto, on, off; auto: on a GPU, from 3,000 batches on"""
    corruptions: bool = False
    """also evaluate on 15 corruptions at 5 severities, made from eval.data (not ImageNet-C)"""
    json: str = ""
    """file to write the report to"""
    csv: str = ""
    """file to write one row per set to, with timm's column names"""
    plot: str = ""
    """PNG file to draw reliability and confidence to"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plot and not self.plot.endswith(".png"):
            raise UserError(f"eval.plot: {self.plot} does not end in .png")


@dataclass(frozen=True)
class SuiteOptions(Options, section="suite"):
    """Where ImageNet's evaluation sets lie: folders as published, or image betons; what is missing is reported."""

    val: str = ""
    """ILSVRC2012's validation set, one folder per synset"""
    real: str = ""
    """real.json, ReaL's labels for val (which must be a folder); timm: the table that timm comes with"""
    v2: str = ""
    """ImageNetV2, matched frequency"""
    v2_threshold: str = ""
    """ImageNetV2, threshold 0.7"""
    v2_top: str = ""
    """ImageNetV2, top images"""
    a: str = ""
    """ImageNet-A"""
    r: str = ""
    """ImageNet-R"""
    sketch: str = ""
    """ImageNet-Sketch"""
    objectnet: str = ""
    """ObjectNet: a folder that holds images/ and mappings/ (no beton)"""
    c: str = ""
    """ImageNet-C: CORRUPTION/SEVERITY/ for 15 corruptions and 5 severities, or CORRUPTION/SEVERITY.beton"""
