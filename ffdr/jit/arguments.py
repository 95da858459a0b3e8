"""Numba's types of what kernels hand each other, and Python's values as those types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numba import types

ADDRESS = types.uint64
_FIELDS = {int: types.int64, float: types.float64, bool: types.boolean, np.uint64: types.uint64}


def array_of(element: types.Type, dimensions: int, writable: bool = True) -> types.Array:
    """A C-contiguous array."""
    return types.Array(element, dimensions, "C", readonly=not writable)


def named(kind: type, **fields: types.Type) -> Any:
    """A NamedTuple whose numbers are annotated as int (int64), float, bool or np.uint64, or tuples of these;
    ``fields``: the types of all else."""
    return types.BaseTuple.from_types(
        [fields.get(name) or _number(hint) for name, hint in get_type_hints(kind).items()], kind
    )


def _number(hint: Any) -> types.Type:
    """The type of an annotated number, or a tuple of them."""
    if get_origin(hint) is tuple:
        return types.BaseTuple.from_types([_number(part) for part in get_args(hint)])
    return _FIELDS[hint]


def converter(kind: Any) -> Callable[[Any], Any]:
    """What makes values such that Numba types them as ``kind``: numbers are converted, arrays locked; in tuples, too.

    Made once per argument, because a kernel is called for every batch. The function raises TypeError for an array that
    is not C-contiguous.
    """
    if isinstance(kind, types.Boolean):
        return bool
    if isinstance(kind, types.Number):
        return np.dtype(str(kind)).type
    if isinstance(kind, types.BaseTuple):
        return _tuple_converter(kind)
    if isinstance(kind, types.Array):
        return _contiguous if kind.mutable else _locked
    return lambda value: value


def _tuple_converter(kind: Any) -> Callable[[Any], Any]:
    parts = [converter(part) for part in kind.types]
    join = kind.instance_class._make if hasattr(kind, "instance_class") else tuple
    return lambda values: join([convert(value) for convert, value in zip(parts, values, strict=True)])


def _contiguous(array: np.ndarray) -> np.ndarray:
    if not array.flags.c_contiguous:
        raise TypeError(f"a C-contiguous array wanted, got one of strides {array.strides}")
    return array


def _locked(array: np.ndarray) -> np.ndarray:
    flags = array.flags
    if flags.c_contiguous and not flags.writeable:
        return array
    locked = _contiguous(array).view()
    locked.flags.writeable = False
    return locked
