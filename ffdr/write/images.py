"""``ffdr write``: a source dataset becomes an image beton and its manifest.

The images keep the source's order. ``streaming.py`` lays them out, ``encode.py`` makes them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

import ffdr
from ffdr.beton import layout
from ffdr.beton.manifest import MANIFEST_FORMAT, manifest_path, read_manifest
from ffdr.codec.jpeg import coefficients
from ffdr.config.files import WriteOptions
from ffdr.data import Source, open_source
from ffdr.util.errors import UserError
from ffdr.util.text import warn
from ffdr.write import parts
from ffdr.write.encode import Encoder, Sampler
from ffdr.write.receipt import Work
from ffdr.write.streaming import CHUNK, StreamingImageWriter


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
    source = open_source(options.source, options.path, options.split)
    selected = select(source.labels, options.per_class)
    if not len(selected):
        raise UserError(f"write.path: the source {options.source} has no images in {options.split!r}")
    read = [Path(options.path).expanduser()] if options.path else []
    parts.check_out(Path(options.out).expanduser(), read, has_manifest=True)
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


class _SourceWriter(StreamingImageWriter):
    """An image beton of a source. M images are selected, N of them can be read."""

    def __init__(self, options: WriteOptions, source: Source, selected: np.ndarray) -> None:
        self.options, self.source = options, source
        work = _work(options, source, selected)
        super().__init__(work, selected, len(selected), options.workers, options.mode == "dct")

    def run(self, progress: bool) -> None:
        """Make what is missing; images that were skipped then end this run, too, if nothing may be skipped."""
        if self.is_there:
            manifest = read_manifest(manifest_path(self.out)) or {}
            self.skipped = [(image["origin"], image["cause"]) for image in manifest.get("skipped", ())]
            self._check_skipped()
        super().run(progress)

    def _sampler(self) -> Sampler:
        return Sampler(self.source, self.options)

    def _task(self) -> Encoder:
        return Encoder(self.source, self.options, self.coding)

    def _name(self, i: int) -> str:
        return self.source.place(self.source.origin(i))

    def _check_skipped(self) -> None:
        if self.skipped and self.options.on_error == "stop":
            origin, cause = self.skipped[0]
            place = self.source.place(origin)
            raise UserError(f"{place}: can't be read: {cause}; --write.on_error=skip leaves such images out")

    def _manifest(self, samples: np.ndarray) -> dict[str, Any]:
        pixels = int((samples["width"].astype(np.int64) * samples["height"]).sum())
        total, squares = self.sums.tolist()
        # Exact integers up to the one division: n·Σx² − (Σx)² is n² times the variance.
        variances = [(pixels * q - s * s) / (pixels * 255) ** 2 for s, q in zip(total, squares, strict=True)]
        return {
            "format": MANIFEST_FORMAT,
            "source": self.options.source,
            "split": self.options.split,
            "num_images": len(samples),
            "num_classes": len(self.source.class_names),
            "fingerprint": layout.fingerprint(samples["origin"], samples["label"]),
            "mean": [s / (pixels * 255) for s in total],
            # An image of one colour has deviation 0, by which nobody can divide.
            "std": [max(variance**0.5, 1 / 255) for variance in variances],
            "images_per_class": np.bincount(samples["label"], minlength=len(self.source.class_names)).tolist(),
            "jpeg_images": int((samples["mode"] == layout.JPG).sum()),
            "image_bytes": int(samples["size"].sum()),
            **({"coefficients": counts_in_manifest(self.how)} if self.has_coding else {}),
            "options": _options_in_manifest(self.options),
            "versions": versions(),
            "skipped": [{"origin": origin, "cause": cause} for origin, cause in self.skipped],
            "class_names": self.source.class_names,
        }


def _work(options: WriteOptions, source: Source, selected: np.ndarray) -> Work:
    """What decides the bytes of the file: options, versions, and which images there are.

    A killed run is resumed even if files have changed under unchanged names; a finished one is not taken for the same
    work then.
    """
    out, path = Path(options.out).expanduser(), ""
    if options.path:
        path = os.path.abspath(os.path.expanduser(options.path))  # the same from any folder
    images = hashlib.sha256()
    for i in selected:
        images.update(f"{source.origin(i)}\0{source.labels[i]}\0".encode(errors="surrogateescape"))
    facts = {
        "options": _options_in_manifest(options),
        "path": path,
        "versions": versions(),
        "images": images.hexdigest(),
        "layout": [layout.DATA_ALIGNMENT, layout.PAGE_SIZE, CHUNK],
    }
    return Work(
        out,
        "write",
        options.overwrite,
        options=_options_in_manifest(options) | ({"path": path} if path else {}) | versions(),
        sources={"path": source.state(selected)} if path else {},
        identity=json.dumps(facts, sort_keys=True).encode(),
        beside=(manifest_path(out),),
    )


def _options_in_manifest(options: WriteOptions) -> dict[str, Any]:
    """The options that decide the bytes. Neither paths nor the number of workers do, nor what happens on an error."""
    others = ("path", "out", "workers", "on_error", "overwrite")
    return {key: value for key, value in asdict(options).items() if key not in others}


def counts_in_manifest(how: Mapping[str, int]) -> dict[str, int]:
    """Of how many images the coefficients were had in each of the ways."""
    return {way: how[way] for way in coefficients.HOW if how[way]}


def versions() -> dict[str, str]:
    """Versions of what reads, shrinks and encodes."""
    return {"ffdr": ffdr.__version__, "pillow": PIL.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
