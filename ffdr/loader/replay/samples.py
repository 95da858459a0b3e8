"""The replay decoder: stored bytes and view records in, finished pixels out, for a batch at a time.

It serves training, evaluation, the teacher and random access (``replayer.py``). It reads the image beton through
memory addresses, so it works on FFCV's page cache and on a plain memory map alike, and it reports a bad sample by its
number and stage instead of crashing or handing out stale pixels. Of coefficient images (``codec/dct``), and of a JPEG
with a row table (``codec/jpeg/splice.py``), only the part that a view reads is decoded::

    stored bytes ── splice ──► JPEG of the part ── libjpeg ──► canvas ──┐
                 └─ coefficients ────────────────────────────► canvas ──┼─► replay_view ─► out, or the partner's
                 └─ raw ────────────────────────────────────────────────┘                  view, which is mixed in

**Any bytes.** A file may hold anything, and a record any 24 bytes, its effects any 32. So before memory is handed over:
a raw image has as many bytes as its size says, a JPEG's frame header states the size that the canvas was made for
(libjpeg writes as many pixels as the header says), ``decode_coefficients`` compares the sizes itself, and
``check_view`` comes before ``view_region``, which holds only for records that have passed it.

Shapes: B images in the batch, H×W output, T threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from ffdr.augment.check import OK, check_mix, check_view
from ffdr.augment.geometry import view_region
from ffdr.augment.laps import DECODE, MIX, OTHER, SPLICE, lap
from ffdr.augment.picture import ImagePart
from ffdr.augment.replay import mix_into, replay_view, visible
from ffdr.augment.view import MixRecord, ViewRecord
from ffdr.beton.layout import DCT, JPG, RAW
from ffdr.beton.records import Records
from ffdr.codec.crop import Crop
from ffdr.codec.dct.blocks import DecodingTables
from ffdr.codec.dct.decode import decode_coefficients
from ffdr.codec.jpeg.libjpeg import decompress, frame_size
from ffdr.codec.jpeg.splice import splice
from ffdr.jit.kernel import address_of, bytes_at, kernel, parallel_kernel, take_number
from ffdr.loader.replay.status import BAD_COEFFICIENTS, BAD_JPEG, BAD_RAW_SIZE


class Stored(NamedTuple):
    """What the kernels need of an image beton; N images."""

    modes: np.ndarray
    """(N,) uint8"""
    sizes: np.ndarray
    """(N, 2) int32 width, height"""
    data_ptr: np.ndarray
    """(N,) uint64"""
    data_size: np.ndarray
    """(N,) uint64"""
    base: int
    """address of the file's first byte in memory"""
    decompress: int
    """address of libjpeg-turbo's function: an argument, because compiled code outlives the process"""
    types: np.ndarray
    """this and the next four: ``DecodingTables``, flat, because Numba hands no nested tuples to its threads"""
    entries: np.ndarray
    quants: np.ndarray
    first_with_high: int
    fast: bool
    """whether to unpack coefficients with AVX2, where there is such"""


class Span(NamedTuple):
    """One stored image."""

    image: int
    """its number"""
    address: np.uint64
    size: int
    """bytes"""


class Scratch(NamedTuple):
    """Memory of one thread."""

    handle: np.uint64
    """a decompressor"""
    canvas: np.ndarray
    """(bytes,) uint8, a decoded image"""
    jpeg: np.ndarray
    """(bytes,) uint8, the part of a JPEG that a view needs"""
    samples: np.ndarray
    """(bytes,) uint8 for decode_coefficients"""
    replay: np.ndarray
    """(bytes,) uint8 for replay_view"""
    partner: np.ndarray
    """(H, W, 3) uint8, the partner's view"""
    laps: np.ndarray | None


Workspace = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""The first six of ``Scratch`` of all threads: (T, …) each."""


@kernel
def _decode_region(
    stored: Stored, mode: int, data: np.ndarray, width: int, height: int, region: tuple, scratch: Scratch
) -> tuple[int, Crop]:
    """Decode at least ``region`` of an image of width × height pixels to the beginning of the canvas.

    Returns a status and what was decoded.
    """
    canvas, jpeg = scratch.canvas, scratch.jpeg
    if mode == DCT:
        tables = DecodingTables(stored.types, stored.entries, stored.quants, stored.first_with_high, stored.fast)
        done, crop = decode_coefficients(data, width, height, region, tables, scratch.samples, canvas)
        lap(scratch.laps, DECODE)
        return (OK if done else BAD_COEFFICIENTS), crop
    size, crop = splice(data, width, height, region, jpeg)
    lap(scratch.laps, SPLICE)
    source, size = (address_of(jpeg), size) if size > 0 else (address_of(data), np.int64(len(data)))
    function = np.uint64(stored.decompress)
    failed = decompress(function, scratch.handle, source, size, crop.width, crop.height, address_of(canvas))
    lap(scratch.laps, DECODE)
    return (OK if failed == 0 else BAD_JPEG), crop


@kernel
def _replay_stored(
    stored: Stored, span: Span, view: ViewRecord, effects: np.ndarray, out: np.ndarray, scratch: Scratch
) -> int:
    """Pixels of one view of one stored image. Returns a status, ``OK`` for success."""
    data = bytes_at(span.address, span.size)
    width, height = np.int64(stored.sizes[span.image, 0]), np.int64(stored.sizes[span.image, 1])
    mode = stored.modes[span.image]
    lap(scratch.laps, OTHER)
    if mode == RAW:
        if span.size != width * height * 3:
            return BAD_RAW_SIZE
        part = ImagePart(data.reshape((height, width, 3)), np.int64(0), np.int64(0), width, height)
        return replay_view(part, view, effects, out, scratch.replay, scratch.laps)
    if mode == JPG and frame_size(data) != (width, height):
        return BAD_JPEG
    status = check_view(view, width, height, out.shape[0], out.shape[1])
    if status != OK:
        return status
    region = view_region(view, width, height, out.shape[0], out.shape[1])
    status, crop = _decode_region(stored, mode, data, width, height, region, scratch)
    if status != OK:
        return status
    pixels = scratch.canvas[: crop.height * crop.width * 3].reshape((crop.height, crop.width, 3))
    part = ImagePart(pixels, crop.left, crop.top, width, height)
    return replay_view(part, view, effects, out, scratch.replay, scratch.laps)


@kernel
def replay_sample(
    stored: Stored,
    span: np.ndarray,
    pair: np.ndarray,
    effects: np.ndarray,
    mix: MixRecord,
    out: np.ndarray,
    scratch: Scratch,
) -> int:
    """One row of a batch: the image's view, mixed with its partner's; what can't be seen is not decoded.

    span: (3,) of ``Replayer.spans``. pair: (2,) the views of both, and effects, (2, 8), theirs. Returns a status.
    """
    status = check_mix(mix, len(stored.modes))
    if status != OK:
        return status
    first, second = visible(mix)
    if first:
        own = Span(np.int64(span[0]), span[1], np.int64(span[2]))
        status = _replay_stored(stored, own, pair[0], effects[0], out, scratch)
    if status != OK or not second:
        return status
    partner = np.int64(mix.partner)
    address = np.uint64(stored.base) + stored.data_ptr[partner]
    other = Span(partner, address, np.int64(stored.data_size[partner]))
    other_out = scratch.partner if first else out
    status = _replay_stored(stored, other, pair[1], effects[1], other_out, scratch)
    if status == OK and first:
        lap(scratch.laps, OTHER)
        mix_into(out, other_out, mix)
        lap(scratch.laps, MIX)
    return status


@parallel_kernel
def replay_batch(
    stored: Stored,
    spans: np.ndarray,
    records: Records,
    out: np.ndarray,
    workspace: Workspace,
    status: np.ndarray,
) -> None:
    """Each thread owns one row of the workspace and takes the next sample when it is done with one: crops differ in
    cost, and a batch is only done when its last thread is."""
    counter = np.zeros(1, np.int64)
    views, mixes, effects = records
    handles, canvas, jpeg, samples, replay, partner = workspace
    for thread in prange(len(handles)):
        t = np.int64(thread)  # unsigned here, signed elsewhere: Numba would compile all below for either
        scratch = Scratch(handles[t], canvas[t], jpeg[t], samples[t], replay[t], partner[t], None)
        place = address_of(counter)
        i = take_number(place)
        while i < len(spans):
            status[i] = replay_sample(stored, spans[i], views[i], effects[i], mixes[i], out[i], scratch)
            i = take_number(place)


@kernel
def time_batch(stored: Stored, spans: np.ndarray, records: Records, scratch: Scratch, status: np.ndarray) -> None:
    """``replay_batch`` in one thread, with laps, one view over the other."""
    out = np.empty_like(scratch.partner)
    views, mixes, effects = records
    for i in range(len(spans)):
        status[i] = replay_sample(stored, spans[i], views[i], effects[i], mixes[i], out, scratch)
