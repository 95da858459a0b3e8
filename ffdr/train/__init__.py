"""Tasks, losses, the fit loop and its state; called, ``ffdr.train(…)`` trains."""

from __future__ import annotations

from os import PathLike
from typing import Any

from ffdr.util.callable_package import call_of_package


@call_of_package
def train(*, config_file: str | PathLike[str] = "", progress: bool | None = None, **options: Any) -> dict[str, Any]:
    """Train one model by ERM, KD or DR, as ``ffdr train`` does.

    Args:
        config_file: a recipe in YAML.
        progress: show a progress bar and what was made; None: where a terminal is to see it.
        options: what flags set, and over the recipe: options of training by their names (``out="runs/dr", epochs=16``),
            the other sections as mappings or as options objects (``data={"train": "x.beton"}, policy=Policy()``).
            ``model`` may be a ``torch.nn.Module`` instead, built for the data's classes. That very object is trained,
            from the weights that it has: it is moved to the device and ends with the weights of the last step (those
            of ``model.safetensors``, but for ``ema``). To resume, give one of the same kind again.
            ``teacher`` may be what ``ffdr.reinforce`` takes, such as a function (task kd); it sees the views at
            ``train.resolution``, unless it says otherwise.

    Returns the last epoch's log record. Raises UserError for invalid options, values or files.
    """
    from ffdr.config.model_names import take_module
    from ffdr.config.recipe import from_call
    from ffdr.reinforce.functions import take_apart

    model, options = take_module(options)
    teacher, functions = take_apart(options.get("teacher"))
    recipe = from_call("train", config_file, options if teacher is None else {**options, "teacher": teacher})
    from ffdr.train.run import run  # slow: after the refusals

    return run(recipe, progress, model, functions)
