"""``ffdr adopt``: a beton that stock FFCV has written gets a manifest; the beton itself stays as it is.

Without one, classes are called by their numbers, pixels are normalised as ImageNet's are, and whoever compares the
classes of a model with those of the images has nothing to compare.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ffdr.beton import layout
from ffdr.beton.manifest import MANIFEST_FORMAT, is_foreign, manifest_path
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, open_unnamed_images
from ffdr.beton.tables import beton_path
from ffdr.config.files import AdoptOptions
from ffdr.data.class_names import read_class_names
from ffdr.util import workers
from ffdr.util.atomic import atomic_write
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final
from ffdr.write import closing
from ffdr.write.images import versions
from ffdr.write.pixel_sums import PixelSums, add_pixels

_PORTION = 64
"""Images that a worker process decodes in a row."""


def adopt(options: AdoptOptions, progress: bool = True) -> Path:
    """Write the manifest of a beton that has none: class names, counts, exact mean and deviation of all pixels.

    Every image is decoded for that, and so found to be decodable.

    Returns:
        The path of the manifest.

    Raises:
        UserError: no image beton; too few class names for its labels; a corrupt image; a manifest that is there
            already, and ``overwrite`` is false; another file that has its name.
    """
    path = beton_path(options.file)
    out = manifest_path(path)
    check_final(out)
    if is_foreign(out):
        raise UserError(f"{out}: is not a manifest of ffdr, which would replace it; move it or rename the beton")
    if out.exists() and not options.overwrite:
        raise UserError(f"{out}: is there already; --overwrite replaces it")
    names = read_class_names(options.classes, "adopt.classes") if options.classes else None
    images = open_unnamed_images(path)
    names = _checked_names(images, names)
    sums = _sums(images, options.workers, progress)
    manifest = {
        "format": MANIFEST_FORMAT,
        "source": "ffcv",
        "num_images": len(images),
        "num_classes": len(names),
        "fingerprint": images.fingerprint,
        "mean": sums.mean(),
        "std": sums.std(),
        "images_per_class": np.bincount(images.labels, minlength=len(names)).tolist(),
        "jpeg_images": int((images.modes == layout.JPG).sum()),
        "image_bytes": int(images.data_size.sum()),
        "versions": versions(),
        "skipped": [],
        "class_names": names,
    }
    atomic_write(out, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    if progress:
        closing.announce([path], path)
    return out


def _checked_names(images: ImageBeton, names: list[str] | None) -> list[str]:
    """The names, or the numbers of the classes where there are none."""
    if names is None:
        return list(images.class_names)
    bad = np.flatnonzero(images.labels >= len(names))
    if len(bad):
        raise UserError(
            f"adopt.classes: {len(names)} names, but image {bad[0]} of {images.path} is of class "
            f"{images.labels[bad[0]]}, counted from 0"
        )
    return names


def _sums(images: ImageBeton, processes: int, progress: bool) -> PixelSums:
    """Of the pixels of all images."""
    portions = [list(range(at, min(at + _PORTION, len(images)))) for at in range(0, len(images), _PORTION)]
    sums = np.zeros((2, 3), dtype=object)  # Python's integers do not overflow
    processes = processes or len(os.sched_getaffinity(0))
    with tqdm(total=len(images), unit="img", desc="adopt", disable=not progress) as bar:
        try:
            for portion, found in zip(portions, workers.run(_Adder(images), portions, processes), strict=True):
                sums += np.array(found.tolist(), dtype=object)
                bar.update(len(portion))
        except workers.DeadWorkerError as error:
            raise UserError(
                f"{images.path}: a worker process died, out of memory or by a crash of the image decoder, on one of "
                f"the images from {error.first} to {error.last}"
            ) from None
    pixels = int(np.prod(images.sizes, axis=1, dtype=np.int64).sum())
    return PixelSums(pixels, *sums.tolist())


class _Adder:
    """What a worker process does: sums over the pixels of some images, (2, 3) uint64 as ``add_pixels`` has them."""

    def __init__(self, images: ImageBeton) -> None:
        self.images = images

    def __reduce__(self) -> tuple:
        # A beton pickles as its path, and is opened there with the manifest that this one is about to replace.
        return _reopened, (os.path.abspath(self.images.path), self.images.stamp)

    def __call__(self, indices: Sequence[int]) -> np.ndarray:
        """Of the images of these numbers."""
        sums = np.zeros((2, 3), np.uint64)
        for i in indices:
            add_pixels(decode_image(self.images, i), sums)
        return sums


def _reopened(path: str, stamp: tuple) -> _Adder:
    images = open_unnamed_images(Path(path))
    if images.stamp != stamp:
        raise UserError(f"{path}: has changed while it was read")
    return _Adder(images)
