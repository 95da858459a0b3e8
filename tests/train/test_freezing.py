"""Frozen parameters and norms, linear probes, gradients without kept activations."""

import pytest
import torch
import torch.nn.functional as F
from fakes import CLASSES, FakeLoader, same, trainer, weights
from torch import nn

from ffdr.config.learning import ModelOptions
from ffdr.config.training import TrainOptions
from ffdr.models.build import load_model
from ffdr.train.student import build_student
from ffdr.train.update.freezing import freeze, kept_buffers, set_training
from ffdr.util.errors import UserError

CPU = torch.device("cpu")
VIT, RESNET = ModelOptions("test_vit"), ModelOptions("test_resnet")


def changed(run, before):
    after = weights(run)
    return {key for key in after if not torch.equal(before[key], after[key])}


def begun(out, **changes):
    run = trainer(out, **changes)
    return run, {key: value.clone() for key, value in weights(run).items()}


def test_frozen_parameters_and_their_norms_stay_as_they_are(tmp_path):
    run, before = begun(tmp_path, freeze=("conv1.*", "bn1.*", "layer1.*"), ema=0.9, epochs=2)
    frozen = {key for key in before if key.startswith(("conv1.", "bn1.", "layer1."))}
    held = {id(p) for group in run.step.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in run.model.named_parameters() if name not in frozen}
    run.fit()
    assert changed(run, before) == before.keys() - frozen
    averaged = run.step.ema.module.state_dict()
    assert all(torch.equal(averaged[key], before[key]) for key in frozen)
    run.train_epoch  # noqa: B018
    assert (not run.model.bn1.training and run.model.layer2[0].bn1.training) or not run.model.training
    assert same(load_model(tmp_path / "model.safetensors")[0].state_dict(), averaged)


def test_a_frozen_part_without_parameters_of_its_own_keeps_its_statistics(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))
            self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, CLASSES)

        def forward(self, x):
            return self.fc(self.norm(self.stem(x)).mean((2, 3)))

    options, net = TrainOptions(out="run", freeze=("stem.*",)), Net()
    freeze(options, net, "net", CLASSES)
    set_training(options, net)
    assert [net.stem[1].training, net.norm.training, net.training] == [False, True, True]
    assert kept_buffers(options, net) == {
        f"stem.1.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")
    }
    set_training(TrainOptions(out="run"), net)
    assert net.stem[1].training  # as without the option


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"freeze": ("layer9.*",)}, r"train\.freeze: layer9\.\* is no parameter of test_resnet \(did you mean layer\d"),
        ({"freeze": ("layer1",)}, r"train\.freeze: layer1 is no parameter .*did you mean layer1"),
        ({"freeze": ("*",)}, r"train\.freeze: nothing of test_resnet is left to train"),
        ({"freeze": ("fc.*",), "linear_probe": True}, r"train\.freeze, train\.linear_probe: .*leave out one"),
        ({"linear_probe": True, "layer_decay": 0.5}, r"train\.layer_decay: all that trains is one layer"),
    ],
)
def test_what_leaves_nothing_or_freezes_nothing_is_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        trainer(tmp_path, **changes)


@pytest.mark.parametrize("model", [RESNET, ModelOptions("test_vit", drop_path=0.5)], ids=lambda model: model.name)
def test_a_linear_probe_is_a_linear_layer_on_frozen_features(tmp_path, model):
    """Trained beside it by torch alone: features once, then sgd on the head's weight and bias."""
    shared = {"linear_probe": True, "weight_decay": 0.0, "warmup_epochs": 0.0, "epochs": 2, "model": model}
    run, before = begun(tmp_path, **shared)
    net = build_student(TrainOptions(out="run", seed=7, resolution=32), model, CLASSES, CPU).model.eval()
    head = net.get_classifier()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    loader, steps = FakeLoader(), 0
    for epoch in range(2):
        loader.set_epoch(epoch)
        for images, targets, _ in loader:
            optimizer.param_groups[0]["lr"] = 0.025 * (1 + torch.cos(torch.tensor(torch.pi * steps / 8)).item())
            with torch.no_grad():
                features = net.forward_head(net.forward_features(images), pre_logits=True)
            optimizer.zero_grad()
            F.cross_entropy(head(features), targets.label).backward()
            optimizer.step()
            steps += 1
    run.fit()
    names = changed(run, before)
    assert names == {key for key in before if key.startswith(("fc.", "head.")) and before[key].shape[0] == CLASSES}
    for left, right in zip(run.model.get_classifier().parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_the_head_of_models_of_others_is_found():
    options = TrainOptions(out="run", linear_probe=True, resolution=64)
    for name, head in (("torchvision:resnet18", "fc."), ("torchvision:squeezenet1_1", "classifier.1.")):
        model = build_student(options, ModelOptions(name), 7, CPU).model
        assert {key for key, p in model.named_parameters() if p.requires_grad} == {f"{head}weight", f"{head}bias"}
    strange = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 7), nn.LayerNorm(7))
    build_student(options, ModelOptions("python:Net"), 7, CPU, strange)
    assert [p.requires_grad for p in strange.parameters()] == [True, True, False, False]
    headless = nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match=r"train\.linear_probe: no head of 8 classes"):
        freeze(options, headless, "net", 8)


class KilledError(Exception):
    """What stands for a power cut."""


@pytest.mark.parametrize("changes", [{"linear_probe": True}, {"freeze": ("bn1.*", "conv1.*"), "ema": 0.9}])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, changes):
    def kill(epoch, batch):
        if (epoch, batch) == (2, 1):
            raise KilledError

    whole, loader = trainer(tmp_path / "whole", **changes), FakeLoader()
    whole.fit()
    loader.after_batch = kill
    with pytest.raises(KilledError):
        trainer(tmp_path / "cut", loader, **changes).fit()
    resumed = trainer(tmp_path / "cut", **changes)
    resumed.fit()
    assert same(weights(resumed), weights(whole))


def test_a_probe_compiles_and_keeps_gradients_of_its_own(tmp_path, graphs):
    run, before = begun(tmp_path, linear_probe=True, compile="reduce-overhead", accumulate=2, epochs=1, model=VIT)
    run.fit()
    assert len(changed(run, before)) == 2 and graphs() == 1
    assert sum(parameter.grad is not None for parameter in run.model.parameters()) == 2


def gradients(run):
    run.model.train()
    images, targets, _ = next(iter(FakeLoader()))
    run.step(images, targets)
    return [parameter.grad for parameter in run.model.parameters()]


@pytest.mark.parametrize("model", [RESNET, VIT], ids=lambda model: model.name)
@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}])
def test_checkpointing_changes_neither_gradients_nor_statistics(tmp_path, model, changes):
    plain, spare = (trainer(tmp_path, model=model, grad_checkpointing=on, **changes) for on in (False, True))
    kept = []
    for run in (plain, spare):
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, held=held: held.append(x.nbytes) or x, lambda x: x):
            found = gradients(run)
        kept.append((found, sum(held)))
    assert all(map(torch.equal, kept[0][0], kept[1][0])) and kept[1][1] < kept[0][1]
    assert same(weights(plain), weights(spare))


def test_checkpointing_compiles(tmp_path, graphs):
    shared = {"grad_checkpointing": True, "model": VIT, "epochs": 1}
    runs = [trainer(tmp_path / mode, compile=mode, **shared) for mode in ("off", "default")]
    for left, right in zip(*map(gradients, runs), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    assert graphs() == 1 and runs[1].step.compiled == "default"


@pytest.mark.parametrize("name", ["torchvision:resnet18", "test_byobnet2"])
def test_models_that_can_not_checkpoint_are_refused(name, monkeypatch):
    if name.startswith("test_"):
        name = "inception_resnet_v2"  # timm's method is there, and refuses
    options = TrainOptions(out="run", grad_checkpointing=True, resolution=96)
    with pytest.raises(UserError, match=r"train\.grad_checkpointing: .*(has no set_grad_checkpointing|can't do it)"):
        build_student(options, ModelOptions(name), 4, CPU)
