"""All that makes betons: from datasets or from other betons, resumably, and the check of what was made; called,
``ffdr.write(…)`` writes an image beton."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from ffdr.util.callable_package import call_of_package


@call_of_package
def write(*, config_file: str | PathLike[str] = "", progress: bool = True, **options: Any) -> Path:
    """Turn a source dataset into an image beton, as ``ffdr write`` does.

    Args:
        config_file: a recipe in YAML.
        progress: show a progress bar, and at the end what was made.
        options: what flags set, and over the recipe: ``source="imagefolder", path="data", out="x.beton"``.

    Returns:
        The path of the beton. Its manifest lies beside it.

    Raises:
        UserError: an unknown option or wrong value; an unreadable image; another output of that name.
    """
    from ffdr.config.recipe import from_call

    recipe = from_call("write", config_file, options)
    from ffdr.write.images import write_images  # slow: after the refusals

    return write_images(recipe, progress)
