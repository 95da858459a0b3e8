"""``eval.results``: the folder, what is recorded for it during the passes, and what is written into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ffdr.beton.layout import origin_key
from ffdr.beton.read import ImageBeton
from ffdr.data.folder import open_folder
from ffdr.evaluate.classes import spoken_names
from ffdr.evaluate.confusion import PairCounts
from ffdr.evaluate.evaluator import Evaluator, Images
from ffdr.evaluate.results.predictions import Mistake, Predicted, Predictions
from ffdr.evaluate.results.tables import (
    class_results,
    label_numbers,
    summary,
    write_classes,
    write_confusion,
    write_predictions,
)
from ffdr.evaluate.scoring import Scorer
from ffdr.evaluate.suite import OpenedSuite
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final

MISTAKES = 24
"""Images that the picture of mistakes shows at most."""
_FILES = ("predictions.csv", "mistakes.png")
_OF_ONE_LABEL = ("confusion.csv", "confusion.png", "classes.csv")
"""Where each image has one label."""


@dataclass(frozen=True)
class RecordedSet:
    """A set whose images are scored, and what the model says to each of them."""

    folder: Path
    images: Images
    labels: np.ndarray
    """(N,) or (N, M), as ``Scorer`` has them"""
    names: Sequence[str]
    """of the classes that the scorer admits"""
    border: int
    predictions: Predictions = field(default_factory=Predictions)


class ResultsFolder:
    """Where results go: files of one data set, or a folder for each set of a suite."""

    def __init__(self, path: str, paths: str = "") -> None:
        """paths: folder of the images that a beton was written of, by which predictions have paths; empty: unknown.

        Raises:
            UserError: there is no folder that it could lie in; a name of it is taken by something else.
        """
        self.path, self._sets = Path(path), dict[str, RecordedSet]()
        if not self.path.parent.is_dir():
            raise UserError(f"eval.results: there is no folder {self.path.parent}")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"eval.results: {self.path} is not a folder")
        self._origins = _origins(paths) if paths else {}

    def check(self, opened: Images | OpenedSuite) -> None:
        """Look, before slow work, whether the files of all sets can be written and their paths found.

        Raises:
            UserError: something else has the name of a file or a folder; a folder that this user may not write to;
                images of no use to ``paths``.
        """
        for folder in (self.path.absolute().parent, self.path):
            if (folder == self.path) == self.path.exists() and not os.access(folder, os.W_OK):
                raise UserError(f"eval.results: {self.path} can't be written: this user may not write to {folder}")
        for name, images, labels in _sets(opened):
            folder = self.path / name
            if folder.exists() and not folder.is_dir():
                raise UserError(f"eval.results: {folder} is not a folder")
            for file in _files(labels):
                check_final(folder / file)
            if not self._origins:
                continue
            if not isinstance(images, ImageBeton):
                raise UserError("eval.paths: the data is a folder itself, whose paths are known; leave it out")
            if not any(key in self._origins for key in images.origins[:, 2].tolist()):
                raise UserError(f"eval.paths: none of the images of {images.path} is from that folder")

    def watch(self, name: str, images: Images, scorer: Scorer, names: Sequence[str], border: int = 0) -> None:
        """Record what the scorer counts. name: of the set's folder; empty: this one. names: of the classes; what has
        none is called by its number. border: as ``Evaluator.loader`` has it."""
        one = RecordedSet(self.path / name, images, scorer.labels, names, border)
        scorer.watchers.append(one.predictions)
        self._sets[name] = one

    def watch_suite(self, opened: OpenedSuite) -> None:
        """All sets of a suite but ImageNet-C, whose 75 parts would each have files of their own."""
        for one in opened.passes:
            for name, scorer in one.scorers.items():
                self.watch(name, one.images, scorer, scorer.class_names, one.border)

    def write(self, evaluator: Evaluator, rank: int) -> list[str]:
        """Gather what the ranks have recorded, and write it on the first one. Every rank calls it.

        Returns:
            Lines for the terminal about one data set; of a suite, and on other ranks, none.
        """
        lines: list[str] = []
        for name, one in self._sets.items():
            predicted = one.predictions.gather()
            if predicted is not None and rank == 0:
                one.folder.mkdir(parents=True, exist_ok=True)
                found = _write_set(evaluator, one, predicted, self._origin_of(one.images))
                lines += [] if name else found
        return lines

    def _origin_of(self, images: Images) -> Callable[[int], tuple[str, str]]:
        """Path and key of an image by its number, as far as they are known."""
        if not isinstance(images, ImageBeton):
            paths = images.origin
            return lambda number: (paths(number), _hexadecimal(origin_key(paths(number))))
        if not images.has_origins:
            return lambda number: ("", "")
        keys = images.origins[:, 2].tolist()
        return lambda number: (self._origins.get(keys[number], ""), _hexadecimal(keys[number]))


def _origins(folder: str) -> dict[int, str]:
    """Paths of the images in a folder by the keys that a beton of them has."""
    if not Path(folder).is_dir():
        raise UserError(f"eval.paths: {folder} is not a folder")
    source = open_folder(Path(folder), "eval.paths")
    paths = (source.origin(number) for number in range(len(source)))
    return {origin_key(path): path for path in paths}


def _hexadecimal(key: int) -> str:
    """A stored key, as 16 digits."""
    return f"{key % (1 << 64):016x}"


def _sets(opened: Images | OpenedSuite) -> Iterator[tuple[str, Images, np.ndarray]]:
    """Name, images and labels of each set that results are written of."""
    if isinstance(opened, OpenedSuite):
        for one in opened.passes:
            yield from ((name, one.images, scorer.labels) for name, scorer in one.scorers.items())
    else:
        yield "", opened, opened.labels


def _files(labels: np.ndarray) -> tuple[str, ...]:
    return _FILES + (_OF_ONE_LABEL if labels.ndim == 1 else ())


def _write_set(
    evaluator: Evaluator, one: RecordedSet, predicted: Predicted, origin: Callable[[int], tuple[str, str]]
) -> list[str]:
    """All files of a set; lines about it for the terminal."""
    from ffdr.evaluate.results.pictures import draw_confusion, draw_mistakes  # half a second, and only where asked for

    count = 1 + max(len(one.names) - 1, int(one.labels.max()), int(predicted.classes.max()))
    names = [*one.names, *map(str, range(len(one.names), count))]
    spoken = spoken_names(names)
    write_predictions(one.folder / "predictions.csv", predicted, one.labels, names, origin)
    worst, wrong = _worst(predicted, one.labels, MISTAKES)
    mistakes = (_mistake(evaluator, one, predicted, place, spoken, origin) for place in worst)
    draw_mistakes(one.folder / "mistakes.png", list(mistakes), wrong, len(predicted.numbers))
    if one.labels.ndim > 1:
        return []
    counts = PairCounts.of(one.labels[predicted.numbers], predicted.classes[:, 0])
    results = class_results(counts, count)
    write_confusion(one.folder / "confusion.csv", counts, names)
    write_classes(one.folder / "classes.csv", results, names)
    draw_confusion(one.folder / "confusion.png", counts, spoken)
    return summary(counts, results, spoken)


def _worst(predicted: Predicted, labels: np.ndarray, count: int) -> tuple[list[int], int]:
    """Places of the most confident mistakes among the predictions, and how many mistakes there are."""
    wrong = np.flatnonzero(~predicted.right(labels))
    order = np.argsort(-predicted.probabilities[wrong, 0], kind="stable")
    return wrong[order[:count]].tolist(), len(wrong)


def _mistake(
    evaluator: Evaluator,
    one: RecordedSet,
    predicted: Predicted,
    place: int,
    spoken: Sequence[str],
    origin: Callable[[int], tuple[str, str]],
) -> Mistake:
    number = int(predicted.numbers[place])
    return Mistake(
        evaluator.view(one.images, number, one.border),
        origin(number)[0] or f"image {number}",
        [spoken[label] for label in label_numbers(one.labels, number)],
        spoken[predicted.classes[place, 0]],
        float(predicted.probabilities[place, 0]),
    )
