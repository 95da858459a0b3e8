"""What each verb needs: the options of its one section, or a recipe of several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_type_hints

from ffdr.augment.policy import Policy
from ffdr.config import ablation, files, measuring
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
        if self.eval.corruptions and not self.eval.data:
            raise UserError("eval.corruptions: they are made of eval.data, not of a suite, which has ImageNet-C")
        settled = replace(self.model, module=()) != ModelOptions() and not is_given(self.model.name)
        if self.eval.checkpoint and settled:
            raise UserError("model: eval.checkpoint already says what the model is; give one of both")
        if not self.eval.checkpoint and not self.model.name:
            raise UserError("eval.checkpoint: give a trained model, or name one with --model.name")


RECIPES: dict[str, type[Options | ReinforceRecipe | TrainRecipe | EvalRecipe]] = {
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
    "bench": measuring.BenchOptions,
    "ablate": ablation.AblateOptions,
    "report": ablation.ReportOptions,
}
"""The verbs of the command line."""


def sections(verb: str) -> dict[str, type[Options | Policy]]:
    """The classes of a verb's sections, by their names in recipes and flags."""
    needed = RECIPES[verb]
    return {verb: needed} if issubclass(needed, Options) else get_type_hints(needed)
