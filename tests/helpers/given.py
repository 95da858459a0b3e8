"""Datasets as Python code hands them over, in modules that worker processes can import."""

import threading

import numpy as np
from PIL import Image

NAMES = ["cat", "dog", "owl"]


def picture(i):
    """(40 to 46, 50, 3) uint8 noise; another one for each number."""
    return np.random.default_rng(i).integers(0, 256, (40 + i % 7, 50, 3), np.uint8)


def pairs(count=70):
    return [(Image.fromarray(picture(i)), i % 3) for i in range(count)]


class Indexed:
    """Has a length, is indexed by numbers, and can be pickled. Says which processes read it."""

    classes = NAMES

    def __init__(self, count=70):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return picture(i), i % 3


class Locked(Indexed):
    """Can't be pickled."""

    def __init__(self, count=70):
        super().__init__(count)
        self.lock = threading.Lock()
        self.transform = lambda image: image

    def __getitem__(self, i):
        with self.lock:
            return super().__getitem__(i)


class Iterated:
    """Can be gone through only, as often as one likes."""

    classes = NAMES

    def __init__(self, count=70):
        self.count = count

    def __iter__(self):
        return ((picture(i), i % 3) for i in range(self.count))
