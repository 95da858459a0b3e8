"""Teachers that are functions or modules in Python: what a caller gives, taken apart before anything slow.

In ``teacher.models`` each stands as ``function:NAME``, so that options, receipts and messages name it; the functions
themselves travel beside the options, in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffdr.config.learning import TeacherOptions
from ffdr.config.settings import UNFIT
from ffdr.util.arguments import integer, per_channel, shown, switch
from ffdr.util.errors import UserError
from ffdr.util.text import printable

_LABEL = "function:"
_LONGEST_NAME = 100
"""Characters; the header that holds the names of all teachers has a thousand."""


@dataclass(frozen=True)
class FunctionTeacher:
    """A function, or a module, that labels views, and how it is fed.

    Where nothing needs to be said beyond the function, ``ffdr.reinforce(teacher=f)`` takes the function itself.
    """

    predict: Callable[[Any], Any]
    """images, B of them → logits (B, C), not probabilities: a floating torch tensor on any device, a NumPy array, or an
    object that has them as ``logits``; the same for the same images, however they are put into batches. It runs in
    inference mode. A ``torch.nn.Module`` is put into evaluation mode and moved to the device."""
    name: str = ""
    """what the file calls it; empty: the qualified name of the function, or of the module's class"""
    version: str = ""
    """what tells it from others of its name; empty: its answers to some fixed images, and a module's weights. Whoever
    gives one changes it whenever the answers change."""
    normalised: bool | None = None
    """True: images come as float32 (B, 3, R, R), channels last in memory, less mean and divided by std; False: as the
    views' pixels, uint8 (B, R, R, 3); None: normalised for a module and where mean and std are given"""
    mean: Sequence[float] | None = None
    """per channel, in [0, 1]; None: the image beton's"""
    std: Sequence[float] | None = None
    """per channel, in [0, 1]; None: the image beton's"""
    resolution: int = 0
    """R, pixels per side, where ``reinforce.resolution`` and ``teacher.resolution`` say nothing; 0: 224"""

    def __post_init__(self) -> None:
        predict: Any = self.predict
        if not callable(predict) or isinstance(predict, type):
            remedy = "; give an object of it" if isinstance(predict, type) else ""
            raise UserError(f"teacher: {shown(predict)} is no function from images to logits{remedy}")
        for key in ("name", "version"):
            text: Any = getattr(self, key)
            if not isinstance(text, str) or UNFIT.search(text) or len(text) > _LONGEST_NAME:
                raise UserError(f"teacher.{key}: {shown(text)} is not a text of at most {_LONGEST_NAME} characters")
        object.__setattr__(self, "name", self.name.strip() or _qualified_name(self.predict))
        integer("teacher.resolution", self.resolution, 0, 4096)
        if self.normalised is not None:
            switch("teacher.normalised", self.normalised)
        if (self.mean is None) != (self.std is None):
            raise UserError("teacher.mean, teacher.std: only one of them is given; give both, or neither")
        for key in ("mean", "std"):
            if getattr(self, key) is not None:
                if self.normalised is False:
                    raise UserError(f"teacher.{key}: {self.name} asks for pixels as they are; leave it out")
                object.__setattr__(self, key, per_channel(f"teacher.{key}", getattr(self, key)))

    @property
    def label(self) -> str:
        """How it stands in ``teacher.models``."""
        return f"{_LABEL}{self.name}"


def take_apart(teacher: Any) -> tuple[Any, tuple[FunctionTeacher, ...]]:
    """What a caller gives as the teacher, as the recipe takes it, and the functions in it.

    teacher: a mapping of options or an options object; in place of a mapping that has nothing else, its ``models``: a
    text, a function, a ``FunctionTeacher``, or a list of them.

    Raises:
        UserError: a list with something else in it.
    """
    if teacher is None or isinstance(teacher, TeacherOptions):
        return teacher, ()
    if not isinstance(teacher, Mapping):
        teacher = {"models": teacher}
    given = teacher.get("models", ())
    models = list(given) if isinstance(given, list | tuple) else [given]
    if all(isinstance(model, str) for model in models):
        return teacher, ()
    named = [model for model in models if isinstance(model, str)]
    functions = tuple(_as_function(model) for model in models if not isinstance(model, str))
    return {**teacher, "models": (*named, *(function.label for function in functions))}, functions


def without_functions(models: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Those of ``teacher.models`` that name models.

    labels: of the functions that are there.

    Raises:
        UserError: the others are not these functions, as in a recipe that a run with functions has left.
    """
    others = [model for model in models if model.startswith(_LABEL)]
    if others != list(labels):
        raise UserError(
            f"teacher.models: {printable(', '.join(others))}: a function, which only a call from Python can give, such "
            "as ffdr.reinforce(images, out, teacher=f)"
        )
    return tuple(model for model in models if not model.startswith(_LABEL))


def _as_function(model: Any) -> FunctionTeacher:
    if isinstance(model, FunctionTeacher):
        return model
    if not callable(model):
        raise UserError(f"teacher: {shown(model)} is neither NAME[:CHECKPOINT], nor a function from images to logits")
    return FunctionTeacher(model)


def _qualified_name(function: Any) -> str:
    """Of a function, of what a partial one calls, or of an object's class; its end, where it is long."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", "") or type(function).__qualname__
    return name[-_LONGEST_NAME:]
