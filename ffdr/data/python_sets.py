"""A dataset that Python code brings along, as something that can be written: torchvision's and torch's, Hugging Face's,
tar shards of webdataset, lists, generators.

Each library's own code reads its dataset. What is done here: class names and columns are found, and where the files of
the images are to be had, they are taken as they are rather than decoded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.data.class_names import check_class_names, read_class_names
from ffdr.data.objects import UNREAD, Labels, ObjectItem, image_and_label, path_of, plain_image
from ffdr.data.rgb import cause_of
from ffdr.data.source import FileSource, Items, Source
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, first_few

Classes = Sequence[str] | str | os.PathLike
"""Names of classes, in the order of their numbers, or a file that has them."""
COLUMNS = ("image", "label")


class PythonSet(Items):
    """The items of a dataset that Python code has made."""

    def __init__(
        self, dataset: Any, names: list[str] | None, columns: tuple[str, str], split: str, facts: Mapping[str, Any]
    ) -> None:
        """split: what the origins of images without a path begin with. facts: what tells the dataset from others."""
        self.dataset, self.names, self.columns = dataset, names, columns
        self.split = split
        self.length = _length(dataset)
        self._facts = dict(facts)
        self._labels = Labels(names)

    def item(self, i: int) -> ObjectItem:
        """Number i. Raises UserError where it is no image with a label."""
        try:
            found = self.dataset[i]
        except Exception as error:  # a dataset's own code may raise anything; it means that the image can't be read
            return ObjectItem(self._origin(i), UNREAD, None, cause_of(error))
        return self._item(i, found)

    def items(self) -> Iterator[ObjectItem]:
        """All of them, in order."""
        if self.length is not None:
            yield from map(self.item, range(self.length))
            return
        iterator, i = iter(self.dataset), 0
        while True:
            try:
                found = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise UserError(f"dataset: item {i}: the dataset stopped: {cause_of(error)}") from error
            yield self._item(i, found)
            i += 1

    def facts(self) -> dict[str, Any]:
        """Type, length, columns, classes, and what the dataset says of itself."""
        return self._facts

    def _item(self, i: int, found: Any) -> ObjectItem:
        where = f"dataset: item {i}"
        image, label = image_and_label(found, self.columns, where)
        number = self._labels(label, where)
        origin = self._origin(i, number, path_of(image))
        if image is None and isinstance(found, Mapping):  # tables may have empty cells
            return ObjectItem(origin, number, None, "ValueError: the row has no image")
        try:
            return ObjectItem(origin, number, plain_image(image, where))
        except UserError:
            raise
        except Exception as error:
            return ObjectItem(origin, number, None, cause_of(error))

    def _origin(self, i: int, label: int = 0, path: str = "") -> str:
        """That of a folder with a subfolder per class, where the path has one; else the position."""
        folders = path.split("::")[0].split("/")
        name = self.names[label] if self.names else ""
        if name and name in folders[:-1]:
            last = len(folders) - 2 - folders[-2::-1].index(name)  # folders above the dataset's may have the name, too
            return "/".join(folders[last:])
        return f"{self.split or 'all'}/{i:05d}"


def adapt(
    dataset: Any, split: str, classes: Classes | None = None, columns: Sequence[str] | None = None
) -> Source | Items:
    """What ``ffdr write`` writes of a dataset.

    Args:
        dataset: has a length and is indexed by numbers, or can be iterated; gives (image, label) or mappings.
        split: what the origins of images without a path begin with.
        classes: names of the classes; None: those that the dataset knows, or else there are none.
        columns: keys of image and label in mappings; None: image and label, or what Hugging Face's features say.

    Raises:
        UserError: it is none of these; the names of classes or columns are none.
    """
    _check_kind(dataset)
    names = None if classes is None else _given_names(classes)
    found = None if columns else _files_of(dataset, names)
    if found is not None:
        return found
    facts = {"dataset": type(dataset).__name__, "items": _length(dataset)}
    wanted = _checked(columns)
    if _is_hugging_face(dataset):
        facts["fingerprint"] = getattr(dataset, "_fingerprint", None)
        wanted = _columns_of(dataset, columns)
        names = names or getattr((dataset.features or {}).get(wanted[1]), "names", None)
        dataset = _undecoded(dataset, wanted[0])
    names = names or own_names(_innermost(dataset)[0])
    return PythonSet(dataset, names, wanted, split, facts | {"columns": list(wanted), "classes": names or []})


def is_indexable(dataset: Any) -> bool:
    """Whether it is read by number, in any order; else one goes through it."""
    kind = type(dataset)
    if not (hasattr(kind, "__getitem__") and hasattr(kind, "__len__")):
        return False
    data = sys.modules.get("torch.utils.data")  # an object of torch's is here only if torch is
    return data is None or not isinstance(dataset, data.IterableDataset)  # which has a __getitem__ that raises


def own_names(dataset: Any) -> list[str] | None:
    """The names of classes that a dataset has under one of the usual names; None: it has none that are good."""
    numbers: Any = getattr(dataset, "class_to_idx", None)
    if isinstance(numbers, Mapping) and sorted(map(str, numbers.values())) == sorted(map(str, range(len(numbers)))):
        numbers = sorted(numbers, key=lambda name: int(numbers[name]))
    usual = [getattr(dataset, key, None) for key in ("classes", "class_names", "categories", "wnids")]
    for names in (*usual, numbers):
        if isinstance(names, list | tuple):
            try:
                check_class_names(list(names), "classes")
            except UserError:
                continue  # ImageNet's are sets of synonyms, two of them alike; its numbers of words name its folders
            return list(names)
    return None


def _check_kind(dataset: Any) -> None:
    if isinstance(dataset, Mapping):
        keys = [*dataset]
        first = f", as in dataset[{brief(keys[0], 60)}]" if keys else ""
        raise UserError(f"dataset: a {type(dataset).__name__} of {first_few(keys)}; give one of them{first}")
    texts = isinstance(dataset, str | bytes | os.PathLike)
    if texts or not (is_indexable(dataset) or hasattr(type(dataset), "__iter__")):
        hint = "; a source by its name is source=…, with path=…" if texts else ""
        raise UserError(
            f"dataset: {brief(dataset, 60)} is no dataset: wanted is one of (image, label) that has a length and is "
            f"indexed by numbers, or that can be iterated{hint}"
        )


def _length(dataset: Any) -> int | None:
    if not is_indexable(dataset):
        return None
    try:
        return len(dataset)
    except Exception as error:  # whatever the code of the dataset raises
        raise UserError(f"dataset: it does not say how many items it has: {cause_of(error)}") from error


def _given_names(classes: Classes) -> list[str]:
    if isinstance(classes, str | os.PathLike):
        return read_class_names(Path(classes).expanduser(), "classes")
    if not isinstance(classes, Sequence | np.ndarray):  # sets have no order, and mappings may say another one
        raise UserError(f"classes: {brief(classes, 60)} is neither a list of names nor a file that has them")
    names = list(classes)
    check_class_names(names, "classes")
    return names


def _checked(columns: Any) -> tuple[str, str]:
    if columns is None:
        return COLUMNS
    if isinstance(columns, tuple | list) and len(columns) == 2 and all(isinstance(name, str) for name in columns):
        image, label = columns
        if image != label:
            return image, label
    raise UserError(f"columns: {brief(columns, 60)} is not two names, as in columns=('image', 'label')")


def _innermost(dataset: Any) -> tuple[Any, np.ndarray | None]:
    """What torch's ``Subset``s are taken from, and the (M,) int64 numbers of what they take; None: all."""
    data: Any = sys.modules.get("torch.utils.data")
    index = None
    while data is not None and type(dataset) is data.Subset:
        taken = np.asarray(dataset.indices, np.int64)
        index = taken if index is None else taken[index]
        dataset = dataset.dataset
    return dataset, index


def _files_of(dataset: Any, names: list[str] | None) -> FileSource | None:
    """An ``ImageFolder`` of torchvision's that changes nothing about its files, or some of it; None: it is none.

    As files it is read faster, JPEGs keep their coefficients, and the beton is that of ``--write.source=imagefolder``.
    """
    folder, index = _innermost(dataset)
    module = sys.modules.get("torchvision.datasets.folder")
    if module is None or not isinstance(folder, module.DatasetFolder):
        return None
    changed = (folder.transform, folder.target_transform, folder.transforms)
    is_plain = type(folder).__getitem__ is module.DatasetFolder.__getitem__ and folder.loader is module.default_loader
    root = os.path.join(getattr(folder, "split_folder", folder.root), "")  # ImageNet's root is above its splits
    if not is_plain or changed != (None,) * 3 or not all(path.startswith(root) for path, _ in folder.samples):
        return None
    order = range(len(folder.samples)) if index is None else index.tolist()
    labels = np.array([label for _, label in folder.samples], np.int64)[order]
    found = names or own_names(folder) or []
    if len(labels) and labels.max() >= len(found):
        raise UserError(f"classes: {len(found)} names, but the dataset has the label {labels.max()}")
    files = (folder.samples[i][0].removeprefix(root) for i in order)
    return FileSource(Path(os.path.abspath(root)), files, labels, found)


def _is_hugging_face(dataset: Any) -> bool:
    kinds = type(dataset).__mro__
    return hasattr(dataset, "cast_column") and any(kind.__module__.split(".")[0] == "datasets" for kind in kinds)


def _columns_of(dataset: Any, columns: Any) -> tuple[str, str]:
    """The columns of image and label: those given, or the ones whose features say so."""
    features = dataset.features or {}  # a stream may not know any
    if columns is not None or not features:
        columns = _checked(columns)
        for name in columns:
            if features and name not in features:
                raise UserError(f"columns: no column {name!r}, only {first_few([*features])}{nearest(name, features)}")
        return columns
    return _column(features, "Image", "image"), _column(features, "ClassLabel", "label")


def _column(features: Mapping[str, Any], kind: str, usual: str) -> str:
    """The one column of a kind of Hugging Face's, or the one with the usual name."""
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) == 1:
        return found[0]
    if usual in features:
        return usual
    what = f"{len(found)} columns are of type {kind} ({first_few(found)})"
    raise UserError(f"dataset: {what}, of {first_few([*features])}; columns=(image, label) names the two")


def _undecoded(dataset: Any, column: str) -> Any:
    """The dataset giving the bytes of image files as they are, unless code of the user's awaits decoded images."""
    datasets: Any = import_module("datasets")
    feature: Any = (dataset.features or {}).get(column)
    if not isinstance(feature, datasets.Image):
        return dataset
    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
        return dataset
    return dataset.with_format(None).cast_column(column, datasets.Image(decode=False))
