"""Every option of every verb, as frozen dataclasses: one class a section of a recipe.

``recipe.py`` fills them from YAML files and flags and checks types; the classes check ranges and combinations, and the
rest of the package sees nothing but them. The text below a field is its help on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass

from ffdr.augment.policy import Policy
from ffdr.errors import UserError, between, one_of

SOURCES = ("digits", "imagefolder", "cifar100", "flowers102", "food101")
MODES = ("jpg", "raw", "proportion")
ON_ERROR = ("stop", "skip")
TASKS = ("erm", "kd", "dr")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
RESIDUALS = ("smooth", "renormalise")
OPTIMIZERS = ("sgd", "adamw")
ORDERS = ("random", "sequential", "quasi_random")


@dataclass(frozen=True)
class WriteOptions:
    """``ffdr write``: a source dataset becomes an image beton."""

    source: str = ""
    """digits, imagefolder, cifar100, flowers102 or food101"""
    path: str = ""
    """folder of the source (digits needs none)"""
    split: str = "train"
    """split of the source; imagefolder: subfolder of the path, empty for the path itself"""
    out: str = ""
    """image beton to write"""
    mode: str = "jpg"
    """jpg, raw, or proportion (a share of the images as JPEG, the rest raw)"""
    proportion: float = 0.5
    """share of JPEG images in mode proportion"""
    max_resolution: int = 0
    """shrink images so that no side is longer, in pixels; 0 keeps every size"""
    quality: int = 90
    """JPEG quality, 1 to 100"""
    per_class: int = 0
    """keep at most so many images of each class, first in the source's order; 0 keeps all"""
    workers: int = 0
    """processes that read and encode; 0: one a core"""
    on_error: str = "stop"
    """an image that can't be read: stop the run, or skip it and list it in the manifest"""

    def __post_init__(self) -> None:
        one_of("write.source", self.source, SOURCES)
        one_of("write.mode", self.mode, MODES)
        one_of("write.on_error", self.on_error, ON_ERROR)
        between("write.quality", self.quality, 1, 100)
        between("write.proportion", self.proportion, 0, 1)
        between("write.max_resolution", self.max_resolution, 0, 65535)
        between("write.per_class", self.per_class, 0, 10**9)
        between("write.workers", self.workers, 0, 1024)
        if not self.out:
            raise UserError("write.out: give the image beton to write, for example --write.out=train.beton")
        if self.source != "digits" and not self.path:
            raise UserError(f"write.path: source {self.source} needs the folder it lies in")


@dataclass(frozen=True)
class TeacherOptions:
    """The teacher: one model, or several averaged in probability space."""

    models: str = ""
    """NAME[:CHECKPOINT],… — timm models; a checkpoint of ffdr train or one that timm loads"""
    resolution: int = 0
    """pixels the teacher sees; 0: what its checkpoint or timm's configuration says"""
    batch_size: int = 256
    """views a forward pass"""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16; auto: bfloat16 where a GPU has it, else float32"""

    def __post_init__(self) -> None:
        one_of("teacher.precision", self.precision, PRECISIONS)
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
    """reinforced beton of the same images (task dr)"""
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

    def __post_init__(self) -> None:
        one_of("data.order", self.order, ORDERS)
        between("data.center", self.center, 0.1, 1.0)
        between("data.workers", self.workers, 0, 1024)
        for key in ("mean", "std"):
            value = getattr(self, key)
            if len(value) not in (0, 3):
                raise UserError(f"data.{key}: {len(value)} values, but 3 channels (or none: the manifest's)")
            for number in value:
                between(f"data.{key}", number, 0 if key == "mean" else 1e-6, 1)


@dataclass(frozen=True)
class ModelOptions:
    """The model that is trained or evaluated."""

    name: str = ""
    """any timm model; trained from random weights unless model.checkpoint is given"""
    drop_path: float = 0.0
    """stochastic depth, where the model has it"""
    checkpoint: str = ""
    """weights to start from; a head of another size is made anew"""

    def __post_init__(self) -> None:
        between("model.drop_path", self.drop_path, 0, 0.99)


@dataclass(frozen=True)
class TrainOptions:
    """``ffdr train``: one run."""

    task: str = "erm"
    """erm: labels; kd: a live teacher; dr: the reinforced beton"""
    epochs: int = 16
    """passes over the training images"""
    batch_size: int = 256
    """images a step"""
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
    ema: float = 0.0
    """decay of the averaged weights that are evaluated and exported; 0: none"""
    clip_grad: float = 0.0
    """largest gradient norm; 0: no clipping"""
    resolution: int = 224
    """pixels of the training views"""
    eval_resolution: int = 0
    """pixels of the evaluation view; 0: as in training"""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16; auto: bfloat16 where a GPU has it, else float32"""
    seed: int = 0
    """seed of weights, order and draws"""
    eval_every: int = 1
    """epochs between validations; the last epoch always validates"""
    checkpoint_every: int = 1
    """epochs between checkpoints; the last epoch always writes one"""
    out: str = ""
    """folder of the run"""
    resume: bool = True
    """go on from the folder's last checkpoint, if there is one"""

    def __post_init__(self) -> None:
        one_of("train.task", self.task, TASKS)
        one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        one_of("train.precision", self.precision, PRECISIONS)
        one_of("train.residual", self.residual, RESIDUALS)
        for key, low, high in (
            ("epochs", 1, 10**6),
            ("batch_size", 1, 10**6),
            ("lr", 0, 1e3),
            ("momentum", 0, 0.9999),
            ("weight_decay", 0, 10),
            ("warmup_epochs", 0, self.epochs),
            ("label_smoothing", 0, 0.999),
            ("temperature", 1e-2, 1e3),
            ("teacher_weight", 0, 1),
            ("ema", 0, 0.999999),
            ("clip_grad", 0, 1e9),
            ("resolution", 1, 4096),
            ("eval_resolution", 0, 4096),
            ("seed", 0, 2**63 - 1),
            ("eval_every", 1, 10**6),
            ("checkpoint_every", 1, 10**6),
        ):
            between(f"train.{key}", getattr(self, key), low, high)
        if self.task == "dr" and self.label_smoothing:
            raise UserError("train.label_smoothing: task dr does not smooth labels; leave it out")
        if self.task == "erm" and (self.temperature, self.teacher_weight) != (1, 1):
            raise UserError("train.temperature, train.teacher_weight: task erm has no teacher; leave them out")
        if not self.out:
            raise UserError("train.out: give the folder of the run, for example --train.out=runs/erm")


@dataclass(frozen=True)
class EvalOptions:
    """``ffdr eval``: accuracy and calibration of one model on one image beton."""

    checkpoint: str = ""
    """model.safetensors of a run; empty: --model.name with its pretrained or --model.checkpoint weights"""
    data: str = ""
    """image beton"""
    resolution: int = 0
    """pixels; 0: what the checkpoint says"""
    batch_size: int = 256
    """images a forward pass"""
    corruptions: bool = False
    """also accuracy under the corruptions of evaluate/corruptions.py at 5 severities (not ImageNet-C)"""
    json: str = ""
    """file to write the report to"""

    def __post_init__(self) -> None:
        if not self.data:
            raise UserError("eval.data: give the image beton to evaluate on")
        between("eval.batch_size", self.batch_size, 1, 10**6)
        between("eval.resolution", self.resolution, 0, 4096)


@dataclass(frozen=True)
class DemoOptions:
    """``ffdr demo``: the whole path on scikit-learn's handwritten digits."""

    out: str = "results/demo"
    """folder of the table, plot, picture and summary"""
    work: str = "runs/demo"
    """folder of the betons and runs, which are overwritten"""
    seeds: int = 5
    """students trained by each task"""
    epochs: int = 0
    """epochs of a student; 0: as the recipes say"""

    def __post_init__(self) -> None:
        between("demo.seeds", self.seeds, 1, 1000)
        between("demo.epochs", self.epochs, 0, 10**6)


BENCHES = ("epoch",)


@dataclass(frozen=True)
class BenchOptions:
    """``ffdr bench``: measurements, each in one paired run."""

    images: int = 1024
    """images of the corpus that is made for the measurement"""
    repeats: int = 7
    """paired repetitions"""
    json: str = ""
    """file to write the figures to"""

    def __post_init__(self) -> None:
        between("bench.images", self.images, 64, 10**7)
        between("bench.repeats", self.repeats, 3, 1000)


# One class a verb: its fields are the sections that the verb's recipe may have.


@dataclass(frozen=True)
class WriteRecipe:
    """What ``ffdr write`` needs."""

    write: WriteOptions


@dataclass(frozen=True)
class ReinforceRecipe:
    """What ``ffdr reinforce`` needs."""

    reinforce: ReinforceOptions
    policy: Policy
    teacher: TeacherOptions

    def __post_init__(self) -> None:
        if not self.teacher.models:
            raise UserError("teacher.models: name the teacher, such as --teacher.models=resnet50:teacher.safetensors")


@dataclass(frozen=True)
class TrainRecipe:
    """What ``ffdr train`` needs."""

    train: TrainOptions
    data: DataOptions
    model: ModelOptions
    policy: Policy
    teacher: TeacherOptions

    def __post_init__(self) -> None:
        task = self.train.task
        if not self.data.train:
            raise UserError("data.train: give the image beton to train on")
        if task == "dr" and not self.data.reinforced:
            raise UserError("data.reinforced: task dr learns from a reinforced beton; give its path")
        if task != "dr" and self.data.reinforced:
            raise UserError(f"data.reinforced: task {task} does not read it; use --train.task=dr or leave it out")
        if task == "kd" and not self.teacher.models:
            raise UserError("teacher.models: task kd asks a live teacher; name it")
        if not self.model.name:
            raise UserError("model.name: name a timm model, for example --model.name=resnet50")
        if task != "kd" and self.teacher.models:
            raise UserError(f"teacher.models: task {task} has no live teacher; use --train.task=kd or leave it out")


@dataclass(frozen=True)
class EvalRecipe:
    """What ``ffdr eval`` needs."""

    eval: EvalOptions
    model: ModelOptions

    def __post_init__(self) -> None:
        if self.eval.checkpoint and self.model != ModelOptions():
            raise UserError("model: eval.checkpoint already says what the model is; give one of both")
        if not self.eval.checkpoint and not self.model.name:
            raise UserError("eval.checkpoint: give a trained model, or name one with --model.name")


@dataclass(frozen=True)
class DemoRecipe:
    """What ``ffdr demo`` needs."""

    demo: DemoOptions


@dataclass(frozen=True)
class BenchRecipe:
    """What ``ffdr bench`` needs."""

    bench: BenchOptions


RECIPES: dict[str, type] = {
    "demo": DemoRecipe,
    "write": WriteRecipe,
    "reinforce": ReinforceRecipe,
    "train": TrainRecipe,
    "eval": EvalRecipe,
    "bench": BenchRecipe,
}
"""The verbs of the command line."""
