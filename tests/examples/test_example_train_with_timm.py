"""docs/examples/train_with_timm.py learns from the loader's own batches, epoch by epoch."""

import numpy as np
from examples import loader_views, number, run_example


def test_timms_pieces_learn_from_the_batches_of_the_loader(files, tmp_path):
    seen = tmp_path / "seen.npy"
    options = ("--model=test_efficientnet", "--resolution=32", "--lr=0.01", "--batch-size=25", "--seed=4", "--epochs=8")
    output = run_example("train_with_timm", *files, *options, watch=seen)
    assert number(output, "accuracy") > 0.6
    shown = np.load(seen).reshape(8, 300, 3, 32, 32)
    for epoch in (0, 1, 7):
        assert np.array_equal(shown[epoch], loader_views(files, epoch, batch_size=25, seed=4))
