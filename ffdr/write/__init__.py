"""All that makes betons: from datasets or from other betons, resumably, and the check of what was made; called,
``ffdr.write(…)`` writes an image beton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from ffdr.util.callable_package import call_of_package


@call_of_package
def write(
    dataset: Any = None,
    out: str | PathLike[str] | None = None,
    *,
    classes: Sequence[str] | str | PathLike[str] | None = None,
    columns: tuple[str, str] | None = None,
    mode: str | None = None,
    config_file: str | PathLike[str] = "",
    progress: bool = True,
    **options: Any,
) -> Path:
    """Turn a dataset into an image beton, as ``ffdr write`` does.

    The dataset is anything that has a length and is indexed by numbers, or can be iterated, and gives (image, label):
    torchvision's and torch's datasets, lists, generators, tar shards of webdataset; or mappings, as Hugging Face's do.
    An image is a PIL image, uint8 pixels (H, W, 3) or (H, W), as a tensor also (3, H, W), an encoded file's bytes or
    its path; files reach mode dct with their very coefficients. A label is an integer or a class's name.

    Worker processes read a dataset that can be pickled; any other is read here, and they encode: the same bytes.
    A run that was killed goes on. Of finished work contents are recognised by 64 items spread over the dataset, or the
    first 16 of one that can only be iterated, beside its type, length, columns, class names and fingerprint.

    Args:
        dataset: the images; without it, ``source`` and ``path`` name a source as they do on the command line.
        out: image beton to write.
        classes: names of the classes in the order of their numbers, or a file with one per line; left out, those of
            the recipe, or that the dataset knows, else "0", "1", … up to the highest label.
        columns: keys of image and label in mappings; left out, the recipe's, else "image" and "label", or what
            features say.
        mode: jpg (the default), raw, proportion or dct.
        config_file: a recipe in YAML.
        progress: show a progress bar, and at the end what was made.
        options: what flags set, and over the recipe: ``quality=95, max_resolution=500``. ``split`` is what the origins
            of images without a path begin with.

    Returns:
        The path of the beton. Its manifest lies beside it.

    Raises:
        UserError: an unknown option or wrong value; an item that is no image with a label, or that can't be read; an
            interrupted run that read other items; another output of that name.
    """
    from ffdr.config.choices import PYTHON
    from ffdr.config.recipe import from_call
    from ffdr.util.errors import UserError

    given = {"out": out, "mode": mode} | ({} if dataset is not None else {"classes": classes, "columns": columns})
    options |= {key: value for key, value in given.items() if value is not None}
    if dataset is None:
        recipe = from_call("write", config_file, options)
        from ffdr.write.images import write_images  # slow: after the refusals

        return write_images(recipe, progress)
    for key in {"source", "path"} & set(options):
        raise UserError(f"call: write.{key}: a dataset is given, too; leave one of them out")
    recipe = replace(from_call("write", config_file, options | {"source": PYTHON}), path="")
    from ffdr.write.images import write_dataset

    return write_dataset(dataset, recipe, classes, columns, progress)
