"""Imports FFCV without what its import compiles, and mended; every module here that uses FFCV imports this one first.

FFCV keeps two constants, the numbers of its image modes, in a dictionary of Numba's, which compiles its methods for 2.6
seconds in every process. Nothing compiled looks into that dictionary, so a plain one does.
"""

from __future__ import annotations

from collections.abc import Callable

import numba.typed
import numpy as np

_compiled = numba.typed.Dict
numba.typed.Dict = dict
try:
    import ffcv.fields.rgb_image  # noqa: F401
    from ffcv.memory_managers import OSCacheManager
    from ffcv.pipeline.compiler import Compiler
finally:
    numba.typed.Dict = _compiled

_FILE = numba.types.Array(numba.uint8, 1, "C", readonly=True)
_MAPPED = numba.types.Tuple([_FILE, numba.uint64[::1], numba.uint64[::1]])


def _compile_mapped_reader(manager: OSCacheManager) -> Callable:
    """The reader of stock FFCV's Loader, with a type of its own for the read-only map.

    FFCV's version marks Numba's one shared type of byte arrays as read-only, after which no kernel of ours that had
    used it before can be compiled again in this process.
    """

    def read(address: int, state: tuple) -> np.ndarray:
        size = state[2][np.searchsorted(state[1], address)]
        return state[0][address : address + size]

    return Compiler.compile(read, _FILE(numba.uint64, _MAPPED))


OSCacheManager.compile_reader = _compile_mapped_reader
