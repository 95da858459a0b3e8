"""Threads, pages, memory and ranks of the loader: nothing leaks or hangs, and other reading gives the same bytes."""

import gc
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN
from bounded import bounded
from numba.core import event

from ffdr import ReinforcedLoader
from ffdr.beton import layout
from ffdr.config.files import WriteOptions
from ffdr.loader import order, pages, stream
from ffdr.loader.replay.status import ReplayError
from ffdr.util.errors import UserError
from ffdr.write.images import write_images

PAGE_BYTES = 1 << 14
U8 = {"dtype": torch.uint8, "batch_size": 8, "resolution": 24, "workers": 1}


def snapshot(batch):
    pixels, targets, index = batch
    return [part.numpy().copy() for part in (pixels, targets.ids, targets.log_probs, targets.label, index)]


def same(some, others):
    return len(some) == len(others) and all(
        all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        for one, other in zip(some, others, strict=True)
    )


@pytest.fixture(scope="module")
def paged(folder):
    """100 digits, 32×32, raw, on small pages: 5 images each."""
    out = folder / "paged.beton"
    defaults = layout.Allocator.__init__.__defaults__
    layout.Allocator.__init__.__defaults__ = (PAGE_BYTES,)
    try:
        write_images(WriteOptions(source="digits", out=str(out), mode="raw", per_class=10, workers=1), progress=False)
    finally:
        layout.Allocator.__init__.__defaults__ = defaults
    return out


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(order, "BUFFER_PAGES", 4)


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def mapped_bytes(path):
    """Resident bytes of this process's maps of a file."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


@pytest.mark.parametrize("kind", order.ORDERS)
def test_own_pages_give_the_same_bytes(paged, reinforce, monkeypatch, kind):
    sources = {"random": {"policy": PLAIN}, "sequential": {}, "quasi_random": {"reinforced": reinforce(paged, PLAIN)}}
    options = {**U8, "order": kind, "drop_last": False, "seed": 3, **sources[kind]}
    read, real = [], pages.PagePlan._read

    def read_page(self, page, slot):
        read.append(page)
        real(self, page, slot)

    monkeypatch.setattr(pages.PagePlan, "_read", read_page)
    gc.collect()
    own = ReinforcedLoader(paged, os_cache=False, **options)
    the_map = own.images.memmap
    while not isinstance(the_map, mmap.mmap):
        the_map = the_map.base
    the_map.madvise(mmap.MADV_DONTNEED)
    untouched = mapped_bytes(paged)
    epochs = [[snapshot(batch) for batch in own] for _ in range(2)]
    assert mapped_bytes(paged) <= untouched  # no image was read through the memory map
    mapped = ReinforcedLoader(paged, **options)
    assert epochs[0][0][0].std() > 10
    assert same(epochs[0], [snapshot(batch) for batch in mapped])
    assert mapped_bytes(paged) > untouched
    assert same(epochs[1], [snapshot(batch) for batch in mapped])
    assert len(read) == 2 * len(set(read))  # every page once an epoch
    read.clear()
    own.load_state_dict({**own.state_dict(), "epoch": 1, "batch": 11})
    assert same([snapshot(batch) for batch in own], epochs[1][11:])
    needed = np.unique(own.images.data_ptr[np.concatenate([batch[4] for batch in epochs[1][11:]])] // PAGE_BYTES)
    assert sorted(read) == needed.tolist()


def test_quasi_random_holds_few_pages(paged):
    held = {}
    for kind in ("random", "quasi_random"):
        loader = ReinforcedLoader(paged, order=kind, policy=PLAIN, os_cache=False, **{**U8, "batch_size": 4})
        next(iter(loader))
        held[kind] = loader._stream.pages.memory_bytes
    assert held["quasi_random"] <= 10 * PAGE_BYTES  # 4 in use, and those of the batches ahead
    assert held["random"] >= 18 * PAGE_BYTES


def test_own_pages_are_refused_where_they_do_not_do(paged, reinforce, monkeypatch):
    for source in ({"policy": MIXING}, {"reinforced": reinforce(paged, MIXING)}):
        with pytest.raises(UserError, match="os_cache=False: a partner's page"):
            ReinforcedLoader(paged, os_cache=False, **source, **U8)
    loader = ReinforcedLoader(paged, os_cache=False, **U8)
    monkeypatch.setattr(os, "sysconf", lambda name: 16)  # a machine with 256 bytes
    with pytest.raises(UserError, match=r"os_cache=False: 0 MiB of pages.*quasi_random"):
        next(iter(loader))


@pytest.mark.parametrize("fault", ["short", "error"])
def test_a_page_that_cannot_be_read_is_an_error_and_no_hang(paged, folder, monkeypatch, fault):
    broken = folder / "short.beton"
    shutil.copy(paged, broken)
    shutil.copy(paged.with_suffix(".json"), broken.with_suffix(".json"))
    loader = ReinforcedLoader(broken, os_cache=False, **U8)
    if fault == "short":
        os.truncate(broken, 10 * PAGE_BYTES)
    else:
        monkeypatch.setattr(os, "preadv", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    text = "was cut from|page 10 .* shorter" if fault == "short" else "Input/output error"
    with bounded(2), pytest.raises(UserError, match=text):
        list(loader)
    assert wait_until(lambda: not any(t.name.startswith("ffdr-pages") for t in threading.enumerate()))


def test_an_error_comes_at_once_and_the_loader_goes_on(photos, folder):
    broken = folder / "broken17.beton"
    shutil.copy(photos, broken)
    shutil.copy(photos.with_suffix(".json"), broken.with_suffix(".json"))
    loader = ReinforcedLoader(broken, **U8)
    good = [snapshot(batch) for batch in loader]
    at = int(loader.images.data_ptr[17]) + 300
    original = broken.read_bytes()[at : at + 2000]
    with open(broken, "r+b") as file:
        file.seek(at)
        file.write(bytes(2000))
    for _ in range(2):
        loader.set_epoch(0)
        with bounded(2), pytest.raises(ReplayError, match="sample 17: the JPEG is corrupt"):
            list(loader)
    with open(broken, "r+b") as file:
        file.seek(at)
        file.write(original)
    loader.set_epoch(0)
    assert same([snapshot(batch) for batch in loader], good)


def test_a_newer_pass_ends_the_older_one(paged):
    loader = ReinforcedLoader(paged, policy=PLAIN, **U8)
    loader.set_epoch(1)
    expected = [snapshot(batch) for batch in loader]
    older, newer = iter(loader), iter(loader)
    next(older)
    loader.set_epoch(1)
    first = snapshot(next(newer))
    with pytest.raises(RuntimeError, match="ended by a newer one"):
        next(older)
    with pytest.raises(StopIteration):
        next(older)
    assert same([first, *map(snapshot, newer)], expected)
    assert loader.state_dict()["epoch"] == 2
    older = iter(loader)
    next(older)
    loader.close()
    assert list(older) == []


def test_a_waiting_consumer_is_told(paged, monkeypatch):
    """The older consumer waits for a batch, in a thread of its own, when the newer begins."""
    loader = ReinforcedLoader(paged, **U8)
    slow, real = threading.Event(), stream.BetonLoader.make
    monkeypatch.setattr(stream.BetonLoader, "make", lambda *a: slow.wait(5) and real(*a))
    caught = []

    def consume():
        try:
            list(loader)
        except RuntimeError as error:
            caught.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert wait_until(lambda: loader._stream._pass is not None)
    threading.Timer(0.1, slow.set).start()
    assert len(list(loader)) == len(loader)
    consumer.join(5)
    assert not consumer.is_alive()
    assert len(caught) == 1


def test_a_consumer_that_dies_leaves_no_thread(paged, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # pytest's keeps the traceback, and so the frames
    loader = ReinforcedLoader(paged, policy=PLAIN, **U8)
    list(loader)
    before = threading.active_count()

    def die():
        batches = [iter(loader)]
        batches.append(batches)  # a cycle: only the garbage collector finds it
        next(batches[0])
        raise ValueError

    consumer = threading.Thread(target=die)
    consumer.start()
    consumer.join()
    del consumer
    gc.collect()
    assert wait_until(lambda: threading.active_count() <= before)
    assert len(list(loader)) == len(loader)


def test_the_collector_may_run_in_the_producer(paged, monkeypatch):
    """An iterator that is collected there can't wait for its own thread; the next pass does."""
    loader = ReinforcedLoader(paged, policy=PLAIN, **U8)
    expected = [snapshot(batch) for batch in loader]
    closed = threading.Event()
    real = stream.Pass._put

    def put(self, item):
        if not closed.is_set():
            self.close()
            closed.set()
            time.sleep(0.1)
        return real(self, item)

    monkeypatch.setattr(stream.Pass, "_put", put)
    loader.set_epoch(0)

    def abandon():
        with suppress(RuntimeError, StopIteration):
            next(iter(loader))

    abandoned = threading.Thread(target=abandon, daemon=True)
    abandoned.start()
    assert closed.wait(5)
    loader.set_epoch(0)
    assert same([snapshot(batch) for batch in loader], expected)


def test_a_slot_is_not_written_while_the_device_reads_it(paged, monkeypatch):
    """With a device that lags behind, the producer must wait before it reuses a buffer."""
    device_done = threading.Event()

    class Pending:
        def record_event(self):
            return self

        def synchronize(self):
            device_done.wait(10)

    for name in ("set_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Pending())
    loader = ReinforcedLoader(paged, policy=PLAIN, **U8)
    current = loader._stream.begin(0, device=torch.device("cuda", 0))
    held = [current.take(lambda batch: batch[0]) for _ in range(2)]
    first = held[0].copy()
    time.sleep(0.2)
    assert np.array_equal(held[0], first)
    device_done.set()
    while current.take(lambda batch: batch[0]) is not None:
        pass
    assert not np.array_equal(held[0], first)


def test_another_resolution_compiles_nothing(paged):
    loader = ReinforcedLoader(paged, policy=PLAIN, seed=2, **U8)
    list(loader)
    with event.install_recorder("numba:compile") as compiled:
        loader.set_resolution(40)
        got = [snapshot(batch) for batch in loader]
        loader.set_resolution(24)
        again = snapshot(next(iter(loader)))
    assert len(compiled.buffer) == 0
    fresh = ReinforcedLoader(paged, policy=PLAIN, seed=2, **{**U8, "resolution": 40})
    fresh.set_epoch(1)
    assert same(got, [snapshot(batch) for batch in fresh])
    fresh.set_resolution(24)
    assert same([again], [snapshot(next(iter(fresh)))])
    with pytest.raises(UserError, match="resolution: 0"):
        loader.set_resolution(0)


def test_ranks_of_real_loaders_share_a_global_batch(paged):
    """The union of the ranks' batches is the single process's; so is the state, whoever saved it."""
    options = {"policy": MIXING, "seed": 4, "order": "quasi_random"}
    single = ReinforcedLoader(paged, **options, **U8)
    whole = [snapshot(batch) for batch in single]
    ranks = [ReinforcedLoader(paged, rank=r, world_size=2, **options, **{**U8, "batch_size": 4}) for r in range(2)]
    parts = [[snapshot(batch) for batch in rank] for rank in ranks]
    joined = [[np.concatenate(pair) for pair in zip(a, b, strict=True)] for a, b in zip(*parts, strict=True)]
    assert same(joined, whole)
    single.set_epoch(0)
    for number, _ in enumerate(single):
        if number == 4:
            break
    state = single.state_dict()
    assert state["global_batch_size"] == 8
    ranks[1].load_state_dict(state)
    assert ranks[1].state_dict() == state
    assert same([snapshot(batch) for batch in ranks[1]], parts[1][5:])
    with pytest.raises(UserError, match="global_batch_size was 8, but this loader's is 16"):
        ReinforcedLoader(paged, rank=0, world_size=2, **options, **U8).load_state_dict(state)


def test_a_rank_without_a_part_of_the_last_batch_ends_its_epoch_too(paged):
    """Evaluation of 100 images in global batches of 99: one rank shows the last image, the other none."""
    options = {**U8, "batch_size": 33, "world_size": 3}
    ranks = [ReinforcedLoader(paged, rank=r, **options) for r in range(3)]
    shown = [[batch[2].tolist() for batch in rank] for rank in ranks]
    assert sorted(len(batches) for batches in shown) == [1, 1, 2]
    assert sorted(i for batches in shown for batch in batches for i in batch) == list(range(100))
    assert all(rank.state_dict() == ranks[0].state_dict() for rank in ranks)
    assert ranks[0].state_dict()["epoch"] == 1


def test_memory_is_what_the_formula_says(paged):
    loader = ReinforcedLoader(paged, policy=MIXING, batches_ahead=2, **U8)
    scratch = loader._stream.replayer.memory_bytes
    assert scratch > 3 * 24 * 24
    assert loader.memory_bytes == 4 * 8 * (3 * 24 * 24 + 8 * 2 + 20) + scratch
    before = loader.memory_bytes
    loader.set_resolution(48)
    grown = loader.memory_bytes - before
    assert grown >= 4 * 8 * 3 * (48 * 48 - 24 * 24)


def test_a_thousand_epochs_leak_nothing(paged):
    """Half of them broken off; then the memory of a large loader; then the process ends in the middle of a pass."""
    command = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "leaks.py"), str(paged)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    print(done.stdout)


def test_two_loaders_are_read_at_once_by_numbas_own_threads(digits, reinforced_digits):
    """Which end the process when two Python threads use them; machines without OpenMP or TBB have no others."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("takes two cores")
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "helpers" / "two_loaders.py"),
        str(digits),
        str(reinforced_digits),
    ]
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.strip()) == (0, "workqueue"), done.stderr
