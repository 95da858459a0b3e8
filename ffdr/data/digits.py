"""The 1,797 handwritten digits that come with scikit-learn: a dataset that needs no download."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from ffdr.data.source import ArraySource

SIDE = 32
"""Pixels per side after enlarging."""
_SHARES = {"test": 500 / 1797, "val": 200 / 1797}
"""Parts of every class; the rest is train: 1,098 images, 199 val, 500 test."""


class Digits(ArraySource):
    """8×8 images with 17 levels of grey, enlarged bicubically to 32×32 RGB; the array is (N, 8, 8) uint8 in 0..16."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> None:
        """index: (N,) positions in scikit-learn's order."""
        super().__init__(images, labels, [str(digit) for digit in range(10)])
        self._index = index

    def origin(self, i: int) -> str:
        """``digits/0042``: the position in scikit-learn's order, whatever the split."""
        return f"digits/{self._index[i]:04d}"

    def read(self, i: int) -> Image.Image:
        """Levels spread to 0..255, then enlarged."""
        grey = np.rint(self._images[i] * (255 / 16)).astype(np.uint8)
        return Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")


def open_split(path: Path, split: str) -> Digits:
    """The digits of a split: train, val or test. path: of no use."""
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
        members = np.flatnonzero(labels == digit).tolist()
        members.sort(key=lambda position: blake2b(b"digits/%04d" % position, digest_size=8).digest())
        test, val = (round(len(members) * _SHARES[name]) for name in ("test", "val"))
        parts["test"] += members[:test]
        parts["val"] += members[test : test + val]
        parts["train"] += members[test + val :]
    return {name: np.array(sorted(members)) for name, members in parts.items()}
