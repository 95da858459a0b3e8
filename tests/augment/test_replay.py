"""The whole chain equals the oracle's, twice and from many threads alike; mixing is within a level of float."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
from pictures import cropped, noise, photo, random_crop

from ffdr.augment.check import OK
from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.picture import ImagePart
from ffdr.augment.policy import AUGMENTS, Policy
from ffdr.augment.replay import mix_into, render, replay_view, scratch_bytes, visible
from ffdr.augment.view import (
    FLIP,
    FRACTION,
    MIX_DTYPE,
    OP_NUMBER,
    OPS,
    VIEW_DTYPE,
    blank_effects,
    box_to_fractions,
    plain_view,
)

SIZE = (96, 112)
NONE = blank_effects(1)[0, 0]


def replay(image, views, row, column, size=SIZE):
    height, width, _ = image.shape
    out = np.empty((*size, 3), np.uint8)
    scratch = np.full(scratch_bytes(width, height, *size), 0xA5, np.uint8)
    assert replay_view(ImagePart(image, 0, 0, width, height), views[row, column], NONE, out, scratch, 0) == OK
    return out


def drawn(count, policy, seed=0, size=(150, 120)):
    views, mixes = np.zeros((count, 2), VIEW_DTYPE), np.zeros(count, MIX_DTYPE)
    sizes = np.tile(np.array([size], np.int32), (count, 1))
    draw_batch(
        pack_policy(policy),
        np.uint64(seed),
        np.zeros(count, np.int64),
        np.arange(count),
        sizes,
        views,
        mixes,
        blank_effects(count),
    )
    return views, mixes


@pytest.mark.parametrize("policy", [{"magnitude": 13}, *({"augment": name} for name in AUGMENTS[1:])], ids=AUGMENTS)
def test_drawn_views_equal_the_oracle(policy):
    """Operations and erasing are exact on the shared resized image; the resize alone is held to one level."""
    rng = np.random.default_rng(0)
    views, _ = drawn(100, Policy(erase=0.7, **policy))
    for row in range(len(views)):
        image = photo(rng, 120, 150)
        view = views[row, 0]
        bare = view.copy()
        for name in ("op0", "op1", "erase_h"):
            bare[name] = 0
        resized = render(image, bare, SIZE)
        assert np.abs(resized.astype(int) - oracle.crop_resize(image, view, *SIZE)).max() <= 1
        assert np.array_equal(replay(image, views, row, 0), oracle.finish(resized, view, OPS)), view


def test_operations_come_in_order():
    image = photo(np.random.default_rng(1), *SIZE)
    view = cropped(0, 0, SIZE[1], SIZE[0], SIZE[1], SIZE[0], op0=OP_NUMBER["Solarize"], level0=20, op1=6, level1=25)
    expected = oracle.apply(oracle.apply(image, "Solarize", 20, 31), "Brightness", 25, 31)
    assert np.array_equal(render(image, view, SIZE), expected)
    view["op0"], view["op1"], view["level0"], view["level1"] = 6, OP_NUMBER["Solarize"], 25, 20
    assert not np.array_equal(render(image, view, SIZE), expected)
    for first, second in ((4, 0), (0, 4)):
        view["op0"], view["op1"] = first, second
        expected = oracle.apply(image, "TranslateY", 25 if first else 20, 31)
        assert np.array_equal(render(image, view, SIZE), expected)


def test_the_flip_comes_before_the_operations():
    image = photo(np.random.default_rng(2), *SIZE)
    view = cropped(0, 0, SIZE[1], SIZE[0], SIZE[1], SIZE[0], flags=FLIP)
    assert np.array_equal(render(image, view, SIZE), image[:, ::-1])
    view["op0"], view["level0"] = OP_NUMBER["ShearX"], 9
    assert np.array_equal(render(image, view, SIZE), oracle.apply(image[:, ::-1], "ShearX", 9, 31))


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (224, 100)])
def test_erased_boxes_are_exact(size):
    rng = np.random.default_rng(3)
    image = noise(rng, *size) | 1
    for _ in range(20):
        view = random_crop(rng, 200, 200)
        view["crop_x"] = view["crop_y"] = 0
        view["crop_w"] = view["crop_h"] = FRACTION
        y, x = (int(rng.integers(0, side)) for side in size)
        h, w = int(rng.integers(1, size[0] - y + 1)), int(rng.integers(1, size[1] - x + 1))
        view["erase_x"], view["erase_w"] = box_to_fractions(x, w, size[1])
        view["erase_y"], view["erase_h"] = box_to_fractions(y, h, size[0])
        expected = image.copy()
        expected[y : y + h, x : x + w] = 0
        assert np.array_equal(render(image, view, size), expected)


def test_replay_repeats_itself_in_any_thread():
    rng = np.random.default_rng(5)
    images = [photo(rng, 120, 150) for _ in range(8)]
    views, _ = drawn(64, Policy())
    once = [replay(images[row % 8], views, row, 0) for row in range(64)]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda row: replay(images[row % 8], views, row, 0), range(64)))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))


def test_bytes_are_the_same_as_ever():
    """Records and pixels on file must mean the same in every version and on every processor."""
    y, x = np.mgrid[:120, :150]
    image = np.stack([x * y // 70 % 256, (3 * x + 2 * y) % 256, (x - 60) ** 2 // 40 + y], axis=2).astype(np.uint8)
    views, mixes = drawn(60, Policy(mixup=0.3, cutmix=0.3), seed=12)
    records = hashlib.sha256(views.tobytes() + mixes.tobytes()).hexdigest()
    pixels = hashlib.sha256(b"".join(replay(image, views, row, 0).tobytes() for row in range(60))).hexdigest()
    assert (records[:16], pixels[:16]) == ("ccb02e9c7938d6a7", "8385584bfb844584")


def test_the_second_column_is_the_partners_view():
    image = photo(np.random.default_rng(6), 120, 150)
    views, _ = drawn(4, Policy(mixup=1.0))
    assert np.array_equal(replay(image, views, 2, 1), render(image, views[2, 1], SIZE))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 48)])
def test_mixing_is_within_a_level_of_float(size):
    rng = np.random.default_rng(7)
    _, mixes = drawn(60, Policy(mixup=0.8, cutmix=0.6), seed=9)
    for row in range(len(mixes)):
        first, second = noise(rng, *size), noise(rng, *size)
        out = first.copy()
        mix_into(out, second, mixes[row])
        assert np.abs(out.astype(int) - oracle.mix(first, second, mixes[row])).max() <= 1


def test_what_is_not_visible_does_not_matter():
    """``visible`` says no only where black, white and noise in that image's place give the same bytes."""
    rng = np.random.default_rng(10)
    edge = round(FRACTION * 0.5 / 255)
    weights = [0, 1, edge - 3, edge - 1, edge, edge + 1, edge + 3, 30_000, FRACTION]
    seen = set()
    for weight in {*weights, *(FRACTION - weight for weight in weights)}:
        for cut in (0, 20_000):
            mixes = np.zeros(1, MIX_DTYPE)
            mixes["mixup"], mixes["cut_w"], mixes["cut_h"] = weight, cut, cut
            images = [noise(rng, 30, 20), noise(rng, 30, 20)]
            for place, depends in enumerate(visible(mixes[0])):
                outs = []
                for other in (images[place], np.zeros_like(images[0]), np.full_like(images[0], 255)):
                    pair = [image.copy() for image in images]
                    pair[place] = other.copy()
                    pair[1 - place][::2] = 0  # half of the other one black, the rest noise
                    mix_into(pair[0], pair[1], mixes[0])
                    outs.append(pair[0])
                same = all(np.array_equal(out, outs[0]) for out in outs)
                assert same or depends, (weight, cut, place)
                seen.add((place, depends))
    assert seen == {(0, False), (0, True), (1, False), (1, True)}


def test_mixing_at_its_ends_is_exact():
    rng = np.random.default_rng(8)
    first, second = noise(rng, 40, 30), noise(rng, 40, 30)
    mixes = np.zeros(4, MIX_DTYPE)
    mixes["mixup"] = FRACTION, 0, FRACTION, FRACTION // 2
    mixes["cut_x"][2], mixes["cut_w"][2] = box_to_fractions(10, 7, 30)
    mixes["cut_y"][2], mixes["cut_h"][2] = box_to_fractions(33, 7, 40)
    pasted = first.copy()
    pasted[33:40, 10:17] = second[33:40, 10:17]
    for row, expected in ((0, first), (1, second), (2, pasted)):
        out = first.copy()
        mix_into(out, second, mixes[row])
        assert np.array_equal(out, expected)
    for same in (first, second):
        out = same.copy()
        mix_into(out, same, mixes[3])
        assert np.array_equal(out, same)


def test_render_refuses_what_it_cannot_do():
    image = noise(np.random.default_rng(0), 5, 5)
    with pytest.raises(ValueError, match="uint8"):
        render(image.astype(np.float32), plain_view(), 4)
    view = plain_view()
    view["op0"] = 14
    with pytest.raises(ValueError, match="operation number"):
        render(image, view, 4)
    with pytest.raises(ValueError, match="side"):
        render(image, plain_view(), 0)
