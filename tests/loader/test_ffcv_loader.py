"""FFCV's pipeline behind its adapter: it makes the batches, and costs nothing per loader."""

import gc
import tracemalloc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from betons import PLAIN
from ffcv.loader import Loader
from ffcv.pipeline.compiler import Compiler

from ffdr import ReinforcedLoader
from ffdr.loader.ffcv_loader import BetonLoader, Replay
from ffdr.loader.order import EpochOrder, OrderSettings, Place
from ffdr.loader.pages import PageCache

U8 = {"dtype": torch.uint8, "batch_size": 8, "resolution": 24, "workers": 1}


def refuse(*_, **__):
    raise AssertionError("FFCV was asked to do what is fenced off")


@pytest.mark.parametrize("os_cache", [True, False])
def test_batches_are_made_by_ffcvs_pipeline(digits, monkeypatch, os_cache):
    """By its graph's code; without its compiler, its numbers of threads or NumPy's global generator."""
    for name in ("compile", "set_num_threads"):
        monkeypatch.setattr(Compiler, name, refuse)
    before = np.random.get_state()[1:3]
    loader = ReinforcedLoader(digits, policy=PLAIN, os_cache=os_cache, **U8)
    inner = loader._stream.loader
    assert isinstance(inner, Loader)
    stages, results = inner.code
    seen = []

    def noted(**arguments):
        seen.append(arguments["batch_indices"].tolist())
        return stages[1][0](**arguments)

    inner.code = ([stages[0], (noted, stages[1][1])], results)
    assert [index.tolist() for _, _, index in loader] == seen
    assert len(seen) == len(loader)
    after = np.random.get_state()[1:3]
    assert np.array_equal(before[0], after[0]) and before[1] == after[1]


def test_a_closed_loader_is_freed_at_once(digits):
    """Its scratch memory and buffers don't wait for the garbage collector."""
    loader = ReinforcedLoader(digits, policy=PLAIN, **U8)
    list(loader)
    held = weakref.ref(loader._stream.replayer), weakref.ref(loader._stream.buffers[0])
    gc.collect()
    gc.disable()
    try:
        loader.close()
        del loader
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()


def test_buffers_of_another_size_are_freed_before_new_ones_are_made(digits):
    """On a GPU they are pinned, and a host near its limit has no room for both."""
    loader = ReinforcedLoader(digits, policy=PLAIN, **U8)
    list(loader)
    held = weakref.ref(loader._stream.buffers[0])
    loader.set_resolution(U8["resolution"] + 8)
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("os_cache", [True, False])
def test_a_file_as_large_as_imagenet_takes_no_tables(os_cache):
    """A loader of 1.28 million images makes nothing per image but, for its own pages, the page of each."""
    count = 1_280_000
    at = np.arange(count, dtype=np.uint64) * np.uint64(1 << 17)
    images = SimpleNamespace(
        path="large.beton",
        num_images=count,
        page_size=1 << 23,
        data_ptr=at,
        data_size=np.full(count, 100_000, np.uint64),
        file=SimpleNamespace(size=1 << 38),
        memmap=np.zeros(8, np.uint8),
    )
    settings = OrderSettings("random", batch_size=256, drop_last=True, place=Place(rank=0, world_size=1))
    order = EpochOrder(settings, at, images.page_size)
    replay = Replay(SimpleNamespace(entries=1), SimpleNamespace(shape=(8, 8, 3)))
    tracemalloc.start()
    try:
        pages = None if os_cache else PageCache(images)
        loader = BetonLoader(images, order, replay, pages)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < (1 << 20) + (0 if os_cache else 8 * count)
    batches = loader.batches(0, 4990)
    assert [len(batch) for batch in batches] == [256] * 10
