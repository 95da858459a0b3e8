"""Reads two loaders at once with whatever pool of threads Numba has; test_loader_threads.py runs it: IMAGES VIEWS."""

import sys

import numba
import torch

from ffdr import ReinforcedLoader

given = {"batch_size": 8, "resolution": 32, "dtype": torch.uint8, "workers": 2}
pair = [ReinforcedLoader(*sys.argv[1:3], seed=seed, **given) for seed in (1, 2)]
for _ in range(20):
    assert sum(1 for _ in zip(*pair, strict=True)) == 12
print(numba.threading_layer())
