"""Pictures of an evaluation's results: which classes are taken for which, and the most confident mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, PowerNorm

from ffdr.evaluate.confusion import PairCounts, worst_classes
from ffdr.evaluate.results.predictions import Mistake
from ffdr.util.pictures import COLOURS, NEUTRAL, PAGE, drawing, legible, shortened
from ffdr.util.text import first_few

MOST_LABELS = 100
"""Classes up to which a picture shows all."""
CHOSEN = 30
"""Classes that it shows of more: those that are confused most."""
_COLUMNS = 6
_NAME = 24
"""Characters of a class name beside the matrix."""
_TITLE, _BOLD, _PATH = 21, 18, 17
"""Characters that fit above an image, below it in bold, and of a file's name, whose end is shown."""
_TEXT = 6
"""Points of texts above and below images, and in cells."""
_SHARES = (0.01, 0.05, 0.2, 0.5, 1)
"""Where colour bars have marks."""
_NORM = PowerNorm(0.5, 0, 1)
"""Colours by the root of a share: one image in a hundred is seen."""


def draw_confusion(path: Path, counts: PairCounts, names: Sequence[str]) -> None:
    """The confusion matrix: right predictions in blue, wrong ones in orange, by their share of the true class.

    Of more than ``MOST_LABELS`` classes the ``CHOSEN`` most confused, and a column for all others. names: of the
    classes, as people say them.
    """
    numbers, title = list(range(len(names))), ""
    if len(names) > MOST_LABELS:
        numbers = worst_classes(counts, CHOSEN)
        title = f"the {len(numbers)} most confused of {len(names):,} classes"
        if not numbers:
            numbers = list(range(CHOSEN))
            title = f"no class is taken for another; the first {CHOSEN} of {len(names):,}"
    matrix, totals = _part(counts, numbers, len(names))
    shares = matrix / np.maximum(totals, 1)[:, None]
    labels = [_label(names, number) for number in numbers]
    side = _cell(len(numbers))
    text = min(7.0, 72 * side * 0.82)
    margin = 0.45 + max(map(len, labels), default=0) * text * 0.56 / 72
    with drawing(path, margin + side * matrix.shape[1] + 1.25, margin + side * len(numbers) + 0.25) as figure:
        axes = figure.subplots()
        wrong, right = _colours()
        diagonal = np.eye(*matrix.shape) > 0
        for colours, hidden in ((wrong, diagonal), (right, ~diagonal)):
            axes.imshow(np.ma.array(shares, mask=hidden), colours, _NORM, interpolation="nearest")
        columns = labels if matrix.shape[1] == len(labels) else [*labels, "any other class"]
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=text)
        axes.set_yticks(range(len(labels)), labels, fontsize=text)
        _rule(axes, matrix.shape)
        if len(numbers) <= CHOSEN:
            _write_counts(axes, matrix, shares, 72 * side)
        axes.set(xlabel="predicted", ylabel="true class", title=title)
        _add_key(axes, right, wrong, (side * matrix.shape[1], side * matrix.shape[0]))


def _part(counts: PairCounts, numbers: Sequence[int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows and columns of some classes (K, K), with a last column for all others where there are some (K, K + 1);
    and all images of each of the classes (K,)."""
    others = len(numbers)
    place = np.full(num_classes, others)
    place[list(numbers)] = np.arange(others)
    matrix = np.zeros((others + 1, others + 1), np.int64)
    np.add.at(matrix, (place[counts.true], place[counts.predicted]), counts.images)
    rows = matrix[:others]
    return rows if others < num_classes else rows[:, :others], rows.sum(1)


def _cell(count: int) -> float:
    """Inches of a cell's side."""
    return min(0.4, max(0.095, 5.2 / max(count, 1)))


def _colours() -> tuple[Colormap, Colormap]:
    """Of wrong and of right predictions, from white to full."""
    return (
        LinearSegmentedColormap.from_list("wrong", ["white", COLOURS[1], "#6b2f00"]),
        LinearSegmentedColormap.from_list("right", ["white", COLOURS[0], "#00304d"]),
    )


def _rule(axes: Axes, shape: tuple[int, ...]) -> None:
    """Hairlines between the cells."""
    axes.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", linewidth=0.3)
    axes.set_axisbelow(False)
    axes.tick_params(which="both", length=0)


def _write_counts(axes: Axes, matrix: np.ndarray, shares: np.ndarray, points: float) -> None:
    """Images in each cell that has some, as large as fits into so many points."""
    digits = len(str(matrix.max(initial=0)))
    size = min(_TEXT + 1, points / (0.62 * max(digits, 2)))
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if _NORM(shares[row, column]) > 0.55 else "#222222"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=size, color=colour)


def _add_key(axes: Axes, right: Colormap, wrong: Colormap, size: tuple[float, float]) -> None:
    """What the colours say, to the right of the matrix. size: its width and height in inches."""
    width, height = size
    tall = min(1.5, height)
    key = axes.inset_axes((1 + 0.15 / width, 1 - tall / height, 0.24 / width, tall / height))
    steps = np.linspace(0, 1, 256)  # of the root of a share
    strips = np.stack([right(steps), wrong(steps)], 1)
    key.imshow(strips, extent=(0, 2, 0, 1), aspect="auto", origin="lower", interpolation="nearest")
    key.set_xticks([0.5, 1.5], ["right", "wrong"], rotation=90, fontsize=_TEXT)
    key.set_yticks([math.sqrt(share) for share in _SHARES], [f"{share:.0%}" for share in _SHARES], fontsize=_TEXT)
    key.yaxis.tick_right()
    key.tick_params(length=0)
    key.spines[:].set_visible(False)
    key.set_ylabel("share of the true class", fontsize=_TEXT)
    key.yaxis.set_label_position("right")


def draw_mistakes(path: Path, mistakes: Sequence[Mistake], wrong: int, images: int) -> None:
    """Pictures with true class, predicted class and confidence. wrong: of how many images these are the worst."""
    rows = max(1, math.ceil(len(mistakes) / _COLUMNS))
    side = PAGE / _COLUMNS
    margin = 2.9 * _TEXT / 72  # inches above and below each image, for its texts
    with drawing(path, PAGE, 0.8 + (side + 2 * margin) * rows) as figure:
        figure.set_layout_engine("constrained", h_pad=margin, w_pad=0.04, hspace=0, wspace=0)
        grid = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axis in grid.flat:
            axis.axis("off")
        for axis, mistake in zip(grid.flat, mistakes, strict=False):
            _show(axis, mistake)
        said = f"the {len(mistakes)} most confident of {wrong:,} mistakes" if mistakes else "no mistakes"
        key = (
            "\nabove: the true class; below: the predicted one, how probable it was, and which image"
            if mistakes
            else ""
        )
        figure.suptitle(f"{said} on {images:,} images{key}", fontsize=matplotlib.rcParams["axes.titlesize"])


def _show(axis: Axes, mistake: Mistake) -> None:
    axis.axis("on")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    pixels = mistake.pixels
    axis.imshow(pixels, interpolation="nearest" if pixels.shape[0] < 128 else "antialiased")
    above = axis.set_title(shortened(first_few(mistake.labels), _TITLE), fontsize=_TEXT, pad=2)
    name = shortened(Path(mistake.where).name[::-1], _PATH)[::-1]
    place: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "top"}
    styles: tuple[tuple[str, dict[str, Any]], ...] = (
        (shortened(mistake.predicted, _BOLD), {"color": COLOURS[1], "fontweight": "bold", "fontsize": _TEXT}),
        (f"{100 * mistake.confidence:.1f} %, {name}", {"color": NEUTRAL, "fontsize": _TEXT - 1}),
    )
    lines = [
        axis.annotate(text, (0.5, 0), (0, -2 - 1.3 * _TEXT * number), annotation_clip=False, **place, **style)
        for number, (text, style) in enumerate(styles)
    ]
    for text in (above, *lines):
        text.set_in_layout(False)  # a name that is wider than its image must not make all images smaller


def _label(names: Sequence[str], number: int) -> str:
    """A class's name beside the matrix, which matplotlib draws by itself."""
    name = shortened(names[number], _NAME)
    return name if legible(name) == name else f"class {number}"
