"""Options of teachers, data and models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ffdr.config.architecture import read_options
from ffdr.config.choices import CLASSES, ORDERS
from ffdr.config.options import (
    Between,
    OneOf,
    Options,
    Precision,
    Resolution,
    Seed,
    Switch,
    Threads,
    added,
)
from ffdr.util.arguments import per_channel
from ffdr.util.errors import UserError
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
    module: tuple[str, ...] = added(())
    """Python to import first, FILE.py or a dotted name,…; it registers models with timm (timm.models.register_model)"""
    options: tuple[str, ...] = added(())
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
    module: tuple[str, ...] = added(())
    """Python to import first, FILE.py or a dotted name,…; it registers models with timm (timm.models.register_model)"""

    def __post_init__(self) -> None:
        _split_texts(self, "module")
        super().__post_init__()
        names = read_options(self.options)
        if self.drop_path and "drop_path_rate" in names:
            raise UserError("model.options: drop_path_rate is what model.drop_path says; give one of both")
