"""A page for the browser to look through images and their views: all in one file, pictures included."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ffdr.beton.header import UNUSED
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.inspect.grid import describe
from ffdr.inspect.statistics import entropy_and_residual, expected_classes
from ffdr.util.atomic import atomic_path
from ffdr.util.text import MOST_SHOWN, readable

if TYPE_CHECKING:
    from ffdr.loader.dataset import ReinforcedDataset

_MOST_SIDE = 128
"""Pixels of a picture on the page, at most."""
_MOST_VIEWS = 16
"""Views of an image on the page, at most: its first ones."""
_BEST = 3
"""Classes of the teacher's that are shown of a view."""
_LOSSLESS_SIDE = 64
"""Pixels up to which pictures are PNGs: they are magnified, and small anyway."""
_QUALITY = 85


def write_page(
    file: Path, images: ImageBeton, dataset: ReinforcedDataset | None, resolution: int, samples: int
) -> None:
    """Write a page of evenly spaced images, each with its first 16 views and the teacher's top-3 for them.

    It has filters by class, by whether the teacher's best guess is the label and the same for all views, by entropy
    and by what was done to a view; they stand in its address, so that a choice can be passed on. It loads nothing.

    dataset: of ``images`` and their reinforcement; None: images alone. resolution: pixels of the teacher's views;
    pictures on the page have 128 at most. samples: images on the page, at most.
    """
    side = min(resolution, _MOST_SIDE)
    number_N = np.unique(np.linspace(0, len(images) - 1, min(samples, len(images))).astype(int)).tolist()
    bar = tqdm(number_N, desc="images on the page", unit="image", disable=None)
    content = {
        "title": readable((images if dataset is None else dataset.reinforced).path.name),
        "about": _about(images, dataset, len(number_N)),
        "classes": [readable(name[:MOST_SHOWN]) for name in images.class_names],
        "side": side,
        "format": "image/png" if side <= _LOSSLESS_SIDE else "image/webp",
        "taught": dataset is not None,
    }
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    above, below = template.split("__IMAGES__")
    with atomic_path(file) as page:
        page.write(above.replace("__DATA__", _json(content)).encode())
        for image in bar:
            text = _json(_image(images, dataset, image, side))
            page.write(f'<script type="application/json" class="image">{text}</script>\n'.encode())
        page.write(below.encode())


def _json(value: Any) -> str:
    """For a script element, within which only "</script" and "<!--" mean anything to HTML."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _about(images: ImageBeton, dataset: ReinforcedDataset | None, shown: int) -> str:
    parts = [f"{shown:,} of {len(images):,} images of {readable(images.path.name)}"]
    if dataset is not None:
        views, teachers = min(dataset.num_views, _MOST_VIEWS), dataset.reinforced.header.teachers
        parts += [f"{views} of {dataset.num_views} views each", f"labelled by {readable(', '.join(teachers))}"]
    return ", ".join(parts)


def _image(images: ImageBeton, dataset: ReinforcedDataset | None, image: int, side: int) -> dict[str, Any]:
    """What the page shows of an image."""
    tiles = [_whole(decode_image(images, image), side)]
    views = []
    if dataset is not None:
        for pixels, view in _views(dataset, image, side):
            tiles.append(pixels)
            views.append(view)
    strip = base64.b64encode(_encoded(np.concatenate(tiles, axis=1))).decode()
    return {"number": image, "label": int(images.labels[image]), "picture": strip, "views": views}


def _views(dataset: ReinforcedDataset, image: int, side: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Pixels of an image's first views, and what is said of them."""
    reinforced, labels = dataset.reinforced, dataset.images.labels
    records, (ids, log_probs) = reinforced.views(image), reinforced.logits(image)
    entropies, _ = entropy_and_residual(log_probs, reinforced.header.num_classes)
    (expected,) = expected_classes(np.array([image]), records[None], labels)
    for view in range(min(dataset.num_views, _MOST_VIEWS)):
        pixels, targets = dataset.view(image, view, side)
        is_mixed = targets.share is not None and float(targets.share) < 1
        used = log_probs[view][:_BEST] > UNUSED
        shares = np.exp(log_probs[view][:_BEST][used], dtype=np.float64)
        best = zip(ids[view][:_BEST][used].tolist(), shares.tolist(), strict=True)
        yield (
            pixels,
            {
                "words": describe(records[view]),
                "best": [[label, round(share, 4)] for label, share in best],
                "entropy": round(float(entropies[view]), 4),
                "expected": int(expected[view]),
                "partner": int(targets.partner) if is_mixed and targets.partner is not None else None,
            },
        )


def _whole(pixels: np.ndarray, side: int) -> np.ndarray:
    """An image within a white square (side, side, 3) uint8, its proportions kept."""
    picture = Image.fromarray(pixels)
    scale = side / max(picture.size)
    width, height = (max(1, round(scale * length)) for length in picture.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture.resize((width, height), Image.Resampling.BOX), ((side - width) // 2, (side - height) // 2))
    return np.asarray(square)


def _encoded(strip: np.ndarray) -> bytes:
    """Pixels as the file that the page says they are."""
    file = io.BytesIO()
    if len(strip) <= _LOSSLESS_SIDE:
        Image.fromarray(strip).save(file, "PNG")
    else:
        Image.fromarray(strip).save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()
