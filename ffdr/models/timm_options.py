"""Which options timm's models have, and how much a model is, before it is built.

timm hands what it is given on to the constructor of the model, and on the way takes from it what names files to load,
caches, configurations and wrappers. Only the constructor's own parameters pass here, and of them those that text can
set without harm.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import timm
import torch
from timm.models import model_entrypoint
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from ffdr.config.architecture import is_no_option, read_options
from ffdr.util.errors import UserError, is_out_of_memory, nearest
from ffdr.util.machine import machine_memory
from ffdr.util.text import byte_size, printable

T = TypeVar("T")

MOST_MODULES = 12_000
"""Of any model; no model of timm has 3,000. Counting to it takes seconds."""


def factory_options(name: str, texts: Sequence[str], key: str = "model.options") -> dict[str, Any]:
    """NAME=VALUE texts as arguments of timm's factory.

    name: a model that timm knows. key: where the texts stand, for messages.

    Raises:
        UserError: what ``read_options`` refuses, and an option that this model's architecture has not.
    """
    found = read_options(texts, key)
    check_options(name, found, options_of(name) if found else (), key)
    return found


def check_options(name: str, found: Iterable[str], has: Sequence[str], key: str) -> None:
    """Raise UserError for an option that the model ``name`` has not. key: where the options stand, for messages."""
    for option in found:
        if option not in has:
            listed = f"it has {', '.join(has)}" if has else "it has none"
            raise UserError(f"{key}: {name} has no option {printable(option, 64)}{nearest(option, has)}; {listed}")


def options_of(name: str) -> tuple[str, ...]:
    """The options of a model's architecture, sorted."""
    return _options_of(name.partition(".")[0])


@functools.lru_cache(maxsize=64)
def _options_of(architecture: str) -> tuple[str, ...]:
    # Built, because the entry points' annotations name other classes at times.
    try:
        model = on_meta(lambda: timm.create_model(architecture))  # of no size, in no time
    except RuntimeError:  # one that looks at numbers while it is built
        model = timm.create_model(architecture)
    found = set(_parameters(type(model)))
    if hasattr(sys.modules[model_entrypoint(architecture).__module__], "resolve_bn_args"):
        found |= {"bn_eps", "bn_momentum", "bn_tf"}  # timm's builder of EfficientNets makes its norm layer of them
    return tuple(sorted(option for option in found if not is_no_option(option)))


def _parameters(kind: type[nn.Module]) -> Iterator[str]:
    """Names of a constructor's parameters, with those that it hands on to a base class or to its configuration."""
    for base in kind.__mro__:
        if base is nn.Module:
            return
        constructor = vars(base).get("__init__")
        if constructor is None:
            continue
        parameters = inspect.signature(constructor).parameters.values()
        yield from (parameter.name for parameter in parameters if parameter.kind in _NAMED)
        if all(parameter.kind != inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return
        yield from _fields(typing.get_type_hints(constructor).get("cfg"))


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _fields(hint: Any, prefix: str = "") -> Iterator[str]:
    """Names of a configuration's fields; those of a configuration in it, ``conv_cfg``, as ``conv_`` and its name."""
    for kind in (hint, *typing.get_args(hint)):  # a class, or one that may be missing
        if dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                yield prefix + field.name
                if field.name.endswith("_cfg"):
                    yield from _fields(hints[field.name], field.name.removesuffix("cfg"))


@dataclasses.dataclass(frozen=True)
class Size:
    """How much a model is."""

    bytes: int
    """of its parameters and buffers, in float32"""
    floats: frozenset[str]
    """names of the values in its ``state_dict`` that are no integers"""
    model: nn.Module
    """itself, on the meta device, which has no numbers"""


def size_of(build: Callable[[], nn.Module], modules: int = MOST_MODULES, numbers: bool = False) -> Size:
    """How much the model is that ``build`` makes, without making it.

    modules: that it may have. numbers: see ``on_meta``. Raises TooManyError for more, and what ``build`` raises.
    """

    def counted() -> nn.Module:
        with _at_most(modules):
            return build()

    model = on_meta(counted, numbers)
    parts = [*model.parameters(), *model.buffers()]
    state = model.state_dict().items()
    return Size(
        sum(part.numel() * max(4, part.element_size()) for part in parts),
        frozenset(name for name, value in state if value.is_floating_point()),
        model,
    )


def on_meta(build: Callable[[], T], numbers: bool = True) -> T:
    """What ``build`` makes, on the meta device, where tensors have shapes but no numbers, and take neither memory nor
    time.

    numbers: if that fails, call it once more with the small tensors elsewhere, of which no layer is made: some compute
    depths or widths by torch.
    """
    try:
        with torch.device("meta"):
            return build()
    except RuntimeError as error:  # NotImplementedError, too
        if not numbers or is_out_of_memory(error):
            raise
        with _LayersOnMeta():
            return build()


class _LayersOnMeta(TorchFunctionMode):
    """Within, tensors are made on the meta device, but for small ones that no layer makes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MAKE_TENSORS and kwargs.get("device") is None:
            made = func(*args, **{**kwargs, "device": "meta"})
            # Layers hand on the device that they were given, be it None.
            if func is torch.empty or "device" in kwargs or made.numel() > _MOST_NUMBERS:
                return made
        return func(*args, **kwargs)


_MAKE_TENSORS = {
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.arange, torch.eye,
    torch.linspace, torch.logspace, torch.tensor, torch.empty_strided,
}  # fmt: skip
_MOST_NUMBERS = 4096
"""Of a tensor by which an architecture is computed."""


class TooManyError(Exception):
    """A model has more layers than it may have."""


@contextmanager
def _at_most(modules: int) -> Iterator[None]:
    """Within, TooManyError ends what puts more modules into others."""
    left = modules

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooManyError(f"more than {modules:,} layers")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def check_memory(size: Size, where: str) -> None:
    """Raise UserError for a model that this machine has no memory for. where: what asks for it."""
    has = machine_memory()
    if size.bytes > has:
        raise UserError(f"{where}: a model of {byte_size(size.bytes)}, but this machine has {byte_size(has)} of memory")
