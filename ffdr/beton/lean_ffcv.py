"""Imports FFCV without what its import compiles; every module here that uses FFCV imports this one first.

FFCV keeps two constants, the numbers of its image modes, in a dictionary of Numba's, which compiles its methods for 2.6
seconds in every process. Nothing compiled looks into that dictionary, so a plain one does.
"""

from __future__ import annotations

import numba.typed

_compiled = numba.typed.Dict
numba.typed.Dict = dict
try:
    import ffcv.fields.rgb_image  # noqa: F401
finally:
    numba.typed.Dict = _compiled
