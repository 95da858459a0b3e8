"""View records put together as a file holds them, and taken apart again.

A stored record has the view of the first image and, where there are any, the mix, the partner's view and the effects of
both (``augment.view.record_dtype``); a batch has them as arrays of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ffdr.augment.view import (
    EFFECT_DTYPE,
    FACTOR_ONE,
    HUE_TURN,
    MIX_DTYPE,
    MOST_EFFECTS,
    SIGMA_ONE,
    VIEW_DTYPE,
    blank_effects,
    unmixed,
)

EFFECT_UNITS = {
    "Brightness": FACTOR_ONE,
    "Contrast": FACTOR_ONE,
    "Saturation": FACTOR_ONE,
    "Hue": HUE_TURN,
    "Blur": SIGMA_ONE,
    "Solarize": 1,
}
"""What the stored value of an effect counts in, of those that have one: it over this is a factor, a turn of the colour
circle, pixels of a view of 224, a grey level."""


class Records(NamedTuple):
    """What B images show."""

    views: np.ndarray
    """(B, 2) ``VIEW_DTYPE``, each image's view and its partner's"""
    mixes: np.ndarray
    """(B,) ``MIX_DTYPE``"""
    effects: np.ndarray
    """(B, 2, 8) ``EFFECT_DTYPE``, of both views"""

    @classmethod
    def blank(cls, count: int) -> Records:
        """All zero, to be filled."""
        return cls(np.zeros((count, 2), VIEW_DTYPE), np.zeros(count, MIX_DTYPE), blank_effects(count))

    def rows(self, part: slice | np.ndarray) -> Records:
        """Some of them."""
        return Records(self.views[part], self.mixes[part], self.effects[part])


def stored_records(records: Records, dtype: np.dtype) -> np.ndarray:
    """As a file holds them: (B,) of ``dtype``, a ``record_dtype``. What it has no place for is left out."""
    names = dtype.names or ()
    if "first" not in names:
        return np.ascontiguousarray(records.views[:, 0])
    stored = np.empty(len(records.mixes), dtype)
    stored["first"] = records.views[:, 0]
    if "mix" in names:
        stored["mix"], stored["second"] = records.mixes, records.views[:, 1]
    for place, name in enumerate(("first_effects", "second_effects")):
        if name in names:
            stored[name] = records.effects[:, place]
    return stored


def record_of(stored: np.ndarray | np.void, image: int) -> Records:
    """One stored record of an image, a scalar or 0-d array of a ``record_dtype``, as a batch of one."""
    found, names = Records.blank(1), stored.dtype.names or ()
    found.views[0, 0] = first_views(stored)
    found.mixes[0] = stored["mix"] if "mix" in names else unmixed(image)
    if "mix" in names:
        found.views[0, 1] = stored["second"]
    for place, name in enumerate(("first_effects", "second_effects")):
        if name in names:
            found.effects[0, place] = stored[name]
    return found


def first_views(stored: np.ndarray | np.void) -> Any:
    """The first images' views of stored records of any shape: ``VIEW_DTYPE``."""
    return stored["first"] if "first" in (stored.dtype.names or ()) else stored


def first_effects(stored: np.ndarray | np.void) -> np.ndarray:
    """The effects of the first images' views, (…, 8) ``EFFECT_DTYPE``; zeros where none are stored."""
    if "first_effects" in (stored.dtype.names or ()):
        return stored["first_effects"]
    return np.zeros((*stored.shape, MOST_EFFECTS), EFFECT_DTYPE)
