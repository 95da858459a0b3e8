"""Reads many epochs of a beton and tells if memory or threads grow; test_loader_threads.py runs it: leaks.py BETON."""

import os
import sys
import threading
from pathlib import Path

import torch
from betons import PLAIN

from ffdr import ReinforcedLoader


def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tasks():
    return len(os.listdir("/proc/self/task"))


def epochs(loader, count):
    for number in range(count):
        for _ in loader:
            if number % 2:
                break


options = {"policy": PLAIN, "dtype": torch.uint8, "workers": 1, "reuse_buffers": True}
for count, os_cache in ((1000, True), (200, False)):
    small = ReinforcedLoader(sys.argv[1], batch_size=25, resolution=4, os_cache=os_cache, **options)
    epochs(small, 60)
    before, running = rss(), (tasks(), threading.active_count())
    epochs(small, count)
    print("grown by", (rss() - before) >> 10, "KiB; tasks and threads", running, (tasks(), threading.active_count()))
    assert rss() - before < 4 << 20
    assert threading.active_count() == running[1]
    assert tasks() <= running[0] + 4  # the threading layer keeps a few of its own

before = rss()
large = ReinforcedLoader(sys.argv[1], batch_size=100, resolution=320, **options)
list(large)
for part in large._stream.buffers:
    part.fill(0)  # an epoch of one batch has only touched one slot
used = rss() - before
print("uses", used >> 20, "MiB of the stated", large.memory_bytes >> 20)
assert 0.95 < used / large.memory_bytes < 1.2
left = iter(small)
next(left)  # a pass that is under way when the process ends
