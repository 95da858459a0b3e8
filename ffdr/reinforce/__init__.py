"""Teachers, and the making of reinforced betons; called, ``ffdr.reinforce(…)`` makes one."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from ffdr.util.callable_package import call_of_package


@call_of_package
def reinforce(*, config_file: str | PathLike[str] = "", progress: bool = True, **options: Any) -> Path:
    """Draw views, replay them, let the teacher label them, store both, as ``ffdr reinforce`` does.

    Args:
        config_file: a recipe in YAML.
        progress: show a progress bar, and at the end what was made and how good it is.
        options: what flags set, and over the recipe: options of the verb by their names (``images="x.beton",
            out="x+.beton", views=10``), the other sections as mappings or as options objects (``teacher={"models":
            "resnet50:teacher.safetensors"}, policy=Policy()``).

    Returns:
        The path of the reinforced beton.

    Raises:
        UserError: an unknown option or wrong value; a teacher of other classes, or whose predictions are no numbers;
            another output of that name.
    """
    from ffdr.config.recipe import from_call

    recipe = from_call("reinforce", config_file, options)
    from ffdr.reinforce.generate import generate  # slow: after the refusals

    return generate(recipe.reinforce, recipe.policy, recipe.teacher, progress)
