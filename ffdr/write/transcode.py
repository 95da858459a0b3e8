"""``ffdr transcode``: JPEGs become packed coefficients, or the reverse; the coefficients stay what they are.

Raw images are copied, and so is everything else of an image: label, origin, place in the order. So the fingerprint does
not change, and a reinforcement fits both files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from ffdr.write import parts
from ffdr.write.copy import contents, digest
from ffdr.write.encode import Chunk
from ffdr.write.images import counts_in_manifest, versions
from ffdr.write.merge import check_place
from ffdr.write.parts import STORED_DTYPE
from ffdr.write.receipt import Work
from ffdr.write.streaming import CHUNK, StreamingImageWriter

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
    is_packed = images.coding is not None
    mode = options.mode or ("jpg" if is_packed else "dct")
    if (mode == "dct") == is_packed:
        raise UserError(f"transcode.mode: {images.path} is a beton of mode {mode} already")
    out = Path(options.out).expanduser()
    check_place(out, images, [images.path])
    return _Transcoder(images, options, mode, out).run(progress)


class _Transcoder(StreamingImageWriter):
    verb = "transcode"

    def __init__(self, images: ImageBeton, options: TranscodeOptions, mode: str, out: Path) -> None:
        self.images, self.options, self.mode = images, options, mode
        # As the writer does, which leaves room in its tables for images that it then has to skip.
        slots = len(images) + len((images.manifest or {}).get("skipped", ()))
        super().__init__(out, np.arange(len(images)), slots, options.workers, mode == "dct")
        self.learned_from = np.flatnonzero(images.modes == JPG)

    def run(self, progress: bool) -> Path:
        """See :class:`StreamingImageWriter`."""
        super().run(progress)
        for way in _LOST:
            if self.how[way]:
                warn(f"{self.out}: {self.how[way]} images encoded anew: {way}")
        return self.out

    def work(self) -> Work:
        """See :class:`StreamingImageWriter`."""
        options, images = self.options, self.images
        told = {"mode": self.mode, "quality": options.quality, "growth": options.growth} | versions()
        beside = (manifest_path(self.out),) if images.manifest is not None else ()
        sources = {"file": contents(images)}
        return Work(self.out, self.verb, options.overwrite, told, sources, self.identity(), beside)

    def identity(self) -> bytes:
        """The file, the options that decide the bytes, and versions."""
        facts = {
            "transcode": digest(self.images),
            "manifest": self.images.manifest,
            "options": [self.mode, self.options.quality, self.options.growth],
            "versions": versions(),
            "layout": [layout.DATA_ALIGNMENT, layout.PAGE_SIZE, CHUNK],
        }
        return json.dumps(facts, sort_keys=True).encode()

    def sampler(self) -> _Sampler:
        """See :class:`StreamingImageWriter`."""
        return _Sampler(self.images, self.options.quality)

    def task(self) -> _Packer | _Unpacker:
        """See :class:`StreamingImageWriter`."""
        if self.coding is not None:
            return _Packer(self.images, self.options.quality, self.coding)
        return _Unpacker(self.images, self.options.growth)

    def name(self, i: int) -> str:
        """Its number."""
        return f"sample {i}"

    def check_skipped(self) -> None:
        """No image is ever skipped."""

    def recall(self) -> None:
        """Nothing."""

    def manifest(self, samples: np.ndarray) -> dict[str, Any] | None:
        """That of the images, in the other mode."""
        if self.images.manifest is None:
            return None
        manifest = {key: value for key, value in self.images.manifest.items() if key != "coefficients"}
        manifest["jpeg_images"] = int((samples["mode"] == JPG).sum())
        manifest["image_bytes"] = int(samples["size"].sum())
        if isinstance(manifest.get("options"), dict):
            manifest["options"] = manifest["options"] | {"mode": self.mode}
        return manifest | ({"coefficients": counts_in_manifest(self.how)} if self.packs else {})


class _Task:
    """Makes images out of those of a beton."""

    def __init__(self, images: ImageBeton) -> None:
        self.images = images

    def __call__(self, indices: Sequence[int]) -> Chunk:
        """The images of these numbers."""
        chunk, images = Chunk(), self.images
        chunk.samples = np.zeros(len(indices), STORED_DTYPE)
        for sample, i in zip(chunk.samples, indices, strict=True):
            check_intact(images, i)
            mode = int(images.modes[i])
            stored = self.transcode(i, chunk) if mode == self.source_mode else None
            sample["mode"] = mode if stored is None else self.target_mode
            stored = images.data(i).tobytes() if stored is None else stored
            origin = images.origins[i].astype("<i8").tobytes()
            sample["label"], sample["origin"], sample["size"] = images.labels[i], images.origins[i], len(stored)
            sample["width"], sample["height"] = images.sizes[i]
            sample["crc"] = parts.checksum(stored, origin)
            chunk.data.append(parts.joined(stored, origin))
        return chunk


class _Packer(_Task):
    """JPEG to packed coefficients."""

    source_mode, target_mode = JPG, DCT

    def __init__(self, images: ImageBeton, quality: int, coding: Coding) -> None:
        super().__init__(images)
        self.quality, self.coding = quality, coding

    def transcode(self, i: int, chunk: Chunk) -> bytes:
        """Image i, counted in the chunk."""
        found, how = _find(self.images, i, self.quality)
        chunk.how[how] += 1
        return pack(found, self.coding)


class _Unpacker(_Task):
    """Packed coefficients to JPEG."""

    source_mode, target_mode = DCT, JPG

    def __init__(self, images: ImageBeton, growth: float) -> None:
        super().__init__(images)
        self.growth = growth

    def transcode(self, i: int, chunk: Chunk) -> bytes:
        """Image i, with restart segments where the decoder can use them."""
        width, height = self.images.sizes[i].tolist()
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
