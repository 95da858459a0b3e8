"""Options of teachers, training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from ffdr.config.architecture import read_options
from ffdr.config.choices import CLASSES, COMPILE, OPTIMIZERS, ORDERS, PRECISIONS, RESIDUALS, SWITCH, TASKS
from ffdr.util.arguments import per_channel
from ffdr.util.errors import UserError, between, one_of
from ffdr.util.text import split_list

_SWITCHED = {"true": "on", "yes": "on", "on": "on", "false": "off", "no": "off", "off": "off"}


def switched(value: str) -> str:
    """on or off for how YAML spells true and false; other words as they are."""
    return _SWITCHED.get(value.lower(), value)


@dataclass(frozen=True)
class TeacherOptions:
    """The teacher: one model, or several averaged in probability space."""

    models: tuple[str, ...] = ()
    """NAME[:CHECKPOINT],… — timm models; a checkpoint of ffdr train or one that timm loads; a comma within a path is
    written \\, or the list as YAML's"""
    resolution: int = 0
    """pixels the teacher sees; 0: what its checkpoint or timm's configuration says"""
    batch_size: int = 256
    """views a forward pass"""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16; auto: bfloat16 where a GPU has it, else float32"""
    compile: str = "auto"
    """run every teacher through torch.compile: auto, on, off; auto: on a GPU, from 3,000 batches on"""
    classes: str = "same"
    """same: refuse teachers of other class names, or of another order, as far as can be told; any: of whatever names,
    for class folders that were renamed"""

    def __post_init__(self) -> None:
        if isinstance(self.models, str):  # of a caller in Python
            object.__setattr__(self, "models", tuple(split_list(self.models)) if self.models else ())
        object.__setattr__(self, "models", tuple(model.strip() for model in self.models))
        object.__setattr__(self, "compile", switched(self.compile))  # it was true or false once
        one_of("teacher.compile", self.compile, SWITCH)
        one_of("teacher.precision", self.precision, PRECISIONS)
        one_of("teacher.classes", self.classes, CLASSES)
        between("teacher.batch_size", self.batch_size, 1, 10**6)
        between("teacher.resolution", self.resolution, 0, 4096)


@dataclass(frozen=True)
class ReinforceOptions:
    """``ffdr reinforce``: draw views, replay them, let the teacher label them, store both."""

    images: str = ""
    """image beton to reinforce"""
    out: str = ""
    """reinforced beton to write"""
    views: int = 10
    """views an image (K; the paper's NS)"""
    topk: int = 10
    """teacher entries stored a view (k); never more than there are classes"""
    resolution: int = 0
    """pixels at which every teacher sees the views; 0: each its own"""
    seed: int = 0
    """seed of the draws"""
    workers: int = 0
    """threads that replay; 0: one a core"""
    dry_run: bool = False
    """only print bytes, views and a time estimate from a short measured sample"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        for key in ("images", "out"):
            if not getattr(self, key):
                raise UserError(f"reinforce.{key}: give the path of a .beton file")
        between("reinforce.views", self.views, 1, 65535)
        between("reinforce.topk", self.topk, 1, 65535)
        between("reinforce.resolution", self.resolution, 0, 4096)
        between("reinforce.seed", self.seed, 0, 2**63 - 1)
        between("reinforce.workers", self.workers, 0, 1024)


@dataclass(frozen=True)
class DataOptions:
    """What is trained on and validated with."""

    train: str = ""
    """image beton"""
    reinforced: str = ""
    """reinforced beton of the same images (task dr); empty: the one packed with them"""
    val: str = ""
    """image beton to validate with; empty: no validation"""
    mean: tuple[float, ...] = ()
    """per-channel mean in [0, 1] to subtract; empty: the manifest's"""
    std: tuple[float, ...] = ()
    """per-channel standard deviation in [0, 1] to divide by; empty: the manifest's"""
    center: float = 0.875
    """evaluation view: share of the resized short side that the centre crop keeps (224 of 256)"""
    workers: int = 0
    """decoding threads; 0: one a core"""
    order: str = "random"
    """of the training images: random, quasi_random (reads stay local on a disk), sequential"""
    os_cache: bool = True
    """read through the system's page cache; false: pages held by this process, for files larger than memory"""
    images: int = 0
    """how many images data.train has, for a dry run before it is written; 0: open the file"""
    classes: int = 0
    """how many classes data.train has, likewise"""

    def __post_init__(self) -> None:
        one_of("data.order", self.order, ORDERS)
        between("data.center", self.center, 0.1, 1.0)
        between("data.workers", self.workers, 0, 1024)
        between("data.images", self.images, 0, 2**32 - 1)
        between("data.classes", self.classes, 0, 1 << 16)
        for key in ("mean", "std"):
            if getattr(self, key):
                per_channel(f"data.{key}", getattr(self, key))


@dataclass(frozen=True)
class ModelOptions:
    """The model that is trained or evaluated."""

    name: str = ""
    """any timm model"""
    drop_path: float = 0.0
    """stochastic depth, where the model has it"""
    options: tuple[str, ...] = ()
    """NAME=VALUE,… for timm's model, such as zero_init_last=false of a ResNet (resnetblur50 is one with BlurPool)"""
    checkpoint: str = ""
    """weights to start from; a head of another size is made anew"""
    pretrained: bool = False
    """start from timm's pretrained weights, where model.checkpoint names no others, instead of random ones"""

    def __post_init__(self) -> None:
        between("model.drop_path", self.drop_path, 0, 0.99)
        names = read_options(self.options)
        if self.drop_path and "drop_path_rate" in names:
            raise UserError("model.options: drop_path_rate is what model.drop_path says; give one of both")


@dataclass(frozen=True)
class TrainOptions:
    """``ffdr train``: one run."""

    task: str = "erm"
    """erm: labels; kd: a live teacher; dr: the reinforced beton"""
    epochs: int = 16
    """passes over the training images"""
    batch_size: int = 256
    """images a step, over all ranks"""
    accumulate: int = 1
    """parts in which a rank's share of a batch goes through the model, to save memory"""
    optimizer: str = "sgd"
    """sgd (Nesterov) or adamw"""
    lr: float = 0.1
    """peak learning rate"""
    momentum: float = 0.9
    """momentum of sgd"""
    weight_decay: float = 1e-4
    """decay of weights with two or more dimensions; biases and norms are left alone"""
    warmup_epochs: float = 1.0
    """linear warm-up, in epochs; a cosine per step follows"""
    label_smoothing: float = 0.0
    """share of the target spread over all classes (erm, and the label part of kd)"""
    temperature: float = 1.0
    """softens teacher and student alike (kd, dr)"""
    teacher_weight: float = 1.0
    """weight of the teacher's part of the loss; the rest is the label's (kd, dr)"""
    residual: str = "smooth"
    """what becomes of the probability that top-k leaves out (dr): smooth spreads it, renormalise drops it"""
    reinforced_share: float = 1.0
    """share of samples that are stored views (dr); the others are drawn from the policy and learned by their label"""
    ema: float = 0.0
    """decay of the averaged weights that are evaluated and exported; 0: none"""
    clip_grad: float = 0.0
    """largest gradient norm; 0: no clipping"""
    resolution: int = 224
    """pixels of the training views"""
    min_resolution: int = 0
    """pixels of the training views at the start, which grow over train.ramp; 0: as train.resolution throughout"""
    ramp: tuple[float, float] = (0.74, 0.86)
    """shares of the epochs at which views begin to grow and have grown, in multiples of 32 pixels"""
    eval_resolution: int = 0
    """pixels of the evaluation view; 0: as in training"""
    flip_average: bool = False
    """average the answers on the evaluation view and its mirror image"""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16; auto: bfloat16 where a GPU has it, else float32"""
    compile: str = "auto"
    """torch.compile's mode for the whole step: auto, off, default, reduce-overhead (CUDA graphs), max-autotune,
    max-autotune-no-cudagraphs; auto: on a GPU, in runs of 3,000 steps and more"""
    sync_batchnorm: bool = False
    """batch statistics over all ranks instead of a rank's own (GPUs only)"""
    seed: int = 0
    """seed of weights, order and draws"""
    eval_every: int = 1
    """epochs between validations; the last epoch always validates"""
    checkpoint_every: int = 1
    """epochs between checkpoints; the last epoch always writes one"""
    keep: int = 2
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
        one_of("train.task", self.task, TASKS)
        one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        one_of("train.precision", self.precision, PRECISIONS)
        one_of("train.residual", self.residual, RESIDUALS)
        object.__setattr__(self, "compile", switched(self.compile))
        one_of("train.compile", self.compile, COMPILE)
        for key, low, high in (
            ("epochs", 1, 10**6),
            ("batch_size", 1, 10**6),
            ("lr", 0, 1e3),
            ("momentum", 0, 0.9999),
            ("weight_decay", 0, 10),
            ("warmup_epochs", 0, 10**6),
            ("label_smoothing", 0, 0.999),
            ("temperature", 1e-2, 1e3),
            ("teacher_weight", 0, 1),
            ("ema", 0, 0.999999),
            ("clip_grad", 0, 1e9),
            ("resolution", 1, 4096),
            ("eval_resolution", 0, 4096),
            ("seed", 0, 2**63 - 1),
            ("accumulate", 1, self.batch_size),
            ("min_resolution", 0, self.resolution),
            ("reinforced_share", 0, 1),
            ("keep", 1, 10**6),
            ("eval_every", 1, 10**6),
            ("checkpoint_every", 1, 10**6),
        ):
            between(f"train.{key}", getattr(self, key), low, high)
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
class EvalOptions:
    """``ffdr eval``: accuracy and calibration of one model, on one data set or on a suite of them."""

    checkpoint: str = ""
    """model.safetensors of a run; empty: --model.name with its pretrained or --model.checkpoint weights"""
    data: str = ""
    """image beton, or folder of images with a subfolder for each class, of the model's own classes"""
    resolution: int = 0
    """pixels; 0: what the checkpoint says"""
    batch_size: int = 256
    """images a forward pass, on each rank"""
    workers: int = 0
    """decoding threads; 0: one a core"""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16; auto: bfloat16 where a GPU has it, else float32, as in training"""
    flip_average: bool = False
    """average the answers on the evaluation view and its mirror image"""
    classes: str = "same"
    """same: refuse data of other class names than the model's, or of another order, as far as can be told; any: of
    whatever names, for class folders that were renamed"""
    compile: str = "auto"
    """run the model through torch.compile: auto, on, off; auto: on a GPU, from 3,000 batches on"""
    corruptions: bool = False
    """also accuracy under the corruptions of evaluate/corruptions.py at 5 severities (not ImageNet-C); data only"""
    json: str = ""
    """file to write the report to"""
    csv: str = ""
    """file to write a row for each set to, with timm's column names"""
    plot: str = ""
    """PNG file to draw reliability and confidence to"""

    def __post_init__(self) -> None:
        one_of("eval.precision", self.precision, PRECISIONS)
        object.__setattr__(self, "compile", switched(self.compile))
        one_of("eval.compile", self.compile, SWITCH)
        one_of("eval.classes", self.classes, CLASSES)
        between("eval.batch_size", self.batch_size, 1, 10**6)
        between("eval.resolution", self.resolution, 0, 4096)
        between("eval.workers", self.workers, 0, 1024)
        if self.plot and not self.plot.endswith(".png"):
            raise UserError(f"eval.plot: {self.plot} does not end in .png")


@dataclass(frozen=True)
class SuiteOptions:
    """Where ImageNet's evaluation sets lie: folders as published, or image betons; what is missing is reported."""

    val: str = ""
    """ILSVRC2012's validation set, a folder for each synset"""
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
