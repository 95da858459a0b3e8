"""Drawing views: a policy and a key (seed, epoch, image) become a view record, always the same one.

Every parameter has a number of its own in its stream, used or not, so that switching one part of the policy off or on
leaves the draws of the others as they were. Distributions are torchvision's: RandomResizedCrop, RandomCrop with
padding, RandomHorizontalFlip, RandAugment, TrivialAugmentWide, AutoAugment and RandomErasing; mixup (Zhang et al. 2018)
and cutmix (Yun et al. 2019) are drawn per image.

The numbers of an image's view in a row, by their place in its stream::

     0 ..  19   two for each crop that is tried      24 .. 27   operations and their signs
    20,   21    where the crop lies                  28 .. 30   erase: whether, and where
    22          flip                                 32 .. 51   two for each erased box that is tried
    23          operations: whether                  52 .. 54   level; whether each of AutoAugment's operations

and, where the policy has any use for them::

    55          vertical flip                        64         greyscale: whether
    56          colour jitter: whether               65,   66   blur: whether, and its deviation
    57 .. 59    its order                            67         solarise: whether
    60 .. 63    its strengths                        68,   69   which of three-augment, deviation of its blur
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from ffdr.augment.draw_effects import (
    AUGMENTED,
    FIRST_NUMBER,
    FLIPPED,
    MOST_NUMBERS,
    THREE_OPS,
    clear_effects,
    draw_effects,
)
from ffdr.augment.geometry import whole_pixels
from ffdr.augment.ops.magnitude import SHARPNESS, SHEAR_X
from ffdr.augment.packed import NUMBERS, POLICY, PackedPolicy, pack_policy
from ffdr.augment.policy import AUGMENTS, CROPS, Policy
from ffdr.augment.random import CUTMIX_SHARE, MIX, MIXUP_WEIGHT, PARTNER_VIEW, VIEW, below, beta, uniform
from ffdr.augment.types import EFFECTS, INDEX, MIX_TYPE, VIEW_TYPE
from ffdr.augment.view import (
    FLIP,
    FRACTION,
    MIX_DTYPE,
    OPS,
    VERTICAL_FLIP,
    VIEW_DTYPE,
    WIDE,
    MixRecord,
    ViewRecord,
    blank_effects,
    record_dtype,
)
from ffdr.jit.arguments import ADDRESS, array_of
from ffdr.jit.kernel import kernel
from ffdr.jit.unit import unit

_SIZES = array_of(types.int32, 2, writable=False)
_VIEWS, _MIXES, _EFFECTS = array_of(VIEW_TYPE, 2), array_of(MIX_TYPE, 1), array_of(EFFECTS.dtype, 3)

_TRIES = 10
"""Boxes tried before giving up, as in torchvision."""

# Numbers of the draws in the streams VIEW and PARTNER_VIEW.
_CROP_TRY = 0  # two numbers a try
_CROP_X, _CROP_Y = 20, 21
_FLIP = 22
_OP0, _SIGN0, _OP1, _SIGN1 = 24, 25, 26, 27
_ERASE, _ERASE_X, _ERASE_Y = 28, 29, 30
_ERASE_TRY = 32  # two numbers a try
_LEVEL = _ERASE_TRY + 2 * _TRIES
_APPLY0, _APPLY1 = _LEVEL + 1, _LEVEL + 2

# Numbers of the draws in the stream MIX.
_MIXUP, _CUTMIX, _PARTNER, _CUT_X, _CUT_Y = 0, 1, 2, 3, 4
_MIX_NUMBERS = 5

_RESIZED, _PADDED = CROPS.index("resized"), CROPS.index("padded")
_RANDAUGMENT_OPS, _TRIVIAL_OPS = AUGMENTS.index("randaugment"), AUGMENTS.index("trivialaugment")
_OP_COUNT = len(OPS)


@kernel
def _to_fraction(coordinate: int, length: int) -> int:
    """``view.to_fraction`` of a whole coordinate: nearest, half up."""
    return (2 * np.int64(coordinate) * FRACTION + length) // (2 * np.int64(length))


@kernel
def _size_to_fraction(size: int, length: int) -> int:
    """``view.box_to_fractions`` of a whole size: nearest, half down."""
    return -((np.int64(length) - 2 * np.int64(size) * FRACTION) // (2 * np.int64(length)))


@kernel
def _fill(numbers: np.ndarray, seed: np.uint64, stream: int, epoch: int, image: int) -> None:
    """The first numbers of a stream, float64 in [0, 1). One place that calls the generator keeps compilation short."""
    for n in range(numbers.size):
        numbers[n] = uniform(seed, stream, epoch, image, n)


@kernel
def _box_size(area: float, scale: tuple, ratio: tuple, numbers: np.ndarray, n: int) -> tuple[int, int]:
    """Sides of a random box: sqrt(a * r) and sqrt(a / r) for a share a of ``area`` and a log-uniform ratio r.

    scale, ratio: lowest and highest. numbers[n] and the next one decide.
    """
    share = scale[0] + (scale[1] - scale[0]) * numbers[n]
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    shape = math.exp(log_low + (log_high - log_low) * numbers[n + 1])
    return np.int64(np.rint(math.sqrt(area * share * shape))), np.int64(np.rint(math.sqrt(area * share / shape)))


@kernel
def _resized_crop(policy: PackedPolicy, numbers: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """RandomResizedCrop's box (x, y, w, h) in pixels of the image."""
    area = np.float64(width) * np.float64(height)
    for attempt in range(_TRIES):
        w, h = _box_size(area, policy.scale, policy.ratio, numbers, _CROP_TRY + 2 * attempt)
        if 0 < w <= width and 0 < h <= height:
            return below(numbers[_CROP_X], width - w + 1), below(numbers[_CROP_Y], height - h + 1), w, h
    # The largest centred box of an allowed shape. torchvision does not keep its sides above 0; a crop must have some.
    w, h = np.int64(width), np.int64(height)
    narrowest, widest = policy.ratio
    if width / height < narrowest:
        h = max(np.int64(np.rint(w / narrowest)), 1)
    elif width / height > widest:
        w = max(np.int64(np.rint(h * widest)), 1)
    return (width - w) // 2, (height - h) // 2, w, h


@kernel
def _draw_crop(policy: PackedPolicy, numbers: np.ndarray, width: int, height: int, view: ViewRecord) -> None:
    if policy.crop == _RESIZED:
        x, y, w, h = _resized_crop(policy, numbers, width, height)
        view.crop_x, view.crop_w = _to_fraction(x, width), _size_to_fraction(w, width)
        view.crop_y, view.crop_h = _to_fraction(y, height), _size_to_fraction(h, height)
        return
    if policy.crop == _PADDED:
        pad = np.int64(np.rint(policy.padding * FRACTION))
        border_x, border_y = whole_pixels(pad, width), whole_pixels(pad, height)
        x, y = below(numbers[_CROP_X], 2 * border_x + 1), below(numbers[_CROP_Y], 2 * border_y + 1)
        canvas_w, canvas_h = width + 2 * border_x, height + 2 * border_y
        view.pad = pad
        view.crop_x, view.crop_w = _to_fraction(x, canvas_w), _size_to_fraction(width, canvas_w)
        view.crop_y, view.crop_h = _to_fraction(y, canvas_h), _size_to_fraction(height, canvas_h)
        return
    view.crop_w = FRACTION
    view.crop_h = FRACTION


@kernel
def _signed(op: int, level: int, number: float) -> int:
    """The level with a random sign where the operation has two directions; 0 for Identity."""
    if op == 0:
        return np.int64(0)
    if SHEAR_X <= op <= SHARPNESS and number < 0.5:
        return -np.int64(level)
    return np.int64(level)


@kernel
def _draw_ops(policy: PackedPolicy, numbers: np.ndarray, view: ViewRecord) -> None:
    """The operations of RandAugment, TrivialAugmentWide or AutoAugment, as torchvision draws them."""
    op0, op1 = below(numbers[_OP0], _OP_COUNT), below(numbers[_OP1], _OP_COUNT)
    if policy.augment == _RANDAUGMENT_OPS:
        level = np.int64(policy.magnitude)
        if policy.ops >= 1:
            view.op0, view.level0 = op0, _signed(op0, level, numbers[_SIGN0])
        if policy.ops >= 2:
            view.op1, view.level1 = op1, _signed(op1, level, numbers[_SIGN1])
        return
    if policy.augment == _TRIVIAL_OPS:
        view.flags |= WIDE
        level = below(numbers[_LEVEL], np.int64(policy.bins))
        view.op0, view.level0 = op0, _signed(op0, level, numbers[_SIGN0])
        return
    row = below(numbers[_OP0], len(policy.table))
    first, second = policy.table[row, 0], policy.table[row, 1]
    if numbers[_APPLY0] < first[1]:
        op0 = np.int64(first[0])
        view.op0, view.level0 = op0, _signed(op0, np.int64(first[2]), numbers[_SIGN0])
    if numbers[_APPLY1] < second[1]:
        op1 = np.int64(second[0])
        view.op1, view.level1 = op1, _signed(op1, np.int64(second[2]), numbers[_SIGN1])


@kernel
def _draw_erase(policy: PackedPolicy, numbers: np.ndarray, view: ViewRecord) -> None:
    """RandomErasing's box on a square of 65535 × 65535 units, which are the stored fractions themselves."""
    if not numbers[_ERASE] < policy.erase:
        return
    area = np.float64(FRACTION) * FRACTION
    for attempt in range(_TRIES):
        h, w = _box_size(area, policy.erase_scale, policy.erase_ratio, numbers, _ERASE_TRY + 2 * attempt)
        if 0 < h < FRACTION and 0 < w < FRACTION:
            view.erase_x = below(numbers[_ERASE_X], FRACTION - w + 1)
            view.erase_y = below(numbers[_ERASE_Y], FRACTION - h + 1)
            view.erase_w = w
            view.erase_h = h
            return


@kernel
def _clear_view(view: ViewRecord) -> None:
    view.crop_x = view.crop_y = view.crop_w = view.crop_h = view.pad = 0
    view.flags = view.bins = 0
    view.op0 = view.op1 = 0
    view.level0 = view.level1 = 0
    view.erase_x = view.erase_y = view.erase_w = view.erase_h = 0


@unit(types.void, POLICY, NUMBERS, types.int64, types.int64, VIEW_TYPE)
def _draw_view(policy: PackedPolicy, numbers: np.ndarray, width: int, height: int, view: ViewRecord) -> None:
    """One view of an image of width × height pixels into a record, whatever it held."""
    _clear_view(view)
    view.bins = policy.bins
    _draw_crop(policy, numbers, width, height, view)
    if numbers[_FLIP] < policy.flip:
        view.flags = FLIP
    if policy.vertical_flip > 0 and numbers[FLIPPED] < policy.vertical_flip:
        view.flags |= VERTICAL_FLIP
    if policy.augment != THREE_OPS and numbers[AUGMENTED] < policy.randaugment:
        _draw_ops(policy, numbers, view)
    _draw_erase(policy, numbers, view)


@kernel
def _draw_cut(share: float, numbers: np.ndarray, mix: MixRecord) -> None:
    """CutMix's box: ``share`` of the area stays the first image's, the centre is uniform, the rest is clipped."""
    half = np.int64(np.rint(FRACTION * math.sqrt(1.0 - share))) // 2
    x, y = below(numbers[_CUT_X], FRACTION), below(numbers[_CUT_Y], FRACTION)
    x0, x1 = max(x - half, 0), min(x + half, FRACTION)
    y0, y1 = max(y - half, 0), min(y + half, FRACTION)
    if x1 > x0 and y1 > y0:
        mix.cut_x, mix.cut_y, mix.cut_w, mix.cut_h = x0, y0, x1 - x0, y1 - y0


@unit(types.boolean, POLICY, NUMBERS, ADDRESS, types.int64, types.int64, types.int64, MIX_TYPE)
def _draw_mix(
    policy: PackedPolicy, numbers: np.ndarray, seed: np.uint64, epoch: int, image: int, images: int, mix: MixRecord
) -> bool:
    """Partner, mixup weight and cutmix box of one of ``images`` images; whether there is a partner at all."""
    mix.partner, mix.mixup = image, FRACTION
    mix.cut_x = mix.cut_y = mix.cut_w = mix.cut_h = 0
    if images < 2:
        return False
    if policy.mixup_alpha > 0 and numbers[_MIXUP] < policy.mixup:
        mix.mixup = np.int64(np.rint(FRACTION * beta(policy.mixup_alpha, seed, MIXUP_WEIGHT, epoch, image)))
    if policy.cutmix_alpha > 0 and numbers[_CUTMIX] < policy.cutmix:
        _draw_cut(beta(policy.cutmix_alpha, seed, CUTMIX_SHARE, epoch, image), numbers, mix)
    if mix.mixup == FRACTION and mix.cut_h == 0:
        return False
    other = below(numbers[_PARTNER], images - 1)
    mix.partner = other + 1 if other >= image else other
    return True


@unit(types.void, POLICY, ADDRESS, INDEX, INDEX, _SIZES, _VIEWS, _MIXES, _EFFECTS)
def draw_batch(
    policy: PackedPolicy,
    seed: np.uint64,
    epochs: np.ndarray,
    images: np.ndarray,
    sizes: np.ndarray,
    views: np.ndarray,
    mixes: np.ndarray,
    effects: np.ndarray,
) -> None:
    """Draw the views of a batch: a pure function of (policy, seed, epoch, image) and the images' sizes.

    Parameters
    ----------
    policy
        ``pack_policy``.
    seed
        Of the draws; it counts modulo 2**64.
    epochs
        (B,) int64, of each image's draw.
    images
        (B,) int64, below N.
    sizes
        (N, 2) int32, width and height of every image, 1 to 65535.
    views
        (B, 2) ``VIEW_DTYPE``, written: the image's own view and its partner's, all zero where there is no partner.
    mixes
        (B,) ``MIX_DTYPE``, written.
    effects
        (B, 2, ``MOST_EFFECTS``) ``EFFECT_DTYPE``, written: of both views; all zero where there are none.
    """
    count = sizes.shape[0]
    key = np.uint64(seed)
    numbers = MOST_NUMBERS if policy.draws_more else FIRST_NUMBER
    own, other, mixing = np.empty(numbers), np.empty(numbers), np.empty(_MIX_NUMBERS)
    for row in range(images.shape[0]):
        image, epoch = np.int64(images[row]), np.int64(epochs[row])
        # Constants are given as int64: Numba would compile a version of its own for every literal.
        _fill(own, key, np.int64(VIEW), epoch, image)
        _draw_view(policy, own, np.int64(sizes[image, 0]), np.int64(sizes[image, 1]), views[row, 0])
        draw_effects(policy, own, effects[row, 0])
        _fill(mixing, key, np.int64(MIX), epoch, image)
        if _draw_mix(policy, mixing, key, epoch, image, count, mixes[row]):
            partner = np.int64(mixes[row].partner)
            _fill(other, key, np.int64(PARTNER_VIEW), epoch, image)
            width, height = np.int64(sizes[partner, 0]), np.int64(sizes[partner, 1])
            _draw_view(policy, other, width, height, views[row, 1])
            draw_effects(policy, other, effects[row, 1])
        else:
            _clear_view(views[row, 1])
            clear_effects(effects[row, 1])


def draw(policy: Policy, seed: int, epoch: int, image: int, sizes: np.ndarray) -> np.void:
    """The view of one image as a scalar of ``MIXED_DTYPE``; of a policy with effects, of ``record_dtype(True, True)``.

    ``sizes`` as for ``draw_batch``.
    """
    if not 0 <= image < len(sizes):
        raise IndexError(f"image {image} of {len(sizes)}")
    views = np.zeros((1, 2), VIEW_DTYPE)
    mixes = np.zeros(1, MIX_DTYPE)
    sizes = np.ascontiguousarray(sizes, np.int32)
    effects = blank_effects(1)
    key, at = np.uint64(seed % 2**64), (np.array([epoch]), np.array([image]))
    draw_batch(pack_policy(policy), key, *at, sizes, views, mixes, effects)
    drawn = np.zeros(1, record_dtype(True, policy.has_effects))
    drawn["first"], drawn["mix"], drawn["second"] = views[:, 0], mixes, views[:, 1]
    if policy.has_effects:
        drawn["first_effects"], drawn["second_effects"] = effects[:, 0], effects[:, 1]
    return drawn[0]
