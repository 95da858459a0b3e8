"""Files of ``torch.save`` that hold arrays of numbers, NumPy's or torch's, among plain data.

Neither library unpickles anything: stand-ins take down what the pickle says of an array, and only then is a view of the
file's own bytes made, of a shape that has no more elements than there are bytes for. What is copied on the way is text
that stands for bytes (protocol 2 has none), and no more of it than the file has bytes.
"""

from __future__ import annotations

import io
from math import prod
from typing import Any, NoReturn

import numpy as np

from ffdr.archive.torch_zip import EntryError, pickle_in, record_in
from ffdr.archive.unpickle import PlainUnpickler, ScalarType, run_checked, with_tensors
from ffdr.util.text import brief, printable

_MOST_AXES = 8
_MOST_STORAGES = 8
"""Of one file, which has one per tensor: each is looked for among all records."""
_TABLES = with_tensors()
_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}
"""NumPy's names for what torch's storages hold. bfloat16 is none of NumPy's."""


class _Name:
    """What a pickle names and hands on, but can't call."""

    __slots__ = ("dtype", "said")

    def __init__(self, said: str, dtype: str = "") -> None:
        self.said, self.dtype = said, dtype


class _Array:
    """Stands in for an array: a call makes it, a state fills it."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if type(state) is not tuple or len(state) != 5 or type(state[2]) is not ScalarType:
            raise EntryError("it holds an array that is not NumPy's of plain numbers")
        _, shape, dtype, is_fortran, content = state
        if type(content) is not bytes or type(is_fortran) is not bool:
            raise EntryError("it holds an array whose numbers are not bytes")
        kind = np.dtype(dtype.order + dtype.name)
        if _count(shape, "shape") * kind.itemsize != len(content):
            raise EntryError(f"it holds an array of shape {brief(shape, 60)} and {len(content)} bytes")
        flat = np.frombuffer(content, kind)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class _Tensor:
    """Stands in for ``torch._utils._rebuild_tensor_v2``: calling it gives a tensor, which nothing can change."""

    __slots__ = ("array",)

    def __init__(self, storage: object, offset: object, shape: object, strides: object, *_: object) -> None:
        if type(storage) is not np.ndarray or type(offset) is not int or offset < 0:
            raise EntryError("it holds a tensor that is not one of torch's")
        count = _count(shape, "shape")
        _count(strides, "strides")
        assert isinstance(shape, tuple) and isinstance(strides, tuple)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=False)) if count else -1
        # An element may not be read twice: strides of 0 would make arrays of any size.
        if len(shape) != len(strides) or last >= len(storage) or count > len(storage):
            raise EntryError(f"it holds a tensor of shape {brief(shape, 60)} in {len(storage)} numbers")
        steps = [step * storage.itemsize for step in strides]
        self.array = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)

    def __setstate__(self, state: object) -> NoReturn:
        raise EntryError("it changes a tensor")


def _count(sides: object, what: str) -> int:
    """Elements of an array of these sides, which must be whole numbers from 0."""
    if type(sides) is not tuple or len(sides) > _MOST_AXES or any(type(n) is not int or n < 0 for n in sides):
        raise EntryError(f"it holds an array of {what} {brief(sides, 60)}")
    return prod(sides)


class _ArrayUnpickler(PlainUnpickler):
    """Of one file, whose other records hold the numbers of tensors."""

    def __init__(self, pickled: io.BytesIO, file: bytes) -> None:
        super().__init__(pickled)
        self._file, self._left = file, len(file)
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) == ("__builtin__", "bytes"):
            return _no_bytes
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if (module, name) == ("collections", "OrderedDict"):  # a tensor's hooks, of which it has none
            return _no_hooks
        if (module, name) == ("numpy", "ndarray"):
            return _Name("numpy.ndarray")
        if module == "torch" and name in _STORAGES:
            return _Name(f"torch.{name}", _STORAGES[name])
        return super().find_class(module, name)

    def persistent_load(self, pid: object) -> np.ndarray:
        """The numbers of a tensor, (n,)."""
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not _Name:
            raise EntryError("it holds a tensor that is not one of torch's")
        _, kind, key, _, count = pid
        if not kind.dtype or type(key) is not str or not key.isascii() or not key.isdigit() or type(count) is not int:
            raise EntryError("it holds a tensor that is not one of torch's")
        if key not in self._storages:
            if len(self._storages) == _MOST_STORAGES:
                raise EntryError(f"it holds more than {_MOST_STORAGES} tensors")
            content = record_in(self._file, b"data/" + key.encode())
            dtype = np.dtype("<" + kind.dtype)
            if len(content) != count * dtype.itemsize:
                raise EntryError(f"it holds a tensor of {brief(count, 30)} numbers in {len(content)} bytes")
            self._storages[key] = np.frombuffer(content, dtype)
        return self._storages[key]

    def _encode(self, text: object, coding: object = "") -> bytes:
        """How protocol 2 says bytes."""
        if type(text) is not str or coding != "latin1":
            raise EntryError("it encodes what is no text of bytes")
        self._left -= len(text)
        if self._left < 0:
            raise EntryError("its pickle says far more than its size: the same bytes again and again")
        return text.encode("latin-1")


def _reconstruct(kind: object, shape: object, letter: object) -> _Array:
    """Stands in for NumPy's function: an array without elements, which gets them as its state."""
    if type(kind) is not _Name or kind.said != "numpy.ndarray" or shape != (0,):
        raise EntryError("it holds an array that is not NumPy's of plain numbers")
    return _Array()


def _no_bytes() -> bytes:
    """How protocol 2 says none."""
    return b""


def _no_hooks() -> None:
    """Stands in for an empty OrderedDict."""


def load_arrays(file: bytes) -> list[np.ndarray]:
    """The list (or tuple) of arrays that a file of ``torch.save`` holds, in NumPy's form, read only.

    Raises:
        EntryError: it is damaged or holds anything else. Nothing it names is run or imported.
    """
    value = run_checked(pickle_in(file), _TABLES, lambda pickled: _ArrayUnpickler(pickled, file))
    if type(value) not in (list, tuple):
        raise EntryError(f"it holds a {printable(type(value).__name__, 30).lstrip('_').lower()}, not a list of arrays")
    arrays = [part.array if type(part) in (_Array, _Tensor) else None for part in value]
    if any(array is None for array in arrays):
        raise EntryError("it holds something else than arrays")
    return [array for array in arrays if array is not None]
