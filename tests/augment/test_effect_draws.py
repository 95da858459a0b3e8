"""Drawn effects follow torchvision's and DeiT III's distributions, and leave all that was drawn before as it was."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import ColorJitter

from ffdr.augment.check import OK, check_effects, check_view
from ffdr.augment.draw import draw, draw_batch, pack_policy
from ffdr.augment.policy import Policy
from ffdr.augment.view import (
    EFFECT_NUMBER,
    FLIP,
    MIX_DTYPE,
    MIXED_DTYPE,
    VERTICAL_FLIP,
    VIEW_DTYPE,
    blank_effects,
    record_dtype,
)
from ffdr.config.idle import idle_policy
from ffdr.util.errors import UserError

COUNT = 4000
SIZES = np.tile(np.array([[500, 375]], np.int32), (COUNT, 1))
JITTER = Policy(color_jitter=(0.4, 0.3, 0.2, 0.1))
ALL = replace(
    JITTER, color_jitter_prob=0.8, grayscale=0.2, blur=0.5, solarize=0.3, augment="three_augment", randaugment=0.9
)
NONE, BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAYSCALE, BLUR, SOLARIZE = range(8)


def batch(policy, seed=1, epoch=0, images=None):
    images = np.arange(COUNT) if images is None else np.asarray(images)
    views, mixes = np.zeros((len(images), 2), VIEW_DTYPE), np.zeros(len(images), MIX_DTYPE)
    effects = blank_effects(len(images))
    effects.view(np.uint8)[...] = 0xAA
    draw_batch(pack_policy(policy), np.uint64(seed), np.full(len(images), epoch), images, SIZES, views, mixes, effects)
    return views, mixes, effects


def own(policy):
    return batch(policy)[2][:, 0]


def share(effects, kind):
    return (effects["kind"] == kind).any(axis=1).mean()


def near(share, probability):
    return abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / COUNT)


def test_what_was_drawn_before_is_as_it_was():
    """New numbers stand behind the old ones, so an old policy's records are the same with the new options on."""
    plain = Policy(mixup=0.4, cutmix=0.3)
    views, mixes, effects = batch(plain)
    assert not effects.view(np.uint8).any()
    on = replace(ALL, mixup=0.4, cutmix=0.3, augment="randaugment", randaugment=1.0, vertical_flip=0.5)
    other, other_mixes, drawn = batch(on)
    flipped = other["flags"] & VERTICAL_FLIP != 0
    other["flags"] &= 255 - VERTICAL_FLIP
    assert np.array_equal(other, views)
    assert np.array_equal(other_mixes, mixes)
    assert near(flipped[:, 0].mean(), 0.5)
    paired = mixes["partner"] != np.arange(COUNT)
    assert drawn[:, 0]["kind"].any(axis=1).mean() > 0.9
    assert not drawn[~paired, 1].view(np.uint8).any()
    both = drawn[paired]["kind"]
    assert (both[:, 0] != both[:, 1]).any(axis=1).mean() > 0.9
    assert not (flipped[paired, 0] == flipped[paired, 1]).all()


def test_drawn_effects_depend_on_their_key_and_can_be_replayed():
    views, _, effects = batch(replace(ALL, mixup=0.5))
    some = np.array([2500, 3, 3, 77])
    assert np.array_equal(batch(replace(ALL, mixup=0.5), images=some)[2], effects[some])
    assert not np.array_equal(batch(replace(ALL, mixup=0.5), seed=2)[2], effects)
    for row in range(0, COUNT, 5):
        assert check_effects(effects[row, 0]) == check_effects(effects[row, 1]) == OK
        assert check_view(views[row, 0], 500, 375, 64, 64) == OK
    single = draw(replace(ALL, mixup=0.5), 1, 0, 77, SIZES)
    assert single.dtype == record_dtype(True, True)
    assert np.array_equal(single["first_effects"], effects[77, 0])
    assert np.array_equal(single["second_effects"], effects[77, 1])
    assert draw(Policy(vertical_flip=0.5), 1, 0, 77, SIZES).dtype == MIXED_DTYPE
    wildest = Policy(color_jitter=(2.99, 2.99, 2.99, 0.5), blur=1.0, blur_sigma=(0.01, 7.99))
    assert all(check_effects(row) == OK for row in own(wildest))


def test_colour_jitter_is_torchvisions():
    effects = own(JITTER)
    assert (effects["kind"][:, :4] > 0).all()
    assert not effects[:, 4:].view(np.uint8).any()
    jitter = ColorJitter(0.4, 0.3, 0.2, 0.1)
    torch.manual_seed(0)
    theirs = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(COUNT)
    ]
    for kind in (BRIGHTNESS, CONTRAST, SATURATION, HUE):
        values = effects["value"][effects["kind"] == kind] / (65534 if kind == HUE else 8192)
        assert len(values) == COUNT
        assert stats.ks_2samp(values, [params[kind] for params in theirs]).pvalue > 1e-3
    orders = Counter(map(tuple, effects["kind"][:, :4].tolist()))
    assert len(orders) == 24
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3
    places = np.argsort(effects["kind"][:, :4], axis=1)  # of each part
    strengths = np.take_along_axis(effects["value"][:, :4], places, axis=1)
    correlation = np.corrcoef(np.concatenate([strengths, places[:, :3]], axis=1).T)
    assert np.abs(correlation[:4] - np.eye(7)[:4]).max() < 5 / np.sqrt(COUNT)


def test_strengths_of_0_leave_a_part_out_and_large_ones_end_at_0():
    effects = own(Policy(color_jitter=(0.0, 1.5, 0.0, 0.5)))
    assert set(np.unique(effects["kind"])) == {NONE, CONTRAST, HUE}
    assert ((effects["kind"] > 0).sum(axis=1) == 2).all()
    assert near((effects["kind"][:, 0] == HUE).mean(), 0.5)
    contrast = effects["value"][effects["kind"] == CONTRAST] / 8192
    assert stats.kstest(contrast / 2.5, "uniform").pvalue > 1e-3
    turns = effects["value"][effects["kind"] == HUE] / 65534
    assert stats.kstest(turns + 0.5, "uniform").pvalue > 1e-3


def test_probabilities_order_and_values():
    policy = replace(ALL, augment="randaugment", blur_sigma=(0.5, 4.0), solarize_threshold=77)
    effects = own(policy)
    for kind, probability in ((HUE, 0.8), (GRAYSCALE, 0.2), (BLUR, 0.5), (SOLARIZE, 0.3)):
        assert near(share(effects, kind), probability)
    last = {BRIGHTNESS: 0, CONTRAST: 0, SATURATION: 0, HUE: 0, GRAYSCALE: 1, BLUR: 2, SOLARIZE: 3}
    for kinds in effects["kind"].tolist():
        ranks = [last[kind] for kind in kinds if kind]
        assert ranks == sorted(ranks)
        assert kinds[len(ranks) :] == [0] * (8 - len(ranks))
    sigma = effects["value"][effects["kind"] == BLUR] / 4096
    assert stats.kstest((sigma - 0.5) / 3.5, "uniform").pvalue > 1e-3
    assert set(effects["value"][effects["kind"] == SOLARIZE]) == {77}
    assert set(effects["value"][effects["kind"] == GRAYSCALE]) == {0}
    happens = np.array([(effects["kind"] == kind).any(axis=1) for kind in (HUE, GRAYSCALE, BLUR, SOLARIZE)])
    assert np.abs(np.corrcoef(happens) - np.eye(4)).max() < 5 / np.sqrt(COUNT)


def test_three_augment_is_one_of_three_then_the_jitter():
    policy = Policy(augment="three_augment", color_jitter=(0.3, 0.3, 0.3, 0.0))
    views, _, effects = batch(policy)
    assert not any(views[name].any() for name in ("op0", "op1", "level0", "level1"))
    assert not (views["flags"] & ~np.uint8(FLIP)).any()
    effects = effects[:, 0]
    counts = Counter(effects["kind"][:, 0].tolist())
    assert set(counts) == {GRAYSCALE, BLUR, SOLARIZE}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert (np.sort(effects["kind"][:, 1:4], axis=1) == (BRIGHTNESS, CONTRAST, SATURATION)).all()
    assert not effects["kind"][:, 4:].any()
    first = effects[:, 0]
    assert set(first["value"][first["kind"] == SOLARIZE]) == {128}
    sigma = first["value"][first["kind"] == BLUR] / 4096
    assert stats.kstest((sigma - 0.1) / 1.9, "uniform").pvalue > 1e-3
    half = own(replace(policy, randaugment=0.5))
    assert near(np.isin(half["kind"][:, 0], (GRAYSCALE, BLUR, SOLARIZE)).mean(), 0.5)


def test_the_most_effects_fit():
    all_on = replace(ALL, color_jitter_prob=1.0, grayscale=1.0, blur=1.0, solarize=1.0, randaugment=1.0)
    assert (own(all_on)["kind"] > 0).all()


def test_bytes_are_the_same_as_ever():
    views, mixes, effects = batch(replace(ALL, vertical_flip=0.3, mixup=0.3, cutmix=0.3), seed=12)
    digest = hashlib.sha256(views.tobytes() + mixes.tobytes() + effects.tobytes()).hexdigest()
    assert digest[:16] == "aad57e6d2fa85e3e"


def test_added_options_are_named_only_where_they_are_set():
    """What earlier versions wrote and hashed of a policy stays what it was."""
    old = Policy(flip=0.25)
    text = (
        "Policy(crop='resized', scale=(0.08, 1.0), ratio=(0.75, 1.3333333333333333), padding=0.125, flip=0.25, "
        "augment='randaugment', randaugment=1.0, ops=2, magnitude=9, bins=31, erase=0.25, erase_scale=(0.02, 0.33), "
        "erase_ratio=(0.3, 3.3), mixup=0.0, mixup_alpha=0.2, cutmix=0.0, cutmix_alpha=1.0)"
    )
    assert repr(old) == text
    assert list(old.settings())[-1] == "cutmix_alpha"
    assert Policy(**old.settings()) == old
    new = replace(old, blur=0.5, color_jitter=[0.4, 0.4, 0.4, 0.1])
    assert repr(new) == text[:-1] + ", color_jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5)"
    assert new.settings() == old.settings() | {"color_jitter": (0.4, 0.4, 0.4, 0.1), "blur": 0.5}
    assert Policy(**new.settings()) == new


@pytest.mark.parametrize(
    "options, has",
    [
        ({}, False),
        ({"vertical_flip": 1.0}, False),
        ({"color_jitter": (0.1, 0, 0, 0)}, True),
        ({"color_jitter": (0, 0, 0, 0.1)}, True),
        ({"color_jitter": (0.1, 0, 0, 0), "color_jitter_prob": 0.0}, False),
        ({"grayscale": 0.1}, True),
        ({"blur": 0.1}, True),
        ({"solarize": 0.1}, True),
        ({"augment": "three_augment"}, True),
        ({"augment": "three_augment", "randaugment": 0.0}, False),
    ],
)
def test_which_policies_have_effects(options, has):
    policy = Policy(**options)
    assert policy.has_effects is has
    assert own(policy).view(np.uint8).any() == has


@pytest.mark.parametrize(
    "options, message",
    [
        ({"color_jitter": (0.4, 0.4, 0.4)}, r"policy\.color_jitter: .* is not four numbers"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, r"policy\.color_jitter: 0.4,0.4,0.4,0.6 is not .* hue from 0 to 0.5"),
        ({"color_jitter": (3.0, 0, 0, 0)}, r"policy\.color_jitter: 3.0,0,0,0 is not .* from 0 to 2.99"),
        ({"color_jitter": (-0.1, 0, 0, 0)}, r"policy\.color_jitter"),
        ({"color_jitter": (float("nan"), 0, 0, 0)}, r"policy\.color_jitter"),
        ({"color_jitter": 0.4}, r"policy\.color_jitter: 0.4 is not four numbers"),
        ({"blur": 1.5}, r"policy\.blur"),
        ({"blur_sigma": (0.0, 1.0)}, r"policy\.blur_sigma"),
        ({"blur_sigma": (2.0, 1.0)}, r"policy\.blur_sigma"),
        ({"blur_sigma": (1.0, 8.0)}, r"policy\.blur_sigma"),
        ({"solarize_threshold": 256}, r"policy\.solarize_threshold"),
        ({"solarize_threshold": 1.5}, r"policy\.solarize_threshold: 1.5 is not a whole number"),
        ({"vertical_flip": -0.1}, r"policy\.vertical_flip"),
        ({"augment": "three-augment"}, "did you mean three_augment"),
        ({"augment": "three_augment", "magnitude": 5}, r"policy\.magnitude"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Policy(**options)


def test_options_that_do_nothing_are_told():
    for options, names in (
        ({"color_jitter_prob": 0.5}, ["color_jitter_prob"]),
        ({"color_jitter": (0.1, 0, 0, 0), "color_jitter_prob": 0.0}, ["color_jitter"]),
        ({"blur_sigma": (1.0, 2.0)}, ["blur_sigma"]),
        ({"solarize_threshold": 100}, ["solarize_threshold"]),
        ({"augment": "three_augment", "solarize_threshold": 100, "blur_sigma": (1.0, 2.0)}, []),
        ({"blur": 0.1, "blur_sigma": (1.0, 2.0), "solarize": 0.1, "solarize_threshold": 9}, []),
        ({"color_jitter": (0.1, 0, 0, 0), "color_jitter_prob": 0.4, "grayscale": 0.2, "vertical_flip": 0.5}, []),
    ):
        told = idle_policy(Policy(**options))
        assert [line.split(" ")[0] for line in told] == [f"policy.{name}" for name in names], options


def test_numbers_of_effects_by_name():
    assert [EFFECT_NUMBER[name] for name in ("Brightness", "Hue", "Solarize")] == [BRIGHTNESS, HUE, SOLARIZE]
