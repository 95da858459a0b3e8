"""The sizes that images had before they were written, in whose pixels an archive's crops count.

A beton of ours holds them. One of stock FFCV does not, whose images may have been shrunk: then the folder that it was
written from has them, in ImageFolder's order, which is that of the archive, too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ffdr.beton.read import ImageBeton
from ffdr.data.folder import open_folder
from ffdr.data.rgb import cause_of, read_size
from ffdr.data.source import FileSource
from ffdr.util.errors import UserError

_THREADS, _FILES_AT_ONCE = 16, 64
"""Threads that read headers, and files that one of them reads in a row."""


def original_sizes(images: ImageBeton, folder: str, key: str, progress: bool) -> np.ndarray:
    """Original width and height of each image, (N, 2) int32.

    folder: where they are read; empty: in the beton. It may hold them, too: then both must agree.
    key: the option that names the folder, for messages.

    Raises:
        UserError: neither has them; a folder of other images, by their number, their classes or the shape of one; an
            image that can't be read.
    """
    if not folder:
        if not images.has_origins:
            raise UserError(
                f"{images.path}: does not hold the images' original sizes, in which an archive's crops count; "
                f"--{key}=FOLDER reads them in the folder that it was written from"
            )
        return images.original_sizes
    if not Path(folder).expanduser().is_dir():
        raise UserError(f"{key}: {folder} is not a folder")
    source = open_folder(Path(folder).expanduser(), key)
    _check_labels(images, folder, source, key)
    found = _read(source, progress)
    if images.has_origins:
        sizes, good = images.original_sizes, (found == images.original_sizes).all(axis=1)
        text = "{path}: has another size than image {i} of {beton} had when it was written: {found}, not {size}"
    else:
        sizes, good = images.sizes, _can_be_shrunk(found.astype(np.int64), images.sizes.astype(np.int64))
        text = (
            "{path}: is {found}, which can't be shrunk to image {i} of {beton}, {size}: another order, or other images"
        )
    if not good.all():
        i = int(np.argmin(good))
        place = source.place(source.origin(i))
        one, other = ("{} × {} pixels".format(*pair[i].tolist()) for pair in (found, sizes))
        raise UserError(f"{key}: " + text.format(path=place, i=i, beton=images.path, found=one, size=other))
    return found


def digest_of_other(folder: str, sizes: np.ndarray) -> dict[str, str]:
    """For a receipt, the original sizes that were read in a folder; nothing where they are the beton's."""
    return {"sizes": hashlib.sha256(sizes.tobytes()).hexdigest()} if folder else {}


def _check_labels(images: ImageBeton, folder: str, source: FileSource, key: str) -> None:
    if len(source) != len(images):
        raise UserError(f"{key}: {folder} has {len(source)} images, but {images.path} has {len(images)}")
    bad = np.flatnonzero(source.labels != images.labels)
    if len(bad):
        i = int(bad[0])
        raise UserError(
            f"{key}: image {i} of {images.path} is of class {images.labels[i]}, but that of {folder}, "
            f"{source.origin(i)}, of class {source.labels[i]}; ImageFolder's order is wanted"
        )


def _can_be_shrunk(original: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Whether images of these sizes (N, 2) can be stored in those, whose sides are whole pixels: (N,) bool."""
    wide, high = original.T
    width, height = stored.T
    return np.abs(height * wide - width * high) <= wide + high


def _read(source: FileSource, progress: bool) -> np.ndarray:
    """Width and height of all images, from the headers of their files."""
    portions = [range(at, min(at + _FILES_AT_ONCE, len(source))) for at in range(0, len(source), _FILES_AT_ONCE)]

    def read(portion: Sequence[int]) -> list[tuple[int, int]]:
        return [_size(source, i) for i in portion]

    sizes: list[tuple[int, int]] = []
    # Threads: it is the disk, or the network, that is waited for.
    with (
        tqdm(total=len(source), unit="img", desc="sizes", disable=not progress) as bar,
        ThreadPoolExecutor(min(_THREADS, 4 * (os.cpu_count() or 1))) as pool,
    ):
        for found in pool.map(read, portions):
            sizes += found
            bar.update(len(found))
    return np.array(sizes, np.int32)


def _size(source: FileSource, i: int) -> tuple[int, int]:
    path = Path(source.place(source.origin(i)))
    try:
        return read_size(path)
    except Exception as error:  # Pillow's readers raise many kinds; all mean that the image can't be read
        raise UserError(f"{path}: {cause_of(error, path)}") from error
