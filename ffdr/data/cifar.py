"""CIFAR-100 from the files that torchvision downloads (``root/cifar-100-python/{train,test,meta}``).

They are pickles. torchvision unpickles them, which would run whatever code a tampered file holds (its MD5 check guards
against that); here an unpickler reads them that admits nothing but plain data, and makes NumPy's arrays itself: NumPy's
own would take the bytes of a file for addresses of objects, if the file says so.
"""

from __future__ import annotations

import codecs
import operator
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ffdr.data.files import damage_named, need_files
from ffdr.data.source import ArraySource
from ffdr.util.errors import UserError
from ffdr.util.foreign import open_regular
from ffdr.util.text import reason

FOLDER = "cifar-100-python"
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_NUMBERS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")


class Cifar100(ArraySource):
    """32×32 images with the 100 fine labels; the array is (N, 3, 32, 32) uint8."""

    def __init__(self, split: str, images: np.ndarray, labels: np.ndarray, class_names: list[str]) -> None:
        super().__init__(images, labels, class_names)
        self._split = split

    def origin(self, i: int) -> str:
        """``train/00042``: the dataset's own file names are not unique; the position is."""
        return f"{self._split}/{i:05d}"

    def read(self, i: int) -> Image.Image:
        """The pixels as they are."""
        return Image.fromarray(np.ascontiguousarray(self._images[i].transpose(1, 2, 0)))


def open_split(path: Path, split: str) -> Cifar100:
    """A split of CIFAR-100: train or test."""
    folder = need_files(path, FOLDER, (split, "meta"), "CIFAR-100", "CIFAR100")
    entry, meta = _load(folder / split), _load(folder / "meta")
    try:
        images, labels = _array(entry["data"]), _array(entry["fine_labels"]).astype(np.int64)
        names = list(meta["fine_label_names"])
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a class has no name")
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"write.path: {folder}: not CIFAR-100: {type(error).__name__}: {reason(error)}") from None
    good = images.dtype == np.uint8 and labels.ndim == 1 and images.shape == (len(labels), 3072)
    if not (good and len(labels) and labels.min() >= 0 and labels.max() < len(names)):
        raise UserError(f"write.path: {folder}: not CIFAR-100: {images.dtype} data of shape {images.shape}")
    return Cifar100(split, images.reshape(-1, 3, 32, 32), labels, names)


def _array(value: Any) -> np.ndarray:
    """An unpickled array, or list of whole numbers, as NumPy's."""
    return value.content if isinstance(value, _Array) else np.array([operator.index(number) for number in value])


class _NumberType:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: object, align: object = False, copy: object = True) -> None:
        if name not in _NUMBERS:
            raise pickle.UnpicklingError("it holds an array of something else than whole numbers")
        self.name, self.order = name, "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">", "|": "|"}[state[1]]

    @property
    def plain(self) -> np.dtype:
        """NumPy's own."""
        return np.dtype(f"{self.order}{self.name}")


class _Array:
    """Stands in for ``numpy.ndarray``, which is first made empty and then given its content."""

    def __init__(self, kind: object, shape: object, code: object) -> None:
        self.content = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        if type(dtype) is not _NumberType:
            raise pickle.UnpicklingError("it holds an array of no kind")
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2's
        self.content = np.frombuffer(data, dtype.plain).reshape(shape, order="F" if is_fortran else "C")


def _scalar(dtype: _NumberType, data: str | bytes) -> int:
    """Stands in for the maker of NumPy's single numbers."""
    data = data.encode("latin1") if isinstance(data, str) else data
    return int(np.frombuffer(data, dtype.plain)[0])


_STAND_INS = {"ndarray": None, "dtype": _NumberType, "_reconstruct": _Array, "scalar": _scalar}
"""For what pickles of arrays name, in one of the modules; which one, depends on the NumPy that wrote them."""


class _DataOnly(pickle._Unpickler):
    """Admits what arrays of whole numbers are made of, and nothing else.

    The one that is written in Python: the one in C allocates memory up to the
    highest number under which a value is stored for later, and a file may say any.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _STAND_INS:
            return _STAND_INS[name]
        if (module, name) == ("_codecs", "encode"):  # how Python 2's byte strings are spelled in newer protocols
            return codecs.encode
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not data")


def _load(file: Path) -> dict[str, Any]:
    what = "not a readable CIFAR file"
    with damage_named(file, what), open_regular(file) as handle:  # a broken pickle may raise anything
        entry = _DataOnly(handle, encoding="latin1").load()
    if not isinstance(entry, dict):
        raise UserError(f"write.path: {file}: {what}: it holds no dictionary")
    return entry
