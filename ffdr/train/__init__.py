"""Tasks, losses, the fit loop and its state; called, ``ffdr.train(…)`` trains."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any

from ffdr.util.callable_package import call_of_package

if TYPE_CHECKING:
    from ffdr.train.tracking.callbacks import Callback, StopTraining

__all__ = ["Callback", "StopTraining"]


def __getattr__(name: str) -> Any:
    """Import the names for callbacks on first use."""
    if name in __all__:
        return getattr(import_module("ffdr.train.tracking.callbacks"), name)
    raise AttributeError(f"module 'ffdr.train' has no attribute {name!r}")


@call_of_package
def train(
    *,
    config_file: str | PathLike[str] = "",
    progress: bool | None = None,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> dict[str, Any]:
    """Train one model by ERM, KD or DR, as ``ffdr train`` does.

    Args:
        config_file: a recipe in YAML.
        progress: show a progress bar and what was made; None: where a terminal is to see it.
        callbacks: told of each epoch, and may end the run: functions of its log record, or objects with
            ``on_start``, ``on_epoch_end``, ``on_end``, ``close``, or some of them (see ``ffdr.train.Callback``).
        options: what flags set, and over the recipe: options of training by their names (``out="runs/dr", epochs=16``),
            the other sections as mappings or as options objects (``data={"train": "x.beton"}, policy=Policy()``).
            ``model`` may be a ``torch.nn.Module`` instead, built for the data's classes. That very object is trained,
            from the weights that it has: it is moved to the device and ends with the weights of the last step (those
            of ``model.safetensors``, but for ``ema``). To resume, give one of the same kind again.
            ``teacher`` may be what ``ffdr.reinforce`` takes, such as a function (task kd); it sees the views at
            ``train.resolution``, unless it says otherwise.

    Returns the last epoch's log record. Raises UserError for invalid options, values or files; CallbackError, whose
    cause is what a callback raised.
    """
    from ffdr.config.model_names import take_module
    from ffdr.config.recipe import from_call
    from ffdr.reinforce.functions import take_apart
    from ffdr.train.tracking.callbacks import checked_callbacks

    model, options = take_module(options)
    teacher, functions = take_apart(options.get("teacher"))
    recipe = from_call("train", config_file, options if teacher is None else {**options, "teacher": teacher})
    checked_callbacks(callbacks)
    from ffdr.train.run import run  # slow: after the refusals

    return run(recipe, progress, model, functions, callbacks)
