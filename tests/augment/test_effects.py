"""Every effect equals torchvision's function on a uint8 tensor, on any picture; a blur, where its sum is no tie."""

import hashlib
import itertools
import math

import numpy as np
import oracle
import pytest
import torch
from pictures import cropped, noise, photo
from torchvision.transforms import functional as F

from ffdr.augment import check
from ffdr.augment.check import OK, STATUS_TEXT, check_effects
from ffdr.augment.replay import render
from ffdr.augment.view import (
    CENTER,
    EFFECT_DTYPE,
    EFFECTS,
    FLIP,
    FRACTION,
    MOST_EFFECTS,
    OP_NUMBER,
    OPS,
    PLACED,
    VERTICAL_FLIP,
    blank_effects,
    box_to_fractions,
    center_view,
    plain_view,
    record_dtype,
)

RNG = np.random.default_rng(17)
PHOTO = photo(RNG, 224, 224)
PICTURES = {
    "photo": PHOTO,
    "noise": noise(RNG, 224, 224),
    "1x1": noise(RNG, 1, 1),
    "1x9": noise(RNG, 1, 9),
    "9x1": noise(RNG, 9, 1),
    "2x5": noise(RNG, 2, 5),
    "11x10": noise(RNG, 11, 10),
    "31x67": photo(RNG, 31, 67),
    "97x96": photo(RNG, 97, 96),
    "flat": np.full((16, 12, 3), (0, 128, 255), np.uint8),
    "greys": np.repeat(noise(RNG, 20, 20)[:, :, :1], 3, axis=2),
    "ends": np.where(noise(RNG, 24, 40) < 128, 0, 255).astype(np.uint8),
    "black": np.zeros((13, 17, 3), np.uint8),
}
FACTORS = (0, 1, 819, 4096, 8191, 8192, 8193, 9830, 11469, 16384, 24575, 32767, *RNG.integers(0, 32768, 12).tolist())
TURNS = (0, 1, -1, 32767, -32767, 6553, -6553, 16384, -10923, 10922, *RNG.integers(-32767, 32768, 4).tolist())
WHOLE_TURN = 65534


def row(*effects):
    """Effects by (name, value)."""
    effects_ = blank_effects(1)[0, 0]
    for place, (name, value) in enumerate(effects):
        effects_[place] = EFFECTS.index(name), value
    return effects_


def ours(image, *effects):
    return render(image, plain_view(), image.shape[:2], row(*effects))


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def blur_of(image, value):
    """Kernel sizes and standard deviation as the format defines them."""
    height, width = image.shape[:2]
    sigma = value / 4096 * min(height, width) / 224
    return [2 * min(math.ceil(3 * sigma), side - 1) + 1 for side in (width, height)], [sigma, sigma]


def theirs(image, name, value):
    pixels = tensor(image)
    if name == "Blur":
        out = F.gaussian_blur(pixels, *blur_of(image, value))
    elif name == "Hue":
        out = F.adjust_hue(pixels, value / WHOLE_TURN)
    elif name == "Grayscale":
        out = F.rgb_to_grayscale(pixels, num_output_channels=3)
    elif name == "Solarize":
        out = F.solarize(pixels, value)
    else:
        out = getattr(F, f"adjust_{name.lower()}")(pixels, value / 8192)
    return out.permute(1, 2, 0).numpy()


def assert_blurred(image, value, out):
    """Equal to torchvision but where its sum, in float64, is within 2e-3 of half-way; there off by a level at most."""
    exact = F.gaussian_blur(tensor(image).double(), *blur_of(image, value)).permute(1, 2, 0).numpy()
    tie = np.abs(exact - np.floor(exact) - 0.5) < 2e-3
    difference = np.abs(out.astype(int) - theirs(image, "Blur", value))
    assert difference[~tie].max(initial=0) == 0
    assert difference.max() <= 1


def test_numbers_and_layout_are_what_files_hold():
    assert EFFECTS == ("None", "Brightness", "Contrast", "Saturation", "Hue", "Grayscale", "Blur", "Solarize")
    assert (VERTICAL_FLIP, EFFECT_DTYPE.itemsize, MOST_EFFECTS) == (16, 4, 8)
    sizes = [record_dtype(mixes, effects).itemsize for mixes in (False, True) for effects in (False, True)]
    assert sizes == [24, 24 + 32, 62, 62 + 64]


@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Saturation"])
@pytest.mark.parametrize("picture", PICTURES)
def test_factors(name, picture):
    image = PICTURES[picture]
    for value in FACTORS:
        assert np.array_equal(ours(image, (name, value)), theirs(image, name, value)), value


@pytest.mark.parametrize("picture", PICTURES)
def test_hues_of_pictures(picture):
    image = PICTURES[picture]
    for value in TURNS:
        assert np.array_equal(ours(image, ("Hue", value)), theirs(image, "Hue", value)), value


def test_hues_of_a_grid_of_colours():
    """All colours of 43 levels, which has both ends and all differences of 6, and those around the greys."""
    levels = np.array([*range(0, 253, 6)], np.uint8) | 0
    grid = np.array(list(itertools.product([*levels, 255], repeat=3)), np.uint8)
    near = (np.arange(256)[:, None] + np.array(list(itertools.product((-1, 0, 1), repeat=3))).reshape(-1)).clip(0, 255)
    colours = np.concatenate([grid, near.astype(np.uint8).reshape(-1, 3)])
    image = np.ascontiguousarray(colours[: len(colours) // 100 * 100].reshape(100, -1, 3))
    for value in TURNS:
        assert np.array_equal(ours(image, ("Hue", value)), theirs(image, "Hue", value)), value


@pytest.mark.parametrize("picture", PICTURES)
def test_greyscale_and_solarise(picture):
    image = PICTURES[picture]
    assert np.array_equal(ours(image, ("Grayscale", 0)), theirs(image, "Grayscale", 0))
    for value in (0, 1, 127, 128, 200, 254, 255):
        assert np.array_equal(ours(image, ("Solarize", value)), theirs(image, "Solarize", value)), value


@pytest.mark.parametrize("picture", PICTURES)
def test_blurs(picture):
    image = PICTURES[picture]
    for value in (1, 410, 1000, 2048, 4096, 6000, 8192):
        assert_blurred(image, value, ours(image, ("Blur", value)))
    if image.size < 200 * 200:
        for value in (16000, 32767):
            assert_blurred(image, value, ours(image, ("Blur", value)))


@pytest.mark.parametrize("size", [(8, 400), (400, 8), (300, 290)])
def test_blurs_of_many_shapes(size):
    """Where an axis has fewer pixels than its filter reaches, and where vector code has a rest."""
    image = noise(np.random.default_rng(sum(size)), *size)
    for value in (4096, 32767):
        part = image if value < 5000 else np.ascontiguousarray(image[:60, :71])
        assert_blurred(part, value, ours(part, ("Blur", value)))


def test_a_blur_grows_with_the_view():
    """A record replays at any resolution: the share of the picture that is blurred together is the same."""
    coarse = photo(np.random.default_rng(4), 56, 56)
    image = coarse.repeat(8, axis=0).repeat(8, axis=1)
    small, large = (render(image, plain_view(), side, row(("Blur", 8192))) for side in (112, 224))
    shrunk = render(large, plain_view(), 112)
    assert np.abs(shrunk.astype(int) - small).mean() < 0.5
    assert np.abs(render(image, plain_view(), 112).astype(int) - small).mean() > 1


def test_effects_come_in_order_after_the_operations():
    """Each step of random chains, after 0 to 2 operations, is torchvision's of what the steps before it made."""
    rng = np.random.default_rng(9)
    image = photo(rng, 96, 112)
    for _ in range(25):
        view = plain_view()
        for op in ("op0", "op1"):
            view[op] = rng.choice([0, OP_NUMBER["Posterize"], OP_NUMBER["ShearX"], OP_NUMBER["Equalize"]])
            view["level" + op[2]] = rng.integers(-30, 31)
        chain = [(name, random_value(rng, name)) for name in rng.choice(EFFECTS[1:], rng.integers(1, 9))]
        before = oracle.finish(image, view, OPS)
        for count in range(1, len(chain) + 1):
            name, value = chain[count - 1]
            after = render(image, view, image.shape[:2], row(*chain[:count]))
            if name == "Blur":
                assert_blurred(before, value, after)
            else:
                assert np.array_equal(after, theirs(before, name, value)), chain[:count]
            before = after


def random_value(rng, name):
    ranges = {"Hue": (-32767, 32767), "Grayscale": (0, 0), "Blur": (1, 9000), "Solarize": (0, 255)}
    low, high = ranges.get(name, (0, 32767))
    return int(rng.integers(low, high + 1))


def test_erasing_comes_last():
    view = plain_view()
    view["erase_x"], view["erase_w"] = box_to_fractions(50, 30, 224)
    view["erase_y"], view["erase_h"] = box_to_fractions(20, 60, 224)
    expected = theirs(PHOTO, "Contrast", 2000).copy()
    expected[20:80, 50:80] = 0
    assert np.array_equal(render(PHOTO, view, 224, row(("Contrast", 2000))), expected)


def test_vertical_flips():
    """The resized crop upside down, byte for byte, with and without the other flip, of every kind of view."""
    rng = np.random.default_rng(5)
    image = photo(rng, 150, 200)
    placed = center_view(0.8)
    placed["flags"] |= PLACED
    placed["crop_x"], placed["crop_y"], placed["pad"] = 9000, 60000, 3000
    views = [cropped(20, 30, 120, 77, 200, 150), cropped(0, 0, 3, 2, 200, 150), center_view(0.875), placed]
    for view, size in itertools.product(views, [(64, 64), (7, 33), (1, 1)]):
        plain = render(image, view, size)
        for flags, expected in ((VERTICAL_FLIP, plain[::-1]), (VERTICAL_FLIP | FLIP, plain[::-1, ::-1])):
            flipped = view.copy()
            flipped["flags"] |= np.uint8(flags)
            assert np.array_equal(render(image, flipped, size), expected)
    assert views[2]["flags"] == CENTER
    flipped = views[0].copy()
    flipped["flags"] |= VERTICAL_FLIP
    flipped["op0"], flipped["level0"] = OP_NUMBER["ShearX"], 9  # after the flip
    expected = oracle.apply(render(image, views[0], (64, 64))[::-1], "ShearX", 9, 31)
    assert np.array_equal(render(image, flipped, (64, 64)), expected)


BAD = [
    [(8, 0)], [(65535, 0)], [(0, 1)], [(0, 0), (1, 8192)], [(5, 0), (0, 0), (0, 0), (7, 128)], [(1, -1)], [(2, -32768)],
    [(3, -5)], [(4, -32768)], [(5, 1)], [(6, 0)], [(6, -1)], [(7, 256)], [(7, -1)], [(5, 0)] * 7 + [(9, 0)],
]  # fmt: skip
GOOD = [
    [], [(1, 0), (1, 32767)], [(4, -32767), (4, 32767)], [(5, 0)] * 8, [(6, 1), (6, 32767), (7, 0), (7, 255)],
]  # fmt: skip


def test_bad_effects_are_refused():
    for effects, status in [(bad, check.BAD_EFFECT) for bad in BAD] + [(good, OK) for good in GOOD]:
        effects_ = blank_effects(1)[0, 0]
        for place, effect in enumerate(effects):
            effects_[place] = effect
        assert check_effects(effects_) == status, effects
        if status == OK:
            render(PHOTO, plain_view(), 20, effects_)
        else:
            with pytest.raises(ValueError, match="effect's number"):
                render(PHOTO, plain_view(), 20, effects_)
    assert check.BAD_EFFECT in STATUS_TEXT
    with pytest.raises(ValueError, match="effects: 8 of"):
        render(PHOTO, plain_view(), 20, np.zeros(7, EFFECT_DTYPE))


def test_bytes_are_the_same_as_ever():
    """Effects on file must mean the same in every version and on every processor."""
    y, x = np.mgrid[:120, :150]
    image = np.stack([x * y // 70 % 256, (3 * x + 2 * y) % 256, (x - 60) ** 2 // 40 + y], axis=2).astype(np.uint8)
    rng, digest = np.random.default_rng(3), hashlib.sha256()
    for _ in range(40):
        chain = [(name, random_value(rng, name)) for name in rng.choice(EFFECTS[1:], rng.integers(1, 9))]
        digest.update(render(image, cropped(5, 9, 100, 90, 150, 120, flags=VERTICAL_FLIP), (96, 112), row(*chain)))
    assert digest.hexdigest()[:16] == "7d119389b595a0b6"


def test_no_effects_are_no_change():
    view = plain_view()
    view["crop_w"] = FRACTION // 2
    assert np.array_equal(render(PHOTO, view, 96, blank_effects(1)[0, 0]), render(PHOTO, view, 96))
