"""Compiled kernels on the disk: what two processes keep at the same time, and what earlier sources left."""

import pytest
from numba.core.caching import IndexDataCacheFile

from ffdr.jit.cache import KernelFile


@pytest.mark.parametrize("kind", [KernelFile, IndexDataCacheFile])
def test_two_processes_that_compile_at_once_keep_their_own(tmp_path, monkeypatch, kind):
    """Both look at the index before either has written: Numba's own files then hand out the other's machine code."""
    one, two = kind(str(tmp_path), "f", "sources"), kind(str(tmp_path), "f", "sources")
    with monkeypatch.context() as patched:
        patched.setattr(kind, "_load_index", lambda self: {})
        one.save("int64", "code for int64")
        two.save("uint8", "code for uint8")
    found = [one.load("int64"), two.load("uint8"), kind(str(tmp_path), "f", "sources").load("uint8")]
    if kind is KernelFile:
        assert found == ["code for int64", "code for uint8", "code for uint8"]
    else:
        with monkeypatch.context() as patched:
            patched.setattr(kind, "_load_index", lambda self: {"int64": "f.1.nbc"})
            assert one.load("int64") == "code for uint8"  # the fault that KernelFile mends


def test_what_earlier_sources_left_is_neither_run_nor_kept(tmp_path):
    old, new, other = (KernelFile(str(tmp_path), *of) for of in (("f", "old"), ("f", "new"), ("g", "old")))
    old.save("int64", "old")
    other.save("int64", "another function's")
    assert new.load("int64") is None
    new.save("int64", "new")
    assert (new.load("int64"), other.load("int64"), old.load("int64")) == ("new", "another function's", None)


def test_an_index_that_earlier_versions_kept_does_not_matter(tmp_path):
    """It names the types of arguments, and records that kernels took may be called something else by now."""
    (tmp_path / "f.nbi").write_bytes(b"cannot be unpickled")
    file = KernelFile(str(tmp_path), "f", "sources")
    file.save("int64", "code")
    assert file.load("int64") == "code"
