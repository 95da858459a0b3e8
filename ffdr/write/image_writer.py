"""The image beton of a dataset of any kind in the making: its manifest, and what is done about unreadable images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import PIL

import ffdr
from ffdr.beton import layout
from ffdr.beton.manifest import MANIFEST_FORMAT, manifest_path, read_manifest
from ffdr.codec.jpeg import coefficients
from ffdr.config.files import WriteOptions
from ffdr.data import Item
from ffdr.util.errors import UserError
from ffdr.write.encode import Encoder, Sampler
from ffdr.write.pixel_sums import PixelSums
from ffdr.write.receipt import Work
from ffdr.write.streaming import CHUNK, StreamingImageWriter


class ImageWriter(StreamingImageWriter):
    """An image beton of a dataset."""

    def __init__(self, work: Work, options: WriteOptions, total: int | None, slots: int) -> None:
        """total, slots: as ``StreamingImageWriter`` has them."""
        self.options = options
        super().__init__(work, total, slots, options.workers, options.mode == "dct")

    def run(self, progress: bool) -> None:
        """Make what is missing; images that were skipped then end this run, too, if nothing may be skipped."""
        if self.is_there:
            manifest = read_manifest(manifest_path(self.out)) or {}
            self.skipped = [(image["origin"], image["cause"]) for image in manifest.get("skipped", ())]
            self._check_skipped()
        super().run(progress)

    @abstractmethod
    def _item_of(self) -> Callable[[Any], Item]:
        """Gives an item for what the portions hold; goes to the worker processes."""

    @abstractmethod
    def _place(self, origin: str) -> str:
        """What messages call the image of that origin."""

    @abstractmethod
    def _class_names(self, samples: np.ndarray) -> list[str]:
        """Of the classes of images (N,) ``STORED_DTYPE``."""

    def _sampler(self) -> Sampler:
        return Sampler(self._item_of(), self.options)

    def _task(self) -> Encoder:
        return Encoder(self._item_of(), self.options, self.coding)

    def _check_skipped(self) -> None:
        if self.skipped and self.options.on_error == "stop":
            origin, cause = self.skipped[0]
            raise UserError(
                f"{self._place(origin)}: can't be read: {cause}; --write.on_error=skip leaves such images out"
            )

    def _manifest(self, samples: np.ndarray) -> dict[str, Any]:
        class_names = self._class_names(samples)
        pixels = int((samples["width"].astype(np.int64) * samples["height"]).sum())
        sums = PixelSums(pixels, *self.sums.tolist())
        return {
            "format": MANIFEST_FORMAT,
            "source": self.options.source,
            "split": self.options.split,
            "num_images": len(samples),
            "num_classes": len(class_names),
            "fingerprint": layout.fingerprint(samples["origin"], samples["label"]),
            "mean": sums.mean(),
            "std": sums.std(),
            "images_per_class": np.bincount(samples["label"], minlength=len(class_names)).tolist(),
            "jpeg_images": int((samples["mode"] == layout.JPG).sum()),
            "image_bytes": int(samples["size"].sum()),
            **({"coefficients": counts_in_manifest(self.how)} if self.has_coding else {}),
            "options": options_in_manifest(self.options),
            "versions": versions(),
            "skipped": [{"origin": origin, "cause": cause} for origin, cause in self.skipped],
            "class_names": class_names,
        }


def facts_of(options: WriteOptions) -> dict[str, Any]:
    """What decides the bytes of a file beside its images: options, versions, layout."""
    return {
        "options": options_in_manifest(options),
        "versions": versions(),
        "layout": [layout.DATA_ALIGNMENT, layout.PAGE_SIZE, CHUNK],
    }


def options_in_manifest(options: WriteOptions) -> dict[str, Any]:
    """The options that decide the bytes. Neither paths nor the number of workers do, nor what happens on an error."""
    others = ("path", "classes", "out", "workers", "on_error", "overwrite", *(() if options.columns else ("columns",)))
    return {key: value for key, value in asdict(options).items() if key not in others}


def counts_in_manifest(how: Mapping[str, int]) -> dict[str, int]:
    """Of how many images the coefficients were had in each of the ways."""
    return {way: how[way] for way in coefficients.HOW if how[way]}


def versions() -> dict[str, str]:
    """Versions of what reads, shrinks and encodes."""
    return {"ffdr": ffdr.__version__, "pillow": PIL.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
