"""Drawn views follow torchvision's distributions, depend on their key alone, and part on part independently."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, RandomErasing, RandomResizedCrop

from ffdr.augment.autoaugment import sub_policies
from ffdr.augment.check import OK, check_mix, check_view
from ffdr.augment.draw import draw, draw_batch, pack_policy
from ffdr.augment.geometry import from_fraction
from ffdr.augment.ops.magnitude import OpStep, magnitude
from ffdr.augment.policy import Policy
from ffdr.augment.view import FLIP, FRACTION, MIX_DTYPE, OPS, VIEW_DTYPE, WIDE, blank_effects
from ffdr.util.errors import UserError

COUNT = 3000
SIZES = np.tile(np.array([[500, 375]], np.int32), (COUNT, 1))
MIXING = Policy(mixup=0.5, cutmix=0.5, mixup_alpha=0.4)


def batch(policy, seed=1, epoch=0, images=None, sizes=SIZES):
    images = np.arange(len(sizes)) if images is None else np.asarray(images)
    views, mixes = np.empty((len(images), 2), VIEW_DTYPE), np.empty(len(images), MIX_DTYPE)
    views.view(np.uint8)[...] = 0xAA
    effects = blank_effects(len(images))
    effects.view(np.uint8)[...] = 0xAA
    draw_batch(pack_policy(policy), np.uint64(seed), np.full(len(images), epoch), images, sizes, views, mixes, effects)
    assert policy.has_effects or not effects.view(np.uint8).any()
    return views, mixes


def pixels(fractions, length):
    return np.array([from_fraction(int(fraction), length) for fraction in fractions])


def test_a_view_depends_on_its_key_alone():
    views, mixes = batch(MIXING)
    some = np.array([2500, 3, 3, 77])
    again, again_mixes = batch(MIXING, images=some)
    assert np.array_equal(again, views[some])
    assert np.array_equal(again_mixes, mixes[some])
    single = draw(MIXING, 1, 0, 77, SIZES)
    assert single["first"] == views[77, 0]
    assert single["mix"] == mixes[77]
    assert single["second"] == views[77, 1]
    for other in (batch(MIXING, seed=2), batch(MIXING, epoch=1), batch(MIXING, seed=1 + 2**40)):
        assert (other[0][:, 0] != views[:, 0]).mean() > 0.99


def test_drawn_views_can_be_replayed():
    sizes = np.random.default_rng(0).integers(1, 600, (COUNT, 2)).astype(np.int32)
    for crop in ("resized", "padded", "whole"):
        views, mixes = batch(replace(MIXING, crop=crop), sizes=sizes)
        for row in range(0, COUNT, 7):
            assert check_view(views[row, 0], *map(int, sizes[row]), 64, 64) == OK
            assert check_mix(mixes[row], COUNT) == OK
            if mixes["partner"][row] != row:
                assert check_view(views[row, 1], *map(int, sizes[mixes["partner"][row]]), 64, 64) == OK


@pytest.mark.parametrize("shape", [(500, 375), (90, 600), (32, 32)])
def test_crops_are_those_of_random_resized_crop(shape):
    width, height = shape
    sizes = np.tile(np.array([shape], np.int32), (COUNT, 1))
    views = batch(Policy(), sizes=sizes)[0][:, 0]
    x, w = pixels(views["crop_x"], width), pixels(views["crop_w"], width)
    y, h = pixels(views["crop_y"], height), pixels(views["crop_h"], height)
    for part in (x, y, w, h):
        assert np.array_equal(part, np.rint(part))
    assert (x + w).max() <= width
    assert (y + h).max() <= height
    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(COUNT)])
    for ours, column in ((y, 0), (x, 1), (h, 2), (w, 3)):
        assert stats.ks_2samp(ours, theirs[:, column]).pvalue > 1e-3


def test_impossible_shapes_fall_back_to_the_centre():
    policy = Policy(scale=(1.0, 1.0))
    shapes = {(600, 30): (280, 0, 40, 30), (30, 600): (0, 280, 30, 40), (1, 1): (0, 0, 1, 1)}
    for (width, height), box in shapes.items():
        view = draw(policy, 0, 0, 0, np.array([[width, height]]))["first"]
        sides = zip("xywh", (width, height, width, height), strict=True)
        got = [from_fraction(int(view["crop_" + name]), side) for name, side in sides]
        assert got == list(box)


def test_padded_crops_are_those_of_random_crop():
    sizes = np.full((COUNT, 2), 32, np.int32)
    views = batch(Policy(crop="padded"), sizes=sizes)[0][:, 0]
    assert (views["pad"] == 8192).all()
    for start, size in (("crop_x", "crop_w"), ("crop_y", "crop_h")):
        assert (pixels(views[size], 40) == 32).all()
        places = np.bincount(pixels(views[start], 40).astype(int), minlength=9)
        assert len(places) == 9
        assert stats.chisquare(places).pvalue > 1e-3


def test_whole_crops_are_whole():
    views = batch(Policy(crop="whole"))[0][:, 0]
    assert (views["crop_x"] == 0).all()
    assert (views["crop_w"] == FRACTION).all()
    assert (views["crop_h"] == FRACTION).all()


def test_flips_operations_and_signs():
    views = batch(Policy(magnitude=7))[0][:, 0]
    assert abs((views["flags"] & FLIP).mean() - 0.5) < 0.05
    assert (views["bins"] == 31).all()
    for op, level in (("op0", "level0"), ("op1", "level1")):
        assert stats.chisquare(np.bincount(views[op], minlength=len(OPS))).pvalue > 1e-3
        signed = (views[op] >= OPS.index("ShearX")) & (views[op] <= OPS.index("Sharpness"))
        assert set(views[level][signed]) == {-7, 7}
        assert abs(views[level][signed].mean()) < 1
        assert set(views[level][views[op] > OPS.index("Sharpness")]) == {7}
        assert set(views[level][views[op] == 0]) == {0}
    assert abs(np.corrcoef(views["op0"], views["op1"])[0, 1]) < 0.06


def test_number_of_operations():
    for ops in (0, 1, 2):
        views = batch(Policy(ops=ops))[0][:, 0]
        assert (views["op0"] > 0).any() == (ops > 0)
        assert (views["op1"] > 0).any() == (ops > 1)
    half = batch(Policy(randaugment=0.5))[0][:, 0]
    assert abs((half["op0"] > 0).mean() - 0.5 * 13 / 14) < 0.05


def test_trivial_augment_draws_one_operation_at_any_level():
    views = batch(Policy(augment="trivialaugment"))[0][:, 0]
    assert (views["flags"] & WIDE).all()
    assert not views["op1"].any()
    assert stats.chisquare(np.bincount(views["op0"], minlength=len(OPS))).pvalue > 1e-3
    moved = views["level0"][views["op0"] > 0].astype(int)
    assert stats.chisquare(np.bincount(np.abs(moved), minlength=31)).pvalue > 1e-3
    signed = (views["op0"] >= OPS.index("ShearX")) & (views["op0"] <= OPS.index("Sharpness"))
    assert abs(np.sign(views["level0"][signed].astype(int)).mean()) < 0.08
    assert views["level0"][views["op0"] > OPS.index("Sharpness")].min() >= 0


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "svhn"])
def test_auto_augment_has_the_published_sub_policies(name):
    theirs = AutoAugment(AutoAugmentPolicy(name))
    space = theirs._augmentation_space(10, (224, 224))
    ours = sub_policies(name)
    assert ours.shape == (25, 2, 3)
    for line, policy in zip(ours, theirs.policies, strict=True):
        for (number, probability, level), (op, their_probability, their_level) in zip(line, policy, strict=True):
            assert probability == their_probability
            if op == "Invert":
                assert OPS[int(number)] == "Solarize"
                assert magnitude(OpStep(int(number), int(level), 10, False), 224, 224) == 0
                continue
            assert OPS[int(number)] == op
            if their_level is not None:
                expected = float(space[op][0][their_level])
                size = magnitude(OpStep(int(number), int(level), 10, False), 224, 224)
                assert size == pytest.approx(expected, abs=1e-6)


def test_auto_augment_draws_sub_policies_and_applies_by_their_probabilities():
    views = batch(Policy(augment="autoaugment_imagenet"))[0][:, 0]
    table = sub_policies("imagenet")
    assert (views["bins"] == 10).all()
    for column, op in enumerate(("op0", "op1")):
        expected = np.zeros(len(OPS))
        for number, probability, _ in table[:, column]:
            expected[int(number)] += probability / len(table)
        expected[0] = 1 - expected[1:].sum()
        counts = np.bincount(views[op], minlength=len(OPS))
        used = expected > 0
        assert not counts[~used].any()
        assert stats.chisquare(counts[used], COUNT * expected[used]).pvalue > 1e-3
    # Both come of one sub-policy: Solarize 5 is only ever followed by AutoContrast or nothing.
    first = (views["op0"] == OPS.index("Solarize")) & (views["level0"] == 5)
    assert first.any()
    assert set(views["op1"][first]) == {0, OPS.index("AutoContrast")}


def test_policies_with_levels_of_their_own_refuse_others():
    with pytest.raises(UserError, match=r"policy\.magnitude"):
        Policy(augment="trivialaugment", magnitude=5)
    with pytest.raises(UserError, match="did you mean trivialaugment"):
        Policy(augment="trivialaugments")


def test_erasing_is_that_of_random_erasing():
    views = batch(Policy(erase=1.0))[0][:, 0]
    assert abs((batch(Policy())[0][:, 0]["erase_h"] > 0).mean() - 0.25) < 0.05
    assert ((views["erase_x"].astype(int) + views["erase_w"]) <= FRACTION).all()
    torch.manual_seed(0)
    square = torch.empty(3, 1000, 1000)
    theirs = np.array([RandomErasing.get_params(square, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(COUNT)])
    for name, column in (("erase_y", 0), ("erase_x", 1), ("erase_h", 2), ("erase_w", 3)):
        assert stats.ks_2samp(np.rint(views[name] / FRACTION * 1000), theirs[:, column]).pvalue > 1e-3


def test_one_part_of_the_policy_leaves_the_others_alone():
    base = batch(MIXING)[0][:, 0]
    groups = {
        "crop": ["crop_x", "crop_y", "crop_w", "crop_h", "pad"],
        "flip": ["flags"],
        "ops": ["op0", "level0", "op1", "level1"],
        "erase": ["erase_x", "erase_y", "erase_w", "erase_h"],
    }
    off = {"crop": {"crop": "whole"}, "flip": {"flip": 0.0}, "ops": {"randaugment": 0.0}, "erase": {"erase": 0.0}}
    for part, change in off.items():
        changed = batch(replace(MIXING, **change))[0][:, 0]
        for group, names in groups.items():
            same = all(np.array_equal(changed[name], base[name]) for name in names)
            assert same == (group != part), (part, group)
    mixes = batch(MIXING)[1]
    assert np.array_equal(batch(replace(MIXING, cutmix=0.0))[1]["mixup"], mixes["mixup"])
    assert np.array_equal(batch(replace(MIXING, mixup=0.0))[1]["cut_x"], mixes["cut_x"])
    assert np.array_equal(batch(replace(MIXING, mixup=0.0, cutmix=0.0))[0][:, 0], base)


def test_parts_are_drawn_independently():
    views, mixes = batch(replace(MIXING, erase=0.5))
    view = views[:, 0]
    signed = (view["op0"] > 0) & (view["op0"] < 10) & (view["op1"] > 0) & (view["op1"] < 10) & (view["erase_h"] > 0)
    parts = {
        "place": view["crop_x"] / (FRACTION + 1 - view["crop_w"].astype(float)),
        "size": view["crop_w"] * view["crop_h"].astype(float),
        "flip": view["flags"],
        "first": view["op0"],
        "first sign": view["level0"],
        "second": view["op1"],
        "second sign": view["level1"],
        "erase x": view["erase_x"] / (FRACTION + 1 - view["erase_w"].astype(float)),
        "erase y": view["erase_y"] / (FRACTION + 1 - view["erase_h"].astype(float)),
        "erase size": view["erase_w"] * view["erase_h"].astype(float),
        "mixup": mixes["mixup"] < FRACTION,
        "cutmix": mixes["cut_h"] > 0,
    }
    correlation = stats.spearmanr(np.array([part[signed] for part in parts.values()]).T).statistic
    assert np.abs(correlation - np.eye(len(parts))).max() < 5 / np.sqrt(signed.sum())
    happens = np.array([view["flags"], view["erase_h"] > 0, mixes["mixup"] < FRACTION, mixes["cut_h"] > 0])
    assert np.abs(np.corrcoef(happens) - np.eye(4)).max() < 5 / np.sqrt(COUNT)


def test_unmixed_images_say_so():
    for policy, sizes in ((Policy(), SIZES), (MIXING, SIZES[:1])):
        views, mixes = batch(policy, sizes=sizes)
        assert np.array_equal(mixes["partner"], np.arange(len(sizes)))
        assert (mixes["mixup"] == FRACTION).all()
        assert not any(mixes[name].any() for name in ("cut_x", "cut_y", "cut_w", "cut_h"))
        assert not any(views[:, 1].tobytes())


def test_partners_are_uniform_others_with_views_of_their_own():
    sizes = np.tile(np.array([[40, 30], [30, 40]], np.int32), (5, 1))
    counts = np.zeros((10, 10), int)
    for epoch in range(300):
        views, mixes = batch(replace(MIXING, mixup=1.0, mixup_alpha=4.0), epoch=epoch, sizes=sizes)
        counts[np.arange(10), mixes["partner"]] += 1
    assert not counts.diagonal().any()
    others = counts[~np.eye(10, dtype=bool)]
    assert stats.chisquare(others).pvalue > 1e-3
    assert not np.array_equal(views[:, 0], views[:, 1])
    assert (views[:, 1]["bins"] == 31).all()


def test_mixing_follows_beta():
    mixes = batch(replace(MIXING, mixup=1.0, cutmix=1.0, cutmix_alpha=1.0))[1]
    weights = mixes["mixup"] / FRACTION
    inner = weights[(weights > 0.001) & (weights < 0.999)]
    low, high = stats.beta.cdf([0.001, 0.999], 0.4, 0.4)
    assert stats.kstest((stats.beta.cdf(inner, 0.4, 0.4) - low) / (high - low), "uniform").pvalue > 1e-3
    # Boxes that no edge clips show the drawn share: area 1 - share, share uniform for alpha 1.
    x, y, w, h = (mixes["cut_" + name].astype(float) / FRACTION for name in "xywh")
    free = (x > 0) & (y > 0) & (x + w < 1) & (y + h < 1)
    assert np.abs(w - h)[free].max() < 1e-4
    assert (x + w).max() <= 1
    centre = (x + w / 2)[free]
    assert abs(centre.mean() - 0.5) < 0.02
    assert math.isclose((mixes["mixup"] < FRACTION).mean(), 1.0, abs_tol=0.05)
    assert abs((batch(MIXING)[1]["cut_h"] > 0).mean() - 0.5) < 0.05
