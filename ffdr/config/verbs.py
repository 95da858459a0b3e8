"""What each verb needs: the options of its one section, or a recipe of several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_type_hints

from ffdr.augment.policy import Policy
from ffdr.config import ablation, files, measuring
from ffdr.config.deploying import ExportModelOptions
from ffdr.config.evaluation import EvalOptions, SuiteOptions
from ffdr.config.learning import DataOptions, ModelOptions, ReinforceOptions, TeacherOptions
from ffdr.config.model_names import is_given
from ffdr.config.options import Options
from ffdr.config.training import TrainOptions
from ffdr.util.errors import UserError


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
        if not self.data.train and not self.train.dry_run:
            raise UserError("data.train: give the image beton to train on")
        if task != "dr" and self.data.reinforced:
            raise UserError(f"data.reinforced: task {task} does not read it; use --train.task=dr or leave it out")
        if task == "kd" and not self.teacher.models:
            raise UserError("teacher.models: task kd asks a live teacher; name it")
        if self.train.scheduler == "plateau" and not self.data.val:
            raise UserError("train.scheduler: plateau watches the validation top-1; give data.val")
        if not self.model.name:
            raise UserError("model.name: name a model, for example --model.name=resnet50 (timm's)")
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
        if self.eval.paths and not self.eval.data:
            raise UserError("eval.paths: they are of the images of eval.data, not of a suite")
        if self.eval.corruptions and not self.eval.data:
            raise UserError("eval.corruptions: they are made of eval.data, not of a suite, which has ImageNet-C")
        _check_one_model("eval", self.eval.checkpoint, self.model)


@dataclass(frozen=True)
class ExportModelRecipe:
    """What ``ffdr export-model`` needs."""

    export_model: ExportModelOptions
    model: ModelOptions

    def __post_init__(self) -> None:
        _check_one_model("export_model", self.export_model.checkpoint, self.model)


def _check_one_model(section: str, checkpoint: str, model: ModelOptions) -> None:
    """Raise UserError unless either a checkpoint of ours or a name says which trained model is meant."""
    settled = replace(model, module=()) != ModelOptions() and not is_given(model.name)
    if checkpoint and settled:
        raise UserError(f"model: {section}.checkpoint already says what the model is; give one of both")
    if not checkpoint and not model.name:
        raise UserError(f"{section}.checkpoint: give a trained model, or name one with --model.name")


RECIPES: dict[str, type[Options | ReinforceRecipe | TrainRecipe | EvalRecipe | ExportModelRecipe]] = {
    "demo": measuring.DemoOptions,
    "write": files.WriteOptions,
    "adopt": files.AdoptOptions,
    "reinforce": ReinforceRecipe,
    "import": files.ImportOptions,
    "export": files.ExportOptions,
    "pack": files.PackOptions,
    "split": files.SplitOptions,
    "subset": files.SubsetOptions,
    "concat": files.ConcatOptions,
    "transcode": files.TranscodeOptions,
    "inspect": files.InspectOptions,
    "verify": files.VerifyOptions,
    "train": TrainRecipe,
    "eval": EvalRecipe,
    "export-model": ExportModelRecipe,
    "bench": measuring.BenchOptions,
    "ablate": ablation.AblateOptions,
    "report": ablation.ReportOptions,
}
"""The verbs of the command line."""


def own_section(verb: str) -> str:
    """The name, in recipes and flags, of the section that a verb has to itself."""
    return verb.replace("-", "_")


def sections(verb: str) -> dict[str, type[Options | Policy]]:
    """The classes of a verb's sections, by their names in recipes and flags."""
    needed = RECIPES[verb]
    return {own_section(verb): needed} if issubclass(needed, Options) else get_type_hints(needed)
