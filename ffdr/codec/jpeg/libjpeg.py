"""libjpeg-turbo, called from compiled code: whole JPEGs to RGB pixels, exactly as Pillow and torchvision decode them.

The library is the one that FFCV is linked to. FFCV's own entry, ``imdecode``, asks for the fast inverse DCT, which is
up to 8 grey levels off the accurate one and hardly faster; here the accurate one is asked for, together with
libjpeg's interpolation of chroma, so that the pixels are those of every program that takes libjpeg's defaults.
"""

from __future__ import annotations

import ffdr.util.lean_ffcv  # noqa: F401

# isort: split
import ctypes
import weakref

import numpy as np
from ffcv.libffcv import lib
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ffdr.codec.jpeg.markers import (
    SOF1,
    SOI,
    has_wasteful_scans,
    is_frame_header,
)
from ffdr.jit.kernel import kernel

# turbojpeg.h
_RGB = 0
# TJFLAG_ACCURATEDCT; TJFLAG_STOPONWARNING: damage is an error, not a grey patch; TJFLAG_LIMITSCANS: so are more than
# 500 scans, which a few kilobytes can hold, and each of which takes as long as decoding the image
_FLAGS = 4096 | 8192 | 32768


_decompress = lib.tjDecompress2
_decompress.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p] + [ctypes.c_int] * 5
FUNCTION = np.uint64(ctypes.cast(_decompress, ctypes.c_void_p).value)
"""Address of the library's function, for ``decompress``."""
lib.tjInitDecompress.restype = ctypes.c_void_p


def make_handles(count: int, owner: object) -> np.ndarray:
    """``count`` decompressors, (count,) uint64, which live as long as ``owner``; each serves one thread at a time."""
    handles = [lib.tjInitDecompress() for _ in range(count)]
    if not all(handles):
        raise MemoryError("libjpeg-turbo could not make a decompressor")
    weakref.finalize(owner, _destroy, handles)
    return np.array(handles, np.uint64)


def _destroy(handles: list[int]) -> None:
    for handle in handles:
        lib.tjDestroy(ctypes.c_void_p(handle))


@intrinsic
def decompress(
    typing_context: object,
    function: object,
    handle: object,
    source: object,
    size: object,
    width: object,
    height: object,
    out: object,
) -> tuple:
    """Decode ``size`` bytes at ``source`` to RGB at ``out``, width × height × 3 bytes; 0 for success.

    Addresses are uint64, numbers int64. The frame header must say width × height (``frame_size``). Numba could call C
    through ctypes, but then nothing that uses it could be cached on disk.
    """

    def codegen(context: object, builder: ir.IRBuilder, signature: object, arguments: list) -> ir.Value:
        function, handle, source, size, width, height, out = arguments
        i32, i64, pointer = ir.IntType(32), ir.IntType(64), cgutils.voidptr_t
        c_type = ir.FunctionType(i32, [pointer, pointer, i64, pointer] + [i32] * 5)
        handle, source, out = (builder.inttoptr(value, pointer) for value in (handle, source, out))
        width, height = builder.trunc(width, i32), builder.trunc(height, i32)
        tight = i32(0)  # bytes from row to row: width × 3
        call = builder.inttoptr(function, c_type.as_pointer())
        return builder.call(call, [handle, source, size, out, width, tight, height, i32(_RGB), i32(_FLAGS)])

    u64, i64 = types.uint64, types.int64
    return types.int32(u64, u64, u64, i64, i64, i64, u64), codegen


@kernel
def frame_size(data: np.ndarray) -> tuple[int, int]:
    """Width and height that the frame header of a JPEG, (bytes,) uint8, states; zeros where there is none, or where
    scan upon scan would take minutes.

    The decoder writes as many pixels as the frame says, so it must be asked before memory is handed over.
    """
    none = (np.int64(0), np.int64(0))
    end = np.int64(len(data))
    if end < 4 or data[0] != 0xFF or data[1] != SOI:
        return none
    at = np.int64(2)
    while at + 9 <= end and data[at] == 0xFF:
        if is_frame_header(data[at + 1]):
            height = np.int64(data[at + 5]) << 8 | np.int64(data[at + 6])
            width = np.int64(data[at + 7]) << 8 | np.int64(data[at + 8])
            if data[at + 1] > SOF1 and has_wasteful_scans(data, width * height):
                return none
            return width, height
        at += 2 + (np.int64(data[at + 2]) << 8 | np.int64(data[at + 3]))
    return none


def decode_jpeg(data: np.ndarray, pixels: np.ndarray) -> bool:
    """Decode a JPEG, (bytes,) uint8, into C-contiguous (height, width, 3) uint8 RGB.

    Returns whether it could be done: not when the JPEG is corrupt, or of another size.
    """
    height, width = pixels.shape[:2]
    if frame_size(data) != (width, height):
        return False
    handle = lib.tjInitDecompress()
    try:
        target = pixels.ctypes.data
        return _decompress(handle, data.ctypes.data, data.size, target, width, 0, height, _RGB, _FLAGS) == 0
    finally:
        _destroy([handle])
