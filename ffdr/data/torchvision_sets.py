"""``torchvision:NAME``: a dataset of torchvision's for classification, read by torchvision itself from files that it
has downloaded before. Nothing is downloaded here.

Some of its readers unpickle (CIFAR's), after a look at the file's MD5.
"""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

from ffdr.data.python_sets import adapt
from ffdr.data.source import Items, Source
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, reason

NAMES = (
    "CIFAR10", "CIFAR100", "CLEVRClassification", "Caltech101", "Caltech256", "Country211", "DTD", "EMNIST", "EuroSAT",
    "FER2013", "FGVCAircraft", "FashionMNIST", "Flowers102", "Food101", "GTSRB", "INaturalist", "ImageNet",
    "Imagenette", "KMNIST", "LFWPeople", "MNIST", "Omniglot", "OxfordIIITPet", "PCAM", "Places365", "QMNIST",
    "RenderedSST2", "SEMEION", "STL10", "SUN397", "SVHN", "StanfordCars", "USPS",
)  # fmt: skip
"""Those that give an image and its class."""


def open_set(name: str, path: str, split: str, classes: str = "") -> Source | Items:
    """Open a dataset of torchvision's.

    Args:
        name: of its class, in any case.
        path: the ``root`` that it was downloaded to.
        split: as its constructor names it; of those that only know training and test images, train or test; of those
            without splits, train or nothing.
        classes: file of class names; empty: the dataset's own.

    Raises:
        UserError: no such dataset or split; files that are missing or damaged.
    """
    known = {known.lower(): known for known in NAMES}
    if name.lower() not in known:
        close = difflib.get_close_matches(name.lower()[:100], known, n=1)
        hint = f" (did you mean torchvision:{known[close[0]]}?)" if close else ""
        raise UserError(
            f"write.source: torchvision has no dataset {brief(name)} for classification{hint}; "
            f"it has {', '.join(NAMES)}"
        )
    from torchvision import datasets

    kind = getattr(datasets, known[name.lower()], None)
    if kind is None:
        raise UserError(f"write.source: this version of torchvision has no {known[name.lower()]}")
    return adapt(_opened(kind, path, split), split, classes or None)


def _opened(kind: Any, path: str, split: str) -> Any:
    name, root = kind.__name__, str(Path(path).expanduser())
    parameters = inspect.signature(kind.__init__).parameters
    arguments: dict[str, Any] = {"download": False} if "download" in parameters else {}
    if "split" in parameters:
        arguments["split"] = split
    elif "train" in parameters:
        if split not in ("train", "test"):
            raise UserError(f"write.split: {name} has train, test, not {split!r}{nearest(split, ('train', 'test'))}")
        arguments["train"] = split == "train"
    elif split not in ("train", ""):
        raise UserError(f"write.split: {name} has no splits, and no {split!r}; leave it out")
    try:
        return kind(root, **arguments)
    except Exception as error:  # each of them complains in its own way
        if isinstance(error, ValueError) and "split" in str(error):
            raise UserError(f"write.split: {name}: {reason(error)}") from None
        how = f"get it with torchvision.datasets.{name}({root!r}, {_spelled(arguments)}download=True)"
        if "download" not in parameters:
            how = f"the page of torchvision.datasets.{name} says where to get it"
        raise UserError(f"write.path: no {name} in {root}: {reason(error)}; {how}") from None


def _spelled(arguments: dict[str, Any]) -> str:
    """The arguments that choose a split, as Python code."""
    return "".join(f"{key}={value!r}, " for key, value in arguments.items() if key != "download")
