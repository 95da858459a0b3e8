"""What a worker of ``ffdr write`` does: read images from the source, encode them as they will lie in the file."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process

import cv2
import numpy as np
from PIL import Image

from ffdr.beton.jpeg import encode_jpeg
from ffdr.beton.layout import JPG, MAX_PAGE_SIZE, RAW, origin_key
from ffdr.beton.parts import STORED_DTYPE, checksum, joined
from ffdr.data import ReadError, Source
from ffdr.options import WriteOptions


@dataclass
class Chunk:
    """The images of a few consecutive positions, n of which could be read."""

    samples: np.ndarray
    """(n,) ``STORED_DTYPE``"""
    data: list[bytes]
    """n stored samples: the image, zeros up to a multiple of 8, the origin."""
    sums: np.ndarray
    """(2, 3) uint64: per channel the sum of all pixels and of their squares."""
    skipped: list[tuple[str, str]]
    """Origin and cause of each image that could not be read."""


class Encoder:
    """Encodes images of a source as the options say."""

    def __init__(self, source: Source, options: WriteOptions) -> None:
        self.source, self.options = source, options

    def __call__(self, indices: Sequence[int]) -> Chunk:
        """The images of these indices of the source, in this order."""
        chunk = Chunk(np.zeros(0, STORED_DTYPE), [], np.zeros((2, 3), np.uint64), [])
        samples = []
        for i in indices:
            origin = self.source.origin(i)
            try:
                sample, data = self._encode(i, origin, chunk.sums)
            except ReadError as error:
                chunk.skipped.append((error.origin, error.cause))
            except (ValueError, MemoryError, cv2.error) as error:
                chunk.skipped.append((origin, " ".join(f"{type(error).__name__}: {error}".split())))
            else:
                samples.append(sample)
                chunk.data.append(data)
        chunk.samples = np.array(samples, STORED_DTYPE)
        return chunk

    def _encode(self, i: int, origin: str, sums: np.ndarray) -> tuple[tuple, bytes]:
        """The ``STORED_DTYPE`` fields and the stored bytes of one image; adds its pixels to ``sums``."""
        image = self.source.read(i)
        original = image.size
        pixels = np.ascontiguousarray(_shrink(image, self.options.max_resolution))
        height, width = pixels.shape[:2]
        if max(width, height) > 0xFFFF or pixels.nbytes > MAX_PAGE_SIZE // 2:
            raise ValueError(f"{width}×{height} pixels are too many; --write.max_resolution shrinks images")
        key = origin_key(origin)
        mode = self._mode(key)
        stored = encode_jpeg(pixels, self.options.quality, self.options.growth) if mode == JPG else pixels.tobytes()
        _add_sums(pixels, sums)
        facts = np.array([*original, key], "<i8").tobytes()
        crc = checksum(stored, facts)
        sample = (int(self.source.labels[i]), (*original, key), len(stored), crc, width, height, mode)
        return sample, joined(stored, facts)

    def _mode(self, key: int) -> int:
        """JPEG or raw. In mode proportion the key, a hash, decides: a number in [0, 1) below the share is a JPEG."""
        if self.options.mode == "proportion":
            return JPG if (key % (1 << 64)) / (1 << 64) < self.options.proportion else RAW
        return JPG if self.options.mode == "jpg" else RAW


def _shrink(image: Image.Image, longest: int) -> Image.Image:
    """The image with no side longer than ``longest`` pixels (0: any), its aspect kept; never enlarged."""
    if not longest or max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


_LEVELS = np.arange(256, dtype=np.uint64)


def _add_sums(pixels: np.ndarray, sums: np.ndarray) -> None:
    """Add (H, W, 3) uint8 pixels and their squares to (2, 3) uint64 sums, exactly."""
    for channel in range(3):
        histogram = np.bincount(pixels[..., channel].ravel(), minlength=256).astype(np.uint64)
        sums[0, channel] += histogram @ _LEVELS
        sums[1, channel] += histogram @ (_LEVELS * _LEVELS)


_encoder: Encoder | None = None


def start_worker(source: Source, options: WriteOptions) -> None:
    """Prepare a worker process."""
    import signal

    global _encoder
    _encoder = Encoder(source, options)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()


def encode_chunk(indices: Sequence[int]) -> Chunk:
    """Run the worker's encoder."""
    assert _encoder is not None, "start_worker runs first"
    return _encoder(indices)


def _die_with_parent() -> None:
    """A worker waits for work for ever when its parent was killed: the queue's pipe is open in other workers too."""
    import os

    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
