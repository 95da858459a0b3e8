"""torch.compile where it pays: static shapes, one compilation per size, and a plain call where it fails.

Why static: a graph for any size has slower convolutions (pytorch#102670), and what ffdr feeds has few sizes. Batches of
evaluation are filled up to one size; training views grow through a handful.
"""

from __future__ import annotations

import functools
import getpass
import io
import itertools
import logging
import os
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any

import torch
from torch import nn

from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import printable, reason, warn

WORTH_STEPS = 3000
"""Steps from which on a compilation pays: about a minute for ResNet-50, which then gains 16 ms per step of 256 images
on an H200 (``results/gpu``)."""

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of torch.compile that replay a graph's kernels by one launch."""

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
"""The variable that says where torch.compile keeps what it makes."""

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
    prepare()
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except RuntimeError as error:  # what all of torch.compile's failures are: no C++ compiler, no Triton, ...
        return _cause(error)
    return ""


class Compiled:
    """A function of tensors through torch.compile; where that fails, the function itself, after one line that says why.

    Shapes are static: every size of the arguments has its own graph. The numbers may differ from the function's by
    rounding.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        mode: str,
        learner: nn.Module | None = None,
        key: str = "train.compile",
        required: bool = False,
    ) -> None:
        """mode: as torch.compile has it. learner: whose parameters get gradients of what the function returns; its
        backward pass is compiled with the first call of each size, so that a failure comes before anything is learned.
        key: the option that asked, for the message. required: raise UserError where it fails."""
        prepare()
        self.mode = mode
        self._function, self._learner, self._key, self._required = function, learner, key, required
        self._sizes: set[tuple[torch.Size | None, ...]] = set()
        self._graph = torch.compile(_with_own_code(function), mode=mode, dynamic=False)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        if self.mode == "off":
            return self._function(*arguments)
        from torch._dynamo.exc import TorchDynamoException  # slow to import

        sizes = tuple(x.shape if isinstance(x, torch.Tensor) else None for x in arguments)
        try:
            if sizes not in self._sizes:
                _allow_graphs(len(self._sizes) + 1)
                learner = self._learner
                if learner is not None:
                    _insist(lambda: self._rehearse(learner, arguments))
                self._sizes.add(sizes)
            return _insist(lambda: self._run(arguments))
        except (TorchDynamoException, _BackwardError) as error:
            if self._required:
                raise UserError(f"{self._key}: torch.compile can't run this ({_cause(error)}); turn it off") from error
            _warn_once(f"{self._key}: torch.compile can't run this ({_cause(error)}); going on without it")
            self.mode = "off"
            return self._function(*arguments)

    def _run(self, arguments: tuple[Any, ...]) -> Any:
        if self.mode in CUDA_GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()  # what the last call gave out may be overwritten
        return self._graph(*arguments)

    def _rehearse(self, learner: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Forward and backward, so that both are compiled; leaves no other trace."""
        with _undone(learner):
            result = self._run(arguments)
            if result.requires_grad:
                wanted = [parameter for parameter in learner.parameters() if parameter.requires_grad]
                try:
                    torch.autograd.grad(result, wanted, allow_unused=True)
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    raise _BackwardError(error) from error


class _BackwardError(RuntimeError):
    """A backward pass failed when it was compiled; PyTorch says by no type of its own that it was."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.inner_exception = getattr(error, "inner_exception", error)  # as BackendCompilerFailed names it


def _insist(work: Callable[[], Any]) -> Any:
    """What ``work`` returns. What can't be compiled is tried once more.

    A signal that asks a whole process group to stop also ends a C++ compiler; the run is to finish its step as every
    other.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        return work()
    except (BackendCompilerFailed, _BackwardError):
        return work()


@functools.cache
def prepare() -> None:
    """Once in a process, before torch.compile is asked for anything: a folder for what it makes, and no advice.

    What PyTorch's compilers print is for their developers, or about machines; what fails is an error, and reported in a
    line of our own. With ``TORCH_LOGS`` they may speak.
    """
    _keep_in_a_folder()
    if os.environ.get("TORCH_LOGS"):
        return
    for name in ("_dynamo", "_functorch", "_inductor", "utils.cpp_extension"):
        logging.getLogger(f"torch.{name}").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=rf"torch\.{name}(\.|$)")
    # Up to torch 2.6 this prints which CUDA a machine without a GPU has. Who needs it says that it can't be imported.
    with redirect_stderr(io.StringIO()), suppress(ImportError):
        import torch.utils.cpp_extension  # noqa: F401


def _keep_in_a_folder() -> None:
    """Have a folder that torch.compile can write to; without one, ``import torch._dynamo`` may fail as a whole."""
    folder = os.environ.get(_FOLDER) or os.path.join(tempfile.gettempdir(), f"torchinductor_{_user()}")
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        own = _own_folder().name
        _warn_once(
            f"{_FOLDER}: {printable(folder)} can't be written to ({error.strerror or reason(error)}); compiled code is "
            f"kept in {own}, and goes with this process"
        )
        folder = own
    os.environ[_FOLDER] = folder


@functools.cache  # which keeps it to the end of the process
def _own_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="torchinductor_", ignore_cleanup_errors=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):  # a container's user without a name, for whom some PyTorch find no folder
        return f"uid_{os.getuid()}"


def _allow_graphs(sizes: int) -> None:
    """Let dynamo compile for so many sizes: for training and evaluation of each, and as many again for what it
    specialises besides. Beyond its limit it silently stops compiling."""
    config: Any = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # its name up to torch 2.6
    setattr(config, limit, max(getattr(config, limit), 4 * sizes))


@contextmanager
def _undone(module: nn.Module) -> Iterator[None]:
    """What is computed in here leaves the module's buffers and torch's generators as they were."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    gpus = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


@functools.cache
def _warn_once(line: str) -> None:
    """On standard error, once in a process."""
    warn(line)


def _cause(error: BaseException) -> str:
    """What torch.compile stumbled over, in a line: its first paragraph, and the C++ compiler's first complaint.

    The rest is a command and advice for PyTorch's developers.
    """
    said = str(getattr(error, "inner_exception", error)).strip()
    found = next((line for line in said.splitlines() if "error: " in line), "")
    parts = [" ".join(said.split("\n\n")[0].split()), found.partition("error: ")[2].strip()]
    return printable(": ".join(filter(None, parts))) or type(error).__name__


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

    So a pass over a data set compiles once, and a sample's prediction does not depend on how many others came with it.
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
        return self._call(_filled_up(x, self.size))[:count]


def _filled_up(x: torch.Tensor, size: int) -> torch.Tensor:
    """x with rows of zeros behind, images in channels_last. An inference tensor only where x is one: another kind of
    tensor or memory format would be another graph."""
    form = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    with torch.inference_mode(x.is_inference()):
        if len(x) == size:
            return x.contiguous(memory_format=form)
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
