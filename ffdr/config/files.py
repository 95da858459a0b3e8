"""Options of the verbs that make, move and look at files."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ffdr.config.choices import KINDS, MODES, ON_ERROR, SOURCES
from ffdr.util.errors import UserError, between, one_of

MOST_PROCESSES = max(64, 4 * (os.cpu_count() or 1))
"""At a time, and threads of each: more gain nothing and take memory, 25 MB and more per process."""


@dataclass(frozen=True)
class WriteOptions:
    """``ffdr write``: a source dataset becomes an image beton."""

    source: str = ""
    """digits, imagefolder, cifar100, flowers102 or food101"""
    path: str = ""
    """folder of the source (digits needs none)"""
    split: str = "train"
    """split of the source; imagefolder: subfolder of the path, empty for the path itself"""
    out: str = ""
    """image beton to write"""
    mode: str = "jpg"
    """jpg, raw, proportion (a share of the images as JPEG, the rest raw), or dct: the very coefficients of JPEG files,
    packed to be decoded fast; only ffdr reads them"""
    proportion: float = 0.5
    """share of JPEG images in mode proportion"""
    max_resolution: int = 0
    """shrink images so that no side is longer, in pixels; 0 keeps every size"""
    quality: int = 90
    """JPEG quality, 1 to 100; in mode dct only of images that are shrunk or are no JPEG files of a common kind"""
    growth: float = 1.01
    """how much larger restart segments may make a JPEG; crops of 1.03 decode about a tenth faster, 1 has no segments"""
    per_class: int = 0
    """keep at most so many images of each class, first in the source's order; 0 keeps all"""
    workers: int = 0
    """processes that read and encode; 0: one a core"""
    on_error: str = "stop"
    """an image that can't be read: stop the run, or skip it and list it in the manifest"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        one_of("write.source", self.source, SOURCES)
        one_of("write.mode", self.mode, MODES)
        one_of("write.on_error", self.on_error, ON_ERROR)
        between("write.quality", self.quality, 1, 100)
        between("write.proportion", self.proportion, 0, 1)
        between("write.growth", self.growth, 1, 2)
        between("write.max_resolution", self.max_resolution, 0, 65535)
        between("write.per_class", self.per_class, 0, 10**9)
        between("write.workers", self.workers, 0, MOST_PROCESSES)
        if not self.out:
            raise UserError("write.out: give the image beton to write, for example --write.out=train.beton")
        if self.source != "digits" and not self.path:
            raise UserError(f"write.path: source {self.source} needs the folder it lies in")


@dataclass(frozen=True)
class ImportOptions:
    """``ffdr import``: archives of the published format (apple/ml-dr) become a reinforced beton."""

    archive: tuple[str, ...] = ()
    """folders or .tar.gz files, one or several whose views are put together; the published ones are licensed
    CC-BY-NC-ND: not for commercial use, and what is made of them may not be passed on"""
    images: str = ""
    """image beton of the very images that the archive was made from, in the archive's order"""
    out: str = ""
    """reinforced beton to write"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        if not self.archive:
            raise UserError("import.archive: name the archive, a folder or a .tar.gz file")
        _need("import", self, "images", "out")


@dataclass(frozen=True)
class ExportOptions:
    """``ffdr export``: a reinforced beton becomes an archive of the published format (apple/ml-dr)."""

    reinforced: str = ""
    """reinforced beton"""
    images: str = ""
    """image beton that was reinforced"""
    out: str = ""
    """archive to write: a folder, or a file whose name ends in .tar.gz"""
    resolution: int = 0
    """output side in pixels, in which the format's boxes count; 0: the one that the teacher saw"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        _need("export", self, "reinforced", "images", "out")
        between("export.resolution", self.resolution, 0, 65535)


@dataclass(frozen=True)
class PackOptions:
    """``ffdr pack``: images and their reinforcement become one self-contained file."""

    images: str = ""
    """image beton"""
    reinforced: str = ""
    """reinforced beton of these images"""
    out: str = ""
    """packed beton to write"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        _need("pack", self, "images", "reinforced", "out")


@dataclass(frozen=True)
class SplitOptions:
    """``ffdr split``: the reverse of pack."""

    file: str = ""
    """packed beton"""
    images: str = ""
    """image beton to write; empty: none"""
    reinforced: str = ""
    """reinforced beton to write; empty: none"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        _need("split", self, "file")
        if not self.images and not self.reinforced:
            raise UserError("split.images, split.reinforced: name at least one file to write")


@dataclass(frozen=True)
class SubsetOptions:
    """``ffdr subset``: fewer images, views or teacher entries out of a full file."""

    file: str = ""
    """image beton, reinforced beton or packed beton to take from"""
    out: str = ""
    """file of the same kind to write"""
    images: str = ""
    """image beton that was reinforced; needed to take images out of a reinforced beton"""
    indices: str = ""
    """images to keep, as numbers and ranges: 0:1000,5000 (the end is excluded); empty keeps all"""
    views: int = 0
    """views an image to keep, the first ones; 0 keeps all"""
    topk: int = 0
    """teacher entries a view to keep, the best ones; 0 keeps all"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        _need("subset", self, "file", "out")
        between("subset.views", self.views, 0, 65535)
        between("subset.topk", self.topk, 0, 65535)
        if not (self.indices or self.views or self.topk):
            raise UserError("subset.indices, subset.views, subset.topk: say what to keep")


@dataclass(frozen=True)
class TranscodeOptions:
    """``ffdr transcode``: JPEGs become packed coefficients, or the reverse, without loss."""

    file: str = ""
    """image beton"""
    out: str = ""
    """image beton to write"""
    mode: str = ""
    """dct (packed coefficients, decoded fast) or jpg (which stock FFCV reads, too); empty: the one that it is not"""
    quality: int = 90
    """JPEG quality of images whose coefficients can't be kept, 1 to 100"""
    growth: float = WriteOptions.growth
    """how much larger restart segments may make a JPEG"""
    workers: int = 0
    """processes that transcode; 0: one a core"""
    overwrite: bool = False
    """replace what is there already; without it the same work is not done again, and other work is refused"""

    def __post_init__(self) -> None:
        _need("transcode", self, "file", "out")
        if self.mode:
            one_of("transcode.mode", self.mode, KINDS)
        between("transcode.quality", self.quality, 1, 100)
        between("transcode.growth", self.growth, 1, 2)
        between("transcode.workers", self.workers, 0, MOST_PROCESSES)


@dataclass(frozen=True)
class InspectOptions:
    """``ffdr inspect``: what a file holds."""

    file: str = ""
    """image beton, reinforced beton or packed beton"""
    images: str = ""
    """image beton of a reinforced one: adds agreement with the labels, and the pictures of the grid"""
    json: bool = False
    """print JSON instead of a table"""
    grid: str = ""
    """PNG file to draw: images with their views and the teacher's top-3"""

    def __post_init__(self) -> None:
        _need("inspect", self, "file")


@dataclass(frozen=True)
class VerifyOptions:
    """``ffdr verify``: read everything and check it."""

    file: str = ""
    """image beton, reinforced beton or packed beton"""
    against: str = ""
    """image beton that a reinforced one must belong to"""
    decode: bool = False
    """decode every image, too; images without checksums always are"""

    def __post_init__(self) -> None:
        _need("verify", self, "file")


def _need(section: str, options: object, *keys: str) -> None:
    """Raise UserError unless these options name a file each."""
    for key in keys:
        if not getattr(options, key):
            raise UserError(f"{section}.{key}: give the path of a file")
