"""Kernels that are compiled by themselves, for one signature, and called by address.

A kernel that calls another ``kernel`` contains it: LLVM links and optimises all the code below once more on every
level. A *unit* is optimised once. Its callers contain no more than a call, so units can be compiled in parallel
(``prepare.py``), and those that a file and a policy have no use for need not be compiled at all.

The address differs from process to process, while the machine code of callers is kept on the disk. So they look it up
in a *slot*, eight bytes of this process whose own address LLVM learns under a name. A slot is 0 until its unit is
called for the first time, or prepared::

    caller:   address = slot                      slot of resize_view  ──►  machine code of resize_view
              if address = 0: fill it             slot of splice       ──►  0
              call address
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import os
import threading
import traceback
from collections.abc import Callable, Container, Iterable, Sequence
from inspect import Parameter, Signature, signature
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template

from ffdr.jit.arguments import converter
from ffdr.jit.ir import I64
from ffdr.jit.kernel import kernel

_FILL = "ffdr.fill"
_LATER = 0.1
"""Seconds until an interrupt that came in the midst of a kernel is raised."""
_by_slot: dict[int, Unit] = {}

# A fork waits for what another thread compiles, whose lock would stay locked in it.
os.register_at_fork(
    before=global_compiler_lock.acquire,
    after_in_parent=global_compiler_lock.release,
    after_in_child=global_compiler_lock.release,
)


class Unit:
    """A compiled function of one signature, for kernels and for Python.

    Args:
        function: what is compiled.
        kind: its signature, in Numba's types. Kernels' arguments are converted to these, Python's numbers as well.
        parallel: its ``prange`` loops run in Numba's threads; such a unit is called from Python.
    """

    def __init__(self, function: Callable[..., Any], kind: Any, parallel: bool) -> None:
        names = ["typing_context", *signature(function).parameters]

        def typed(_: Any, *__: types.Type) -> tuple:
            return kind, self._call

        # Numba takes the kernel's arguments for its own *__.
        typed.__signature__ = Signature([Parameter(n, Parameter.POSITIONAL_ONLY) for n in names])  # type: ignore[attr-defined]
        functools.update_wrapper(self, function)
        self.py_func = function
        self.kernel, self.kind = kernel(function, parallel=parallel), kind
        self._converters = [converter(argument) for argument in kind.args]
        self.name = f"{function.__module__}:{function.__name__}"
        self._slot = ctypes.c_uint64(0)
        place = ctypes.addressof(self._slot)
        _by_slot[place] = self
        llvm.add_symbol(self.name, place)
        template = make_intrinsic_template(self, typed, function.__name__)
        infer(template)
        infer_global(self, types.Function(template))

    def __call__(self, *arguments: Any) -> Any:
        """The same from Python."""
        self.load()
        return self.kernel(*[convert(value) for convert, value in zip(self._converters, arguments, strict=True)])

    def __reduce__(self) -> str:
        """Copied and pickled as its name in its module, like any function."""
        return self.py_func.__name__

    @property
    def is_loaded(self) -> bool:
        """Whether it is ready to be called."""
        return self._slot.value != 0

    @property
    def is_kept(self) -> bool:
        """Whether its machine code is on the disk."""
        return self.kernel._cache._cache_file.holds(self._key())

    @property
    def lock_path(self) -> str:
        """A file for whoever compiles it to lock."""
        return self.kernel._cache._cache_file.lock_path

    def load(self) -> None:
        """Compile it, or load it from the disk, where that has not been done."""
        if self.is_loaded:
            return
        with global_compiler_lock:
            if not self.is_loaded:  # by another thread
                self.kernel.compile(self.kind)
                self.kernel.disable_compile()
                (compiled,) = self.kernel.overloads.values()
                self._slot.value = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)

    def _key(self) -> Any:
        context = self.kernel.targetctx
        return self.kernel._cache._index_key(self.kind, context.codegen())

    def _call(self, context: Any, builder: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
        """Emit a call."""
        module, kind = builder.module, self.kind
        slot = module.globals.get(self.name) or ir.GlobalVariable(module, I64, self.name)
        with cgutils.if_unlikely(builder, builder.icmp_unsigned("==", builder.load(slot), I64(0))):
            fill = cgutils.get_or_insert_function(module, ir.FunctionType(ir.VoidType(), [I64]), _FILL)
            builder.call(fill, [builder.ptrtoint(slot, I64)])
        form = context.call_conv.get_function_type(kind.return_type, kind.args)
        callee = builder.inttoptr(builder.load(slot), form.as_pointer())
        # Kernels raise nothing, so there is no status to look at.
        _, result = context.call_conv.call_function(builder, callee, kind.return_type, kind.args, values)
        return result


def unit(result: types.Type, *arguments: types.Type, parallel: bool = False) -> Callable[[Callable[..., Any]], Unit]:
    """Make a ``Unit`` of a function; see there."""
    return lambda function: Unit(function, result(*arguments), parallel)


def called_by(units: Iterable[Unit], without: Container[Unit] = ()) -> list[Unit]:
    """Units, and those that they call, directly or through kernels or other units; these are near the end.

    without: units that will not be called, although kernels could.
    """
    found: dict[Unit, None] = {}
    functions: list[Any] = [unit for unit in units if unit not in without]
    seen = set()
    for function in functions:  # it grows meanwhile
        if function not in seen:
            seen.add(function)
            if isinstance(function, Unit):
                found[function] = None
            code, names = function.py_func.__code__, function.py_func.__globals__
            called = (names.get(name) for name in code.co_names)
            functions += [f for f in called if isinstance(f, Unit | Dispatcher) and f not in without]
    return list(found)


@ctypes.CFUNCTYPE(None, ctypes.c_uint64)
def _fill(place: int) -> None:
    """What a kernel calls where a slot is empty; it takes the interpreter's lock, which kernels don't hold."""
    interrupted = False
    while not _by_slot[place].is_loaded:
        try:
            _by_slot[place].load()
        except KeyboardInterrupt:
            interrupted = True  # there is no way out of a kernel; later, see below
        except BaseException:  # no memory is left, or a mistake of ours
            traceback.print_exc()
            os.abort()
    if interrupted:
        threading.Timer(_LATER, _thread.interrupt_main).start()


llvm.add_symbol(_FILL, ctypes.cast(_fill, ctypes.c_void_p).value)
