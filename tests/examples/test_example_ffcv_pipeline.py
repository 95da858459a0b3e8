"""docs/examples/ffcv_pipeline.py learns by FFCV's own Loader from the views that ours would show."""

import re

import numpy as np
import pytest
from examples import number, run_example

from ffdr import ReinforcedLoader
from ffdr.config.files import PackOptions
from ffdr.write.copy.merge import pack

OPTIONS = ("--model=test_efficientnet", "--num-classes=10", "--resolution=32", "--workers=1", "--batch-size=25")


@pytest.fixture(scope="module")
def merged(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "merged.beton"
    return pack(PackOptions(str(files.images), str(files.reinforced), str(out)), progress=False)


def test_it_learns_from_the_views_of_the_loader(files, merged, tmp_path):
    seen = tmp_path / "seen.npy"
    output = run_example("ffcv_pipeline", merged, files.val, *OPTIONS, "--epochs=8", "--lr=0.1", watch=seen)
    assert number(output, "accuracy") > 0.6
    losses = [float(loss) for loss in re.findall("loss: (.*)", output)]
    assert len(losses) == 8 and losses[-1] < 0.6 * losses[0]
    assert_views(np.load(seen), merged)


def assert_views(shown, merged):
    """Batches of the first and of the last epoch show, in FFCV's order, what ReinforcedLoader shows in these."""
    mean, std = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    loader = ReinforcedLoader(
        merged, merged, batch_size=25, resolution=32, order="sequential", workers=1, mean=np.divide(mean, 255),
        std=np.divide(std, 255),
    )  # fmt: skip
    assert len(shown) == 8 * 300
    for epoch in (0, 7):
        loader.set_epoch(epoch)
        views = np.concatenate([images.numpy() for images, _, _ in loader])
        order = np.random.default_rng(epoch).permutation(300)
        np.testing.assert_allclose(shown[epoch * 300 :][:300], views[order], atol=1e-4)
