"""Kernels are compiled as promised: no fused or reassociated arithmetic, no lock, no stale machine code."""

import os
import tempfile
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching

from ffdr.augment.pick import pick_views
from ffdr.jit.instructions import fused
from ffdr.jit.kernel import kernel
from ffdr.util.errors import UserError


def _sum(a, b):
    return a + b


@kernel
def _product_and_sum(a, b, c):
    return a * b + c


@kernel
def _fused(a, b, c):
    return fused(a, b, c)


def test_products_are_rounded_before_sums():
    a, c = np.float32(1 + 2**-12), np.float32(-1 - 2**-11)
    assert _product_and_sum(a, a, c) == 0
    assert _fused(a, a, c) == 2.0**-24


def test_the_disk_cache_knows_the_whole_package():
    """Numba itself looks only at a function's own file; a private name of Numba's mends that, if it is still there."""
    stamps = {function._cache._cache_file._source_stamp[0] for function in (pick_views.kernel, _fused)}
    assert len(stamps) == 1
    assert pick_views.kernel._cache._cache_file._source_stamp != _fused._cache._cache_file._source_stamp


def test_kernels_run_without_the_interpreter_lock():
    assert pick_views.kernel.targetoptions["nogil"]
    assert not pick_views.kernel.targetoptions["fastmath"]


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Neither the package's folder nor the home folder can be written to; returns the temporary one."""
    real = caching._CacheLocator.ensure_cache_path

    def ensure_cache_path(locator):
        if not Path(locator.get_cache_path()).is_relative_to(tmp_path):
            raise PermissionError(locator.get_cache_path())
        real(locator)

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", ensure_cache_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_read_only_installation_keeps_kernels_in_a_private_folder(nowhere):
    add = kernel(_sum)
    assert add(1, 2) == 3
    (folder,) = nowhere.iterdir()
    assert folder.name == f"ffdr-kernels-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.rglob("*.nbc"))
    again = kernel(_sum)
    assert again(1, 2) == 3 and again.stats.cache_hits


@pytest.mark.parametrize("squatter", ["file", "open folder", "link"])
def test_a_folder_that_others_could_write_to_is_not_used(nowhere, squatter):
    """What lies there would be run."""
    folder = nowhere / f"ffdr-kernels-{os.getuid()}"
    if squatter == "file":
        folder.touch()
    elif squatter == "link":
        (nowhere / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(nowhere / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(UserError, match=r"^NUMBA_CACHE_DIR: compiled code can be kept neither beside ffdr, nor .*own"):
        kernel(_sum)
