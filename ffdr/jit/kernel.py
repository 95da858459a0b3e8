"""How every kernel of this package is compiled: one decorator, and raw memory for code that must not allocate.

Kernels run in FFCV's producer threads, many at a time, so they hold no lock (``nogil``), raise nothing and touch no
Python object. ``fastmath`` stays off: the augmentations promise torchvision's bits, and reassociated or contracted
floating-point arithmetic breaks them. FFCV compiles its own pipelines with it, but a function compiled here keeps its
own flags when it is called from there.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from ffdr.jit.cache import keep_well, private_folder
from ffdr.jit.ir import I8, I64, Code, Value, instruction
from ffdr.jit.part import PartCompiler

_PACKAGE = Path(__file__).parents[1]
_AUGMENT = _PACKAGE / "augment"
_SHARED = [Path(__file__).parent, _AUGMENT, _PACKAGE / "codec"]
"""Rooms whose kernels those of other rooms call."""


def kernel(function: Callable[..., Any], parallel: bool = False, inlined: bool = False) -> Any:
    """Compile lazily, without the interpreter lock, and keep the machine code on disk for the next process.

    Numba's disk cache only looks at the file that a function stands in, although the machine code contains everything
    the function calls. Here it belongs to the sources of the rooms whose kernels others call, and of the function's
    own, so an upgrade or an edit never runs stale code.

    Kernels that call it get its ``part`` (``part.py``), which is compiled with the same options.

    parallel: its ``prange`` loops run in Numba's threads; it is called from Python. inlined: see ``inlined_kernel``.
    """
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": False,
        "forceinline": inlined,
        "no_cfunc_wrapper": True,  # nothing calls kernels as C functions, and making such a wrapper takes time
    }
    njit = numba.njit(cache=True, parallel=parallel, **options)  # type: ignore[call-overload] # no no_cfunc_wrapper
    try:
        compiled = njit(function)
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
        # That of all kernels from now on.
        numba.config.CACHE_DIR = private_folder()  # type: ignore[attr-defined] # Numba sets its names at run time
        compiled = njit(function)
    if not parallel:
        part = numba.njit(no_cpython_wrapper=True, pipeline_class=PartCompiler, **options)  # type: ignore[call-overload]
        compiled.part = part(function)
    own = Path(function.__code__.co_filename).parent
    keep_well(compiled, _SHARED[:2] if own.is_relative_to(_AUGMENT) else [*dict.fromkeys([*_SHARED, own])])
    return compiled


_one_caller = threading.Lock()


def numba_threads() -> AbstractContextManager:
    """Around every call of a parallel kernel: two Python threads may make such calls at the same time.

    OpenMP's and TBB's pools serve both. Numba's own, which it falls back on where neither is installed, ends the
    process when it is entered twice, so there the calls take turns; so do those that come before a pool is chosen.
    """
    try:
        alone = numba.threading_layer() == "workqueue"
    except ValueError:  # no parallel kernel has run yet
        alone = True
    return _one_caller if alone else nullcontext()


inlined_kernel = functools.partial(kernel, inlined=True)
"""The same for a small kernel that becomes part of its callers: a loop that calls it can still become SIMD code."""


@instruction(types.voidptr, types.uint64)
def _pointer(code: Code, address: Value) -> Value:
    """The address as an untyped pointer, as ``numba.carray`` takes it."""
    return code.b.inttoptr(address, I8.as_pointer())


@instruction(types.int64, types.uint64)
def take_number(code: Code, counter: Value) -> Value:
    """The int64 at an address (uint64), which is one more afterwards: no two threads take the same number."""
    return code.b.atomic_rmw("add", code.b.inttoptr(counter, I64.as_pointer()), I64(1), "monotonic")


@kernel
def bytes_at(address: np.uint64, count: int) -> np.ndarray:
    """A uint8 array (count,) over foreign memory; nothing is copied, owned or checked."""
    return numba.carray(_pointer(np.uint64(address)), (count,), np.uint8)


@kernel
def picture_at(address: np.uint64, height: int, width: int) -> np.ndarray:
    """A uint8 array (height, width, 3) over foreign memory."""
    return numba.carray(_pointer(np.uint64(address)), (height, width, 3), np.uint8)


@kernel
def int16_at(address: np.uint64, count: int) -> np.ndarray:
    """An int16 array (count,) over foreign memory."""
    return numba.carray(_pointer(np.uint64(address)), (count,), np.int16)


@kernel
def int32_at(address: np.uint64, count: int) -> np.ndarray:
    """An int32 array (count,) over foreign memory."""
    return numba.carray(_pointer(np.uint64(address)), (count,), np.int32)


@kernel
def float32_at(address: np.uint64, count: int) -> np.ndarray:
    """A float32 array (count,) over foreign memory."""
    return numba.carray(_pointer(np.uint64(address)), (count,), np.float32)


@kernel
def uint64_at(address: np.uint64, count: int) -> np.ndarray:
    """A uint64 array (count,) over foreign memory."""
    return numba.carray(_pointer(np.uint64(address)), (count,), np.uint64)


def _address_of(typing_context: Any, array: Any) -> tuple[Any, Callable[..., Value]]:
    if not isinstance(array, types.Array) or array.layout != "C":
        raise TypingError(f"address_of: {array} is not a C-contiguous array")

    def generate(context: Any, builder: ir.IRBuilder, _: Any, values: Sequence[Value]) -> Value:
        return builder.ptrtoint(context.make_array(array)(context, builder, values[0]).data, I64)

    return types.uint64(array), generate


address_of = cast("Callable[[np.ndarray], np.uint64]", intrinsic(_address_of))
"""Address of the first element of a C-contiguous array; other arrays are refused when the caller is compiled."""
