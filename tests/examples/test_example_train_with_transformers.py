"""docs/examples/train_with_transformers.py: the Trainer shows the loader's views in another order, epoch by epoch."""

import numpy as np
from examples import loader_views, number, run_example, sorted_views


def test_the_trainer_shows_the_views_of_each_epoch(files, tmp_path):
    seen = tmp_path / "seen.npy"
    options = ("--model=test_efficientnet", "--resolution=32", "--lr=0.01", "--batch-size=25", "--seed=6", "--epochs=8")
    output = run_example("train_with_transformers", *files, *options, "--workers=1", watch=seen)
    assert number(output, "accuracy") > 0.6
    shown = np.load(seen).reshape(8, 300, 3, 32, 32)
    for epoch in (0, 1, 7):
        assert sorted_views(shown[epoch]) == sorted_views(loader_views(files, epoch, batch_size=25, seed=6))
