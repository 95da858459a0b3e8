"""Samples of several betons as those of one new file: images one after the other, views side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ffdr.beton import layout
from ffdr.beton.manifest import MANIFEST_FORMAT
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.util.errors import UserError
from ffdr.write import parts
from ffdr.write.copy.copying import ImageSamples, ReinforcedSamples, Samples, Source
from ffdr.write.image_writer import counts_in_manifest
from ffdr.write.parts import Part
from ffdr.write.pixel_sums import PixelSums


class JoinedImages(Samples):
    """The images of several betons, one beton's after the other's.

    Images of stock FFCV, which have no origins, get their numbers in the new file as keys: those that they would have
    if they had been written into one file.
    """

    def __init__(self, betons: Sequence[ImageBeton]) -> None:
        """Raises UserError where an image stands twice, or where coefficients are coded in several ways."""
        self._members = [ImageSamples(beton, np.arange(len(beton))) for beton in betons]
        self._starts = np.cumsum([0, *map(len, betons)])
        self.stored = np.concatenate([samples.stored for samples in self._members])
        for beton, start in zip(betons, self._starts.tolist(), strict=False):
            if not beton.has_origins:
                self.stored["origin"][start : start + len(beton), 2] = np.arange(start, start + len(beton))
        self._check_keys()
        self.coding = _one_coding(self._members)
        self.specs = parts.image_specs(self.coding)

    def _check_keys(self) -> None:
        order = np.argsort(self.stored["origin"][:, 2], kind="stable")
        keys = self.stored["origin"][order, 2]
        again = np.flatnonzero(keys[1:] == keys[:-1])
        if len(again):
            first, second = sorted(order[again[0] : again[0] + 2].tolist())
            text = "one image, known by its path below the folder that it was written from"
            raise UserError(f"{self._named(second)} and {self._named(first)} are {text}")

    def _named(self, n: int) -> str:
        ((beton, i),) = self.sources(n)
        return f"{beton.path}: image {i}"

    def __len__(self) -> int:
        return len(self.stored)

    def place(self, start: int, page_size: int) -> Part:
        """As ``Samples`` says."""
        return parts.image_part(self.stored, start, page_size, self.coding)

    def regions(self, n: int) -> tuple[bytes, bytes]:
        """Of image n of the new file: its bytes as they are stored, and its origin."""
        member, i = self._member(n)
        return member.regions(i)[0], self.stored["origin"][n].tobytes()

    def sources(self, n: int) -> list[Source]:
        """One image."""
        member, i = self._member(n)
        return member.sources(i)

    def _member(self, n: int) -> tuple[ImageSamples, int]:
        number = int(np.searchsorted(self._starts, n, side="right")) - 1
        return self._members[number], n - int(self._starts[number])

    def identity(self) -> list[Any]:
        """Those of the betons, in their order."""
        return [samples.identity() for samples in self._members]


def _one_coding(members: Iterable[ImageSamples]) -> bytes:
    """The coding of all coefficient images, packed; empty: there are none.

    Raises:
        UserError: there are several: each ``write`` has learned its own.
    """
    coded = [samples for samples in members if samples.coding]
    for samples in coded[1:]:
        if samples.coding != coded[0].coding:
            raise UserError(
                f"{samples.beton.path}: its coefficient images are coded in another way than those of "
                f"{coded[0].beton.path}; ffdr transcode each to jpg, put these together, and transcode the whole to "
                "dct: nothing is lost on the way"
            )
    return coded[0].coding if coded else b""


class JoinedViews(Samples):
    """The views that several betons have of the same images, of each image one beton's behind the other's.

    The header is the first beton's, but for the number of views: as ``subset`` cuts off views, it gives back the first.
    """

    def __init__(self, betons: Sequence[ReinforcedBeton]) -> None:
        """The betons have been found to fit. Raises UserError where an image gets more views than a file can hold."""
        every = np.arange(len(betons[0]))
        self._members = [ReinforcedSamples(beton, every, beton.header) for beton in betons]
        self.header = replace(betons[0].header, views=sum(beton.header.views for beton in betons))
        self.specs = self.header.specs()

    def __len__(self) -> int:
        return self.header.num_images

    def place(self, start: int, page_size: int) -> Part:
        """As ``Samples`` says."""
        return parts.reinforced_part(self.header, start, page_size)

    def regions(self, n: int) -> tuple[bytes, bytes]:
        """The records of image n, and its teacher's entries."""
        views, logits = zip(*(samples.regions(n) for samples in self._members), strict=True)
        return b"".join(views), b"".join(logits)

    def sources(self, n: int) -> list[Source]:
        """The reinforcement of one image in every beton."""
        return [source for samples in self._members for source in samples.sources(n)]

    def identity(self) -> list[Any]:
        """Those of the betons, in their order, and the header."""
        return [*(samples.identity() for samples in self._members), self.header.pack().hex()]


def joined_manifest(betons: Sequence[ImageBeton], stored: np.ndarray) -> dict[str, Any] | None:
    """The manifest of the images of several betons, (N,) ``STORED_DTYPE``; None: they have none.

    What one ``ffdr write`` of them all would have left: counts add up, mean and deviation are those of all pixels
    (``PixelSums.of_moments``), images that were skipped are listed together. Of what was written how, the manifest
    says what those of all betons agree on.
    """
    manifests = [beton.manifest for beton in betons if beton.manifest is not None]
    if not manifests:
        return None
    mean, std = _moments(betons)
    how: Counter[str] = Counter()
    for manifest in manifests:
        how.update({way: n for way, n in manifest.get("coefficients", {}).items() if type(n) is int})
    named = betons[0].class_names
    return {
        "format": MANIFEST_FORMAT,
        **{key: manifests[0][key] for key in ("source", "split") if _agree(manifests, key)},
        "num_images": len(stored),
        "num_classes": len(named),
        "fingerprint": layout.fingerprint(stored["origin"], stored["label"]),
        "mean": mean,
        "std": std,
        "images_per_class": np.bincount(stored["label"], minlength=len(named)).tolist(),
        "jpeg_images": int((stored["mode"] == layout.JPG).sum()),
        "image_bytes": int(stored["size"].sum()),
        **({"coefficients": counts_in_manifest(how)} if all("coefficients" in one for one in manifests) else {}),
        **{key: _agreed([one[key] for one in manifests]) for key in ("options", "versions") if _all(manifests, key)},
        "skipped": [image for manifest in manifests for image in manifest.get("skipped", [])],
        "class_names": list(named),
    }


def _moments(betons: Sequence[ImageBeton]) -> tuple[list[float], list[float]]:
    """Mean and deviation of all pixels; those of the betons where they are the same, as in subsets of one file."""
    if len({(beton.mean, beton.std) for beton in betons}) == 1:
        return list(betons[0].mean), list(betons[0].std)
    sums = [
        PixelSums.of_moments(one.mean, one.std, int(np.prod(one.sizes, axis=1, dtype=np.int64).sum())) for one in betons
    ]
    whole = sums[0]
    for part in sums[1:]:
        whole += part
    return whole.mean(), whole.std()


def _all(manifests: Sequence[dict[str, Any]], key: str) -> bool:
    return all(key in manifest for manifest in manifests)


def _agree(manifests: Sequence[dict[str, Any]], key: str) -> bool:
    return _all(manifests, key) and all(manifest[key] == manifests[0][key] for manifest in manifests)


def _agreed(dictionaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in dictionaries[0].items() if _agree(dictionaries, key)}
