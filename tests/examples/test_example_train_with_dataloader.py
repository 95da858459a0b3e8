"""docs/examples/train_with_dataloader.py shows the loader's views in another order, from workers that persist."""

import numpy as np
from examples import loader_views, number, run_example, sorted_views


def test_its_workers_show_the_views_of_each_epoch(files, tmp_path):
    seen = tmp_path / "seen.npy"
    options = ("--model=test_efficientnet", "--resolution=32", "--lr=0.01", "--batch-size=25", "--seed=5", "--epochs=8")
    output = run_example("train_with_dataloader", *files, *options, "--workers=2", watch=seen)
    assert number(output, "accuracy") > 0.6
    shown = np.load(seen).reshape(8, 300, 3, 32, 32)
    for epoch in (0, 1, 7):
        assert sorted_views(shown[epoch]) == sorted_views(loader_views(files, epoch, batch_size=25, seed=5))
