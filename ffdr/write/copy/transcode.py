"""``ffdr transcode``: JPEGs become coefficient images, or the reverse; the coefficients stay what they are.

Raw images are copied, and so is everything else of an image: label, origin, place in the order. So the fingerprint does
not change, and a reinforcement fits both files.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ffdr.beton import layout
from ffdr.beton.layout import DCT, JPG
from ffdr.beton.manifest import manifest_path
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, check_intact
from ffdr.codec.dct.coding import Coding
from ffdr.codec.dct.format import YUV420, Coefficients
from ffdr.codec.dct.pack import pack, unpack
from ffdr.codec.jpeg import coefficients
from ffdr.codec.jpeg.segments import check_sides, cut_jpeg
from ffdr.codec.jpeg.write import write_jpeg
from ffdr.config.files import TranscodeOptions
from ffdr.util.errors import UserError
from ffdr.util.text import warn
from ffdr.write.copy.copying import contents, digest
from ffdr.write.encode import Chunk
from ffdr.write.image_writer import counts_in_manifest, versions
from ffdr.write.parts import check_place, slots_of
from ffdr.write.receipt import Work
from ffdr.write.streaming import CHUNK, StreamingImageWriter, in_chunks

_LOST = (coefficients.UNSUPPORTED, coefficients.DAMAGED)


def transcode(options: TranscodeOptions, progress: bool = True) -> Path:
    """Write an image beton of the other kind; a killed run is resumed, and what is there already is not made again.

    Returns:
        The path of the beton. It has a manifest beside it if the other one has.

    Raises:
        UserError: a file that can't be transcoded; a damaged sample, named; a disk that is full; a file of other work
            that is there already, and ``overwrite`` is false.
    """
    images = ImageBeton.open(options.file)
    if "aug_params" in images.field_names:
        raise UserError(f"{images.path}: holds a reinforcement, too; ffdr split takes it apart first")
    if not (images.modes != layout.RAW).any():
        raise UserError(f"{images.path}: holds raw images only, and nothing to transcode")
    has_coding = images.coding is not None
    mode = options.mode or ("jpg" if has_coding else "dct")
    if (mode == "dct") == has_coding:
        raise UserError(f"transcode.mode: {images.path} is a beton of mode {mode} already")
    out = Path(options.out).expanduser()
    check_place(out, images, [images.path])
    transcoder = _Transcoder(images, options, mode, out)
    transcoder.write(progress)
    for way in _LOST:
        if transcoder.how[way]:
            warn(f"{out}: {transcoder.how[way]} images encoded anew: {way}")
    return out


class _Transcoder(StreamingImageWriter):
    """An image beton of the images of another one."""

    def __init__(self, images: ImageBeton, options: TranscodeOptions, mode: str, out: Path) -> None:
        self.images, self.options, self.mode = images, options, mode
        work = _work(images, options, mode, out)
        super().__init__(work, len(images), slots_of(images), options.workers, mode == "dct")

    def _to_do(self) -> list[list[int]]:
        return in_chunks(range(self.done, len(self.images)))

    def _learned_from(self) -> list[int]:
        jpegs = np.flatnonzero(self.images.modes == JPG)
        return jpegs[coefficients.spread(len(jpegs))].tolist()

    def _sampler(self) -> _Sampler:
        return _Sampler(self.images, self.options.quality)

    def _task(self) -> _Transcoding:
        if self.coding is not None:
            return _ToCoefficients(self.images, self.options.quality, self.coding)
        return _ToJpeg(self.images, self.options.growth)

    def _name(self, image: int) -> str:
        return f"sample {image}"

    def _manifest(self, samples: np.ndarray) -> dict[str, Any] | None:
        if self.images.manifest is None:
            return None
        manifest = {key: value for key, value in self.images.manifest.items() if key != "coefficients"}
        manifest["jpeg_images"] = int((samples["mode"] == JPG).sum())
        manifest["image_bytes"] = int(samples["size"].sum())
        if isinstance(manifest.get("options"), dict):
            manifest["options"] = manifest["options"] | {"mode": self.mode}
        return manifest | ({"coefficients": counts_in_manifest(self.how)} if self.has_coding else {})


def _work(images: ImageBeton, options: TranscodeOptions, mode: str, out: Path) -> Work:
    """What decides the bytes of the file: the other file, the options, versions."""
    facts = {
        "transcode": digest(images),
        "manifest": images.manifest,
        "options": [mode, options.quality, options.growth],
        "versions": versions(),
        "layout": [layout.DATA_ALIGNMENT, layout.PAGE_SIZE, CHUNK],
    }
    return Work(
        out,
        "transcode",
        options.overwrite,
        options={"mode": mode, "quality": options.quality, "growth": options.growth} | versions(),
        sources={"file": contents(images)},
        identity=json.dumps(facts, sort_keys=True).encode(),
        beside=() if images.manifest is None else (manifest_path(out),),
    )


class _Transcoding(ABC):
    """What a worker process does: images of a beton, those in one mode in another one, all others as they are."""

    source_mode: ClassVar[int]
    target_mode: ClassVar[int]

    def __init__(self, images: ImageBeton) -> None:
        self.images = images

    def __call__(self, indices: Sequence[int]) -> Chunk:
        """The images of these numbers."""
        chunk, images = Chunk(), self.images
        for i in indices:
            check_intact(images, i)
            mode = int(images.modes[i])
            if mode == self.source_mode:
                mode, stored = self.target_mode, self._transcode(i, chunk)
            else:
                stored = images.data(i).tobytes()
            chunk.add(stored, mode, images.sizes[i].tolist(), int(images.labels[i]), images.origins[i].tolist())
        return chunk

    @abstractmethod
    def _transcode(self, i: int, chunk: Chunk) -> bytes:
        """Image i in the other mode; counted in the chunk where the way to its coefficients matters."""


class _ToCoefficients(_Transcoding):
    source_mode, target_mode = JPG, DCT

    def __init__(self, images: ImageBeton, quality: int, coding: Coding) -> None:
        super().__init__(images)
        self.quality, self.coding = quality, coding

    def _transcode(self, i: int, chunk: Chunk) -> bytes:
        found, how = _find(self.images, i, self.quality)
        chunk.how[how] += 1
        return pack(found, self.coding)


class _ToJpeg(_Transcoding):
    """With restart segments where the decoder can use them."""

    source_mode, target_mode = DCT, JPG

    def __init__(self, images: ImageBeton, growth: float) -> None:
        super().__init__(images)
        self.growth = growth

    def _transcode(self, i: int, chunk: Chunk) -> bytes:
        width, height = self.images.sizes[i].tolist()
        assert self.images.coding is not None
        try:
            found = unpack(self.images.data(i), self.images.coding, width, height)
            check_sides(width, height)
        except ValueError as error:
            raise UserError(f"{self.images.path}: sample {i}: {error}") from None
        if found.sampling != YUV420:
            return write_jpeg(found)
        return cut_jpeg(lambda interval: write_jpeg(found, interval), width, height, self.growth)


class _Sampler:
    """Hands out the coefficients of JPEGs."""

    def __init__(self, images: ImageBeton, quality: int) -> None:
        self.images, self.quality = images, quality

    def __call__(self, indices: Sequence[int]) -> list[Coefficients]:
        """Of these numbers."""
        return [_find(self.images, i, self.quality)[0] for i in indices]


def _find(images: ImageBeton, i: int, quality: int) -> tuple[Coefficients, str]:
    """Coefficients of the JPEG of image i, and how they were had."""
    check_intact(images, i)
    width, height = images.sizes[i].tolist()
    return coefficients.from_jpeg(images.data(i), (width, height), lambda: decode_image(images, i), quality)
