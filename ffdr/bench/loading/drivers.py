"""Compiled loops over many views that call one of the product's kernels each, in one thread: its cost without Python.

R pixels is the side of the output, n the number of views.
"""

from __future__ import annotations

import numpy as np

from ffdr.augment.geometry import view_region
from ffdr.augment.ops.apply import IMAGE_SLACK, op_bytes
from ffdr.augment.picture import ImagePart, Output
from ffdr.augment.replay import apply_ops, erase, mix_into
from ffdr.augment.resize import ALIGNMENT, resize_bytes, resize_view
from ffdr.beton.read import ImageBeton
from ffdr.codec.dct.pixels import CANVAS_SLACK
from ffdr.codec.jpeg.entropy import CLEAN_SLACK
from ffdr.codec.jpeg.libjpeg import FUNCTION, decompress, make_handles
from ffdr.codec.jpeg.region import decode_segments, segments_scratch_bytes
from ffdr.codec.jpeg.splice import splice
from ffdr.jit.kernel import address_of, bytes_at, kernel


class Scratch:
    """Memory that the loops need for the images of a beton."""

    def __init__(self, images: ImageBeton, resolution: int) -> None:
        widths, heights = images.sizes.astype(np.int64).T
        self.decoder = (FUNCTION, make_handles(1, self)[0])
        self.jpeg = np.zeros(int(images.data_size.max()) + CLEAN_SLACK, np.uint8)
        self.canvas = np.zeros(3 * int((widths * heights).max()) + CANVAS_SLACK, np.uint8)
        self.decoding = (self.jpeg, np.zeros(int(segments_scratch_bytes(int(widths.max()))), np.uint8), self.canvas)
        """As ``decode_segments`` takes it."""
        self.second = np.zeros(3 * resolution * resolution + IMAGE_SLACK, np.uint8)
        """What two operations hand on."""
        count = max(resize_bytes(widths.max(), heights.max(), resolution, resolution), op_bytes(resolution))
        memory = np.zeros(count + ALIGNMENT, np.uint8)
        self.work = memory[-memory.ctypes.data % ALIGNMENT :][:count]
        self.out = np.zeros((2, resolution, resolution, 3), np.uint8)
        """A view and its partner's."""


@kernel
def decode_all_segments(
    spans: np.ndarray,
    sizes: np.ndarray,
    views: np.ndarray,
    resolution: int,
    clean: np.ndarray,
    memory: np.ndarray,
    canvas: np.ndarray,
) -> int:
    """Decode what each view reads, one over the other in ``canvas``; returns how many could not be.

    spans: (n, 3), see ``Replayer.spans``. sizes: of all images. clean, memory, canvas: ``Scratch.decoding``.
    """
    failed = np.int64(0)
    for i in range(len(spans)):
        data = bytes_at(spans[i, 1], np.int64(spans[i, 2]))
        width, height = np.int64(sizes[spans[i, 0], 0]), np.int64(sizes[spans[i, 0], 1])
        region = view_region(views[i, 0], width, height, resolution, resolution)
        done, _ = decode_segments(data, width, height, region, clean, memory, canvas)
        failed += np.int64(not done)
    return failed


@kernel
def decode_all(decoder: tuple, jpegs: np.ndarray, parts: np.ndarray, canvas: np.ndarray) -> int:
    """Decode the JPEGs ``jpegs[start : start + size]``, parts (n, 4) int64: start, size, width, height; returns how
    many failed. decoder: ``Scratch.decoder``."""
    failed = np.int64(0)
    for i in range(len(parts)):
        source = address_of(jpegs) + np.uint64(parts[i, 0])
        size, width, height = np.uint64(parts[i, 1]), parts[i, 2], parts[i, 3]
        if decompress(decoder[0], decoder[1], source, size, width, height, address_of(canvas)) != 0:
            failed += 1
    return failed


def collect(
    images: ImageBeton, scratch: Scratch, spans: np.ndarray, views: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The JPEGs to decode for the views, or for None the whole images, as ``decode_all`` takes them: jpegs, parts."""
    index = spans[:, 0].astype(np.int64)
    pieces = [images.data(i) for i in index]
    parts = np.zeros((len(index), 4), np.int64)
    parts[:, 1:] = [(images.data_size[i], *images.sizes[i]) for i in index]
    if views is not None:
        resolution = scratch.out.shape[1]
        for row in range(len(index)):
            width, height = images.sizes[index[row]].tolist()
            region = view_region(views[row, 0], width, height, resolution, resolution)
            size, crop = splice(pieces[row], width, height, region, scratch.jpeg)
            if size:
                pieces[row] = scratch.jpeg[:size].copy()
                parts[row, 1:] = size, crop.width, crop.height
    parts[1:, 0] = np.cumsum(parts[:-1, 1])
    return np.concatenate(pieces), parts


@kernel
def resize_all(photos: np.ndarray, views: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
    """Crop, resize and flip to ``out`` (R, R, 3), a view after the other; photos (P, h, w, 3) take turns."""
    height, width = np.int64(photos.shape[1]), np.int64(photos.shape[2])
    target = Output(address_of(out), out.shape[0], out.shape[1])
    for i in range(len(views)):
        part = ImagePart(photos[i % len(photos)], np.int64(0), np.int64(0), width, height)
        region = view_region(views[i, 0], width, height, target.height, target.width)
        resize_view(part, region, views[i, 0], target, address_of(work))


@kernel
def operate_all(
    pictures: np.ndarray,
    views: np.ndarray,
    effects: np.ndarray,
    second: np.ndarray,
    out: np.ndarray,
    work: np.ndarray,
) -> None:
    """Each view's operations and effects, (n, 2, 8), two at most, to ``out`` (R, R, 3).

    pictures (P, 3 R² and ``IMAGE_SLACK``) take turns.
    """
    for i in range(len(views)):
        first, target = address_of(pictures[i % len(pictures)]), Output(address_of(out), out.shape[0], out.shape[1])
        apply_ops(views[i, 0], effects[i, 0], first, address_of(second), target, address_of(work))


@kernel
def erase_all(views: np.ndarray, out: np.ndarray) -> None:
    """Each view's erasing, all in ``out`` (R, R, 3)."""
    for i in range(len(views)):
        erase(views[i, 0], out)


@kernel
def mix_all(mixes: np.ndarray, out: np.ndarray, partner: np.ndarray) -> None:
    """Each record's mixing of ``partner`` into ``out``, both (R, R, 3)."""
    for i in range(len(mixes)):
        mix_into(out, partner, mixes[i])
