"""``ffdr import --import.format=fkd``: soft labels of Fast Knowledge Distillation become one reinforced beton.

A file belongs to the image of its class and name (see ``names.py``), so no image more or less shifts anything; each
image must have one file, and each file an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ffdr.archive import importing
from ffdr.archive.arrays import load_arrays
from ffdr.archive.importing import Surveyed, Target, import_all
from ffdr.archive.stored import StoredEntries
from ffdr.archive.torch_zip import EntryError
from ffdr.augment.policy import Policy
from ffdr.beton.header import ReinforcedHeader
from ffdr.config.files import ImportOptions
from ffdr.fkd.archive import Archive, ArchiveFile, state_of
from ffdr.fkd.entries import FULL, Crops, Schema, check_alike, crops_of, logits_of, views_of
from ffdr.fkd.names import Names
from ffdr.util.errors import UserError
from ffdr.util.text import first_few, printable

_FULL_TOPK = 10
"""Entries that are kept of a label over all classes, unless told otherwise: as many as ImageNet+ has."""
_POLICY = Policy(crop="resized", randaugment=0.0, erase=0.0)
"""What crops are drawn from. Files don't say the range of their areas; the published code has 0.08 to 0.936."""
_NAMED = 5
"""Files without an image that a message names."""


class _One(NamedTuple):
    """What is stored of one image."""

    image: int
    views: np.ndarray
    ids: np.ndarray
    log_probs: np.ndarray


def import_archives(options: ImportOptions, progress: bool = True) -> Path:
    """Write the reinforced beton of the archives' crops and labels: see ``archive.importing``.

    Returns its path.

    Raises:
        UserError: a damaged or hostile archive, or one of other images; a file of other work that is there already,
            and ``overwrite`` is false.
    """
    return import_all(options, _prepare, progress, state_of)


def _prepare(target: Target) -> Callable[[], list[Surveyed]]:
    archives = [Archive(path, len(target.images)) for path in target.options.archive]

    def survey_all() -> list[Surveyed]:
        names = Names(target)
        return [_survey(archive, names, target) for archive in archives]

    return survey_all


def _survey(archive: Archive, names: Names, target: Target) -> Surveyed:
    """Read one file, and check what can be checked before the slow work."""
    file = next(iter(archive), None)
    if file is None:
        raise UserError(f"{archive.path}: holds no file such as CLASS/NAME.tar; of another format? See import.format")
    if archive.is_listed:
        for _ in _matched(archive, names, target):
            pass
    images = target.images
    with _named(archive, file):
        schema = _crops(file).schema(images.num_classes)
    topk = target.options.topk or (_FULL_TOPK if schema.form == FULL else schema.named)
    header = ReinforcedHeader(
        num_images=images.num_images,
        views=schema.crops,
        topk=min(topk, schema.named),
        num_classes=images.num_classes,
        mixes=False,
        policy=_POLICY.settings(),
        teachers=("FKD",),
        resolution=0,
        seed=0,
        fingerprint=images.fingerprint,
    )
    entries = partial(_entries, archive, names, target, schema, header.topk)
    return Surveyed(archive.path, header, target.identity(archive.identity), entries)


@contextmanager
def _named(archive: Archive, file: ArchiveFile) -> Iterator[None]:
    """Name the archive and the file in what is wrong with it."""
    try:
        yield
    except EntryError as error:
        raise UserError(f"{archive.path}: {printable(file.name)}.tar: {error}") from None


def _crops(file: ArchiveFile) -> Crops:
    return crops_of(load_arrays(file.read()))


def _matched(archive: Archive, names: Names, target: Target) -> Iterator[tuple[int, ArchiveFile]]:
    """All files with their images. In the end each image must have had one file, and each file an image."""
    seen = np.zeros(len(target.images), bool)
    strange: list[str] = []
    for file in archive:
        image = names.find(file.name)
        if image < 0:
            strange.append(printable(file.name) if len(strange) < _NAMED else "")  # only counted, the others
        elif seen[image]:
            raise UserError(f"{archive.path}: holds {printable(file.name)}.tar twice, or for two images of one name")
        else:
            seen[image] = True
            yield image, file
    missing = np.flatnonzero(~seen).tolist()
    if missing or strange:
        without = first_few([*map(names.said, missing[:_NAMED]), *missing[_NAMED:]])
        hint = "; --import.sizes=FOLDER finds images by their names in a folder" if names.are_guessed else ""
        raise UserError(
            f"{archive.path}: is not the archive of {target.images.path}, which has {len(seen)} images: "
            f"images without a file: {without}; files without an image: {first_few(strange)}{hint}"
        )


def _entries(
    archive: Archive, names: Names, target: Target, schema: Schema, topk: int, written: np.ndarray
) -> Iterator[StoredEntries]:
    """The entries that are not written yet, some at a time."""
    batch: list[_One] = []
    size = 0
    for image, file in _matched(archive, names, target):
        if written[image]:
            continue
        width, height = target.sizes[image].tolist()
        with _named(archive, file):
            crops = _crops(file)
            check_alike(crops, schema)
            batch.append(_One(image, views_of(crops, width, height), *logits_of(crops, schema, topk)))
        size += crops.labels.nbytes
        if len(batch) * schema.crops >= importing.BATCH_VIEWS or size >= importing.BATCH_BYTES:
            yield _together(batch)
            batch, size = [], 0
    if batch:
        yield _together(batch)


def _together(batch: list[_One]) -> StoredEntries:
    images, views, ids, log_probs = zip(*batch, strict=True)
    return StoredEntries(np.array(images, np.int64), np.stack(views), np.stack(ids), np.stack(log_probs))
