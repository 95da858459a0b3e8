"""Whether a model's classes are the data's, and which of ImageNet's 1,000 classes an image is of: timm's tables,
ReaL's labels, ObjectNet's mapping.

A class of ImageNet has as number its place among the sorted synsets (n01440764 is 0), as in torchvision and timm.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from ffdr.evaluate.metrics import NO_LABEL
from ffdr.models.files import ModelInfo, class_digest
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json, read_text
from ffdr.util.text import brief, reason

NUM_CLASSES = 1000
VAL_IMAGES = 50000
TIMM = "timm"
"""Instead of a path of ReaL's labels: the table that timm comes with."""
_MOST_LABELS = 100
"""Of one image; ReaL gives nine at most."""
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
_OBJECTNET_FILES = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "imagenet_to_label_2012_v2",
    "pytorch_to_imagenet_2012_id.json",
)


def _by_value(part: str) -> tuple[int, str]:
    """Sorts texts of digits, however many, by the number that they are; other texts as texts."""
    digits = part.lstrip("0") if part.isdecimal() else part
    return len(digits) if part.isdecimal() else 0, digits


_ORDERS: dict[str, Callable[[Iterable[str]], list[str]]] = {
    "sorted as text": sorted,
    "sorted by number": lambda names: sorted(names, key=lambda name: [_by_value(x) for x in re.split(r"(\d+)", name)]),
    "sorted without regard to case": lambda names: sorted(names, key=str.casefold),
}


def check_classes(info: ModelInfo, names: Sequence[str], where: object, key: str, remedy: str = "") -> None:
    """Refuse a model whose class N is not the data's class N, as far as that shows: by the digest of the class names
    that it was trained with; without one, ImageNet's classes in another order than timm's.

    Args:
        names: the data's class names, in order.
        where: the data, for messages.
        key: the option whose value ``any`` leaves this check out.
        remedy: what else helps where numbers are sorted as text.

    Raises:
        UserError: one line with what differs, as far as a digest can tell.
    """
    if info.classes:
        if info.classes != class_digest(names):
            known = [how for how, order in _ORDERS.items() if class_digest(order(names)) == info.classes]
            order = f": the same names, but {known[0]}" if known else _first_other(info.class_names, names)
            raise UserError(
                f"{where}: its class names are not those that {info.name} was trained with{order} "
                f"({key}=any if class N still means the same)"
            )
        return
    if not info.num_classes == len(names) == NUM_CLASSES:
        return
    if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=_by_value):
        remedy = remedy or "name the folders 0000 to 0999"
        raise UserError(
            f"{where}: its classes are numbers, but sorted as text; {remedy} ({key}=any if {info.name} was trained so)"
        )
    if set(names) == set(synsets()) and tuple(names) != synsets():
        raise UserError(
            f"{where}: its classes are ImageNet's synsets, but not in timm's order, which is sorted ({key}=any if "
            f"{info.name} was trained so)"
        )


def _first_other(known: Sequence[str], names: Sequence[str]) -> str:
    """The first class whose name is not the model's, for a message; empty where the model's names are unknown."""
    differ = (number for number, (ours, theirs) in enumerate(zip(known, names, strict=False)) if ours != theirs)
    number = next(differ, None)
    return "" if number is None else f": class {number} is {brief(names[number])}, not {brief(known[number])}"


@cache
def synsets() -> tuple[str, ...]:
    """The synsets of ImageNet's 1,000 classes, by class number."""
    return tuple(_timm_table("imagenet_synsets.txt").split())


@cache
def subset(name: str) -> tuple[int, ...]:
    """The 200 class numbers, ascending, of ImageNet-A ("a") or ImageNet-R ("r")."""
    return tuple(map(int, _timm_table(f"imagenet_{name}_indices.txt").split()))


@cache
def _lemmas() -> dict[str, str]:
    """What people call the classes of ImageNet, by synset."""
    return dict(line.split("\t") for line in _timm_table("imagenet_synset_to_lemma.txt").splitlines())


def spoken_names(names: Sequence[str]) -> list[str]:
    """Names of classes as people say them: of synsets the first of their words, with the synset where two classes
    have the same one (crane); other names, and numbers, as they are."""
    if not all(name in _lemmas() for name in names):
        return list(names)
    words = [_lemmas()[name].partition(",")[0] for name in names]
    twice = {word for word, count in Counter(words).items() if count > 1}
    return [f"{word} ({name})" if word in twice else word for word, name in zip(words, names, strict=True)]


def class_numbers(names: Sequence[str], where: object) -> np.ndarray:
    """(len(names),) int64 numbers of classes that are named by synset or, as ImageNetV2's folders, by number.

    Raises:
        UserError: a name that is neither, or some of each; two that are the same number (7 and 007).
    """
    if all(name.isdecimal() for name in names):
        return _numbered(names, where)
    known = {synset: number for number, synset in enumerate(synsets())}
    for name in names:
        if name not in known and not name.isdecimal():
            shown = brief(name)
            raise UserError(f"{where}: class {shown} is neither a synset of ImageNet, such as n01440764, nor a number")
    numbered = [name for name in names if name.isdecimal()]
    if numbered:
        named = next(name for name in names if name in known)
        raise UserError(f"{where}: some classes are numbers ({brief(numbered[0])}), others synsets ({named})")
    return np.array([known[name] for name in names], np.int64)


def _numbered(names: Sequence[str], where: object) -> np.ndarray:
    """Numbers of classes that are named by number."""
    named: dict[int, str] = {}
    for name in names:
        value = _by_value(name)
        if value >= _by_value(str(NUM_CLASSES)):
            raise UserError(f"{where}: class {brief(name)} is not below {NUM_CLASSES}")
        number = int(value[1] or "0")
        if number in named:
            raise UserError(f"{where}: {brief(named[number])} and {brief(name)} are the same class")
        named[number] = name
    return np.array(list(named), np.int64)


def places(labels: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Labels (N,) as places among the chosen class numbers; ``NO_LABEL`` for those of other classes."""
    table = np.full(NUM_CLASSES, NO_LABEL)
    table[list(chosen)] = np.arange(len(chosen))
    return table[labels]


def real_labels(file: str, names: Sequence[str]) -> np.ndarray:
    """ReaL's labels ("Are we done with ImageNet?", Beyer et al., 2020) of images of the validation set.

    Args:
        file: JSON, a list of labels for each of the 50,000 images by number; "timm": the table that timm comes with.
        names: N file names such as ILSVRC2012_val_00000001.JPEG.

    Returns:
        (N, M) int64, filled up with ``NO_LABEL``; images that ReaL gives no label have nothing else.

    Raises:
        UserError: a file that is no such list, or has no label for any of these images; a name that is none of the
            validation set's.
    """
    labels = json.loads(_timm_table("imagenet_real_labels.json")) if file == TIMM else read_json(file)
    if not isinstance(labels, list) or len(labels) != VAL_IMAGES:
        has = f"{len(labels):,} entries" if isinstance(labels, list) else brief(labels)
        raise UserError(f"{file}: {has} instead of ReaL's {VAL_IMAGES:,} lists of class numbers")
    for number, own in enumerate(labels, 1):
        is_list = isinstance(own, list) and len(own) <= _MOST_LABELS
        if not is_list or any(type(n) is not int or not 0 <= n < NUM_CLASSES for n in own):
            raise UserError(f"{file}: {brief(own)} of image {number:,} is no list of class numbers below {NUM_CLASSES}")
    own = [labels[_val_number(name) - 1] for name in names]
    most = max(map(len, own), default=0)
    if not most:
        raise UserError(f"{file}: has no label for any of the {len(names):,} images")
    return np.array([numbers + [NO_LABEL] * (most - len(numbers)) for numbers in own])


def _val_number(name: str) -> int:
    """From 1 on, of an image of the validation set by its file name."""
    match = _VAL_NAME.fullmatch(name)
    if not match or not 1 <= int(match[1]) <= VAL_IMAGES:
        raise UserError(f"{brief(name)}: ReaL's labels go by names such as ILSVRC2012_val_00000001.JPEG")
    return int(match[1])


@dataclass(frozen=True)
class ObjectNet:
    """The classes that ObjectNet shares with ImageNet (113 in the published set)."""

    folders: tuple[str, ...]
    """folder of each object, ascending; an object's number is its place here"""
    classes: tuple[tuple[int, ...], ...]
    """ImageNet's class numbers of each object, ascending"""

    @classmethod
    def read(cls, mappings: Path) -> ObjectNet:
        """From the folder ``mappings`` that the data set ships.

        folder → ObjectNet's label → ImageNet's labels ("a; b") → line of imagenet_to_label_2012_v2, from 0 → class.

        Raises:
            UserError: a file that is missing or damaged, or a name that leads nowhere.
        """
        files = [mappings / name for name in _OBJECTNET_FILES]
        folder_labels, objects, line_classes = (read_json(files[number]) for number in (0, 1, 3))
        lines = read_text(files[2]).splitlines()
        try:
            class_of_line = {line: int(number) for number, line in line_classes.items()}
            class_of_name = {name.strip(): class_of_line[line] for line, name in enumerate(lines) if name.strip()}
            label_folders = {label: folder for folder, label in folder_labels.items()}
            found = {
                label_folders[label]: tuple(sorted({class_of_name[name.strip()] for name in names.split(";")}))
                for label, names in objects.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            cause = f"{type(error).__name__}: {reason(error)}"
            raise UserError(f"{mappings}: not the mapping that ObjectNet ships ({cause})") from error
        if not 0 < len(found) <= NUM_CLASSES:
            raise UserError(f"{mappings}: not the mapping that ObjectNet ships ({len(found):,} objects)")
        if any(not 0 <= number < NUM_CLASSES for numbers in found.values() for number in numbers):
            raise UserError(f"{mappings}: not the mapping that ObjectNet ships (classes beyond {NUM_CLASSES})")
        return cls(tuple(sorted(found)), tuple(found[folder] for folder in sorted(found)))

    def columns(self) -> np.ndarray:
        """(objects, G) int64 class numbers, a row for each object, filled up by repeating its first."""
        width = max(map(len, self.classes))
        return np.array([(*numbers, *[numbers[0]] * (width - len(numbers))) for numbers in self.classes])


def _timm_table(name: str) -> str:
    """A file among timm's own tables."""
    return (resources.files("timm.data") / "_info" / name).read_text(encoding="utf-8")
