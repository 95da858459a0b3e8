"""The 1,797 handwritten digits that come with scikit-learn: a dataset that needs no download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from ffdr.data.source import check_split

SIDE = 32
"""Pixels a side after enlarging."""
_SHARES = {"test": 500 / 1797, "val": 200 / 1797}
"""Parts of every class; the rest is train: 1,098 images, 199 val, 500 test."""


class Digits:
    """8×8 images with 17 levels of grey, enlarged bicubically to 32×32 RGB. See :class:`ffdr.data.Source`."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> None:
        """images (N, 8, 8) uint8 in 0..16; labels (N,); index (N,) positions in scikit-learn's order."""
        self.class_names = [str(digit) for digit in range(10)]
        self.labels = labels.astype(np.int64)
        self._images, self._index = images, index

    def __len__(self) -> int:
        return len(self.labels)

    def origin(self, i: int) -> str:
        """See :class:`ffdr.data.Source`."""
        return f"digits/{self._index[i]:04d}"

    def place(self, origin: str) -> str:
        """See :class:`ffdr.data.Source`."""
        return origin

    def read(self, i: int) -> Image.Image:
        """See :class:`ffdr.data.Source`."""
        grey = np.rint(self._images[i] * (255 / 16)).astype(np.uint8)
        return Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")

    def state(self, index: np.ndarray) -> str:
        """See :class:`ffdr.data.Source`."""
        return hashlib.sha256(self._images[index]).hexdigest()

    def file_bytes(self, i: int) -> None:
        """See :class:`ffdr.data.Source`."""


def open_split(path: Path, split: str) -> Digits:
    """The digits of a split: train, val or test."""
    check_split("digits", split, ("train", "val", "test"))
    from sklearn.datasets import load_digits

    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    index = split_digits(labels)[split]
    return Digits(images.reshape(-1, 8, 8)[index].astype(np.uint8), labels[index], index)


def split_digits(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Positions (ascending) of the images of each split.

    Each class is ordered by a hash of the positions and cut in three, so that the splits depend on no random
    generator and never change.
    """
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for digit in np.unique(labels):
        members = sorted(np.flatnonzero(labels == digit).tolist(), key=_hash)
        test, val = (round(len(members) * _SHARES[name]) for name in ("test", "val"))
        parts["test"] += members[:test]
        parts["val"] += members[test : test + val]
        parts["train"] += members[test + val :]
    return {name: np.array(sorted(members)) for name, members in parts.items()}


def _hash(position: int) -> bytes:
    return hashlib.blake2b(f"digits/{position:04d}".encode(), digest_size=8).digest()
