"""Drawing effects: torchvision's ColorJitter, greyscale, blur and solarise, and DeiT III's three-augment.

Their numbers stand behind those of ``draw.py`` in the same streams, and are only made where the policy has a use for
them: the records of policies without effects are what they were before there were any, and cost the same.
"""

from __future__ import annotations

import numpy as np
from numba import types

from ffdr.augment.ops.effects import BLUR, BRIGHTNESS, GRAYSCALE, SOLARIZE
from ffdr.augment.packed import NUMBERS, POLICY, PackedPolicy
from ffdr.augment.policy import AUGMENTS
from ffdr.augment.random import below
from ffdr.augment.types import EFFECTS
from ffdr.augment.view import FACTOR_ONE, HUE_TURN, MOST_EFFECTS, SIGMA_ONE
from ffdr.jit.kernel import kernel
from ffdr.jit.unit import unit

# Numbers of the draws in the streams VIEW and PARTNER_VIEW.
FIRST_NUMBER = 55
FLIPPED = FIRST_NUMBER
"""Whether a view is flipped top to bottom: no effect, but of their age."""
_JITTER = 56
_ORDER = 57  # three numbers
_STRENGTH = 60  # four numbers
_GRAYSCALE = 64
_BLUR, _SIGMA = 65, 66
_SOLARIZE = 67
_WHICH_OF_THREE, _SIGMA_OF_THREE = 68, 69
MOST_NUMBERS = 70

AUGMENTED = 23
"""Whether operations are applied, of any kind: among the numbers of ``draw.py``."""
THREE_OPS = AUGMENTS.index("three_augment")
"""Place of three-augment in ``AUGMENTS``; its operations are effects."""
_HUE = 3
"""Place of the hue in ``Policy.color_jitter``; those before it are effects in their order from BRIGHTNESS on."""
_TOP_VALUE = 32767.0
"""The largest value of an effect."""


@kernel
def clear_effects(effects: np.ndarray) -> None:
    """None, in (``MOST_EFFECTS``,) ``EFFECT_DTYPE``."""
    for i in range(MOST_EFFECTS):
        effects[i].kind = 0
        effects[i].value = 0


@kernel
def _add_effect(effects: np.ndarray, count: int, kind: int, value: float) -> int:
    """Behind ``count`` others; returns how many there are now. value: in its units, rounded to a whole one in range."""
    effects[count].kind = kind
    effects[count].value = np.int64(min(np.rint(value), _TOP_VALUE))
    return count + 1


@kernel
def _between(low: float, high: float, number: float) -> float:
    return low + (high - low) * number


@kernel
def _draw_jitter(policy: PackedPolicy, numbers: np.ndarray, effects: np.ndarray, count: int) -> int:
    """ColorJitter's parts in random order; returns how many effects there are now."""
    left = np.int64(0x3210)  # the parts that have not been, a digit each
    for k in range(4):
        place = 4 * below(numbers[_ORDER + k], 4 - k) if k < 3 else np.int64(0)
        part = (left >> place) & 15
        left = (left & ((1 << place) - 1)) | (left >> (place + 4) << place)
        strength = policy.color_jitter[part]
        if strength > 0:
            low, high, unit = max(1.0 - strength, 0.0), 1.0 + strength, np.float64(FACTOR_ONE)
            if part == _HUE:
                low, high, unit = -strength, strength, np.float64(HUE_TURN)
            value = _between(low, high, numbers[_STRENGTH + part]) * unit
            count = _add_effect(effects, count, BRIGHTNESS + part, value)
    return count


@unit(types.void, POLICY, NUMBERS, EFFECTS)
def draw_effects(policy: PackedPolicy, numbers: np.ndarray, effects: np.ndarray) -> None:
    """The effects of a view, three-augment's, colour jitter, greyscale, blur, solarise, into (``MOST_EFFECTS``,)
    ``EFFECT_DTYPE``, whatever it held.

    numbers: of its stream, ``MOST_NUMBERS`` where the policy has effects.
    """
    clear_effects(effects)
    if not policy.has_effects:
        return
    count = np.int64(0)
    low, high = SIGMA_ONE * policy.blur_sigma[0], SIGMA_ONE * policy.blur_sigma[1]
    threshold = np.float64(policy.solarize_threshold)
    if policy.augment == THREE_OPS and numbers[AUGMENTED] < policy.randaugment:
        which = below(numbers[_WHICH_OF_THREE], 3)
        if which == 0:
            count = _add_effect(effects, count, GRAYSCALE, 0.0)
        elif which == 1:
            count = _add_effect(effects, count, SOLARIZE, threshold)
        else:
            count = _add_effect(effects, count, BLUR, _between(low, high, numbers[_SIGMA_OF_THREE]))
    if numbers[_JITTER] < policy.color_jitter_prob:
        count = _draw_jitter(policy, numbers, effects, count)
    if numbers[_GRAYSCALE] < policy.grayscale:
        count = _add_effect(effects, count, GRAYSCALE, 0.0)
    if numbers[_BLUR] < policy.blur:
        count = _add_effect(effects, count, BLUR, _between(low, high, numbers[_SIGMA]))
    if numbers[_SOLARIZE] < policy.solarize:
        count = _add_effect(effects, count, SOLARIZE, threshold)
