"""The replay decoder: stored bytes and view records in, finished pixels out, for a batch at a time.

It serves training, evaluation, the teacher and random access (``replayer.py``). It reads the image beton through
memory addresses, so it works on FFCV's page cache and on a plain memory map alike, and it reports a bad sample by its
number and stage instead of crashing or handing out stale pixels. Of coefficient images (``codec/dct``), and of a JPEG
with a row table (``codec/jpeg/splice.py``), only the part that a view reads is decoded::

    stored bytes ── segments ────────────────────────────────► canvas ──┐
                 └─ splice ──► JPEG of the part ── libjpeg ──► canvas ──┤
                 └─ coefficients ────────────────────────────► canvas ──┼─► replay_view ─► out, or the partner's
                 └─ raw ────────────────────────────────────────────────┘                  view, which is mixed in

libjpeg has what ``decode_segments`` hands back: JPEGs that ffdr has not written, and damaged ones.

A thread takes a *group* of rows at a time: adjacent ones that show the same image, decoded once for all of them.

**Any bytes.** A file may hold anything, and a record any 24 bytes, its effects any 32. So before memory is handed over:
a raw image has as many bytes as its size says, a JPEG's frame header states the size that the canvas was made for
(libjpeg writes as many pixels as the header says), ``decode_coefficients`` compares the sizes itself, and
``check_view`` comes before ``view_region``, which holds only for records that have passed it.

Shapes: B rows in the batch, G in a group, H×W output, T threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange, types

from ffdr.augment.check import OK, check_mix, check_view
from ffdr.augment.geometry import view_region
from ffdr.augment.laps import DECODE, MIX, OTHER, lap
from ffdr.augment.picture import ImagePart
from ffdr.augment.replay import mix_into, replay_view, visible
from ffdr.augment.types import EFFECTS, MIX_TYPE, REGION, VIEW_TYPE
from ffdr.beton.layout import DCT, JPG, RAW
from ffdr.beton.records import Records
from ffdr.codec.crop import BYTES, CROP, MEMORY, Crop
from ffdr.codec.dct.blocks import TABLES, DecodingTables
from ffdr.codec.dct.decode import decode_coefficients
from ffdr.codec.jpeg.libjpeg import decompress, frame_size
from ffdr.codec.jpeg.region import decode_segments
from ffdr.codec.jpeg.splice import splice
from ffdr.jit.arguments import array_of, named
from ffdr.jit.kernel import address_of, bytes_at, kernel, picture_at, take_number
from ffdr.jit.unit import unit
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
    base: np.uint64
    """address of the file's first byte in memory"""
    decompress: np.uint64
    """address of libjpeg-turbo's function: an argument, because compiled code outlives the process"""
    types: np.ndarray
    """this and the next three: ``DecodingTables``, flat, because Numba hands no nested tuples to its threads"""
    entries: np.ndarray
    quants: np.ndarray
    first_with_high: int


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
    """(bytes,) uint8, the part of a JPEG that a view needs, or of one segment the bytes without stuffing"""
    samples: np.ndarray
    """(bytes,) uint8 for decode_segments and decode_coefficients"""
    replay: np.ndarray
    """(bytes,) uint8 for replay_view"""
    partner: np.ndarray
    """(1, H, W, 3) uint8, the partner's view"""
    laps: np.uint64
    """address of ``new_laps``, or 0"""


Workspace = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""The first six of ``Scratch`` of all threads: (T, …) each."""

Region = tuple[int, int, int, int]
"""Pixels (x0, y0, x1, y1) of an image, ends excluded."""

# Numba's types of these.
STATUS = array_of(types.int32, 1)
SPANS = array_of(types.uint64, 2, writable=False)
PICTURES = array_of(types.uint8, 4)
RECORDS = named(Records, views=array_of(VIEW_TYPE, 2), mixes=array_of(MIX_TYPE, 1), effects=array_of(EFFECTS.dtype, 3))
STORED = named(
    Stored,
    modes=BYTES,
    sizes=array_of(types.int32, 2, writable=False),
    data_ptr=array_of(types.uint64, 1, writable=False),
    data_size=array_of(types.uint64, 1, writable=False),
    types=TABLES.types[0],
    entries=TABLES.types[1],
    quants=TABLES.types[2],
)
SCRATCH = named(Scratch, canvas=MEMORY, jpeg=MEMORY, samples=MEMORY, replay=MEMORY, partner=PICTURES)
_EACH = array_of(types.uint8, 2)
WORKSPACE = types.Tuple([array_of(types.uint64, 1), _EACH, _EACH, _EACH, _EACH, PICTURES])

OWN, PARTNER = np.int64(0), np.int64(1)
"""Whose view in ``Records.views`` and ``Records.effects``."""


@kernel
def _area(region: Region) -> int:
    return (region[2] - region[0]) * (region[3] - region[1])


@kernel
def _holds(outer: Region, inner: Region) -> bool:
    """Whether a region lies in another one."""
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


@kernel
def _check_stored(mode: int, data: np.ndarray, width: int, height: int) -> int:
    """Whether stored bytes are an image of this size, as far as memory depends on it: a status."""
    if mode == RAW and len(data) != width * height * 3:
        return BAD_RAW_SIZE
    if mode == JPG and frame_size(data) != (width, height):
        return BAD_JPEG
    return OK


@unit(types.Tuple([types.int64, CROP]), STORED, types.int64, BYTES, types.int64, types.int64, REGION, SCRATCH)
def _decode_region(
    stored: Stored, mode: int, data: np.ndarray, width: int, height: int, region: Region, scratch: Scratch
) -> tuple[int, Crop]:
    """Decode at least ``region`` of an image of width × height pixels to the beginning of the canvas.

    Returns a status and what was decoded. The region's pixels are the same, whatever else is decoded.
    """
    canvas, jpeg = scratch.canvas, scratch.jpeg
    if mode == DCT:
        tables = DecodingTables(stored.types, stored.entries, stored.quants, stored.first_with_high)
        done, crop = decode_coefficients(data, width, height, region, tables, scratch.samples, canvas)
        lap(scratch.laps, DECODE)
        return (OK if done else BAD_COEFFICIENTS), crop
    done, crop = decode_segments(data, width, height, region, jpeg, scratch.samples, canvas)
    failed = np.int32(0)
    if not done:
        size, crop = splice(data, width, height, region, jpeg)
        source, size = (address_of(jpeg), size) if size > 0 else (address_of(data), np.int64(len(data)))
        function = np.uint64(stored.decompress)
        failed = decompress(function, scratch.handle, source, size, crop.width, crop.height, address_of(canvas))
    lap(scratch.laps, DECODE)
    return (OK if failed == 0 else BAD_JPEG), crop


@kernel
def _common_region(
    records: Records, whose: int, width: int, height: int, out: np.ndarray, fits: int, status: np.ndarray
) -> Region:
    """What to decode at once for the views of a group that can be seen, and their statuses.

    fits: of the stored bytes. Returns the smallest region that holds those of all views, or an empty one where that is
    dearer than to decode them one by one, as of small crops far from each other.
    """
    views, mixes, _ = records
    x0, y0, x1, y1 = np.int64(width), np.int64(height), np.int64(0), np.int64(0)
    apart = np.int64(0)
    for row in range(len(mixes)):
        if status[row] == OK and visible(mixes[row])[whose]:
            view = views[row, whose]
            status[row] = fits if fits != OK else check_view(view, width, height, out.shape[1], out.shape[2])
            if status[row] == OK:
                region = view_region(view, width, height, out.shape[1], out.shape[2])
                x0, y0, x1, y1 = min(x0, region[0]), min(y0, region[1]), max(x1, region[2]), max(y1, region[3])
                apart += _area(region)
    together = x0, y0, x1, y1
    return together if apart >= _area(together) else (x0, y0, x0, y0)


@unit(types.void, STORED, named(Span), RECORDS, types.int64, PICTURES, SCRATCH, STATUS)
def _replay_views(
    stored: Stored, span: Span, records: Records, whose: int, out: np.ndarray, scratch: Scratch, status: np.ndarray
) -> None:
    """Pixels of the views of one stored image that can be seen, of a group of rows.

    whose: ``OWN`` or ``PARTNER``, which views of the records are this image's. out: (G, H, W, 3). status: (G,), of a
    row that is not ``OK`` nothing is done.
    """
    views, mixes, effects = records
    data = bytes_at(span.address, span.size)
    width, height = np.int64(stored.sizes[span.image, 0]), np.int64(stored.sizes[span.image, 1])
    mode = stored.modes[span.image]
    lap(scratch.laps, OTHER)
    fits = _check_stored(mode, data, width, height)
    common = _common_region(records, whose, width, height, out, fits, status)
    # What is decoded: the region that was asked for, and the crop that came. Only the former is exact: at the edges of
    # a crop, libjpeg has not seen all of the chroma.
    zero = np.int64(0)
    crop = Crop(zero, zero, width, height)
    asked = (zero, zero, width, height) if mode == RAW else (zero, zero, zero, zero)
    for row in range(len(mixes)):
        if status[row] == OK and visible(mixes[row])[whose]:
            view = views[row, whose]
            region = view_region(view, width, height, out.shape[1], out.shape[2])
            if not _holds(asked, region):
                asked = common if _holds(common, region) else region
                failed, crop = _decode_region(stored, mode, data, width, height, asked, scratch)
                if failed != OK and asked != region:
                    # Damage of another view's part of the image is no fault of this one's.
                    common, asked = (zero, zero, zero, zero), region
                    failed, crop = _decode_region(stored, mode, data, width, height, asked, scratch)
                status[row] = failed
            if status[row] == OK:
                source = address_of(data) if mode == RAW else address_of(scratch.canvas)
                pixels = picture_at(source, crop.height, crop.width)
                part = ImagePart(pixels, crop.left, crop.top, width, height)
                status[row] = replay_view(part, view, effects[row, whose], out[row], scratch.replay, scratch.laps)
            else:
                asked = zero, zero, zero, zero


@unit(types.void, STORED, SPANS, RECORDS, PICTURES, SCRATCH, STATUS)
def replay_group(
    stored: Stored, spans: np.ndarray, records: Records, out: np.ndarray, scratch: Scratch, status: np.ndarray
) -> None:
    """A group of rows: views of one image, each mixed with its partner's; what can't be seen is not decoded.

    The image is decoded first and its views replayed, then the canvas is free for one partner after the other.

    spans: (G, 3) of ``Replayer.spans``, all the same. records: G of them. out: (G, H, W, 3). status: (G,), written;
    what is wrong with one row is no fault of the others.
    """
    views, mixes, effects = records
    for row in range(len(mixes)):
        status[row] = check_mix(mixes[row], len(stored.modes))
    own = Span(np.int64(spans[0, 0]), spans[0, 1], np.int64(spans[0, 2]))
    _replay_views(stored, own, records, OWN, out, scratch, status)
    for row in range(len(mixes)):
        mix, alone = mixes[row], slice(row, row + 1)
        first, second = visible(mix)
        if status[row] == OK and second:
            partner = np.int64(mix.partner)
            address = np.uint64(stored.base) + stored.data_ptr[partner]
            other = Span(partner, address, np.int64(stored.data_size[partner]))
            other_out = scratch.partner if first else out[alone]
            one = Records(views[alone], mixes[alone], effects[alone])
            _replay_views(stored, other, one, PARTNER, other_out, scratch, status[alone])
            if status[row] == OK and first:
                lap(scratch.laps, OTHER)
                mix_into(out[row], other_out[0], mix)
                lap(scratch.laps, MIX)


_BATCH = STORED, SPANS, RECORDS, PICTURES, WORKSPACE, STATUS, types.int64


@unit(types.void, *_BATCH, types.int64, array_of(types.int64, 1))
def _replay_share(
    stored: Stored,
    spans: np.ndarray,
    records: Records,
    out: np.ndarray,
    workspace: Workspace,
    status: np.ndarray,
    size: int,
    thread: int,
    counter: np.ndarray,
) -> None:
    """What one thread does of a batch. counter: (1,) int64, groups that threads have taken."""
    views, mixes, effects = records
    handles, canvas, jpeg, samples, replay, partner = workspace
    t = thread
    scratch = Scratch(handles[t], canvas[t], jpeg[t], samples[t], replay[t], partner[t : t + 1], np.uint64(0))
    place = address_of(counter)
    at = take_number(place) * size
    while at < len(spans):
        rows = slice(at, at + size)
        some = Records(views[rows], mixes[rows], effects[rows])
        replay_group(stored, spans[rows], some, out[rows], scratch, status[rows])
        at = take_number(place) * size


@unit(types.void, *_BATCH, parallel=True)
def replay_batch(
    stored: Stored,
    spans: np.ndarray,
    records: Records,
    out: np.ndarray,
    workspace: Workspace,
    status: np.ndarray,
    size: int,
) -> None:
    """Each thread owns one row of the workspace and takes the next group of ``size`` rows when it is done with one:
    crops differ in cost, and a batch is only done when its last thread is."""
    # What is in such a loop, Numba compiles several times, so there is but a call.
    counter = np.zeros(1, np.int64)
    for thread in prange(len(workspace[0])):
        _replay_share(stored, spans, records, out, workspace, status, size, np.int64(thread), counter)


@kernel
def time_batch(
    stored: Stored, spans: np.ndarray, records: Records, scratch: Scratch, status: np.ndarray, size: int
) -> None:
    """``replay_batch`` in one thread, with laps, the views of one group over those of the other."""
    out = np.empty((size, *scratch.partner.shape[1:]), np.uint8)
    views, mixes, effects = records
    for at in range(0, len(spans), size):
        rows = slice(at, at + size)
        some = Records(views[rows], mixes[rows], effects[rows])
        replay_group(stored, spans[rows], some, out, scratch, status[rows])
