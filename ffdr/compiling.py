"""torch.compile where it pays: static shapes, one compilation per size, and a plain call where it fails.

Why static: a graph for any size has slower convolutions (pytorch#102670), and what ffdr feeds has few sizes. Batches of
evaluation are filled up to one size; training views grow through a handful.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ffdr.errors import UserError
from ffdr.text import reason, warn

WORTH_STEPS = 3000
"""Steps from which on a compilation pays: about a minute for ResNet-50, which then gains 16 ms per step of 256 images
on an H200 (``results/gpu``)."""

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of torch.compile that replay a graph's kernels by one launch."""

_numbers = itertools.count()


def train_mode(asked: str, device: torch.device, steps: int) -> str:
    """The mode of torch.compile for a run's step, ``off`` for none. asked: as ``train.compile``; steps: of the run.

    auto: off without a GPU and in runs too short to pay for it. It doesn't choose CUDA graphs, which gain 2 % for
    ResNet-50 at 256 images and hold gigabytes of their own; where a step is so short that launching it takes longer,
    ``reduce-overhead`` asks for them.
    """
    if asked != "auto":
        return asked
    return "default" if pays(device, steps) else "off"


def pays(device: torch.device, steps: int) -> bool:
    """Whether compiling is worth its time for so many batches."""
    return device.type == "cuda" and steps >= WORTH_STEPS


def why_not(device: torch.device) -> str:
    """Why torch.compile does not work here, in a line; empty: it does."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except RuntimeError as error:  # what all of torch.compile's failures are: no C++ compiler, no Triton, ...
        return next(iter(str(error).strip().splitlines()), type(error).__name__)[:100]
    return ""


class Compiled:
    """A function of tensors through torch.compile; where that fails, the function itself, after one line that says why.

    Shapes are static: every size of the arguments has its own graph, up to ``sizes`` of them. The numbers may differ
    from the function's by rounding.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        mode: str,
        sizes: int = 1,
        key: str = "train.compile",
        required: bool = False,
    ) -> None:
        """mode: as torch.compile has it. key: the option that asked, for the message. required: raise UserError where
        it fails."""
        self.mode = mode
        self._function, self._key, self._required = function, key, required
        config: Any = torch._dynamo.config
        # Training and evaluation of each size, and as many again for what dynamo specialises besides.
        config.recompile_limit = max(config.recompile_limit, 4 * sizes)
        self._run = torch.compile(_with_own_code(function), mode=mode, dynamic=False)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        if self.mode == "off":
            return self._function(*arguments)
        from torch._dynamo.exc import TorchDynamoException  # slow to import

        if self.mode in CUDA_GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()  # what the last call gave out may be overwritten
        try:
            return self._run(*arguments)
        except TorchDynamoException as error:
            cause = reason(error)
            if self._required:
                raise UserError(f"{self._key}: torch.compile can't run this ({cause}); turn it off") from error
            warn(f"{self._key}: torch.compile can't run this ({cause}); going on without it")
            self.mode = "off"
            return self._function(*arguments)


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper that shares its code with no other.

    Dynamo counts compilations by code object and gives up after a few; two models of one class, such as the members
    of an ensemble, share their code, and so would two wrappers made from one line.
    """

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    code = call.__code__.replace(co_name=f"compiled_{next(_numbers)}")
    return types.FunctionType(code, call.__globals__, code.co_name, closure=call.__closure__)


class FixedBatch:
    """A forward pass compiled for one size of batches; smaller ones are filled up with zeros and cut again.

    So a pass over a data set compiles once, and a sample's answer does not depend on how many others came with it.
    """

    def __init__(
        self, forward: Callable[[torch.Tensor], torch.Tensor], key: str, size: int = 0, required: bool = False
    ) -> None:
        """forward: (B, …) → (B, …), rows independent of each other. size: B; 0: of the largest batch so far. key,
        required: as ``Compiled`` has them."""
        self._call = Compiled(forward, "default", key=key, required=required)
        self.size = size

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Of x (B, …) with at most ``size`` rows, if that is given."""
        count = len(x)
        self.size = max(self.size, count)
        if count < self.size:
            x = _filled_up(x, self.size)
        return self._call(x)[:count]


def _filled_up(x: torch.Tensor, size: int) -> torch.Tensor:
    """x with rows of zeros behind, in its memory format: another one would be another graph."""
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if channels_last else torch.contiguous_format
    filled = torch.empty((size, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=form)
    filled[: len(x)] = x
    filled[len(x) :] = 0
    return filled


def set_backends(device: torch.device, dtype: torch.dtype | None) -> None:
    """What a GPU computes with from now on. dtype: autocast to it; None: float32, which then is no TF32 anywhere.

    cuDNN measures its algorithms, once per shape.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        _set_float32(exact=dtype is None)


@contextmanager
def float32_of(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """The same for a part of the work, such as a teacher whose precision is not its student's; put back afterwards."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_float32(exact=dtype is None)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _set_float32(exact: bool) -> None:
    """Matrix products and convolutions of float32 in float32, or in TF32: two switches, of which the second is on by
    default."""
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
