"""Kernels as parts of other kernels: LLVM IR to be linked into these, and no more.

Numba makes machine code of every function that it compiles, and a wrapper for calls from Python, although what a kernel
calls is linked into it as IR and compiled once more there. So every kernel has a *part*, a second dispatcher, and it is
this that Numba sees where another kernel calls it. That takes a third off the time to compile a unit.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.dispatcher import Dispatcher
from numba.core.typing.typeof import typeof_impl


class _IrLibrary(JITCodeLibrary):
    """A function's optimised IR, of which no machine code is made."""

    def get_pointer_to_function(self, name: str) -> int:
        """0, as where Numba makes no wrapper: nothing calls a part from Python."""
        return 0

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    @property
    def codegen(self) -> Any:
        """Through it Numba would store a function's environment beside its machine code."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Kernels raise nothing and touch no Python object, so they have no use for an environment."""


class PartCompiler(Compiler):
    """Compiles to an ``_IrLibrary``."""

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx, _IrLibrary(targetctx.codegen(), "part"), *rest)


@typeof_impl.register(Dispatcher)
def _typeof_dispatcher(dispatcher: Any, _: Any) -> types.Type:
    """What Numba sees of a dispatcher: the part of one that has such."""
    return types.Dispatcher(getattr(dispatcher, "part", dispatcher))
