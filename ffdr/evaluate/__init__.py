"""Accuracy, calibration and robustness of trained models; called, ``ffdr.evaluate(…)`` evaluates one."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from ffdr.util.callable_package import call_of_package

if TYPE_CHECKING:
    from ffdr.evaluate.report import Report


@call_of_package
def evaluate(*, config_file: str | PathLike[str] = "", **options: Any) -> Report:
    """Accuracy and calibration of one model on a data set, or on ImageNet's evaluation sets, as ``ffdr eval`` does.

    Args:
        config_file: a recipe in YAML.
        options: what flags set, and over the recipe: options of the verb by their names
            (``checkpoint="runs/dr/model.safetensors", data="val.beton"``), the sections model and suite as mappings or
            as options objects. ``model`` may be a ``torch.nn.Module`` instead, which is evaluated as it is, at the
            ``resolution`` that is given, or with the weights of ``checkpoint``, which are loaded into it. That very
            object is moved to the device and left in evaluation mode.

    Returns:
        The report, which is printed, too, and written where ``json``, ``csv``, ``plot`` or ``results``
        say.

    Raises:
        UserError: an unknown option or wrong value; a model and data that don't fit together.
    """
    from ffdr.config.model_names import take_module
    from ffdr.config.recipe import from_call

    model, options = take_module(options)
    recipe = from_call("eval", config_file, options)
    from ffdr.evaluate.run import run  # slow: after the refusals

    return run(recipe.eval, recipe.model, recipe.suite, model)
