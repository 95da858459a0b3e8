"""A policy as kernels take it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ffdr.augment.autoaugment import BINS as AUTOAUGMENT_BINS
from ffdr.augment.autoaugment import sub_policies
from ffdr.augment.policy import AUGMENTS, CROPS, Policy
from ffdr.jit.arguments import array_of, named


class PackedPolicy(NamedTuple):
    """A ``Policy`` as kernels take it; numbers are float64."""

    crop: int
    """place in ``CROPS``"""
    scale: tuple[float, float]
    ratio: tuple[float, float]
    padding: float
    flip: float
    augment: int
    """place in ``AUGMENTS``"""
    randaugment: float
    ops: int
    magnitude: int
    bins: int
    table: np.ndarray
    """(S, 2, 3) AutoAugment's sub-policies: number, probability and level of each operation; else (0, 2, 3)"""
    erase: float
    erase_scale: tuple[float, float]
    erase_ratio: tuple[float, float]
    mixup: float
    mixup_alpha: float
    cutmix: float
    cutmix_alpha: float
    vertical_flip: float
    color_jitter: tuple[float, float, float, float]
    color_jitter_prob: float
    grayscale: float
    blur: float
    blur_sigma: tuple[float, float]
    solarize: float
    solarize_threshold: int
    has_effects: bool
    draws_more: bool
    """whether the numbers of ``draw_effects`` are drawn, too"""


POLICY = named(PackedPolicy, table=array_of(types.float64, 3))
NUMBERS = array_of(types.float64, 1)
"""What a view is drawn from."""


def pack_policy(policy: Policy) -> PackedPolicy:
    """A policy as ``draw_batch`` takes it."""
    kind, _, data_set = policy.augment.partition("_")
    values = {field.name: _of_kind(field.default, getattr(policy, field.name)) for field in fields(policy)}
    values |= {
        "crop": CROPS.index(policy.crop),
        "augment": AUGMENTS.index(policy.augment),
        "table": np.empty((0, 2, 3)),
        "has_effects": policy.has_effects,
        "draws_more": policy.has_effects or policy.vertical_flip > 0,
    }
    if kind == "autoaugment":
        values |= {"bins": AUTOAUGMENT_BINS, "table": sub_policies(data_set)}
    return PackedPolicy(**values)


def _of_kind(default: Any, value: Any) -> Any:
    """A value as the default's type, since kernels are compiled anew for each type: 1 where floats belong is 1.0."""
    return tuple(map(float, value)) if isinstance(default, tuple) else type(default)(value)
