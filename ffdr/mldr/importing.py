"""``ffdr import``: archives of the published format become one reinforced beton.

Nothing in an archive names an image: entry i belongs to image i of torchvision's dataset, and one image more or less
shifts all that follow in silence. So the image beton must have as many images as there are entries, know the original
size of each, and hold every crop; the first entry that disagrees is named, and no file gets its final name.

The archives that were published with the paper (ImageNet+, CIFAR-100+, Flowers-102+, Food-101+) are licensed
CC-BY-NC-ND: no commercial use, and what is made of them may not be passed on. ffdr ships none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.archive import importing
from ffdr.archive.importing import Surveyed, Target, import_all
from ffdr.archive.stored import StoredEntries
from ffdr.archive.torch_zip import EntryError, pickle_in
from ffdr.archive.unpickle import loads
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton
from ffdr.config.files import ImportOptions
from ffdr.mldr.archive import CONFIG, Archive, ArchiveFile, name_of
from ffdr.mldr.entries import Entry, Schema, check_entry, from_entries
from ffdr.mldr.format import Format
from ffdr.util.errors import UserError
from ffdr.util.text import brief, first_few, warn


@dataclass(frozen=True)
class _Read:
    """An archive whose config and first entry were read."""

    archive: Archive
    schema: Schema
    teachers: tuple[str, ...]


def import_archives(options: ImportOptions, progress: bool = True) -> Path:
    """Write the reinforced beton of the archives' views: see ``archive.importing``.

    Returns its path.

    Raises:
        UserError: a damaged or hostile archive, one of other images, or one with a transform that a view record can't
            hold; a file of other work that is there already, and ``overwrite`` is false.
    """
    return import_all(options, _prepare, progress)


def _prepare(target: Target) -> Callable[[], list[Surveyed]]:
    archives = [Archive(path, len(target.images)) for path in target.options.archive]
    return lambda: _survey_all(archives, target)


def _survey_all(archives: list[Archive], target: Target) -> list[Surveyed]:
    images = target.images
    found = [_survey(archive, images, target.sizes) for archive in archives]
    _check_alike(found)
    return [
        Surveyed(
            one.archive.path,
            _header(one, images, target.options.topk),
            target.identity(one.archive.identity),
            partial(_entries, one.archive, one.schema, images),
        )
        for one in found
    ]


def _survey(archive: Archive, images: ImageBeton, sizes: np.ndarray) -> _Read:
    """Read the config and one entry, and check what can be checked before the slow work.

    sizes: (N, 2) original width and height of all images.
    """
    config, entry = _first_files(archive)
    try:
        form = Format.of_config(config)
    except EntryError as error:
        raise UserError(f"{archive.path}: {name_of(CONFIG)}: {error}") from None
    stated = config.get("num_classes", images.num_classes)
    if stated != images.num_classes:
        raise UserError(f"{archive.path}: made for {brief(stated)} classes, but {images.path} has {images.num_classes}")
    if config.get("dataset") == "imagenet":
        _check_class_order(archive, images)
    stated, views = config["reinforce"].get("num_samples"), len(entry[1])
    if stated != views:
        warn(f"{archive.path}: its config says {brief(stated)} samples per image; its entries have {views}")
    if archive.listed is not None:
        found = archive.listed[archive.listed != CONFIG]
        _check_complete(archive, images, np.isin(np.arange(len(images)), found), found[found >= len(images)])
    schema = Schema(form, views, len(entry[1][0]["prob"][0]), images.num_classes, sizes)
    teacher = config.get("teacher")
    text = teacher.get("name") if isinstance(teacher, dict) else None
    names = text.split(",") if isinstance(text, str) and 0 < len(text) <= 300 else ["ml-dr archive"]
    return _Read(archive, schema, tuple(name.strip() for name in names))


def _first_files(archive: Archive) -> tuple[dict, Entry]:
    """The config and the entry that comes first."""
    config, entry = None, None
    for file in archive:
        if file.image == CONFIG:
            config = _value(archive, file)
        elif entry is None:
            entry = _entry(archive, file)
        if config is not None and entry is not None:
            break
    if entry is None:
        raise UserError(f"{archive.path}: holds no entry such as {name_of(0)}; of another format? See import.format")
    if type(config) is not dict:
        raise UserError(f"{archive.path}: holds no {name_of(CONFIG)}, or one that is not a dictionary")
    return config, entry


def _value(archive: Archive, file: ArchiveFile) -> Any:
    try:
        return loads(pickle_in(file.read()))
    except EntryError as error:
        raise UserError(f"{archive.path}: {name_of(file.image)}: {error}") from None


def _entry(archive: Archive, file: ArchiveFile, views: int | None = None) -> Entry:
    try:
        return check_entry(_value(archive, file), file.image, views)
    except EntryError as error:
        raise UserError(f"{archive.path}: {error}") from None


def _check_class_order(archive: Archive, images: ImageBeton) -> None:
    """torchvision's ImageFolder lists one class after the other."""
    falls = np.flatnonzero(np.diff(images.labels) < 0)
    if len(falls):
        i = int(falls[0]) + 1
        raise UserError(
            f"{archive.path}: counts images in ImageFolder's order, class after class, but in {images.path} image {i} "
            f"of class {images.labels[i]} follows one of class {images.labels[i - 1]}"
        )


def _check_complete(archive: Archive, images: ImageBeton, seen: np.ndarray, extra: np.ndarray) -> None:
    """Refuse unless each image was seen once. extra: indices beyond the images."""
    missing = np.flatnonzero(~seen)
    if len(missing) or len(extra):
        raise UserError(
            f"{archive.path}: is not the archive of {images.path}, which has {len(images)} images: "
            f"entries missing: {first_few(missing.tolist())}; entries without an image: {first_few(extra.tolist())}"
        )


def _check_alike(found: list[_Read]) -> None:
    """Refuse archives whose views are of different kinds: the format knows one config for all."""
    for one in found[1:]:
        if one.schema.form != found[0].schema.form:
            raise UserError(f"{one.archive.path}: has another image_augmentation than {found[0].archive.path}")


def _header(one: _Read, images: ImageBeton, topk: int) -> ReinforcedHeader:
    """topk: entries to keep; 0: all."""
    schema = one.schema
    return ReinforcedHeader(
        num_images=images.num_images,
        views=schema.views,
        topk=min(topk or schema.topk, schema.topk),
        num_classes=images.num_classes,
        mixes=schema.form.mixes,
        policy=schema.form.policy.settings(),
        teachers=one.teachers,
        resolution=schema.form.resolution,
        seed=0,
        fingerprint=images.fingerprint,
    )


def _entries(archive: Archive, schema: Schema, images: ImageBeton, written: np.ndarray) -> Iterator[StoredEntries]:
    """The entries that are not written yet, some at a time."""
    for batch in _batches(archive, schema, images, written):
        try:
            yield from_entries(batch, schema)
        except EntryError as error:
            raise UserError(f"{archive.path}: {error}") from None


def _batches(archive: Archive, schema: Schema, images: ImageBeton, written: np.ndarray) -> Iterator[list[Entry]]:
    """The entries that are not written yet, some at a time; in the end each image must have been seen once."""
    seen = np.zeros(len(images), bool)
    extra: list[int] = []
    batch: list[Entry] = []
    size = 0
    for file in archive:
        if file.image == CONFIG:
            continue
        if file.image >= len(images):
            extra.append(file.image)
            continue
        if seen[file.image]:
            raise UserError(f"{archive.path}: holds {name_of(file.image)} twice")
        seen[file.image] = True
        if written[file.image]:
            continue
        data = file.read()
        batch.append(_entry(archive, file, schema.views))
        size += len(data)
        if len(batch) * schema.views >= importing.BATCH_VIEWS or size >= importing.BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
    _check_complete(archive, images, seen, np.array(sorted(extra), np.int64))
