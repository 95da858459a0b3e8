"""Files of an archive → what a reinforced beton stores of them.

A file is a list of three arrays about K crops of one image, as ``generate_soft_label.py`` of szq0214/FKD saves them::

    coords  (K, 4) float32 or float16   top, left, height, width, as fractions of the image's height and width
    flips   (K,) bool                   whether the crop is mirrored left to right
    labels  the teacher's probabilities, after softmax(logits / temperature), in one of four forms, of any dtype:
        full       (K, C)      of all classes
        hard       (K,)        the best class only
        smoothing  (K, 2)      the best class, its probability
        marginal   (K, 2, k)   the best k classes in row 0, their probabilities in row 1

The forms "marginal smoothing" and "marginal re-norm" are the same in a file: what becomes of the rest is said by
whoever learns from it (``train.residual``). A file never mixes images; FKD mixes batches when it trains.

The fractions are those of whole pixels, which come back as whole pixels here: exactly from float32 for any image, from
float16 for sides below 2,048 pixels.

Shapes: K crops, T teacher entries that are kept, C classes, k classes that a file names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffdr.archive.stored import are_probabilities, best_first
from ffdr.archive.torch_zip import EntryError
from ffdr.augment.view import DEFAULT_BINS, FLIP, VIEW_DTYPE, box_to_fractions
from ffdr.util.text import brief

_LEAST = 0.99
"""The smallest sum of a view's probabilities over all classes."""
_MOST_HALF = 2049
"""Classes that float16 can count."""
FULL, HARD, SMOOTHING, MARGINAL = "full", "hard", "smoothing", "marginal"


@dataclass(frozen=True)
class Schema:
    """What every file of an archive must be."""

    crops: int
    """K"""
    form: str
    """``FULL``, ``HARD``, ``SMOOTHING`` or ``MARGINAL``"""
    named: int
    """classes that a label names: C, 1, 1 or k"""
    num_classes: int
    """C"""


@dataclass(frozen=True)
class Crops:
    """What a file says."""

    coords: np.ndarray
    """(K, 4) floating"""
    flips: np.ndarray
    """(K,) bool or uint8"""
    labels: np.ndarray
    """(K, …), see above"""

    def schema(self, num_classes: int) -> Schema:
        """Raises EntryError for labels of no form."""
        shape = self.labels.shape
        if len(shape) == 2 and shape[1] == num_classes == 2:
            raise EntryError(
                "its labels are (crops, 2): of 2 classes, or a class and its probability, can't be told apart"
            )
        if len(shape) == 1:
            form, named = HARD, 1
        elif len(shape) == 2 and shape[1] == num_classes:
            form, named = FULL, num_classes
        elif len(shape) == 2 and shape[1] == 2:
            form, named = SMOOTHING, 1
        elif len(shape) == 3 and shape[1] == 2 and 1 <= shape[2] <= num_classes:
            form, named = MARGINAL, shape[2]
        else:
            kinds = f"(crops,), (crops, 2), (crops, 2, k) or (crops, {num_classes})"
            raise EntryError(f"its labels have shape {brief(shape, 60)}, not {kinds}")
        return Schema(len(self.coords), form, named, num_classes)


def crops_of(arrays: list[np.ndarray]) -> Crops:
    """The arrays of a file, if they have the form of one.

    Raises:
        EntryError: they have not, in one line.
    """
    if len(arrays) == 6:
        raise EntryError(
            "it holds six arrays, as files of SRe2L do, which are about a batch of mixed images, not one image"
        )
    if len(arrays) != 3:
        raise EntryError(f"it holds {len(arrays)} arrays, not crops, flips and labels")
    coords, flips, labels = arrays
    if coords.ndim != 2 or coords.shape[1] != 4 or not len(coords) or coords.dtype.kind != "f":
        raise EntryError(f"its crops are {_said(coords)}, not (crops, 4) floating-point numbers")
    if flips.shape != (len(coords),) or flips.dtype.kind not in ("b", "u"):
        raise EntryError(f"its flips are {_said(flips)}, not ({len(coords)},) bool")
    if labels.ndim < 1 or len(labels) != len(coords):
        raise EntryError(f"its labels are {_said(labels)}, not ({len(coords)}, …)")
    return Crops(coords, flips, labels)


def _said(array: np.ndarray) -> str:
    return f"{brief(array.shape, 60)} {array.dtype}"


def check_alike(crops: Crops, schema: Schema) -> None:
    """Raise EntryError for a file of another schema than the first one."""
    found = crops.schema(schema.num_classes)
    if found.crops != schema.crops:
        raise EntryError(f"has {found.crops} crops, but the first file read has {schema.crops}")
    if found != schema:
        raise EntryError(
            f"has {found.form} labels of {found.named}, but the first file read {schema.form} of {schema.named}"
        )


def views_of(crops: Crops, width: int, height: int) -> np.ndarray:
    """View records (K,) ``VIEW_DTYPE`` of an image that had this size.

    Raises:
        EntryError: a crop that is not inside of the image; a flip that is neither true nor false.
    """
    coords = crops.coords.astype(np.float64)
    # What rounding to the file's type may add to a crop that ends where the image does.
    slack = 2.0**-10 if crops.coords.dtype.itemsize == 2 else 2.0**-22
    start, size = coords[:, :2], coords[:, 2:]
    inside = (start >= 0).all(axis=1) & (size > 0).all(axis=1) & (start + size <= 1 + slack).all(axis=1)
    _refuse(~inside, lambda row: f"{brief(coords[row].tolist())} (top, left, height, width) is not inside the image")
    _refuse(crops.flips > 1, lambda row: f"its flip is {crops.flips[row]}, neither 0 nor 1")
    views = np.zeros(len(coords), VIEW_DTYPE)
    views["bins"] = DEFAULT_BINS
    views["flags"] = np.where(crops.flips != 0, FLIP, 0)
    views["crop_y"], views["crop_h"] = _axis(start[:, 0], size[:, 0], height)
    views["crop_x"], views["crop_w"] = _axis(start[:, 1], size[:, 1], width)
    return views


def pixels(start: np.ndarray, size: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole pixels (start, size), float64, of crops given as fractions of a side of ``length`` pixels.

    Each is the nearest; in images of another size than the crops were drawn in, within the image.
    """
    first = np.minimum(np.rint(start * length), length - 1)
    return first, np.clip(np.rint(size * length), 1, length - first)


def _refuse(bad: Any, text: Callable[[int], str]) -> None:
    """Raise EntryError for the first crop where ``bad`` (K,) holds."""
    at = np.flatnonzero(bad)
    if len(at):
        raise EntryError(f"crop {at[0]}: {text(int(at[0]))}")


def _axis(start: np.ndarray, size: np.ndarray, length: int) -> tuple:
    return box_to_fractions(*pixels(start, size, length), length)


def logits_of(crops: Crops, schema: Schema, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (K, T) uint16 and log-probabilities (K, T) float16, best first. topk: T.

    Raises:
        EntryError: values that are no classes or probabilities.
    """
    if schema.form == FULL:
        ids, probs = _best(crops.labels, topk)
    else:
        ids, probs = _named(crops.labels, schema)
    found_ids, log_probs = best_first(probs, ids)
    return found_ids[:, :topk], log_probs[:, :topk]


def _best(labels: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """The best entries (K, T) of labels over all classes; of equal ones, those of the lower class."""
    probs = labels.astype(np.float64)
    total = probs.sum(axis=1)
    _refuse(
        ~(are_probabilities(probs) & (total >= _LEAST)),
        lambda row: (
            f"its label over all classes has the sum {total[row]:g} and the least value {probs[row].min():g}; "
            "these are no probabilities"
        ),
    )
    ids = np.argsort(-probs, axis=1, kind="stable")[:, :topk]
    return ids, np.take_along_axis(probs, ids, axis=1)


def _named(labels: np.ndarray, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Ids and probabilities (K, k) of labels that name their classes."""
    C = schema.num_classes
    if labels.dtype == np.float16 and C > _MOST_HALF:
        raise EntryError(f"its class ids are float16, which can't count {C} classes")
    labels = labels.reshape(len(labels), -1, schema.named).astype(np.float64)
    given = labels[:, 0]
    _refuse(
        ~((given >= 0) & (given < C) & (given == np.floor(given))).all(axis=1),
        lambda row: f"class ids {brief(given[row].tolist())} are not all whole numbers below {C}",
    )
    ids = given.astype(np.int64)
    ordered = np.sort(ids, axis=1)
    _refuse(
        (ordered[:, 1:] == ordered[:, :-1]).any(axis=1),
        lambda row: f"class ids {brief(ids[row].tolist())} repeat a class",
    )
    probs = np.ones_like(given) if schema.form == HARD else labels[:, 1]
    _refuse(
        ~are_probabilities(probs),
        lambda row: f"probabilities {brief(probs[row].tolist())} are not from 0 to 1, or their sum is not",
    )
    return ids, probs
