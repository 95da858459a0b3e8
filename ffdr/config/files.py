"""Options of the verbs that make, move and look at files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ffdr.config.choices import IMPORT_FORMATS, KINDS, MODES, ON_ERROR, PYTHON, SOURCES, TORCHVISION
from ffdr.config.options import Between, OneOf, Options, Processes, Share, added
from ffdr.util.errors import UserError, one_of
from ffdr.util.text import brief

Quality = Annotated[int, Between(1, 100)]
Growth = Annotated[float, Between(1, 2)]
Most16 = Annotated[int, Between(0, 65535)]


@dataclass(frozen=True)
class SourceName:
    """A source by its name, torchvision:NAME, or what stands for the dataset of a call."""

    def __call__(self, key: str, value: str) -> str:
        """The value of an option. Raises UserError for another."""
        if value != PYTHON and not value.startswith(TORCHVISION):
            one_of(key, value, (*SOURCES, f"{TORCHVISION}NAME"))
        return value


@dataclass(frozen=True)
class WriteOptions(Options, section="write"):
    """``ffdr write``: a source dataset becomes an image beton."""

    source: Annotated[str, SourceName()] = ""
    """digits, imagefolder, cifar100, flowers102, food101, fashionmnist, webdataset (tar shards), parquet (as Hugging
    Face's datasets), csv (paths and labels), or torchvision:NAME, a class of torchvision.datasets"""
    path: str = ""
    """folder of the source (digits needs none); csv: the file; webdataset, parquet: files or folders, several between
    commas, with * and {000..127}"""
    split: str = "train"
    """split of the source; imagefolder: subfolder of the path, empty for the path itself; webdataset, parquet: word in
    the names of a folder's files; csv: value in the column split, if there is one; empty for all"""
    out: str = ""
    """image beton to write"""
    mode: Annotated[str, OneOf(MODES)] = "jpg"
    """jpg, raw, proportion (a share of the images as JPEG, the rest raw), or dct: coefficient images, which hold the
    very coefficients of JPEG files and decode faster; only ffdr reads them"""
    proportion: Share = 0.5
    """share of JPEG images in mode proportion"""
    max_resolution: Most16 = 0
    """shrink images so that no side is longer, in pixels; 0 keeps every size"""
    quality: Quality = 90
    """JPEG quality, 1 to 100; in mode dct only for images that are shrunk or are no JPEG files of a common kind"""
    growth: Growth = 1.01
    """how much larger restart segments may make a JPEG; crops of 1.03 decode about a tenth faster, 1 has no segments"""
    per_class: Annotated[int, Between(0, 10**9)] = 0
    """most images to keep per class, the first in the source's order; 0 keeps all"""
    workers: Processes = 0
    """processes that read and encode; 0: one per core"""
    on_error: Annotated[str, OneOf(ON_ERROR)] = "stop"
    """an image that can't be read: stop the run, or skip it and list it in the manifest"""
    overwrite: bool = False
    """replace an existing file; without it, finished work is not done again, and a file of other work is refused"""
    columns: tuple[str, ...] = ()
    """webdataset, parquet, csv: names of the image's and the label's column, such as img,fine_label; in shards kinds of
    members, such as jpg;png,cls or jpg,json.label; 0,1 counts the columns of a CSV without header; empty: guessed"""
    classes: str = ""
    """webdataset, parquet, csv, torchvision:NAME: file of class names, one per line, or JSON; empty: the data's own
    names, or the labels"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("out", what="give the image beton to write, for example --write.out=train.beton")
        if self.source not in ("digits", PYTHON) and not self.path:
            raise UserError(f"write.path: source {self.source} needs the folder it lies in")


@dataclass(frozen=True)
class ImportOptions(Options, section="import"):
    """``ffdr import``: archives of a published format (apple/ml-dr, FKD) become a reinforced beton."""

    archive: tuple[str, ...] = ()
    """folders or .tar.gz files, one or several whose views are put together; those published by apple/ml-dr are
    licensed CC-BY-NC-ND: no commercial use, and what is made from them may not be passed on"""
    images: str = ""
    """image beton of the very images that the archive was made from; ml-dr: in the archive's order"""
    out: str = ""
    """reinforced beton to write"""
    overwrite: bool = False
    """replace an existing file; without it, finished work is not done again, and a file of other work is refused"""
    sizes: str = ""
    """folder of the images, one subfolder per class: the original sizes are read there, which betons of stock FFCV
    don't hold, and for fkd the names; empty: the image beton holds them"""
    format: Annotated[str, OneOf(IMPORT_FORMATS)] = added("ml-dr")
    """ml-dr: ImageNet+ and its like, which count images; fkd: Fast Knowledge Distillation, which names them"""
    topk: Most16 = added(0)
    """teacher entries to keep per view, the best ones; 0: all that the archive has, and the best 10 of labels over all
    classes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("archive", what="name the archive, a folder or a .tar.gz file")
        self.need("images", "out")


@dataclass(frozen=True)
class AdoptOptions(Options, section="adopt"):
    """``ffdr adopt``: a beton that stock FFCV has written gets a manifest; the beton stays as it is."""

    file: str = ""
    """image beton or merged beton, beside which NAME.json is written"""
    classes: str = ""
    """names of the classes in the order of the labels: a text with one per line, or JSON; empty: their numbers"""
    workers: Processes = 0
    """processes that decode, for the mean and deviation of all pixels; 0: one per core"""
    overwrite: bool = False
    """replace an existing manifest of ffdr"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("file")


@dataclass(frozen=True)
class ExportOptions(Options, section="export"):
    """``ffdr export``: a reinforced beton becomes an archive of the published format (apple/ml-dr)."""

    reinforced: str = ""
    """reinforced beton"""
    images: str = ""
    """image beton that was reinforced"""
    out: str = ""
    """archive to write: a folder, or a file whose name ends in .tar.gz"""
    resolution: Most16 = 0
    """output side in pixels, the unit of the format's boxes; 0: the one that the teacher saw"""
    overwrite: bool = False
    """replace an existing archive; without it, finished work is not done again, and one of other work is refused"""
    sizes: str = ""
    """folder of the images, one subfolder per class: the original sizes are read there, which betons of stock FFCV
    don't hold; empty: the image beton holds them"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("reinforced", "images", "out")


@dataclass(frozen=True)
class PackOptions(Options, section="pack"):
    """``ffdr pack``: images and their reinforcement become one self-contained file, a merged beton."""

    images: str = ""
    """image beton"""
    reinforced: str = ""
    """reinforced beton of these images"""
    out: str = ""
    """merged beton to write"""
    overwrite: bool = False
    """replace an existing file; without it, finished work is not done again, and a file of other work is refused"""

    def __post_init__(self) -> None:
        self.need("images", "reinforced", "out")


@dataclass(frozen=True)
class SplitOptions(Options, section="split"):
    """``ffdr split``: the reverse of pack."""

    file: str = ""
    """merged beton"""
    images: str = ""
    """image beton to write; empty: none"""
    reinforced: str = ""
    """reinforced beton to write; empty: none"""
    overwrite: bool = False
    """replace existing files; without it, finished work is not done again, and files of other work are refused"""

    def __post_init__(self) -> None:
        self.need("file")
        if not self.images and not self.reinforced:
            raise UserError("split.images, split.reinforced: name at least one file to write")


@dataclass(frozen=True)
class SubsetOptions(Options, section="subset"):
    """``ffdr subset``: a smaller file of fewer images, views or teacher entries."""

    file: str = ""
    """image beton, reinforced beton or merged beton to take from"""
    out: str = ""
    """file of the same kind to write"""
    images: str = ""
    """image beton that was reinforced; needed to take images out of a reinforced beton"""
    indices: str = ""
    """images to keep, as numbers and ranges: 0:1000,5000 (the end is excluded); empty keeps all"""
    views: Most16 = 0
    """views per image to keep, the first ones; 0 keeps all"""
    topk: Most16 = 0
    """teacher entries per view to keep, the best ones; 0 keeps all"""
    overwrite: bool = False
    """replace an existing file; without it, finished work is not done again, and a file of other work is refused"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("file", "out")
        if not (self.indices or self.views or self.topk):
            raise UserError("subset.indices, subset.views, subset.topk: say what to keep")


@dataclass(frozen=True)
class ConcatOptions(Options, section="concat"):
    """``ffdr concat``: betons put together, images one after the other, views of the same images side by side."""

    files: tuple[str, ...] = ()
    """image betons, or reinforced betons of the same images; their order is that of the images or views"""
    out: str = ""
    """beton of the same kind to write"""
    overwrite: bool = False
    """replace an existing file; without it, finished work is not done again, and a file of other work is refused"""

    def __post_init__(self) -> None:
        self.need("files", what="name the betons to put together, such as --concat.files=a.beton,b.beton")
        if len(self.files) < 2:
            raise UserError(
                f"concat.files: {brief(self.files[0])} is one file; name two at least, with a comma between"
            )
        self.need("out")


@dataclass(frozen=True)
class TranscodeOptions(Options, section="transcode"):
    """``ffdr transcode``: JPEGs become coefficient images, or the reverse, without loss."""

    file: str = ""
    """image beton"""
    out: str = ""
    """image beton to write"""
    mode: Annotated[str, OneOf(KINDS, or_empty=True)] = ""
    """dct (coefficient images, which decode faster) or jpg (which stock FFCV reads, too); empty: the one that the file
    is not"""
    quality: Quality = 90
    """JPEG quality of images whose coefficients can't be kept, 1 to 100"""
    growth: Growth = WriteOptions.growth
    """how much larger restart segments may make a JPEG"""
    workers: Processes = 0
    """processes that transcode; 0: one per core"""
    overwrite: bool = False
    """replace an existing file; without it, finished work is not done again, and a file of other work is refused"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("file", "out")


@dataclass(frozen=True)
class InspectOptions(Options, section="inspect"):
    """``ffdr inspect``: what a file holds."""

    file: str = ""
    """image beton, reinforced beton or merged beton"""
    images: str = ""
    """image beton of a reinforced one: adds agreement with the labels, and the pictures of the grid"""
    json: bool = False
    """print JSON instead of a table"""
    grid: str = ""
    """picture (.png) of images with their views and the teacher's top-3, or page for a browser (.html) to look through
    more of them, by class, disagreement and entropy"""
    samples: Annotated[int, Between(1, 10_000)] = 300
    """images on the page, evenly spaced; each with ten views takes about 50 kB"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("file")


@dataclass(frozen=True)
class VerifyOptions(Options, section="verify"):
    """``ffdr verify``: read everything and check it."""

    file: str = ""
    """image beton, reinforced beton or merged beton"""
    against: str = ""
    """image beton that a reinforced one must belong to"""
    decode: bool = False
    """decode every image, too; images without checksums always are"""

    def __post_init__(self) -> None:
        self.need("file")
