"""Progressive and arithmetic JPEGs to sequential Huffman-coded ones, coefficients untouched, by libjpeg-turbo.

Apart from ``read.py`` because it imports FFCV, whose library is linked to libjpeg-turbo; that takes seconds.
"""

from __future__ import annotations

import ctypes

from ffdr.codec.jpeg.libjpeg import STRICT, lib

_COPY_NONE = 64  # turbojpeg.h: TJXOPT_COPYNONE


class _Transform(ctypes.Structure):
    """turbojpeg.h's tjtransform; all zeros: the whole image, as it is."""

    _fields_ = (
        ("region", ctypes.c_int * 4),
        ("op", ctypes.c_int),
        ("options", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("custom_filter", ctypes.c_void_p),
    )


lib.tjInitTransform.restype = ctypes.c_void_p
lib.tjTransform.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_int]
lib.tjTransform.argtypes += [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
lib.tjGetErrorStr2.argtypes, lib.tjGetErrorStr2.restype = [ctypes.c_void_p], ctypes.c_char_p


def to_sequential(data: bytes) -> bytes:
    """The same image as a sequential JPEG with the standard's Huffman tables, without metadata.

    Raises:
        ValueError: libjpeg-turbo's complaint.
    """
    handle = lib.tjInitTransform()
    if not handle:
        raise MemoryError("libjpeg-turbo could not make a transformer")
    out, size = ctypes.c_void_p(), ctypes.c_ulong()
    transform = _Transform(options=_COPY_NONE)
    try:
        where = [ctypes.byref(each) for each in (out, size, transform)]
        if lib.tjTransform(handle, data, len(data), 1, *where, STRICT) != 0:
            raise ValueError(lib.tjGetErrorStr2(handle).decode(errors="replace"))
        return ctypes.string_at(out, size.value)
    finally:
        lib.tjFree(out)
        lib.tjDestroy(ctypes.c_void_p(handle))
