"""CIFAR-100 from the files that torchvision downloads (``root/cifar-100-python/{train,test,meta}``).

They are pickles. torchvision unpickles them, which would run whatever code a tampered file holds (its MD5 check guards
against that); here an unpickler that admits nothing but plain data and NumPy arrays reads them.
"""

from __future__ import annotations

import codecs
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ffdr.data.source import check_split, need_files
from ffdr.errors import UserError

FOLDER = "cifar-100-python"
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.empty(0).__reduce__()[0],
    "scalar": np.float64().__reduce__()[0],
}
"""What pickles of arrays name, in one of the modules; which one, depends on the NumPy that wrote them."""


class Cifar100:
    """32×32 images with the 100 fine labels. See :class:`ffdr.data.Source`."""

    def __init__(self, split: str, images: np.ndarray, labels: np.ndarray, class_names: list[str]) -> None:
        """images (N, 3, 32, 32) uint8; labels (N,) below the number of names."""
        self.class_names, self.labels = class_names, labels
        self._split, self._images = split, images

    def __len__(self) -> int:
        return len(self.labels)

    def origin(self, i: int) -> str:
        """See :class:`ffdr.data.Source`. The dataset's own file names are not unique; the position is."""
        return f"{self._split}/{i:05d}"

    def place(self, origin: str) -> str:
        """See :class:`ffdr.data.Source`."""
        return origin

    def read(self, i: int) -> Image.Image:
        """See :class:`ffdr.data.Source`."""
        return Image.fromarray(np.ascontiguousarray(self._images[i].transpose(1, 2, 0)))

    def state(self, index: np.ndarray) -> str:
        """See :class:`ffdr.data.Source`."""
        return hashlib.sha256(self._images[index]).hexdigest()

    def file_bytes(self, i: int) -> None:
        """See :class:`ffdr.data.Source`."""


def open_split(path: Path, split: str) -> Cifar100:
    """A split of CIFAR-100: train or test."""
    check_split("cifar100", split, ("train", "test"))
    need_files(path, (f"{FOLDER}/{split}", f"{FOLDER}/meta"), "CIFAR-100", "CIFAR100")
    entry, meta = _load(path / FOLDER / split), _load(path / FOLDER / "meta")
    try:
        images = np.asarray(entry["data"])
        labels = np.asarray(entry["fine_labels"]).astype(np.int64)
        names = [str(name) for name in meta["fine_label_names"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"write.path: {path / FOLDER}: not CIFAR-100: {type(error).__name__}: {error}") from None
    good = images.dtype == np.uint8 and labels.ndim == 1 and images.shape == (len(labels), 3072)
    if not (good and len(labels) and labels.min() >= 0 and labels.max() < len(names)):
        raise UserError(f"write.path: {path / FOLDER}: not CIFAR-100: {images.dtype} data of shape {images.shape}")
    return Cifar100(split, images.reshape(-1, 3, 32, 32), labels, names)


class _DataOnly(pickle.Unpickler):
    """Admits what NumPy needs to rebuild an array, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _NUMPY:
            return _NUMPY[name]
        if (module, name) == ("_codecs", "encode"):  # how Python 2's byte strings are spelled in newer protocols
            return codecs.encode
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not data")


def _load(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            entry = _DataOnly(handle, encoding="latin1").load()
    except Exception as error:  # a broken pickle may raise anything
        raise UserError(f"write.path: {file}: not a readable CIFAR file: {error}") from None
    if not isinstance(entry, dict):
        raise UserError(f"write.path: {file}: not a readable CIFAR file: it holds no dictionary")
    return entry
