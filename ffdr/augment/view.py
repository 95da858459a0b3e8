"""The view record: what one augmented version of an image is, in a fixed number of bytes.

Everything is stored as a fraction (uint16, in units of 1/65535) or as a signed augmentation level, so one record
replays at any resolution and on an image stored at any size. Absence is explicit and finite: an operation is
``Identity``, an erased or pasted box has height 0, a partner is the image itself.

Writer, decoder, importer and tests share the dtypes of this module; all fields are little endian.
"""

from __future__ import annotations

import numpy as np

FRACTION = 65535
"""Denominator of every stored fraction."""

# Bits of VIEW_DTYPE["flags"].
FLIP = 1
"""Mirror left to right after the crop."""
CENTER = 2
"""Evaluation view: resize the short side to resolution / (crop_w / FRACTION), then cut the centre square."""
WIDE = 4
"""Levels count in TrivialAugmentWide's ranges instead of RandAugment's."""

VIEW_DTYPE = np.dtype(
    [
        # The crop box as fractions of the canvas: the image with `pad` of its width (height) added on either side.
        ("crop_x", "<u2"),
        ("crop_y", "<u2"),
        ("crop_w", "<u2"),
        ("crop_h", "<u2"),
        ("pad", "<u2"),  # black border on each side, as a fraction of the image's width (height)
        ("flags", "<u1"),
        ("bins", "<u1"),  # number of magnitude bins the levels count in (RandAugment: 31)
        ("op0", "<u1"),
        ("level0", "<i1"),  # signed bin index
        ("op1", "<u1"),
        ("level1", "<i1"),
        # The erased box as fractions of the output; erase_h == 0: nothing is erased.
        ("erase_x", "<u2"),
        ("erase_y", "<u2"),
        ("erase_w", "<u2"),
        ("erase_h", "<u2"),
    ]
)
"""One view of one image, 24 bytes. See ``MIXED_DTYPE`` for views that combine two images."""

MIX_DTYPE = np.dtype(
    [
        ("partner", "<u4"),  # index of the second image; the image's own index: no partner
        ("mixup", "<u2"),  # weight of the first image; FRACTION: no mixup
        # The box taken from the partner, as fractions of the output; cut_h == 0: no cutmix. Applied after mixup.
        ("cut_x", "<u2"),
        ("cut_y", "<u2"),
        ("cut_w", "<u2"),
        ("cut_h", "<u2"),
    ]
)
"""How the views of two images become one."""

MIXED_DTYPE = np.dtype([("first", VIEW_DTYPE), ("mix", MIX_DTYPE), ("second", VIEW_DTYPE)])
"""A stored view of a policy that mixes images, 62 bytes; without mixing only ``VIEW_DTYPE`` is stored."""

OPS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""Operation names by number: torchvision's order in RandAugment, and that of the published ImageNet+ archives."""
