"""One loader in many hands and many loaders in one process: threads, ranks, devices, and what each of them leaves."""

import gc
import threading
import time
import tracemalloc
from itertools import pairwise

import pytest
import torch
from betons import MIXING, PLAIN
from numba.core import event

from ffdr import ReinforcedLoader
from ffdr.config.files import TranscodeOptions
from ffdr.util.errors import UserError
from ffdr.write.copy.transcode import transcode

U8 = {"dtype": torch.uint8, "batch_size": 8, "resolution": 24, "workers": 1}


@pytest.mark.parametrize("os_cache", [True, False])
def test_threads_share_a_loader_without_a_wrong_batch(digits, reinforce, os_cache):
    """Each pass shows its epoch's batches until a newer one ends it; in the end everybody's bytes are right."""
    options = {"seed": 3, "os_cache": os_cache, **U8}
    quiet = ReinforcedLoader(digits, reinforce(digits, PLAIN), **options)
    expected = {index: pixels for epoch in range(40) for pixels, index in shown(quiet)}
    assert len(expected) == 40 * len(quiet)
    loader, wrong, refused, finished = ReinforcedLoader(digits, reinforce(digits, PLAIN), **options), [], [], []

    def passes():
        for _ in range(10):
            try:
                for pixels, index in shown(loader):
                    if expected.get(index) != pixels:
                        wrong.append(index)
                    time.sleep(0.001)
                finished.append(index)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=passes) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == [] and len(refused) + len(finished) == 40
    assert refused and all("this pass was ended by a newer one over the same loader" in text for text in refused)
    loader.set_epoch(7)
    assert all(expected[index] == pixels for pixels, index in shown(loader))
    assert loader.state_dict()["epoch"] == 8


def shown(loader):
    """(bytes of the pixels, images in order) of each batch."""
    for pixels, _, index in loader:
        yield pixels.numpy().tobytes(), tuple(index.tolist())


def test_a_pass_waits_until_the_batch_at_hand_is_read(digits, monkeypatch):
    """A newer pass may not write what the older one's consumer still copies from."""
    loader = ReinforcedLoader(digits, policy=PLAIN, **U8)
    first = next(shown(loader))
    loader.set_epoch(0)
    copying, go_on, real, got = threading.Event(), threading.Event(), loader._transfer.convert, []

    def slowly(batch):
        if not copying.is_set():
            copying.set()
            go_on.wait(5)
        return real(batch)

    monkeypatch.setattr(loader._transfer, "convert", slowly)
    older = threading.Thread(target=lambda: got.append(next(shown(loader))))
    older.start()
    assert copying.wait(5)
    newer = threading.Thread(target=lambda: list(loader))
    newer.start()
    time.sleep(0.2)
    assert newer.is_alive()
    go_on.set()
    older.join(5)
    newer.join(5)
    assert not newer.is_alive() and got == [first]


def test_a_loader_finds_its_rank_at_its_first_pass(digits, monkeypatch):
    """Built before the process group, as most scripts do it, each rank has its share, in training and evaluation."""
    group = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(group))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: group[0])
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    options = {**U8, "batch_size": 10}
    for source in ({}, {"policy": PLAIN, "seed": 2}):
        group.clear()
        ranks, counted = [ReinforcedLoader(digits, **source, **options) for _ in range(2)], None
        if not source:
            counted = ReinforcedLoader(digits, **options)
            assert (len(counted), counted.state_dict()["global_batch_size"]) == (10, 10)
        parts = []
        for rank, loader in enumerate(ranks):
            group[:] = [rank]
            loader.set_resolution(32)
            parts.append([i for _, _, index in loader for i in index.tolist()])
            assert (len(loader), loader.state_dict()["global_batch_size"]) == (5, 20)
        assert sorted(parts[0] + parts[1]) == list(range(100))
        if counted is not None:
            with pytest.raises(RuntimeError, match=r"as rank 0 of 1, but torch.distributed now has rank 1 of 2"):
                next(iter(counted))
    with pytest.raises(UserError, match="100 images do not fill one batch of 120"):
        ReinforcedLoader(digits, policy=PLAIN, **{**U8, "batch_size": 60})


def test_a_loader_finds_its_gpu_at_its_first_pass(digits, monkeypatch):
    """Nothing is made on a GPU before, where a process may still choose another."""
    places, tensor = [], torch.tensor

    def make_tensor(values, device):
        places.append(str(device))
        return tensor(values)

    monkeypatch.setattr(torch, "tensor", make_tensor)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: places.append(str(device)))
    loader = ReinforcedLoader(digits, device="cuda", **U8)
    loader.set_resolution(32)
    assert (places, loader._stream.buffers, str(loader.device)) == ([], None, "cuda")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    loader._transfer.settle()
    loader._transfer.settle()
    assert str(loader.device) == "cuda:1" and places == ["cuda:1"] * 3


@pytest.mark.parametrize("source", ["digits", "photos", "packed"])
def test_a_new_loader_compiles_nothing_and_keeps_nothing(request, folder, reinforce, source):
    """Of any kind of file, view and setting, once the kernels are there."""
    path = request.getfixturevalue("photos" if source == "packed" else source)
    if source == "packed":
        path = folder / "few.beton"
        if not path.exists():
            options = TranscodeOptions(
                file=str(request.getfixturevalue("photos")), out=str(path), mode="dct", workers=1
            )
            transcode(options, progress=False)
    views, small = reinforce(path, PLAIN), {**U8, "batch_size": 4}
    kinds = (
        {"reinforced": views},
        {"reinforced": views, "os_cache": False, "order": "quasi_random"},
        {"policy": PLAIN, "resolution": 40},
        {"policy": MIXING, "dtype": torch.float32},
        {"reinforced": views, "policy": MIXING, "reinforced_share": 0.5},
        {"batch_size": 7, "batches_ahead": 1},
    )

    def build(kind):
        loader = ReinforcedLoader(path, **{**small, **kind})
        next(iter(loader))
        loader.close()

    for kind in kinds:
        build(kind)
    gc.collect()
    tracemalloc.start()
    try:
        with event.install_recorder("numba:compile") as compiled:
            held = []
            for _ in range(4):
                for kind in kinds * 3:
                    build(kind)
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert compiled.buffer == []
    # What each loader keeps is kept in every round; a table of Python's own that grows, in one.
    kept = min(after - before for before, after in pairwise(held)) / (3 * len(kinds))
    assert kept < 2000, held  # bytes per loader
    start = time.process_time()
    for _ in range(3):
        for kind in kinds:
            ReinforcedLoader(path, **{**small, **kind})
    assert (time.process_time() - start) / (3 * len(kinds)) < 0.05


def test_batches_beyond_the_machines_memory_are_refused_and_change_nothing(digits, monkeypatch):
    options = {**U8, "batch_size": 50, "policy": PLAIN}
    loader = ReinforcedLoader(digits, **options)
    needed = loader._stream.slots * 50 * 64**2 * 3
    monkeypatch.setattr("ffdr.loader.stream.machine_memory", lambda: needed - 1)
    told = rf"{loader._stream.slots} batches of 50 views of 64×64 pixels need .* of memory, this machine has .*; take a"
    with pytest.raises(UserError, match=told):
        loader.set_resolution(64)
    assert [tuple(batch[0].shape) for batch in loader] == [(50, 3, 24, 24)] * 2
    with pytest.raises(UserError, match=told):
        ReinforcedLoader(digits, **{**options, "resolution": 64})
    # A batch never has more views than there are images.
    ReinforcedLoader(digits, **{**options, "batch_size": 10**6, "resolution": 32}, drop_last=False)
    monkeypatch.setattr("ffdr.loader.stream.machine_memory", lambda: needed)
    loader.set_resolution(64)
