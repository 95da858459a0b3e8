"""The replay decoder: stored bytes and view records in, finished pixels out, for a batch at a time.

One decoder serves training, evaluation, the teacher and random access (``Replayer``). It reads the image beton through
memory addresses, so it works on FFCV's page cache and on a plain memory map alike, and it reports a bad sample by its
number and stage instead of crashing or handing out stale pixels.

Shapes: B images in the batch, H×W output, T threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ffcv.libffcv import lib
from llvmlite import ir
from numba import carray, njit, prange, set_num_threads, types
from numba.core import cgutils
from numba.extending import intrinsic

from ffdr.augment import replay as augment_replay
from ffdr.augment.replay import mix_into, replay_view, scratch_bytes
from ffdr.augment.view import MIX_DTYPE, VIEW_DTYPE
from ffdr.beton.read import ImageBeton

JPG, RAW = 0, 1
"""Values of the image field's ``mode``, as FFCV numbers them."""

# Statuses of this stage; those of a bad view record come from augment.replay.
BAD_JPEG = 1001
BAD_RAW_SIZE = 1002
_STATUS = {
    BAD_JPEG: "the JPEG is corrupt",
    BAD_RAW_SIZE: "the raw image does not have width × height × 3 bytes",
}

SPAN_DTYPE = np.dtype([("index", "<u8"), ("address", "<u8"), ("size", "<u8")])
"""Where the bytes of one image lie in this process's memory."""


class ReplayError(RuntimeError):
    """A sample that can't be turned into pixels: its number in the beton, and what is wrong with it."""

    def __init__(self, path: object, sample: int, status: int) -> None:
        text = _STATUS.get(status) or augment_replay.STATUS.get(status, f"status {status}")
        super().__init__(f"{path}: sample {sample}: {text}")
        self.sample = sample


@intrinsic
def _bytes_at(typing_context: object, address: types.Integer) -> tuple:
    """uint64 address → pointer, which ``carray`` turns into an array without copying."""

    def codegen(context: object, builder: ir.IRBuilder, signature: object, arguments: list) -> ir.Value:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), codegen


@intrinsic
def _imdecode(
    typing_context: object, function: object, source: object, size: object, height: object, width: object, out: object
) -> tuple:
    """Call FFCV's C function imdecode (full image to RGB) by address; returns its status, 0 for success.

    Numba could call it through ctypes, but then nothing that uses it can be cached on disk.
    """

    def codegen(context: object, builder: ir.IRBuilder, signature: object, arguments: list) -> ir.Value:
        function, source, size, height, width, out = arguments
        i32, i64, pointer = ir.IntType(32), ir.IntType(64), cgutils.voidptr_t
        c_type = ir.FunctionType(i32, [pointer, i64, i32, i32, pointer] + [i32] * 8)
        zero, one = i32(0), i32(1)
        source, out = builder.inttoptr(source, pointer), builder.inttoptr(out, pointer)
        options = [height, width, zero, zero, one, one, zero, zero]  # crop, offset, scale 1/1, no crop, no flip
        pointer_to_c = builder.inttoptr(function, c_type.as_pointer())
        return builder.call(pointer_to_c, [source, size, height, width, out, *options])

    u64, u32 = types.uint64, types.uint32
    return types.int32(u64, u64, u64, u32, u32, u64), codegen


@njit(nogil=True, cache=True, error_model="numpy")
def _jpeg_has_size(data: np.ndarray, width: int, height: int) -> bool:
    """Whether the frame header of a JPEG says width × height, so that decoding fills exactly that many pixels."""
    n = len(data)
    if n < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return False
    at = 2
    while at + 9 <= n:
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            return (data[at + 5] << 8 | data[at + 6]) == height and (data[at + 7] << 8 | data[at + 8]) == width
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return False


@njit(nogil=True, cache=True, error_model="numpy")
def _replay_one(
    address: int,
    size: int,
    mode: int,
    width: int,
    height: int,
    views: np.ndarray,
    row: int,
    column: int,
    out: np.ndarray,
    canvas: np.ndarray,
    scratch: np.ndarray,
    imdecode: int,
) -> int:
    """Pixels of one view of one stored image. Returns a status, 0 for success."""
    data = carray(_bytes_at(np.uint64(address)), (np.int64(size),), np.uint8)
    if mode == RAW:
        if size != width * height * 3:
            return BAD_RAW_SIZE
        pixels = data.reshape(height, width, 3)
    else:
        if not _jpeg_has_size(data, width, height):
            return BAD_JPEG
        status = _imdecode(
            np.uint64(imdecode),
            np.uint64(address),
            np.uint64(size),
            np.uint32(height),
            np.uint32(width),
            np.uint64(canvas.ctypes.data),
        )
        if status != 0:
            return BAD_JPEG
        pixels = canvas[: height * width * 3].reshape(height, width, 3)
    return replay_view(pixels, 0, 0, width, height, views, row, column, out, scratch)


@njit(nogil=True, cache=True, parallel=True, error_model="numpy")
def _replay_batch(
    spans: np.ndarray,
    modes: np.ndarray,
    sizes: np.ndarray,
    base: int,
    data_ptr: np.ndarray,
    data_size: np.ndarray,
    views: np.ndarray,
    mixes: np.ndarray,
    out: np.ndarray,
    canvas: np.ndarray,
    scratch: np.ndarray,
    others: np.ndarray,
    imdecode: int,
    status: np.ndarray,
) -> None:
    threads = len(scratch)
    # A thread owns one row of each scratch array and takes every threads-th image.
    for thread in prange(threads):
        for i in range(thread, len(spans), threads):
            me = np.int64(spans[i]["index"])
            code = _replay_one(
                spans[i]["address"], spans[i]["size"], modes[me], sizes[me, 0], sizes[me, 1],
                views, i, 0, out[i], canvas[thread], scratch[thread], imdecode,
            )  # fmt: skip
            partner = np.int64(mixes[i]["partner"])
            if code == 0 and partner != me:
                if partner >= len(modes):
                    code = augment_replay.BAD_PARTNER
                else:
                    code = _replay_one(
                        base + data_ptr[partner], data_size[partner], modes[partner], sizes[partner, 0],
                        sizes[partner, 1], views, i, 1, others[thread], canvas[thread], scratch[thread], imdecode,
                    )  # fmt: skip
                if code == 0:
                    mix_into(out[i], others[thread], mixes, i)
            status[i] = code


class Replayer:
    """Turns (image, view record) into pixels, in ``threads`` threads, at one resolution.

    Holds all scratch memory: per thread one decoded image of the largest stored size, the kernels' scratch and one
    output. Not to be called from two Python threads at once.
    """

    def __init__(self, images: ImageBeton, resolution: int, threads: int) -> None:
        self.images = images
        self.threads = threads
        self.shape = (resolution, resolution, 3)
        widths, heights = images.sizes[:, 0].astype(np.int64), images.sizes[:, 1].astype(np.int64)
        largest = int((widths * heights).max()) * 3 if (images.modes == JPG).any() else 0
        # 64 bytes of slack: vectorised kernels read a few pixels past the end of the last row.
        self._canvas = np.zeros((threads, largest + 64), np.uint8)
        room = scratch_bytes(int(widths.max()), int(heights.max()), resolution, resolution)
        self._scratch = np.zeros((threads, room), np.uint8)
        self._others = np.zeros((threads, *self.shape), np.uint8)
        self._base = images.memmap.ctypes.data
        self._imdecode = _address_of(lib.imdecode)

    def spans(self, index: np.ndarray) -> np.ndarray:
        """Where the images of ``index`` (B,) lie in the memory map: (B,) ``SPAN_DTYPE``."""
        spans = np.empty(len(index), SPAN_DTYPE)
        spans["index"] = index
        spans["address"] = self.images.data_ptr[index] + np.uint64(self._base)
        spans["size"] = self.images.data_size[index]
        return spans

    def __call__(self, spans: np.ndarray, views: np.ndarray, mixes: np.ndarray, out: np.ndarray) -> None:
        """Replay one batch.

        Args:
            spans: (B,) ``SPAN_DTYPE``, the images.
            views: (B, 2) ``VIEW_DTYPE``, each image's view and its partner's.
            mixes: (B,) ``MIX_DTYPE``.
            out: (B, H, W, 3) uint8, filled.

        Raises:
            ReplayError: naming the first sample that could not be replayed.
        """
        status = np.zeros(len(spans), np.int32)
        images = self.images
        set_num_threads(self.threads)  # of the calling thread; Numba keeps it per thread
        _replay_batch(
            spans, images.modes, images.sizes, self._base, images.data_ptr, images.data_size,
            views, mixes, out, self._canvas, self._scratch, self._others, self._imdecode, status,
        )  # fmt: skip
        bad = np.flatnonzero(status)
        if len(bad):
            raise ReplayError(images.path, int(spans["index"][bad[0]]), int(status[bad[0]]))


def blank_views(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for the records of a batch: views (count, 2) ``VIEW_DTYPE`` and mixes (count,) ``MIX_DTYPE``."""
    return np.zeros((count, 2), VIEW_DTYPE), np.zeros(count, MIX_DTYPE)


def _address_of(function: Callable) -> int:
    import ctypes

    return ctypes.cast(function, ctypes.c_void_p).value
