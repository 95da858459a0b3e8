"""Vector code of the resize: it filters a row of pixels as plain sums do."""

import numpy as np
import pytest

from ffdr.jit.kernel import address_of, kernel
from ffdr.jit.simd import GROUP, blend_columns, blend_four_columns

RNG = np.random.default_rng(8)
BEFORE = 2
"""int16 before the row, which may be read."""
PLACES = ([0, 4, 1, 5, 2, 6, 3, 7], list(range(GROUP)))
"""In which order weights of outputs lie: for ``blend_columns``, for ``blend_four_columns``."""


@kernel
def _blend(out, row, starts, weights, pairs):
    blend_columns(address_of(out), address_of(row) + np.uint64(4), address_of(starts), address_of(weights), pairs)


@kernel
def _blend_four(out, row, starts, weights):
    blend_four_columns(address_of(out), address_of(row) + np.uint64(4), address_of(starts), address_of(weights))


@pytest.fixture(params=[1, 2, 3])
def filters(request):
    """A row of 60 pixels in units of 1/128, the first pixel of each output and its weights; black and white among the
    pixels."""
    pixels = RNG.integers(0, 255 * 128 + 1, (60, 3))
    pixels[RNG.random(60) < 0.2] = 0
    pixels[RNG.random(60) < 0.2] = 255 * 128
    weights = RNG.dirichlet(np.ones(2 * request.param), GROUP)
    edges = np.rint(np.cumsum(weights, axis=1) * 16384).astype(int)
    return pixels, RNG.integers(0, 50, GROUP), np.diff(edges, axis=1, prepend=0)


def expected(pixels, starts, weights):
    windows = [pixels[start : start + weights.shape[1]] for start in starts]
    sums = [(weight[:, None] * window).sum(axis=0) for weight, window in zip(weights, windows, strict=True)]
    return ((np.array(sums) + (1 << 20)) >> 21).astype(np.uint8).ravel()


def arguments(pixels, starts, weights, four):
    noise = RNG.integers(-32768, 32768, (2, 8))
    row = np.concatenate([noise[0, :BEFORE], pixels.ravel(), noise[1]]).astype(np.int16)
    pairs = np.repeat(weights.reshape(GROUP, -1, 1, 2), 4, axis=2)[PLACES[four]]
    laid_out = pairs if four else pairs.transpose(1, 0, 2, 3)
    return row, (6 * starts).astype(np.int32), laid_out.astype(np.int16).ravel()


def test_columns_are_weighted_sums(filters):
    out = np.full(40, 77, np.uint8)
    _blend(out, *arguments(*filters, four=False), filters[2].shape[1] // 2)
    assert out[:24].tolist() == expected(*filters).tolist()
    assert (out[28:] == 77).all()


@pytest.mark.parametrize("filters", [2], indirect=True)
def test_columns_of_four_taps_are_weighted_sums(filters):
    out = np.full(40, 77, np.uint8)
    _blend_four(out, *arguments(*filters, four=True))
    assert out[:24].tolist() == expected(*filters).tolist()
    assert (out[28:] == 77).all()
