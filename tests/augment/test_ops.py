"""Every operation equals torchvision's uint8 tensor operation, bit by bit, at every level, sign and shape tried."""

import numpy as np
import oracle
import pytest
import torch
from pictures import noise, photo

from ffdr.augment.ops.apply import augment
from ffdr.augment.ops.magnitude import OpStep, magnitude
from ffdr.augment.view import OP_NUMBER, OPS

RNG = np.random.default_rng(7)
SIGNED = OPS[1:10]
PHOTO = photo(RNG, 224, 224)
SMALL = {
    "1x1": noise(RNG, 1, 1),
    "2x5": noise(RNG, 2, 5),
    "9x9": noise(RNG, 9, 9),
    "32x32": noise(RNG, 32, 32),
    "31x67": photo(RNG, 31, 67),
    "97x97": photo(RNG, 97, 97),
    "flat": np.full((16, 12, 3), (0, 128, 255), np.uint8),
    "two levels": np.where(noise(RNG, 24, 40) < 128, 10, 200).astype(np.uint8),
    "ends": np.where(noise(RNG, 24, 40) < 128, 0, 255).astype(np.uint8),
}


def levels(op, bins):
    return range(-(bins - 1) if op in SIGNED else 0, bins)


def needs_fused_torch():
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX"):
        pytest.skip("torch without fused multiply-add rounds its own magnitudes differently")


@pytest.mark.parametrize("op", OPS)
def test_equal_on_a_photograph(op):
    needs_fused_torch()
    for level in levels(op, 31)[:: 1 if op in ("ShearX", "ShearY", "Solarize", "Posterize") else 3]:
        assert np.array_equal(augment(PHOTO, op, level), oracle.apply(PHOTO, op, level, 31)), level


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", SMALL)
def test_equal_on_small_and_odd_images(op, name):
    needs_fused_torch()
    image = SMALL[name]
    for wide in (False, True):
        for level in list(levels(op, 31))[:: 5 if wide else 3]:
            expected = oracle.apply(image, op, level, 31, wide)
            assert np.array_equal(augment(image, op, level, wide=wide), expected), (level, wide)


@pytest.mark.parametrize("wide", [False, True])
def test_magnitudes_are_torchvisions_for_any_number_of_bins(wide):
    needs_fused_torch()
    for bins in (*range(2, 40), 64, 101, 126, 127):
        for op in OPS:
            for level in {0, 1, bins // 3, bins // 2, bins - 2, bins - 1, 1 - bins}:
                if abs(level) < bins and (level >= 0 or op in SIGNED):
                    expected = oracle.magnitude(op, level, bins, wide, 96, 225)
                    assert magnitude(OpStep(OP_NUMBER[op], level, bins, wide), 96, 225) == expected, (op, level, bins)


@pytest.mark.parametrize("op", ["Posterize", "Solarize", "AutoContrast", "Equalize"])
def test_unsigned_operations_ignore_the_sign(op):
    assert np.array_equal(augment(PHOTO, op, -9), augment(PHOTO, op, 9))


def torch_fuses():
    """Whether this processor's matrix product rounds each multiply-add once."""
    a, b = torch.tensor([[[1 / 3, 1.0]]]), torch.tensor([[[3.0], [-1.0]]])
    wide = torch.cat([a.flip(-1)] * 64, dim=1)
    return bool((torch.bmm(wide, b.flip(1)) != 0).any())


@pytest.mark.parametrize("op", ["ShearX", "ShearY", "Rotate"])
def test_unpinned_torchvision_agrees(op):
    """Without pinning: equal where torch's matrix product is fused, else all but a few half-way points."""
    needs_fused_torch()
    fused = torch_fuses()
    for level in range(-30, 31, 4):
        expected = oracle.apply(PHOTO, op, level, 31, pinned=False)
        wrong = (augment(PHOTO, op, level) != expected).any(axis=2).mean()
        assert wrong == 0 if fused else wrong < 0.005, level


def test_contrast_beyond_float32_sums():
    """Above 2**24 torch's own mean depends on its threads; one level at a few pixels is all that may differ."""
    bright = np.full((400, 400, 3), 250, np.uint8)
    bright[::3] = 13
    got = augment(bright, "Contrast", 17).astype(int)
    difference = np.abs(got - oracle.apply(bright, "Contrast", 17, 31))
    assert difference.max() <= 1


def test_arguments_are_checked():
    for bad in ({"op": "Invert"}, {"op": "Rotate", "level": 31}, {"op": "Rotate", "bins": 1}):
        with pytest.raises(ValueError, match="no operation"):
            augment(PHOTO, **bad)
    with pytest.raises(ValueError, match="uint8"):
        augment(PHOTO.astype(np.float32), "Rotate")
