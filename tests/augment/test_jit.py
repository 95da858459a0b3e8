"""Kernels are compiled as promised: no fused or reassociated arithmetic, no lock, no stale machine code."""

import numpy as np
import pytest

from ffdr.augment.jit import kernel
from ffdr.augment.pick import pick_view
from ffdr.augment.simd import fused, nearest


@kernel
def _product_and_sum(a, b, c):
    return a * b + c


@kernel
def _fused(a, b, c):
    return fused(a, b, c)


@kernel
def _nearest(value):
    return nearest(value)


def test_products_are_rounded_before_sums():
    a, c = np.float32(1 + 2**-12), np.float32(-1 - 2**-11)
    assert _product_and_sum(a, a, c) == 0
    assert _fused(a, a, c) == 2.0**-24


@pytest.mark.parametrize(("value", "whole"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (2.4999, 2), (7, 7)])
def test_halves_go_to_even(value, whole):
    assert _nearest(np.float32(value)) == whole


def test_the_disk_cache_knows_the_whole_package():
    """Numba itself looks only at a function's own file; a private name of Numba's mends that, if it is still there."""
    stamps = {function._cache._cache_file._source_stamp[0] for function in (pick_view, _fused)}
    assert len(stamps) == 1
    assert pick_view._cache._cache_file._source_stamp != _fused._cache._cache_file._source_stamp


def test_kernels_run_without_the_interpreter_lock():
    assert pick_view.targetoptions["nogil"]
    assert not pick_view.targetoptions["fastmath"]
