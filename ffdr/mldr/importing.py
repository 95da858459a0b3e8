"""``ffdr import``: archives of the published format become one reinforced beton.

Nothing in an archive names an image: entry i belongs to image i of torchvision's dataset, and one image more or less
shifts all that follow in silence. So the image beton must have as many images as there are entries, know the original
size of each, and hold every crop; the first entry that disagrees is named, and no file gets its final name.

The archives that were published with the paper (ImageNet+, CIFAR-100+, Flowers-102+, Food-101+) are licensed
CC-BY-NC-ND: no commercial use, and what is made of them may not be passed on. ffdr ships none of them.
"""

from __future__ import annotations

import gc
import glob
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ffdr.beton.header import UNUSED, ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_intact
from ffdr.config.files import ImportOptions
from ffdr.mldr.archive import CONFIG, Archive, ArchiveFile, name_of
from ffdr.mldr.entries import Entry, Schema, check_entry, from_entries
from ffdr.mldr.format import Format
from ffdr.mldr.sizes import digest_of_other, original_sizes
from ffdr.mldr.torch_zip import EntryError, pickle_in
from ffdr.mldr.unpickle import loads
from ffdr.util.errors import UserError
from ffdr.util.opening import check_own
from ffdr.util.text import brief, first_few, printable, warn
from ffdr.write import closing
from ffdr.write.partial import is_finished
from ffdr.write.parts import check_out
from ffdr.write.receipt import Work, state
from ffdr.write.reinforced import ReinforcedWriter

_BATCH_VIEWS = 4096
_BATCH_BYTES = 8 << 20
"""Entries are converted together until there are so many views or bytes."""
_DIGITS = 12
"""Of the hash in the name of a file that holds one of several archives."""


@dataclass(frozen=True)
class _Surveyed:
    """An archive whose config and first entry were read."""

    archive: Archive
    schema: Schema
    teachers: tuple[str, ...]
    identity: str
    """What decides the bytes, beside the header: the archive, and original sizes that are not the beton's."""


def import_archives(options: ImportOptions, progress: bool = True) -> Path:
    """Write the reinforced beton of the archives' views, one archive's after the other's.

    A killed run is resumed, and what is there already is not made again. Several archives are first imported into
    files beside ``out``, one each, and then put together: that takes their size twice on disk.

    Returns its path.

    Raises:
        UserError: a damaged or hostile archive, one of other images, or one with a transform that a view record can't
            hold; a file of other work that is there already, and ``overwrite`` is false.
    """
    images = ImageBeton.open(options.images)
    out = Path(options.out)
    folder = [Path(options.sizes).expanduser()] if options.sizes else []
    check_out(out, [images.path, *map(Path, options.archive), *folder])
    sizes = original_sizes(images, options.sizes, "import.sizes", progress)
    archives = [Archive(path, len(images)) for path in options.archive]
    read = {"archive": " ".join(state(archive.path) for archive in archives), "images": images.fingerprint}
    read |= digest_of_other(options.sizes, sizes)
    work = Work(out, "import", options.overwrite, {"classes": images.num_classes}, read, b"%d" % images.num_classes)
    is_there = is_finished(work)
    if not is_there:
        surveyed = [_survey(archive, images, sizes, read.get("sizes", "")) for archive in archives]
        _check_alike(surveyed)
        if len(surveyed) == 1:
            _import(surveyed[0], images, out, progress, work)
        else:
            parts = [_import_part(one, images, out, progress) for one in surveyed]
            _merge(parts, _header(surveyed, images), images, work, progress)
    for part in out.parent.glob(f"{glob.escape(out.name)}.{'[0-9a-f]' * _DIGITS}.part*"):
        part.unlink(missing_ok=True)  # also what a killed run has left, be it of other archives
    if progress:
        closing.announce([out], images.path, out, done=[out] if is_there else [])
    return out


def _survey(archive: Archive, images: ImageBeton, sizes: np.ndarray, other_sizes: str) -> _Surveyed:
    """Read the config and one entry, and check what can be checked before the slow work.

    sizes: (N, 2) original width and height of all images. other_sizes: their digest where they are not the beton's.
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
    identity = f"{archive.identity} {other_sizes}" if other_sizes else archive.identity
    return _Surveyed(archive, schema, tuple(name.strip() for name in names), identity)


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
        raise UserError(f"{archive.path}: holds no entry such as {name_of(0)}")
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


def _check_alike(surveyed: list[_Surveyed]) -> None:
    """Refuse archives whose views are of different kinds: the format knows one config for all."""
    first = surveyed[0]
    for one in surveyed[1:]:
        if one.schema.form != first.schema.form:
            raise UserError(f"{one.archive.path}: has another image_augmentation than {first.archive.path}")
    if len({one.archive.path.resolve() for one in surveyed}) < len(surveyed):
        raise UserError("import.archive: names an archive twice")


def _header(surveyed: list[_Surveyed], images: ImageBeton) -> ReinforcedHeader:
    form = surveyed[0].schema.form
    return ReinforcedHeader(
        num_images=images.num_images,
        views=sum(one.schema.views for one in surveyed),
        topk=max(one.schema.topk for one in surveyed),
        num_classes=images.num_classes,
        mixes=form.mixes,
        policy=form.policy.settings(),
        teachers=tuple(dict.fromkeys(name for one in surveyed for name in one.teachers)),
        resolution=form.resolution,
        seed=0,
        fingerprint=images.fingerprint,
    )


def _import(one: _Surveyed, images: ImageBeton, out: Path, progress: bool, work: Work | None = None) -> None:
    """One archive becomes one reinforced beton. work: None for a file that goes away again."""
    archive, schema, title = one.archive, one.schema, printable(one.archive.path.name)
    with (
        ReinforcedWriter(out, _header([one], images), images, one.identity, work) as writer,
        tqdm(total=len(images), unit="img", desc=title, disable=not progress, initial=writer.done) as bar,
        _collected_by_hand(),
    ):
        for batch in _batches(archive, schema, images, writer.written):
            try:
                stored = from_entries(batch, schema)
            except EntryError as error:
                raise UserError(f"{archive.path}: {error}") from None
            writer.put(stored.index, stored.views, stored.ids, stored.log_probs)
            bar.update(len(batch))
            gc.collect()
        writer.finish()


@contextmanager
def _collected_by_hand() -> Iterator[None]:
    """Keep Python from looking for cycles every few hundred of the values that are unpickled: half of all time."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


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
        if len(batch) * schema.views >= _BATCH_VIEWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
    _check_complete(archive, images, seen, np.array(sorted(extra), np.int64))


def _import_part(one: _Surveyed, images: ImageBeton, out: Path, progress: bool) -> ReinforcedBeton:
    """One of several archives, in a file of its own beside ``out``, which an earlier run may have finished."""
    identity = one.identity.encode(errors="surrogateescape")
    digest = hashlib.sha256(_header([one], images).pack() + identity).hexdigest()[:_DIGITS]
    path = out.with_name(f"{out.name}.{digest}.part")
    check_own(path)
    if not path.exists():
        _import(one, images, path, progress)
    return ReinforcedBeton.open(path, images)


def _merge(
    parts: list[ReinforcedBeton], header: ReinforcedHeader, images: ImageBeton, work: Work, progress: bool
) -> None:
    """Put the views of several reinforced betons of the same images together."""
    identity = " ".join(part.path.name for part in parts)
    chunk = max(1, _BATCH_VIEWS // header.views)
    with ReinforcedWriter(work.out, header, images, identity, work) as writer:
        rest = np.flatnonzero(~writer.written)
        starts = range(0, len(rest), chunk)
        for start in tqdm(starts, unit="chunk", desc=printable(work.out.name), disable=not progress):
            index = rest[start : start + chunk]
            for part in parts:
                for i in index.tolist():
                    check_intact(part, i)
            views = np.stack([np.concatenate([part.views(i) for part in parts]) for i in index.tolist()])
            logits = [[_widened(part, i, header.topk) for part in parts] for i in index.tolist()]
            ids, log_probs = (np.stack([np.concatenate([p[n] for p in one]) for one in logits]) for n in range(2))
            writer.put(index, views, ids, log_probs)
        writer.finish()


def _widened(part: ReinforcedBeton, i: int, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities (K, topk) of image i, with unused entries behind those that the part has."""
    ids, log_probs = part.logits(i)
    behind = ((0, 0), (0, topk - ids.shape[1]))
    return np.pad(ids, behind), np.pad(log_probs, behind, constant_values=UNUSED)
