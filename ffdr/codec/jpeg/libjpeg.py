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

from ffdr.codec.jpeg.markers import SOF1, SOI, has_wasteful_scans, is_frame_header
from ffdr.jit.ir import I32, I64, Code, Value, instruction
from ffdr.jit.kernel import kernel

# turbojpeg.h
STRICT = 8192 | 32768
"""TJFLAG_STOPONWARNING: damage is an error, not a grey patch; TJFLAG_LIMITSCANS: so are more than 500 scans, which a
few kilobytes can hold, and each of which takes as long as decoding the image."""
_RGB = 0
_FLAGS = 4096 | STRICT  # TJFLAG_ACCURATEDCT

_decompress = lib.tjDecompress2
_decompress.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p] + [ctypes.c_int] * 5
_address = ctypes.cast(_decompress, ctypes.c_void_p).value
assert _address is not None, "the address of a function is not 0"
FUNCTION = np.uint64(_address)
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


# Why the function's address is an argument: it differs from process to process, while a kernel's machine code is kept
# on the disk. Numba could call C through ctypes, but it then writes the address into the code, and caches nothing.
@instruction(types.int32, *[types.uint64] * 3, *[types.int64] * 3, types.uint64)
def decompress(
    code: Code, function: Value, handle: Value, source: Value, size: Value, width: Value, height: Value, out: Value
) -> Value:
    """Decode ``size`` bytes at ``source`` to RGB at ``out``, width × height × 3 bytes; 0 for success.

    Addresses are uint64, numbers int64. The frame header must say width × height (``frame_size``).
    """
    pointer = cgutils.voidptr_t
    c_type = ir.FunctionType(I32, [pointer, pointer, I64, pointer, *[I32] * 5])
    handle, source, out = (code.b.inttoptr(value, pointer) for value in (handle, source, out))
    width, height = code.b.trunc(width, I32), code.b.trunc(height, I32)
    tight = I32(0)  # bytes from row to row: width × 3
    call = code.b.inttoptr(function, c_type.as_pointer())
    return code.b.call(call, [handle, source, size, out, width, tight, height, I32(_RGB), I32(_FLAGS)])


@kernel
def frame_size(data: np.ndarray) -> tuple[int, int]:
    """Width and height that the frame header of a JPEG, (bytes,) uint8, states; zeros where there is none, or where
    scan upon scan would take minutes.

    The decoder writes as many pixels as the frame says, so it must be asked before memory is handed over.
    """
    # The same walk from segment to segment as libjpeg's, up to the first frame header, which is the one that counts.
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
