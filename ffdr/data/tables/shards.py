"""Tar shards as webdataset has them: members that follow each other and share a key are one sample.

The key is the path up to the first dot of the file's name, what follows is the member's kind: ``0/17.jpg`` and
``0/17.cls`` are the image and the label of sample ``0/17``. The shards are read once, headers and labels, to know where
the images lie; then images are read at random.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np

from ffdr.data.source import Names
from ffdr.data.tables import tar
from ffdr.data.tables.labels import Columns, Labels
from ffdr.data.tables.packed import MOST_IMAGE_BYTES, PackedFiles, PackedSource, choose_origins
from ffdr.data.tables.paths import find_files
from ffdr.util.errors import UserError
from ffdr.util.foreign import parse_json
from ffdr.util.text import brief, byte_size, first_few, printable, reason

_IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "tif", "tiff", "gif")
_LABEL = "cls"
_FIELD = "json."
"""How a label's column begins that is a field of the json member."""
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MOST_LABEL_BYTES = 1 << 20
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def open_split(path: str, split: str, columns: Columns) -> ShardSource:
    """The samples of the shards at ``path``, as ``paths.find_files`` finds them, in their order."""
    paths = find_files(path, split, (".tar", *_COMPRESSED))
    for file in paths:
        if file.name.endswith(_COMPRESSED):
            raise UserError(
                f"write.path: {printable(str(file))} is compressed, and can't be read at random; unpack it to a .tar"
            )
    files = PackedFiles(paths)
    index = _Index(files, _Pick(columns))
    for number in range(len(paths)):
        index.scan(number)
    if not len(index.labels):
        raise UserError(f"write.path: {first_few(files.names, 3)}: no samples")
    return ShardSource(files, index, columns.class_names)


class ShardSource(PackedSource):
    """N samples of tar shards. An origin is the image's path in its shard; where shards use one twice, all origins
    begin with the shard's name."""

    def __init__(self, files: PackedFiles, index: _Index, class_names: list[str] | None) -> None:
        self._shards = np.array(index.shards, np.uint32)
        self._offsets, self._sizes = np.array(index.offsets, np.int64), np.array(index.sizes, np.uint32)

        def where(i: int) -> str:
            return f"{printable(str(files.paths[self._shards[i]]))}: {printable(index.names[i])}"

        labels, found = index.labels.classes(class_names, where)
        qualified = (f"{files.names[shard]}/{name}" for shard, name in zip(self._shards, index.names, strict=True))
        super().__init__(files, choose_origins(files, index.names, qualified), labels, found)

    def where(self, i: int) -> str:
        """Shard and member."""
        shard = self._shards[i]
        return f"{self.files.paths[shard]}: {printable(self._origins[i].removeprefix(f'{self.files.names[shard]}/'))}"

    def file_bytes(self, i: int) -> bytes:
        """The member."""
        try:
            return self.files.read(int(self._shards[i]), int(self._offsets[i]), int(self._sizes[i]))
        except (OSError, UserError) as error:
            raise self._read_error(i, error) from error


class _Index:
    """Where the images of shards lie, and their labels."""

    def __init__(self, files: PackedFiles, pick: _Pick) -> None:
        self._files, self._pick = files, pick
        self.shards, self.offsets, self.sizes = array("I"), array("q"), array("I")
        self.names, self.labels = Names(), Labels()

    def scan(self, shard: int) -> None:
        """Add the samples of a shard.

        Raises:
            UserError: damage, or a sample without image or label; with the shard and the member.
        """
        path = self._files.paths[shard]
        try:
            archive = self._files.opened(shard)
            for key, members in _samples(tar.walk(archive.descriptor)):
                try:
                    image, label = self._pick(members)
                    self.labels.add(_read_label(archive.descriptor, *label))
                except ValueError as error:
                    raise ValueError(f"sample {printable(key)}: {error}") from None
                self.shards.append(shard)
                self.offsets.append(image.offset)
                self.sizes.append(image.size)
                self.names.append(image.name)
        except (ValueError, OSError) as error:
            raise UserError(f"write.path: {printable(str(path))}: {reason(error, 400)}") from None


def _samples(members: Iterator[tar.Member]) -> Iterator[tuple[str, dict[str, tar.Member]]]:
    """Key and members, by their kinds in lower case, of each sample."""
    current, found = "", dict[str, tar.Member]()
    for member in members:
        folder, slash, file = member.name.rpartition("/")
        stem, dot, kind = file.partition(".")
        if not stem or not dot or _is_meta(member.name):
            continue
        key, kind = folder + slash + stem, kind.lower()
        if key != current:
            if found:
                yield current, found
            current, found = key, {}
        if kind in found:
            raise ValueError(f"sample {printable(key)}: has two members .{printable(kind)}")
        found[kind] = member
    if found:
        yield current, found


def _is_meta(name: str) -> bool:
    """Whether it is about the shard: webdataset's ``__name__``, folder or file."""
    first = name.partition("/")[0]
    return first.startswith("__") and first.endswith("__")


class _Pick:
    """Which members of a sample are its image and its label."""

    def __init__(self, columns: Columns) -> None:
        self._is_guess = not columns.image
        self._images = _IMAGES if self._is_guess else tuple(columns.image.lower().split(";"))
        self._labels = (_LABEL,) if self._is_guess else tuple(columns.label.split(";"))

    def __call__(self, members: dict[str, tar.Member]) -> tuple[tar.Member, tuple[str, tar.Member]]:
        """The image, and the label with its name in ``write.columns``. Raises ValueError where one is missing."""
        images = [kind for kind in self._images if kind in members]
        if self._is_guess and len(images) > 1:
            raise ValueError(f"has several images; --write.columns={images[0]},{_LABEL} takes the .{images[0]}")
        labels = [(name, members[kind]) for name in self._labels if (kind := _kind_of(name)) in members]
        for found, wanted in ((images, self._images), (labels, self._labels)):
            if not found:
                what = f"no member .{' or .'.join(map(printable, wanted))}"
                hint = "; --write.columns names both, such as jpg,json.label"
                raise ValueError(f"has {what}, only {first_few(sorted(members))}{hint}")
        image = members[images[0]]
        if not 0 < image.size <= MOST_IMAGE_BYTES:
            raise ValueError(f"its image has {byte_size(image.size)}")
        return image, labels[0]


def _kind_of(label: str) -> str:
    return "json" if label.startswith(_FIELD) else label.lower()


def _read_label(descriptor: int, name: str, member: tar.Member) -> Any:
    """A label: of a ``json`` member one field; of ``cls`` the whole number that it must be; of others the text."""
    if member.size > _MOST_LABEL_BYTES:
        raise ValueError(f"its label has {byte_size(member.size)}")
    data = os.pread(descriptor, member.size, member.offset)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"its label {brief(data)} is not text in UTF-8") from None
    if name.startswith(_FIELD):
        value = parse_json(text, name)
        field = name.removeprefix(_FIELD)
        if not isinstance(value, dict) or field not in value:
            raise ValueError(f"its .json has no field {printable(field)}")
        return value[field]
    if name.lower() == _LABEL and not _INTEGER.fullmatch(text.strip()):
        raise ValueError(f"its label {brief(text.strip())} in .{_LABEL} is not a whole number")
    return text
