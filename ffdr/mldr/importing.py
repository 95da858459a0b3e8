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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ffdr.beton.header import UNUSED, ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_intact
from ffdr.config.files import ImportOptions
from ffdr.mldr.container import EntryError, pickle_in
from ffdr.mldr.format import Format
from ffdr.mldr.samples import (
    Entry,
    Rules,
    check_entry,
    from_entries,
)
from ffdr.mldr.source import (
    CONFIG,
    Archive,
    File,
    name_of,
)
from ffdr.mldr.unpickle import loads
from ffdr.util.errors import UserError
from ffdr.util.opening import check_own
from ffdr.util.text import brief, printable, warn
from ffdr.write import closing
from ffdr.write.partial import is_finished
from ffdr.write.parts import check_out
from ffdr.write.receipt import Work, state
from ffdr.write.reinforced import ReinforcedWriter

_BATCH_VIEWS = 4096
_BATCH_BYTES = 8 << 20
"""Entries are converted together until there are so many views or bytes."""
_FEW = 5
"""How many missing or superfluous entries a message names."""
_DIGITS = 12
"""Digits that tell the file of one archive from that of another."""


@dataclass(frozen=True)
class _Source:
    """An archive whose config and first entry were read."""

    archive: Archive
    rules: Rules
    teachers: tuple[str, ...]


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
    if "origin" not in images.field_names:
        raise UserError(f"{images.path}: does not hold the images' original sizes, in which an archive's crops count")
    out = Path(options.out)
    check_out(out, [images.path, *map(Path, options.archive)])
    archives = [Archive(path, len(images)) for path in options.archive]
    read = {"archive": " ".join(state(archive.path) for archive in archives), "images": images.fingerprint}
    work = Work(out, "import", options.overwrite, {"classes": images.num_classes}, read, b"%d" % images.num_classes)
    is_there = is_finished(work)
    if not is_there:
        _import_all(archives, images, work, progress)
    for part in out.parent.glob(f"{glob.escape(out.name)}.{'[0-9a-f]' * _DIGITS}.part*"):
        part.unlink(missing_ok=True)  # also what a killed run has left, be it of other archives
    if progress:
        closing.announce([out], images.path, out, done=[out] if is_there else [])
    return out


def _import_all(archives: Sequence[Archive], images: ImageBeton, work: Work, progress: bool) -> None:
    out = work.out
    sources = [_survey(archive, images) for archive in archives]
    _check_alike(sources)
    header = _header(sources, images)
    if len(sources) == 1:
        _import(sources[0], header, images, out, progress, work)
    else:
        _merge([_import_part(source, images, out, progress) for source in sources], header, images, work, progress)


def _survey(archive: Archive, images: ImageBeton) -> _Source:
    """Read the config and one entry, and check what can be checked before the slow work."""
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
    samples = config["reinforce"].get("num_samples")
    views = len(entry[1])
    if samples != views:
        warn(f"{archive.path}: its config speaks of {brief(samples)} samples; its entries have {views}")
    if archive.listed is not None:
        found = archive.listed[archive.listed != CONFIG]
        _check_complete(archive, images, np.isin(np.arange(len(images)), found), found[found >= len(images)])
    rules = Rules(form, views, len(entry[1][0]["prob"][0]), images.num_classes, images.original_sizes)
    return _Source(archive, rules, _teachers(config))


def _first_files(archive: Archive) -> tuple[dict, Entry]:
    """The config and the entry that comes first."""
    config, entry = None, None
    for file in archive:
        if file.index == CONFIG:
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


def _value(archive: Archive, file: File) -> Any:
    try:
        return loads(pickle_in(file.read()))
    except EntryError as error:
        raise UserError(f"{archive.path}: {name_of(file.index)}: {error}") from None


def _entry(archive: Archive, file: File, views: int | None = None) -> Entry:
    try:
        return check_entry(_value(archive, file), file.index, views)
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
            f"entries missing: {_some(missing)}; entries without an image: {_some(extra)}"
        )


def _some(indices: np.ndarray) -> str:
    if not len(indices):
        return "none"
    more = f" and {len(indices) - _FEW} more" if len(indices) > _FEW else ""
    return ", ".join(map(str, indices[:_FEW])) + more


def _check_alike(sources: list[_Source]) -> None:
    """Refuse archives whose views are of different kinds: the format knows one config for all."""
    first = sources[0]
    for source in sources[1:]:
        if source.rules.form != first.rules.form:
            raise UserError(f"{source.archive.path}: has another image_augmentation than {first.archive.path}")
    paths = [source.archive.path.resolve() for source in sources]
    if len(set(paths)) < len(paths):
        raise UserError("import.archive: names an archive twice")


def _teachers(config: dict) -> tuple[str, ...]:
    """The teachers' names, if the config has any of a sensible length."""
    teacher = config.get("teacher")
    text = teacher.get("name") if isinstance(teacher, dict) else None
    known = isinstance(text, str) and 0 < len(text) <= 300
    return tuple(name.strip() for name in text.split(",")) if known else ("ml-dr archive",)


def _header(sources: list[_Source], images: ImageBeton) -> ReinforcedHeader:
    form = sources[0].rules.form
    return ReinforcedHeader(
        num_images=images.num_images,
        views=sum(source.rules.views for source in sources),
        topk=max(source.rules.topk for source in sources),
        num_classes=images.num_classes,
        mixes=form.mixes,
        policy=asdict(form.policy),
        teachers=tuple(dict.fromkeys(name for source in sources for name in source.teachers)),
        resolution=form.resolution,
        seed=0,
        fingerprint=images.fingerprint,
    )


def _import(
    source: _Source, header: ReinforcedHeader, images: ImageBeton, out: Path, progress: bool, work: Work | None = None
) -> None:
    """One archive becomes one reinforced beton. work: None for a file that goes away again."""
    archive, rules = source.archive, source.rules
    with (
        ReinforcedWriter(out, header, images, archive.identity, work) as writer,
        tqdm(
            total=len(images), unit="img", desc=printable(archive.path.name), disable=not progress, initial=writer.done
        ) as bar,
        _collected_by_hand(),
    ):
        for batch in _batches(archive, rules, images, writer.written):
            try:
                stored = from_entries(batch, rules)
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


def _batches(archive: Archive, rules: Rules, images: ImageBeton, written: np.ndarray) -> Iterator[list[Entry]]:
    """The entries that are not written yet, some at a time; in the end each image must have been seen once."""
    seen, extra = np.zeros(len(images), bool), []
    batch: list[Entry] = []
    size = 0
    for file in archive:
        if file.index == CONFIG:
            continue
        if file.index >= len(images):
            extra.append(file.index)
            continue
        if seen[file.index]:
            raise UserError(f"{archive.path}: holds {name_of(file.index)} twice")
        seen[file.index] = True
        if written[file.index]:
            continue
        data = file.read()
        batch.append(_entry(archive, file, rules.views))
        size += len(data)
        if len(batch) * rules.views >= _BATCH_VIEWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
    _check_complete(archive, images, seen, np.array(sorted(extra), np.int64))


def _import_part(source: _Source, images: ImageBeton, out: Path, progress: bool) -> ReinforcedBeton:
    """One of several archives, in a file of its own beside ``out``, which an earlier run may have finished."""
    header = _header([source], images)
    identity = source.archive.identity.encode(errors="surrogateescape")
    digest = hashlib.sha256(header.pack() + identity).hexdigest()[:_DIGITS]
    path = out.with_name(f"{out.name}.{digest}.part")
    check_own(path)
    if not path.exists():
        _import(source, header, images, path, progress)
    return ReinforcedBeton.open(path, images)


def _merge(
    parts: list[ReinforcedBeton], header: ReinforcedHeader, images: ImageBeton, work: Work, progress: bool
) -> None:
    """Put the views of several reinforced betons of the same images together."""
    identity = " ".join(part.path.name for part in parts)
    chunk = max(1, _BATCH_VIEWS // header.views)
    with ReinforcedWriter(work.out, header, images, identity, work) as writer:
        rest = np.flatnonzero(~writer.written)
        for start in tqdm(
            range(0, len(rest), chunk), unit="chunk", desc=printable(work.out.name), disable=not progress
        ):
            index = rest[start : start + chunk]
            for part in parts:
                for i in index.tolist():
                    check_intact(part, i)
            views = [np.concatenate([part.views(i) for part in parts]) for i in index.tolist()]
            logits = [[_widened(part, i, header.topk) for part in parts] for i in index.tolist()]
            ids, log_probs = (np.stack([np.concatenate([p[n] for p in one]) for one in logits]) for n in range(2))
            writer.put(index, np.stack(views), ids, log_probs)
        writer.finish()


def _widened(part: ReinforcedBeton, i: int, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities (K, topk) of image i, with unused entries behind those that the part has."""
    ids, log_probs = part.logits(i)
    room = ((0, 0), (0, topk - ids.shape[1]))
    return np.pad(ids, room), np.pad(log_probs, room, constant_values=UNUSED)
