"""Pictures of images with their views and what the teacher said of them."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from ffdr.augment.view import FLIP, FRACTION, OPS
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.util.atomic import atomic_path
from ffdr.util.pictures import Picture, legible
from ffdr.util.text import MOST_SHOWN

if TYPE_CHECKING:
    from ffdr.loader.dataset import ReinforcedDataset

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_NAME = 16
"""Characters of a class name that fit."""
_LINE = 32
"""Characters that fit below a view."""


def draw_views(file: Path, dataset: ReinforcedDataset, resolution: int, images: int = 6, views: int = 5) -> None:
    """Evenly spaced images, each with its first views at ``resolution`` pixels and the teacher's top-3 for them."""
    views, images = min(views, dataset.num_views), min(images, len(dataset))
    figure, axes = _figure(images, views + 1)
    names = dataset.images.class_names
    for row, image in enumerate(np.linspace(0, len(dataset) - 1, images).astype(int).tolist()):
        _show(axes[row, 0], decode_image(dataset.images, image), f"label {_name(names, dataset.images.labels[image])}")
        for view in range(views):
            pixels, targets = dataset.view(image, view, resolution)
            best = zip(targets.ids[0][:3].tolist(), targets.log_probs[0][:3].exp().tolist(), strict=True)
            _show(axes[row, view + 1], pixels, "\n".join(f"{_name(names, c)}: {100 * p:.0f}%" for c, p in best))
            words = textwrap.fill(describe(dataset.reinforced.views(image)[view]), _LINE)
            axes[row, view + 1].set_xlabel(words, fontsize=7)
    _save(figure, file)


def draw_images(file: Path, images: ImageBeton, shown: int = 30) -> None:
    """Evenly spaced images with their labels."""
    shown = min(shown, len(images))
    columns = min(6, shown)
    figure, axes = _figure(math.ceil(shown / columns), columns)
    for axis, image in zip(axes.flat, np.linspace(0, len(images) - 1, shown).astype(int).tolist(), strict=False):
        _show(axis, decode_image(images, image), f"{image}: {_name(images.class_names, images.labels[image])}")
    for axis in axes.flat[shown:]:
        axis.axis("off")
    _save(figure, file)


def describe(record: np.void) -> str:
    """A view record in words, such as ``flipped, Rotate -9, erased, mixup 80 %``."""
    mix = record["mix"] if "mix" in (record.dtype.names or ()) else None
    record = record if mix is None else record["first"]
    words = ["flipped"] if record["flags"] & FLIP else []
    for op, level in ((record["op0"], record["level0"]), (record["op1"], record["level1"])):
        if op:
            words.append(f"{OPS[op]} {level}" if level else OPS[op])
    if record["erase_h"]:
        words.append("erased")
    if mix is not None and mix["mixup"] != FRACTION:
        words.append(f"mixup {100 * int(mix['mixup']) / FRACTION:.0f} %")
    if mix is not None and mix["cut_h"]:
        words.append("cutmix")
    return ", ".join(words)


def _figure(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    size = (2 * columns, 2.35 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, constrained_layout=True, squeeze=False, FigureClass=Picture
    )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def _show(axis: Axes, pixels: np.ndarray, title: str) -> None:
    axis.imshow(pixels)
    axis.set_title(title, fontsize=8)


def _name(names: tuple[str, ...], number: int) -> str:
    """A class's name, shortened; its number where the teacher knows more classes than the images, or no font has it."""
    name = names[number][:MOST_SHOWN].replace("\n", " ") if number < len(names) else str(number)
    if legible(name) != name:
        return f"class {number}"
    return name if _width(name) <= _NAME else _cut(name) + "…"


def _cut(name: str) -> str:
    """As many characters as leave room for an ellipsis."""
    return next(name[:end] for end in range(len(name), -1, -1) if _width(name[:end]) < _NAME)


def _width(text: str) -> int:
    """In Latin characters: those of Chinese, Japanese and Korean are twice as wide."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _save(figure: Figure, file: Path) -> None:
    with atomic_path(file) as picture:
        figure.savefig(picture, dpi=90, format="png")
    plt.close(figure)
