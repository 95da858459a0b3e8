"""Forks this process after its loader and dataset were used; test_dataset.py runs it: forks.py IMAGES REINFORCED.

Prints what each did in the fork.
"""

import os
import signal
import sys
from contextlib import suppress

import numba
import torch

from ffdr import ReinforcedDataset, ReinforcedLoader

given = {"batch_size": 8, "resolution": 32, "dtype": torch.uint8, "workers": 1}
dataset, loader = ReinforcedDataset(*sys.argv[1:3]), ReinforcedLoader(*sys.argv[1:3], **given)
want = [dataset.view(i, k, 32)[0] for i in range(9) for k in range(2)]
want_items = {(epoch, i): dataset[epoch, i]["pixel_values"] for epoch in range(2) for i in range(9)}
batches = iter(loader)
next(batches)


def in_fork(name, work):
    """Print what ``work`` returns, or what it raises, in a fork of this process."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        said = "died"
        with suppress(BaseException):
            try:
                said = work()
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
        print(name, said, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(name, "status", status)


views = lambda: sum((dataset.view(i, k, 32)[0] != want[2 * i + k]).any() for i in range(9) for k in range(2))  # noqa: E731
in_fork("wrong views:", views)
in_fork("wrong items:", lambda: sum(not dataset[key]["pixel_values"].equal(x) for key, x in want_items.items()))
in_fork("next:", lambda: next(batches)[0].shape)
in_fork("iter:", lambda: len(list(loader)))
in_fork("set_resolution:", lambda: loader.set_resolution(48))
in_fork("close:", loader.close)
in_fork("del:", batches.close)
in_fork("new:", lambda: len(list(ReinforcedLoader(*sys.argv[1:3], **given))))
print("here:", 1 + sum(1 for _ in batches), numba.threading_layer())
sys.stdout.flush()
os._exit(0)  # on one core TBB's own threads, which it could not join before a fork, may keep a process from ending
