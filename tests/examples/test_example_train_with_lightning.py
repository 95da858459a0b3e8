"""docs/examples/train_with_lightning.py: Lightning takes the loader as it is, and resumes in the middle of an epoch."""

import lightning
import numpy as np
import pytest
import torch
from examples import loader_views, number, run_example

from ffdr import ReinforcedLoader, SparseTargetLoss


def test_lightning_learns_from_the_batches_of_the_loader(files, tmp_path):
    seen = tmp_path / "seen.npy"
    options = ("--model=test_efficientnet", "--resolution=32", "--lr=0.01", "--batch-size=25", "--seed=7", "--epochs=8")
    output = run_example("train_with_lightning", *files, *options, watch=seen)
    assert number(output, "accuracy") > 0.6
    shown = np.load(seen).reshape(8, 300, 3, 32, 32)
    for epoch in (0, 1, 7):
        assert np.array_equal(shown[epoch], loader_views(files, epoch, batch_size=25, seed=7))


class Recorder(lightning.LightningModule):
    """A linear model that notes which images it was shown."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.seen = torch.nn.Linear(3 * 8 * 8, 10), []

    def training_step(self, batch, _):
        images, targets, index = batch
        self.seen += index.tolist()
        return SparseTargetLoss(num_classes=10)(self.model(images.flatten(1)), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")  # that there is no validation
def test_a_checkpoint_of_lightning_keeps_the_place_in_the_data(files, tmp_path):
    options = {"batch_size": 50, "resolution": 8, "workers": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    whole, part, rest = Recorder(), Recorder(), Recorder()
    for model, steps, start in ((whole, 15, None), (part, 8, None), (rest, 15, tmp_path / "part.ckpt")):
        trainer = lightning.Trainer(max_steps=steps, enable_checkpointing=False, **quiet)
        trainer.fit(model, ReinforcedLoader(files.images, files.reinforced, **options), ckpt_path=start)
        if model is part:
            trainer.save_checkpoint(tmp_path / "part.ckpt")
    assert len(whole.seen) == 15 * 50 and len(set(whole.seen[:300])) == 300  # six batches are an epoch
    assert part.seen + rest.seen == whole.seen
    assert torch.equal(rest.model.weight, whole.model.weight)
