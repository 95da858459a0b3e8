"""Exact sums over pixels, and the mean and standard deviation that a manifest says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LEAST_STD = 1 / 255
"""An image of one colour has deviation 0, by which nobody can divide."""
_LEVELS = np.arange(256, dtype=np.uint64)


@dataclass(frozen=True)
class PixelSums:
    """Sums over some pixels of 0 to 255, per channel, as Python's integers, which do not overflow."""

    pixels: int
    """How many there are, at least 1."""
    totals: Sequence[int]
    """Of their values, (3,)."""
    squares: Sequence[int]
    """Of their values' squares, (3,)."""

    def mean(self) -> list[float]:
        """Per channel, of pixels in [0, 1]."""
        return [total / (self.pixels * 255) for total in self.totals]

    def std(self) -> list[float]:
        """Per channel, of pixels in [0, 1]; at least ``LEAST_STD``."""
        n = self.pixels
        # Exact integers up to the one division: n·Σx² − (Σx)² is n² times the variance.
        variances = [(n * q - s * s) / (n * 255) ** 2 for s, q in zip(self.totals, self.squares, strict=True)]
        return [max(max(variance, 0.0) ** 0.5, LEAST_STD) for variance in variances]  # of made-up sums, below 0

    def __add__(self, other: PixelSums) -> PixelSums:
        """Of the pixels of both."""
        totals, squares = (
            [a + b for a, b in zip(*pair, strict=True)]
            for pair in ((self.totals, other.totals), (self.squares, other.squares))
        )
        return PixelSums(self.pixels + other.pixels, totals, squares)

    @classmethod
    def of_moments(cls, mean: Sequence[float], std: Sequence[float], pixels: int) -> PixelSums:
        """The sums from which ``mean()`` and ``std()`` of so many pixels gave these.

        Both were rounded to 53 bits. The sums are whole numbers, and so they come back exactly for up to 6·10¹⁰
        pixels (a hundred thousand images of 24 megapixels, or 300,000,000 of 200 × 200); of more, and of images
        of one colour, whose deviation was raised to ``LEAST_STD``, nearly.
        """
        totals = [round(Fraction(value) * pixels * 255) for value in mean]
        squares = [
            round((Fraction(value) ** 2 * (255 * pixels) ** 2 + total**2) / pixels)
            for value, total in zip(std, totals, strict=True)
        ]
        return cls(pixels, totals, squares)


def add_pixels(pixels: np.ndarray, sums: np.ndarray) -> None:
    """Add (H, W, 3) uint8 pixels and their squares to (2, 3) uint64 sums, exactly."""
    for channel in range(3):
        histogram = np.bincount(pixels[..., channel].ravel(), minlength=256).astype(np.uint64)
        sums[0, channel] += histogram @ _LEVELS
        sums[1, channel] += histogram @ (_LEVELS * _LEVELS)
