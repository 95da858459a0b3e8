"""``ffdr import``, whatever the archives' format: they become one reinforced beton.

A format looks at an archive first (``Surveyed``): what it says must fit the images, and whatever does not is refused
before the slow work. Then its entries are converted some at a time, and written as they come.
"""

from __future__ import annotations

import gc
import glob
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ffdr.archive.sizes import digest_of_other, original_sizes
from ffdr.archive.stored import StoredEntries
from ffdr.beton.header import UNUSED, ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_intact
from ffdr.config.files import ImportOptions
from ffdr.util.errors import UserError
from ffdr.util.opening import check_own
from ffdr.util.text import printable
from ffdr.write import closing
from ffdr.write.partial import is_finished
from ffdr.write.parts import check_out
from ffdr.write.receipt import Work, state
from ffdr.write.reinforced import ReinforcedWriter

BATCH_VIEWS = 4096
BATCH_BYTES = 8 << 20
"""Entries are converted together until there are so many views or bytes."""
_DIGITS = 12
"""Of the hash in the name of a file that holds one of several archives."""


@dataclass(frozen=True)
class Surveyed:
    """An archive that was looked at, and fits the images as far as is known before all is read."""

    path: Path
    header: ReinforcedHeader
    """of a beton with this archive's views"""
    identity: str
    """what decides the bytes, beside the header: the archive, and original sizes that are not the beton's"""
    entries: Callable[[np.ndarray], Iterator[StoredEntries]]
    """given which images are written, (N,) bool, the others' entries, some at a time; they may have more teacher
    entries per view than the header. When it ends, each image had one entry. Raises UserError"""


@dataclass(frozen=True)
class Target:
    """What the archives are imported for."""

    images: ImageBeton
    sizes: np.ndarray
    """(N, 2) original width and height of all images"""
    sizes_digest: str
    """of ``sizes`` where they are not the beton's, else empty"""
    options: ImportOptions

    @property
    def folder(self) -> Path:
        """Where the images lie, if that was said."""
        return Path(self.options.sizes).expanduser()

    def identity(self, archive: str) -> str:
        """Of an import of the archive that has this identity."""
        return f"{archive} {self.sizes_digest}" if self.sizes_digest else archive


def import_all(
    options: ImportOptions,
    prepare: Callable[[Target], Callable[[], list[Surveyed]]],
    progress: bool,
    state_of: Callable[[Path], str] = state,
) -> Path:
    """Write the reinforced beton of the archives' views, one archive's after the other's.

    A killed run is resumed, and what is there already is not made again. Several archives are first imported into
    files beside ``out``, one each, and then put together: that takes their size twice on disk.

    Args:
        options: the archives, the images, and where the beton goes.
        prepare: opens the archives; what it returns looks at them.
        progress: whether to show a bar and say what was made.
        state_of: stands for an archive's contents.

    Returns its path.

    Raises:
        UserError: a damaged or hostile archive, one of other images, or one that a view record can't hold; a file of
            other work that is there already, and ``overwrite`` is false.
    """
    images = ImageBeton.open(options.images)
    out = Path(options.out)
    folder = [Path(options.sizes).expanduser()] if options.sizes else []
    check_out(out, [images.path, *map(Path, options.archive), *folder])
    sizes = original_sizes(images, options.sizes, "import.sizes", progress)
    digest = digest_of_other(options.sizes, sizes)
    survey = prepare(Target(images, sizes, digest.get("sizes", ""), options))
    states = " ".join(state_of(Path(path)) for path in options.archive)
    read = {"archive": states, "images": images.fingerprint} | digest
    facts = {"classes": images.num_classes, "format": options.format, "topk": options.topk}
    work = Work(out, "import", options.overwrite, facts, read, _identity(facts))
    is_there = is_finished(work)
    if not is_there:
        surveyed = survey()
        if len({one.path.resolve() for one in surveyed}) < len(surveyed):
            raise UserError("import.archive: names an archive twice")
        if len(surveyed) == 1:
            _import(surveyed[0], images, out, progress, work)
        else:
            parts = [_import_part(one, images, out, progress) for one in surveyed]
            _merge(parts, _merged_header(surveyed), images, work, progress)
    for part in out.parent.glob(f"{glob.escape(out.name)}.{'[0-9a-f]' * _DIGITS}.part*"):
        part.unlink(missing_ok=True)  # also what a killed run has left, be it of other archives
    if progress:
        closing.announce([out], images.path, out, done=[out] if is_there else [])
    return out


def _identity(facts: dict[str, Any]) -> bytes:
    """Of the options: that of earlier versions, which had fewer of them, where the new ones are at their defaults."""
    new = {"format": "ml-dr", "topk": 0}
    changed = {name: facts[name] for name, default in new.items() if facts[name] != default}
    return b"%d" % facts["classes"] + (json.dumps(changed).encode() if changed else b"")


def _merged_header(surveyed: list[Surveyed]) -> ReinforcedHeader:
    """Of all archives' views together."""
    headers = [one.header for one in surveyed]
    return replace(
        headers[0],
        views=sum(header.views for header in headers),
        topk=max(header.topk for header in headers),
        teachers=tuple(dict.fromkeys(name for header in headers for name in header.teachers)),
    )


def _import(one: Surveyed, images: ImageBeton, out: Path, progress: bool, work: Work | None = None) -> None:
    """One archive becomes one reinforced beton. work: None for a file that goes away again."""
    topk, title = one.header.topk, printable(one.path.name)
    with (
        ReinforcedWriter(out, one.header, images, one.identity, work) as writer,
        tqdm(total=len(images), unit="img", desc=title, disable=not progress, initial=writer.done) as bar,
        _collected_by_hand(),
    ):
        for stored in one.entries(writer.written):
            writer.put(stored.index, stored.views, stored.ids[..., :topk], stored.log_probs[..., :topk])
            bar.update(len(stored.index))
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


def _import_part(one: Surveyed, images: ImageBeton, out: Path, progress: bool) -> ReinforcedBeton:
    """One of several archives, in a file of its own beside ``out``, which an earlier run may have finished."""
    identity = one.identity.encode(errors="surrogateescape")
    digest = hashlib.sha256(one.header.pack() + identity).hexdigest()[:_DIGITS]
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
    chunk = max(1, BATCH_VIEWS // header.views)
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
