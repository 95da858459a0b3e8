"""The step: one graph from pixels to loss, parts of a batch whatever the mode, averaged weights, one graph per size."""

import pytest
import torch
import torch.nn.functional as F
from fakes import CLASSES, MEAN, STD, FakeLoader, options, trainer, weights
from timm.utils import ModelEmaV3

from ffdr.config.learning import ModelOptions
from ffdr.train.update.step import AveragedWeights


class StreamingImageWriter(FakeLoader):
    """Its images have the size that was asked for last."""

    def __iter__(self):
        side = self.resolutions[-1] if self.resolutions else 32
        for images, targets, index in super().__iter__():
            images = F.interpolate(images, (side, side)).contiguous(memory_format=torch.channels_last)
            yield images, targets, index


def test_growing_views_have_a_graph_per_size(tmp_path, graphs):
    run = trainer(
        tmp_path, StreamingImageWriter(), val_loader=FakeLoader(n=20, shuffle=False), compile="default", epochs=6,
        resolution=96, min_resolution=32, ramp=(0.0, 0.6), warmup_epochs=0.0,
    )  # fmt: skip
    run.fit()
    sizes = set(run.loader.resolutions)
    assert len(sizes) == 3
    assert graphs() == len(sizes) + 1  # and one for evaluation, whose last batch is smaller
    assert run.step.compiled == "default"


@pytest.mark.parametrize("task", ["erm", "kd", "dr"])
def test_the_whole_task_is_one_graph(tmp_path, graphs, task):
    from fakes import FakeTeacher

    loaders = [FakeLoader(topk=2 if task == "dr" else 0) for _ in range(2)]
    runs = [
        trainer(tmp_path / mode, loader, teacher=FakeTeacher(), task=task, compile=mode, epochs=1, ema=0.9)
        for mode, loader in zip(("off", "default"), loaders, strict=True)
    ]
    losses = [run.fit()["train_loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert graphs() == 1


@pytest.mark.parametrize("mode", ["off", "default", "reduce-overhead"])
def test_parts_of_a_batch_add_up_in_every_mode(tmp_path, graphs, mode):
    """Sixteen images in parts of six, six and four: two sizes, two graphs."""
    model = ModelOptions("test_vit")
    whole = trainer(tmp_path / "whole", model=model, epochs=1)
    split = trainer(tmp_path / "split", model=model, epochs=1, accumulate=3, compile=mode)
    whole.fit()
    split.fit()
    for left, right in zip(weights(whole).values(), weights(split).values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    assert graphs() == (0 if mode == "off" else 2)


def test_gradients_lie_apart_from_a_cuda_graphs_own(tmp_path, graphs):
    """What a replay overwrites must not be what the parts are added to."""
    run = trainer(tmp_path, compile="reduce-overhead", accumulate=2)
    places = [parameter.grad.data_ptr() for parameter in run.model.parameters()]
    run.fit()
    assert [parameter.grad.data_ptr() for parameter in run.model.parameters()] == places


def test_pixels_are_normalised_as_the_loader_would(tmp_path):
    run = trainer(tmp_path, momentum=0.0)
    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    targets = FakeLoader().targets(torch.arange(16))
    learner = run.step._learner
    parts = None, *targets.parts()
    by_hand = ((pixels / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    assert learner(pixels, *parts).item() == pytest.approx(learner(by_hand, *parts).item(), rel=1e-5)


def test_a_teacher_sees_the_pixels_that_the_step_gets(tmp_path):
    class PixelTeacher:
        names = ("pixels",)

        def log_probs(self, pixels):
            assert pixels.dtype == torch.uint8
            return torch.zeros(len(pixels), CLASSES).log_softmax(1)

    run = trainer(tmp_path, teacher=PixelTeacher(), task="kd")
    pixels = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    assert run.step(pixels, FakeLoader().targets(torch.arange(16))).isfinite()


def test_averaged_weights_are_timms_bit_for_bit():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    ours, theirs = AveragedWeights(model, 0.99), ModelEmaV3(model, decay=0.99, use_warmup=True)
    for step in range(1, 6):
        model(torch.randn(2, 3, 8, 8))  # moves the statistics and their counter
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update(model, step)
        theirs.update(model, step)
    for left, right in zip(ours.module.state_dict().values(), theirs.module.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_averaged_weights_go_on_after_they_are_loaded(tmp_path):
    """Loading copies into the tensors that are listed; a new tensor would be averaged by nobody."""
    run = trainer(tmp_path, ema=0.9, epochs=2)
    run.step.load_state_dict(run.step.state_dict())
    before = {key: value.clone() for key, value in run.step.ema.module.state_dict().items()}
    run.fit()
    moved = [not torch.equal(before[key], value) for key, value in run.step.ema.module.state_dict().items()]
    assert all(moved)


def test_compile_is_off_in_short_runs_on_a_cpu(tmp_path):
    assert options(tmp_path).compile == "auto"
    assert trainer(tmp_path).step.compiled == "off"
