"""Pictures of images with their views and what the teacher predicts for them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from ffdr.augment.view import EFFECTS, FLIP, FRACTION, OPS, VERTICAL_FLIP
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import EFFECT_UNITS, first_effects, first_views
from ffdr.util.pictures import PAGE, drawing, legible, shortened
from ffdr.util.text import MOST_SHOWN

if TYPE_CHECKING:
    from ffdr.loader.dataset import ReinforcedDataset

_NAME = 16
"""Characters of a class name that fit."""
_LINE = 26
"""Characters that fit below a view."""
_TEXT = 6
"""Points of the texts."""


def draw_views(file: Path, dataset: ReinforcedDataset, resolution: int, images: int = 6, views: int = 5) -> None:
    """Evenly spaced images, each with its first views at ``resolution`` pixels and the teacher's top-3 for them."""
    views, images = min(views, dataset.num_views), min(images, len(dataset))
    names = dataset.images.class_names
    with _grid(file, images, views + 1, lines=6) as axes:
        for row, image in enumerate(np.linspace(0, len(dataset) - 1, images).astype(int).tolist()):
            pixels = decode_image(dataset.images, image)
            _show(axes[row, 0], pixels, f"label {_name(names, dataset.images.labels[image])}")
            for view in range(views):
                pixels, targets = dataset.view(image, view, resolution)
                best = zip(targets.ids[0][:3].tolist(), targets.log_probs[0][:3].exp().tolist(), strict=True)
                said = "\n".join(f"{_name(names, label)}: {100 * share:.0f} %" for label, share in best)
                _show(axes[row, view + 1], pixels, said)
                words = textwrap.fill(describe(dataset.reinforced.views(image)[view]), _LINE)
                axes[row, view + 1].set_xlabel(words, fontsize=_TEXT, labelpad=2)


def draw_images(file: Path, images: ImageBeton, shown: int = 30) -> None:
    """Evenly spaced images with their labels."""
    shown = min(shown, len(images))
    columns = min(6, shown)
    with _grid(file, math.ceil(shown / columns), columns, lines=3) as axes:
        for axis, image in zip(axes.flat, np.linspace(0, len(images) - 1, shown).astype(int).tolist(), strict=False):
            _show(axis, decode_image(images, image), f"{image}: {_name(images.class_names, images.labels[image])}")
        for axis in axes.flat[shown:]:
            axis.axis("off")


def describe(record: np.void) -> str:
    """A view record in words, such as ``flipped, Rotate -9, erased, mixup 80 %``."""
    mix = record["mix"] if "mix" in (record.dtype.names or ()) else None
    effects, view = first_effects(record), first_views(record)
    words = ["flipped"] if view["flags"] & FLIP else []
    if view["flags"] & VERTICAL_FLIP:
        words.append("flipped vertically")
    for op, level in ((view["op0"], view["level0"]), (view["op1"], view["level1"])):
        if op:
            words.append(f"{OPS[op]} {level}" if level else OPS[op])
    for kind, value in effects.tolist():
        if kind:
            name = EFFECTS[kind]
            words.append(f"{name} {value / EFFECT_UNITS[name]:.3g}" if name in EFFECT_UNITS else name)
    if view["erase_h"]:
        words.append("erased")
    if mix is not None and mix["mixup"] != FRACTION:
        words.append(f"mixup {100 * int(mix['mixup']) / FRACTION:.0f} %")
    if mix is not None and mix["cut_h"]:
        words.append("cutmix")
    return ", ".join(words)


@contextmanager
def _grid(file: Path, rows: int, columns: int, lines: float) -> Iterator[np.ndarray]:
    """The axes, (rows, columns), of a picture whose squares have so many lines of text around them."""
    side = PAGE / max(columns, 4)
    with drawing(file, side * columns, (side + 1.3 * lines * _TEXT / 72) * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        yield axes


def _show(axis: Axes, pixels: np.ndarray, title: str) -> None:
    axis.imshow(pixels)
    axis.set_title(title, fontsize=_TEXT, pad=3)


def _name(names: tuple[str, ...], number: int) -> str:
    """A class's name, shortened; its number where the teacher knows more classes than the images, or no font has it."""
    name = names[number][:MOST_SHOWN].replace("\n", " ") if number < len(names) else str(number)
    if legible(name) != name:
        return f"class {number}"
    return shortened(name, _NAME)
