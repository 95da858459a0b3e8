"""Fractions give whole pixels back exactly; helper records say what they should."""

import numpy as np
import pytest

from ffdr.augment.geometry import from_fraction, output_span, whole_pixels
from ffdr.augment.view import (
    CENTER,
    FRACTION,
    MIX_DTYPE,
    MIXED_DTYPE,
    OPS,
    VIEW_DTYPE,
    box_to_fractions,
    center_view,
    plain_view,
    share_of_first,
    to_fraction,
    unmixed,
)
from ffdr.jit.kernel import kernel


@kernel
def _read(fractions, length, out):
    for i in range(fractions.size):
        out[i] = from_fraction(fractions[i], length)


def read(fractions, length):
    out = np.empty(fractions.size)
    _read(fractions, length, out)
    return out


def test_layout_is_what_files_hold():
    assert (VIEW_DTYPE.itemsize, MIX_DTYPE.itemsize, MIXED_DTYPE.itemsize) == (24, 14, 62)
    assert len(OPS) == 14


@pytest.mark.parametrize("length", [*range(1, 300), 375, 500, 4000, 32767, 32768, 65534, 65535])
def test_whole_pixels_survive_storage(length):
    pixels = np.arange(length + 1)
    for fractions in (to_fraction(pixels, length), box_to_fractions(0, pixels, length)[1]):
        assert np.array_equal(read(fractions, length), pixels)


def test_coordinates_between_pixels_stay_between():
    fractions = np.arange(FRACTION + 1)
    exact = fractions * 500 / FRACTION
    got = read(fractions, 500)
    moved = got != exact
    assert np.abs(got - exact).max() <= 0.5 * 500 / FRACTION + 1e-9
    assert np.array_equal(got[moved], np.rint(got[moved]))
    assert moved.mean() < 0.01


def test_a_box_never_exceeds_the_whole():
    for length in (1, 2, 7, 250, 500, 65535):
        start = np.arange(0, length, max(1, length // 100))
        x, w = box_to_fractions(start, length - start, length)
        assert (x.astype(int) + w <= FRACTION).all()


@pytest.mark.parametrize("length", [1, 7, 32, 224, 65535])
def test_output_boxes_come_back_exactly(length):
    for begin in range(0, length, max(1, length // 13)):
        for size in {1, (length - begin + 1) // 2, length - begin}:
            start, extent = box_to_fractions(begin, size, length)
            assert output_span(int(start), int(extent), length) == (begin, begin + size)
    assert output_span(FRACTION, FRACTION, length) == (length, length)
    assert whole_pixels(FRACTION, length) == length


def test_helper_records():
    assert plain_view()["crop_w"] == plain_view()["crop_h"] == FRACTION
    assert center_view(0.875)["flags"] == CENTER
    assert center_view(0.875)["crop_w"] == 57343
    with pytest.raises(ValueError, match="ratio"):
        center_view(1.5)
    assert unmixed(7).item() == (7, FRACTION, 0, 0, 0, 0)


def test_share_of_first_image():
    mixes = np.array([unmixed(0), (1, FRACTION // 5, 0, 0, FRACTION, FRACTION), unmixed(1)], MIX_DTYPE)
    mixes["mixup"][2] = FRACTION // 5
    mixes["cut_w"][2] = FRACTION
    mixes["cut_h"][2] = FRACTION // 3
    assert share_of_first(mixes) == pytest.approx([1.0, 0.0, 0.2 * 2 / 3])
