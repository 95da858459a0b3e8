"""What each verb needs: one class a verb, whose fields are the sections that its recipe may have."""

from __future__ import annotations

from dataclasses import dataclass

from ffdr.augment.policy import Policy
from ffdr.config.ablation import AblateOptions, ReportOptions
from ffdr.config.files import (
    ExportOptions,
    ImportOptions,
    InspectOptions,
    PackOptions,
    SplitOptions,
    SubsetOptions,
    TranscodeOptions,
    VerifyOptions,
    WriteOptions,
)
from ffdr.config.learning import (
    DataOptions,
    EvalOptions,
    ModelOptions,
    ReinforceOptions,
    SuiteOptions,
    TeacherOptions,
    TrainOptions,
)
from ffdr.config.measuring import BenchOptions, DemoOptions
from ffdr.util.errors import UserError


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
class ImportRecipe:
    """What ``ffdr import`` needs."""

    import_: ImportOptions


@dataclass(frozen=True)
class ExportRecipe:
    """What ``ffdr export`` needs."""

    export: ExportOptions


@dataclass(frozen=True)
class PackRecipe:
    """What ``ffdr pack`` needs."""

    pack: PackOptions


@dataclass(frozen=True)
class SplitRecipe:
    """What ``ffdr split`` needs."""

    split: SplitOptions


@dataclass(frozen=True)
class SubsetRecipe:
    """What ``ffdr subset`` needs."""

    subset: SubsetOptions


@dataclass(frozen=True)
class TranscodeRecipe:
    """What ``ffdr transcode`` needs."""

    transcode: TranscodeOptions


@dataclass(frozen=True)
class InspectRecipe:
    """What ``ffdr inspect`` needs."""

    inspect: InspectOptions


@dataclass(frozen=True)
class VerifyRecipe:
    """What ``ffdr verify`` needs."""

    verify: VerifyOptions


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
        if not self.data.train and not self.train.dry_run:
            raise UserError("data.train: give the image beton to train on")
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
    suite: SuiteOptions

    def __post_init__(self) -> None:
        if bool(self.eval.data) == (self.suite != SuiteOptions()):
            raise UserError("eval.data: give an image beton or a folder of images, or instead a recipe with a suite")
        if self.eval.corruptions and not self.eval.data:
            raise UserError("eval.corruptions: they are made of eval.data, not of a suite, which has ImageNet-C")
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


@dataclass(frozen=True)
class AblateRecipe:
    """What ``ffdr ablate`` needs."""

    ablate: AblateOptions


@dataclass(frozen=True)
class ReportRecipe:
    """What ``ffdr report`` needs."""

    report: ReportOptions


RECIPES: dict[str, type] = {
    "demo": DemoRecipe,
    "write": WriteRecipe,
    "reinforce": ReinforceRecipe,
    "import": ImportRecipe,
    "export": ExportRecipe,
    "pack": PackRecipe,
    "split": SplitRecipe,
    "subset": SubsetRecipe,
    "transcode": TranscodeRecipe,
    "inspect": InspectRecipe,
    "verify": VerifyRecipe,
    "train": TrainRecipe,
    "eval": EvalRecipe,
    "bench": BenchRecipe,
    "ablate": AblateRecipe,
    "report": ReportRecipe,
}
"""The verbs of the command line."""
