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

    Returns the last epoch's log record. Raises UserError for invalid options, values or files.
    """
    from ffdr.config.recipe import from_call

    recipe = from_call("train", config_file, options)
    from ffdr.train.run import run  # slow: after the refusals

    return run(recipe, progress)
