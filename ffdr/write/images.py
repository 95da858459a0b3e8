"""``ffdr write``: a dataset becomes an image beton and its manifest.

The images keep the dataset's order. ``streaming.py`` lays them out, ``encode.py`` makes them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.beton.manifest import manifest_path
from ffdr.codec.jpeg import coefficients
from ffdr.config.choices import PYTHON
from ffdr.config.files import WriteOptions
from ffdr.data import Items, Source, SourceItem, open_source
from ffdr.data.python_sets import Classes, adapt
from ffdr.data.source import absolute_path, read_paths
from ffdr.util.errors import UserError
from ffdr.util.text import warn
from ffdr.write import parts
from ffdr.write.image_writer import ImageWriter, facts_of, options_in_manifest, versions
from ffdr.write.items import ItemWriter
from ffdr.write.receipt import Work
from ffdr.write.streaming import in_chunks


def write_images(options: WriteOptions, progress: bool = True) -> Path:
    """Write an image beton; a killed run is resumed, and what is there already is not written again.

    Args:
        options: all of ``--write``.
        progress: show a progress bar, and at the end what was made.

    Returns:
        The path of the beton. Its manifest lies beside it.

    Raises:
        UserError: a bad path; an image that can't be read (``on_error="stop"``), named with the cause; a dead worker;
            a file of other work that is there already, and ``overwrite`` is false.
    """
    source = open_source(options.source, options.path, options.split, options.columns, options.classes)
    return _write(source, options, progress)


def write_dataset(
    dataset: Any,
    options: WriteOptions,
    classes: Classes | None = None,
    columns: Sequence[str] | None = None,
    progress: bool = True,
) -> Path:
    """As ``write_images``, of a dataset that Python code has made; see ``python_sets.adapt``.

    classes, columns: None: those of the options, which a recipe may have.
    """
    classes = options.classes if classes is None else classes
    columns = options.columns or None if columns is None else columns
    file = os.fspath(classes) if isinstance(classes, str | os.PathLike) else ""
    source = adapt(dataset, options.split, file or None if isinstance(classes, str) else classes, columns)
    # What the source knows now is among the facts of its work, wherever it came from; only the file is to be kept.
    return _write(source, replace(options, classes=file, columns=()), progress)


def _write(source: Source | Items, options: WriteOptions, progress: bool) -> Path:
    read = read_paths(options.source, options.path) + ([Path(options.classes).expanduser()] if options.classes else [])
    parts.check_out(Path(options.out).expanduser(), read, has_manifest=True)
    writer: ImageWriter
    if isinstance(source, Items):
        writer = ItemWriter(options, source)
    else:
        selected = select(source.labels, options.per_class)
        if not len(selected):
            raise UserError(f"write.path: the source {options.source} has no images in {options.split!r}")
        writer = _SourceWriter(options, source, selected)
    writer.write(progress)
    if writer.skipped:
        warn(f"{writer.out}: {len(writer.skipped)} images skipped; the manifest lists them")
    return writer.out


def select(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the images to write: the first ``per_class`` of each class, or all for 0; ascending (M,) int64."""
    if not per_class:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)  # place within the class
    return np.sort(order[rank < per_class])


class _SourceWriter(ImageWriter):
    """An image beton of a source. M images are selected, N of them can be read."""

    def __init__(self, options: WriteOptions, source: Source, selected: np.ndarray) -> None:
        self.source, self.selected = source, selected
        super().__init__(_work(options, source, selected), options, len(selected), len(selected))

    def _to_do(self) -> list[list[int]]:
        return in_chunks(self.selected[self.done :].tolist())

    def _learned_from(self) -> list[int]:
        return self.selected[coefficients.spread(len(self.selected))].tolist()

    def _item_of(self) -> partial[SourceItem]:
        return partial(SourceItem, self.source)

    def _name(self, image: int) -> str:
        return self._place(self.source.origin(image))

    def _place(self, origin: str) -> str:
        return self.source.place(origin)

    def _class_names(self, samples: np.ndarray) -> list[str]:
        return self.source.class_names


def _work(options: WriteOptions, source: Source, selected: np.ndarray) -> Work:
    """What decides the bytes of the file: options, versions, and which images there are.

    A killed run is resumed even if files have changed under unchanged names; a finished one is not taken for the same
    work then.
    """
    out, path = Path(options.out).expanduser(), ""
    if options.path:
        path = absolute_path(options.source, options.path)
    images = hashlib.sha256()
    for i in selected:
        images.update(f"{source.origin(i)}\0{source.labels[i]}\0".encode(errors="surrogateescape"))
    facts = facts_of(options) | {"path": path, "images": images.hexdigest()}
    key = "path" if path else "dataset" if options.source == PYTHON else ""
    sources = {key: source.state(selected)} if key else {}
    if options.classes or options.source == PYTHON:  # a call may name classes that no file and no folder names
        sources["classes"] = facts["classes"] = hashlib.sha256("\0".join(source.class_names).encode()).hexdigest()
    return Work(
        out,
        "write",
        options.overwrite,
        options=options_in_manifest(options)
        | {"columns": options.columns, **({"path": path} if path else {})}
        | versions(),
        sources=sources,
        identity=json.dumps(facts, sort_keys=True).encode(),
        beside=(manifest_path(out),),
    )
