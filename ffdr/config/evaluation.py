"""Options of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from ffdr.config.learning import Batch, Classes
from ffdr.config.options import Options, Precision, Resolution, Switch, Threads, added
from ffdr.util.errors import UserError


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

    results: str = added("")
    """folder for the confusion matrix, a table of the classes, the prediction of each image and a picture of the worst
    mistakes; of a suite a folder for each set"""
    paths: str = added("")
    """folder of images that a beton was written of, so that eval.results names its images by path"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.paths and not self.results:
            raise UserError("eval.paths: they are for the tables of eval.results; give it, too")
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
