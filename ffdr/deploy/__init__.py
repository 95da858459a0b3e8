"""A trained model for other tools: ONNX, torch.export, the Hugging Face hub; ``export_model(…)`` writes it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any


def export_model(*, config_file: str | PathLike[str] = "", progress: bool = True, **options: Any) -> Path:
    """Turn a trained model into ONNX, a torch.export archive or a folder for the hub, as ``ffdr export-model`` does.

    Args:
        config_file: a recipe in YAML.
        progress: show what was made.
        options: what flags set, and over the recipe: options of the verb by their names
            (``checkpoint="runs/dr/model.safetensors", out="model.onnx"``), the section model as a mapping or as an
            options object. ``model`` may be a ``torch.nn.Module`` instead, at the ``resolution`` that is given, or with
            the weights of ``checkpoint``. A copy of it is exported; that very object stays as it is. Without a
            checkpoint of ``ffdr.train``, it is described as fed with ImageNet's mean and deviation.

    Returns:
        The path of what was written, which was loaded again and gave the same answers.

    Raises:
        UserError: an unknown option or wrong value; a model that the format can't hold; an output that is there
            already, and ``overwrite`` is false.
    """
    from ffdr.config.model_names import take_module
    from ffdr.config.recipe import from_call

    model, options = take_module(options)
    recipe = from_call("export-model", config_file, options)
    from ffdr.deploy.run import run  # slow: after the refusals

    return run(recipe.export_model, recipe.model, model, progress)
