"""Tables of an evaluation's results: the confusion matrix, the classes and the predictions as CSV.

UTF-8 with one header row, quoted as the csv module does. Names are as ``printable`` shows them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ffdr.evaluate.confusion import PairCounts, worst_pairs
from ffdr.evaluate.metrics import NO_LABEL
from ffdr.evaluate.results.predictions import Predicted
from ffdr.util.atomic import atomic_path
from ffdr.util.text import MOST_LINE, join_list, printable

MOST_COLUMNS = 2048
"""Classes up to which the confusion matrix is written as one; of more, its entries."""
_SHOWN = 5
"""Classes, and pairs of them, that the terminal shows."""


class ClassResult(NamedTuple):
    """How a class fared."""

    images: int
    predictions: int
    """images that were predicted to be of it, rightly or wrongly"""
    precision: float | None
    """share of these that are; None: there are none"""
    recall: float | None
    """share of its images that were predicted to be of it, which is its accuracy; None: it has no images"""
    f1: float | None
    """harmonic mean of both, 0 where only one can be said; None where neither can"""
    confused_with: int | None
    """number of the other class that most of its images were predicted as; None: none were"""
    confused_images: int
    """how many"""


def class_results(counts: PairCounts, num_classes: int) -> list[ClassResult]:
    """Of each class, in order."""
    images, predictions, right, most = (np.zeros(num_classes, np.int64) for _ in range(4))
    np.add.at(images, counts.true, counts.images)
    np.add.at(predictions, counts.predicted, counts.images)
    is_right = counts.true == counts.predicted
    right[counts.true[is_right]] = counts.images[is_right]
    others = np.full(num_classes, -1)
    # Later entries win: of each class those of most images come last, and of as many the lowest number.
    wrong = np.flatnonzero(~is_right)
    wrong = wrong[np.lexsort((-counts.predicted[wrong], counts.images[wrong]))]
    others[counts.true[wrong]], most[counts.true[wrong]] = counts.predicted[wrong], counts.images[wrong]
    columns = (column.tolist() for column in (images, predictions, right, others, most))
    return [
        ClassResult(
            n,
            said,
            hit / said if said else None,
            hit / n if n else None,
            2 * hit / (n + said) if n + said else None,
            other if other >= 0 else None,
            confused,
        )
        for n, said, hit, other, confused in zip(*columns, strict=True)
    ]


def write_confusion(path: Path, counts: PairCounts, names: Sequence[str]) -> None:
    """A row for each true class with the images that were predicted as each of the classes; of more than
    ``MOST_COLUMNS`` classes a row for each pair that occurs: true class, predicted class, images."""
    shown = [_shown(name) for name in names]
    if len(names) > MOST_COLUMNS:
        pairs = zip(*(column.tolist() for column in counts), strict=True)
        _write(path, ("true", "predicted", "images"), ((shown[i], shown[j], images) for i, j, images in pairs))
    else:
        rows = zip(shown, counts.dense(len(names)).tolist(), strict=True)
        _write(path, ("true \\ predicted", *shown), ((name, *row) for name, row in rows))


def write_classes(path: Path, results: Sequence[ClassResult], names: Sequence[str]) -> None:
    """A row for each class: its name and the fields of ``ClassResult``; what is None is empty."""
    shown = [_shown(name) for name in names]

    def rows() -> Iterator[tuple[object, ...]]:
        for name, result in zip(shown, results, strict=True):
            shares = ("" if share is None else f"{share:.6g}" for share in result[2:5])
            other = "" if result.confused_with is None else shown[result.confused_with]
            yield name, *result[:2], *shares, other, result.confused_images

    _write(path, ("class", *ClassResult._fields), rows())


def write_predictions(
    path: Path,
    predicted: Predicted,
    labels: np.ndarray,
    names: Sequence[str],
    origin: Callable[[int], tuple[str, str]],
) -> None:
    """A row for each image: number, path, key, label (several with commas between them), correct, and predicted and
    confidence of the most probable class, then of the next ones.

    labels: (N,) or (N, M) of all images. origin: path and key of an image by its number.
    """
    shown = [_shown(name) for name in names]
    ranks = ("", *(f"_{rank}" for rank in range(2, predicted.classes.shape[1] + 1)))
    top = (f"{what}{rank}" for rank in ranks for what in ("predicted", "confidence"))
    heading = ("number", "path", "key", "label", "correct", *top)

    def rows() -> Iterator[tuple[object, ...]]:
        for number, right, *top in zip(
            predicted.numbers.tolist(), predicted.right(labels), *predicted[1:], strict=True
        ):
            where, key = origin(number)
            label = join_list(shown[i] for i in label_numbers(labels, number))
            pairs = zip(*(column.tolist() for column in top), strict=True)
            cells = (cell for i, share in pairs for cell in (shown[i], f"{share:.6f}"))
            yield number, _shown(where), key, label, "true" if right else "false", *cells

    _write(path, heading, rows())


def label_numbers(labels: np.ndarray, number: int) -> list[int]:
    """The classes of an image. labels: (N,) or (N, M) of all."""
    return [label for label in labels[number].reshape(-1).tolist() if label != NO_LABEL]


def summary(counts: PairCounts, results: Sequence[ClassResult], names: Sequence[str]) -> list[str]:
    """The worst classes and the worst pairs of classes, as lines for a terminal. names: as people call the classes."""
    numbers = [number for number, result in enumerate(results) if result.images and result.recall != 1]
    numbers = sorted(numbers, key=lambda number: (results[number].recall, -results[number].images))[:_SHOWN]
    lines = ["  classes of lowest accuracy:"] if numbers else []
    for number in numbers:
        result = results[number]
        most = "" if result.confused_with is None else f", most often {printable(names[result.confused_with])}"
        lines.append(f"    {result.recall or 0:8.2%} of {result.images:,} images: {printable(names[number])}{most}")
    pairs = worst_pairs(counts, names, _SHOWN)
    lines += ["  classes most often taken for another:"] if pairs else []
    lines += [
        f"    {pair.images:8,} images ({pair.share:.2%}): {printable(pair.true)} → {printable(pair.predicted)}"
        for pair in pairs
    ]
    return lines


def _shown(name: str) -> str:
    return printable(name, MOST_LINE)


def _write(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Row by row: predictions of a million images are not held as one text."""
    with atomic_path(path) as file:
        writer = csv.writer(_Utf8(file), lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)


class _Utf8:
    """What the csv module writes to; closing it is left to whoever has opened the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode("utf-8", "backslashreplace"))
