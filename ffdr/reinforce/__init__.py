"""Teachers, and the making of reinforced betons; called, ``ffdr.reinforce(…)`` makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffdr.reinforce.functions import FunctionTeacher
from ffdr.util.callable_package import call_of_package

if TYPE_CHECKING:
    from ffdr.augment.policy import Policy
    from ffdr.beton.read import ImageBeton
    from ffdr.config.learning import TeacherOptions

__all__ = ["FunctionTeacher", "reinforce"]


@call_of_package
def reinforce(
    images: str | PathLike[str] | ImageBeton | None = None,
    out: str | PathLike[str] | None = None,
    *,
    teacher: str | Callable[..., Any] | Sequence[Any] | Mapping[str, Any] | TeacherOptions | None = None,
    policy: Policy | Mapping[str, Any] | None = None,
    views: int | None = None,
    topk: int | None = None,
    resolution: int | None = None,
    seed: int | None = None,
    config_file: str | PathLike[str] = "",
    progress: bool = True,
    **options: Any,
) -> Path:
    """Draw views, replay them, let the teacher label them, store both, as ``ffdr reinforce`` does.

    What is None, or left out, is what the recipe says, or else the default.

    Args:
        images: image beton, path or opened.
        out: reinforced beton to write. A killed call goes on where it stopped; what is there already is not made again.
        teacher: what labels the views:

            - a function from uint8 pixels (B, R, R, 3), on the GPU if there is one, to logits (B, C) of the beton's
              classes, as a torch tensor or a NumPy array;
            - a ``torch.nn.Module``, which gets images (B, 3, R, R) normalised with the beton's mean and std;
            - a ``FunctionTeacher``: either of them with a name, or fed in another way;
            - ``"NAME[:CHECKPOINT]"``, as ``--teacher.models`` has it;
            - a list of these: an ensemble, averaged in probability space, the named ones first;
            - the options of the section, as a mapping or an options object: ``{"models": f, "batch_size": 64}``, where
              ``models`` is any of the above.
        policy: what views are drawn from; None: the recipe's, or ``Policy()``.
        views: per image; None: 10.
        topk: teacher entries stored per view; None: 10.
        resolution: pixels per side (R) at which every teacher sees the views; None: 224 for functions and modules,
            which have none of their own, and for named teachers each its own.
        seed: of the draws; None: 0.
        config_file: a recipe in YAML.
        progress: show a progress bar, and at the end what was made and how good it is.
        options: further options of the verb by their names, such as ``workers=8, overwrite=True``; see
            ``ffdr reinforce --help``.

    Returns:
        The path of the reinforced beton.

    Raises:
        UserError: an unknown option or wrong value; a teacher of other classes, or whose predictions are no numbers;
            another output of that name. What a function itself raises goes through.
    """
    from ffdr.config.recipe import from_call
    from ffdr.reinforce.functions import take_apart

    teacher, functions = take_apart(teacher)
    given = {
        "images": getattr(images, "path", images),  # an opened beton's
        "out": out,
        "teacher": teacher,
        "policy": policy,
        "views": views,
        "topk": topk,
        "resolution": resolution,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    recipe = from_call("reinforce", config_file, given | options)
    from ffdr.reinforce.generate import generate  # slow: after the refusals

    return generate(recipe.reinforce, recipe.policy, recipe.teacher, progress, functions)
