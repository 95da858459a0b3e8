"""Numba's types of what kernels hand each other, and Python's values as those types."""

from __future__ import annotations

from collections.abc import Sequence
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


def as_type(kind: Any, value: Any) -> Any:
    """A value that Numba types as ``kind``: numbers are converted, arrays locked; in tuples, too.

    Raises:
        TypeError: an array that is not C-contiguous.
    """
    if isinstance(kind, types.Boolean):
        return bool(value)
    if isinstance(kind, types.Number):
        return np.dtype(str(kind)).type(value)
    if isinstance(kind, types.BaseTuple):
        return _as_tuple(kind, value)
    if isinstance(kind, types.Array):
        if not value.flags.c_contiguous:
            raise TypeError(f"a C-contiguous array wanted, got one of strides {value.strides}")
        if not kind.mutable and value.flags.writeable:
            value = value.view()
            value.flags.writeable = False
    return value


def _as_tuple(kind: Any, value: Sequence[Any]) -> tuple[Any, ...]:
    values = [as_type(part, item) for part, item in zip(kind.types, value, strict=True)]
    return kind.instance_class(*values) if hasattr(kind, "instance_class") else tuple(values)
