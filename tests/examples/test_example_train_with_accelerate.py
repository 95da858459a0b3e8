"""docs/examples/train_with_accelerate.py learns from the loader's own batches, alone and as two processes."""

import numpy as np
from examples import loader_views, number, run_example, sorted_views

OPTIONS = ("--model=test_efficientnet", "--resolution=32", "--lr=0.01", "--batch-size=25", "--seed=3")


def test_it_learns_from_the_batches_of_the_loader(files, tmp_path):
    seen = tmp_path / "seen.npy"
    output = run_example("train_with_accelerate", *files, *OPTIONS, "--epochs=8", watch=seen)
    assert number(output, "accuracy") > 0.6
    shown = np.load(seen).reshape(8, 300, 3, 32, 32)
    for epoch in (0, 1, 7):
        assert np.array_equal(shown[epoch], loader_views(files, epoch, batch_size=25, seed=3))


def test_two_processes_share_an_epoch(files, tmp_path):
    seen = tmp_path / "seen.npy"
    output = run_example("train_with_accelerate", *files, *OPTIONS, "--epochs=2", watch=seen, processes=2)
    assert output.count("accuracy: ") == 1
    ranks = [np.load(tmp_path / f"{rank}seen.npy").reshape(2, 150, 3, 32, 32) for rank in (0, 1)]
    for epoch in (0, 1):
        shown = np.concatenate([rank[epoch] for rank in ranks])
        assert sorted_views(shown) == sorted_views(loader_views(files, epoch, batch_size=50, seed=3))
