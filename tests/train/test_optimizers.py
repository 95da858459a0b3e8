"""Any optimiser of timm: steps and groups as timm's own, refusals before a run, states that go on bit for bit."""

import io

import pytest
import torch
from fakes import CLASSES, DATA, FakeLoader, same, trainer, weights
from fakes import options as fake_options
from timm import create_model
from timm.optim import create_optimizer_v2
from torch import nn

from ffdr.config.learning import ModelOptions
from ffdr.config.optimizers import available
from ffdr.config.training import TrainOptions
from ffdr.train.dry_run.estimate import state_bytes
from ffdr.train.dry_run.summary import describe_updates, memory_bytes
from ffdr.train.fit import Trainer
from ffdr.train.student import build_student
from ffdr.train.update.optim import build_optimizer, check_optimizer, skips_by_itself
from ffdr.train.update.step import FiniteGuard
from ffdr.util.errors import UserError

CPU = torch.device("cpu")
VIT = ModelOptions("test_vit")


def options(**changes):
    return TrainOptions(out="run", **({"lr": 0.01, "weight_decay": 0.05} | changes))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 5))


def learn(model, optimizer, first, last):
    for seed in range(first, last):
        images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(images).logsumexp(1).mean().backward()
        optimizer.step()


STEPS = [
    ({"optimizer": "muon"}, {}),
    ({"optimizer": "muon", "optimizer_options": ("ns_steps=3", "adjust_lr_fn=match_rms_adamw")},
     {"ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}),
    ({"optimizer": "lamb", "betas": (0.8, 0.99), "eps": 1e-3}, {"betas": (0.8, 0.99), "eps": 1e-3}),
    ({"optimizer": "lion", "betas": (0.95, 0.98)}, {"betas": (0.95, 0.98)}),
    ({"optimizer": "adopt"}, {}),
    ({"optimizer": "adamw", "betas": (0.85, 0.95), "eps": 1e-4}, {"betas": (0.85, 0.95), "eps": 1e-4, "fused": True}),
    ({"optimizer": "rmsproptf", "momentum": 0.5}, {"momentum": 0.5}),
    ({"optimizer": "adan", "betas": (0.9, 0.8, 0.7)}, {"betas": (0.9, 0.8, 0.7)}),
    ({"optimizer": "sgd", "nesterov": False}, {"nesterov": False, "fused": True}),
    ({"optimizer": "sgd", "decay_norms": True}, {"filter_bias_and_bn": False, "fused": True}),
    ({"optimizer": "nlars", "nesterov": False}, {"nesterov": False}),
    ({"optimizer": "sgdw", "momentum": 0.0}, {"nesterov": False, "momentum": 0.0}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "arguments"), STEPS)
def test_steps_are_those_of_timms_optimiser(changes, arguments):
    ours, theirs = net(), net()
    chosen = options(**changes)
    learn(ours, build_optimizer(chosen, ours, CPU), 0, 3)
    learn(theirs, create_optimizer_v2(theirs, chosen.optimizer, lr=0.01, weight_decay=0.05, **arguments), 0, 3)
    assert same(ours.state_dict(), theirs.state_dict())
    assert not same(ours.state_dict(), net().state_dict())


@pytest.mark.parametrize(
    "changes", [{"layer_decay": 0.7}, {"decay_norms": True}, {"layer_decay": 0.5, "decay_norms": True}]
)
def test_groups_are_timms(changes):
    model = create_model("test_vit", num_classes=4)
    optimizer = build_optimizer(options(optimizer="adamw", **changes), model, CPU)
    theirs = create_optimizer_v2(
        model, "adamw", lr=0.01, weight_decay=0.05, filter_bias_and_bn=not changes.get("decay_norms"),
        layer_decay=changes.get("layer_decay"),
    )  # fmt: skip
    assert len(optimizer.param_groups) == len(theirs.param_groups)
    for left, right in zip(optimizer.param_groups, theirs.param_groups, strict=True):
        assert list(map(id, left["params"])) == list(map(id, right["params"]))
        assert (left["weight_decay"], left.get("lr_scale")) == (right["weight_decay"], right.get("lr_scale"))


@pytest.mark.parametrize("freeze", [(), ("head.*", "norm.*")], ids=["all", "frozen head"])
def test_the_logged_rate_is_that_of_the_last_layer(tmp_path, freeze):
    run = trainer(tmp_path, model=VIT, epochs=1, warmup_epochs=0.0, layer_decay=0.5, scheduler="multistep",
                  decay_milestones=(0.5,), freeze=freeze)  # fmt: skip
    record = run.fit()
    rates = {group["lr"] / group["lr_scale"] for group in run.step.optimizer.param_groups}
    assert record["lr"] == pytest.approx(0.005) and all(rate == pytest.approx(0.005) for rate in rates)
    assert min(group["lr"] for group in run.step.optimizer.param_groups) < 0.003


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "adamv"}, r"train\.optimizer: 'adamv' is not one of timm's optimisers \(did you mean adam"),
        ({"optimizer": "fusedadamw"}, r"needs apex, which ffdr does not use \(did you mean adamw\?\)"),
        ({"optimizer": "bnblion"}, r"needs bitsandbytes, which ffdr does not use \(did you mean .*lion"),
        ({"optimizer": "adahessian"}, r"needs second derivatives"),
        ({"optimizer": "lars", "betas": (0.9, 0.99)}, r"train\.betas: 2 are given, but lars has no betas"),
        ({"optimizer": "adan", "betas": (0.9, 0.99)}, r"train\.betas: 2 are given, but adan has 3 betas"),
        ({"optimizer": "lion", "eps": 1e-6}, r"train\.eps: lion has no epsilon"),
        ({"optimizer": "adamw", "nesterov": False}, r"train\.nesterov: adamw has no such switch"),
        ({"optimizer": "muon", "optimizer_options": ("ns_step=3",)}, r"no option ns_step \(did you mean ns_steps\?\)"),
        ({"optimizer": "sgd", "optimizer_options": ("ns_steps=3",)}, r"sgd has no option ns_steps"),
        ({"optimizer": "muon", "optimizer_options": ("ns_steps=[1, 2]",)}, r"muon can't work as its"),
        ({"optimizer": "adamw", "betas": (0.9,)}, r"train\.betas: 1 are given, but adamw has 2 betas"),
        ({"optimizer": "madgrad", "lr": 0.0}, r"train\.optimizer: madgrad can't work as its options say"),
    ],
)  # fmt: skip
def test_what_can_not_work_is_refused_before_there_is_a_model(changes, said):
    with pytest.raises(UserError, match=said):
        check_optimizer(options(**changes))


@pytest.mark.parametrize(
    ("texts", "said"),
    [(["lr=0.1"], "give train.lr"), (["fused=true"], "the device decides it"), (["amsgrad"], "is not NAME=VALUE")],
)
def test_options_that_others_set_are_refused_as_a_recipe_is_read(texts, said):
    with pytest.raises(UserError, match=said):
        options(optimizer="adamw", optimizer_options=tuple(texts))


def test_a_typo_ends_the_command_with_status_two_and_the_nearest_name(tmp_path, capsys):
    from ffdr import cli

    flags = [f"--train.out={tmp_path / 'run'}", "--data.train=none.beton", "--model.name=test_resnet"]
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(cli.main(["train", "--train.optimizer=lionn", *flags]))
    assert ended.value.code == 2
    assert "did you mean lion" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_model_of_one_layer_has_no_layer_decay():
    with pytest.raises(UserError, match=r"train\.layer_decay: all that trains is one layer"):
        build_optimizer(options(layer_decay=0.5), net(), CPU)


FAMILIES = [name for name in available() if not name.startswith(("c", "kron")) and not name.endswith(("legacy", "c"))]


def test_states_of_every_family_go_on_bit_for_bit():
    assert len(FAMILIES) > 40
    for name in FAMILIES:
        chosen = options(optimizer=name)
        whole, cut, resumed = net(), net(), net()
        learn(whole, build_optimizer(chosen, whole, CPU), 0, 4)
        before = build_optimizer(chosen, cut, CPU)
        learn(cut, before, 0, 2)
        file = io.BytesIO()
        torch.save([cut.state_dict(), before.state_dict()], file)
        file.seek(0)
        state, optimizer = torch.load(file, weights_only=True)
        resumed.load_state_dict(state)
        after = build_optimizer(chosen, resumed, CPU)
        after.load_state_dict(optimizer)
        learn(resumed, after, 2, 4)
        assert same(whole.state_dict(), resumed.state_dict()), name


class KilledError(Exception):
    """What stands for a power cut."""


def small(out, loader=None, **changes):
    """A run of a network that is compiled in no time."""
    given = fake_options(out, **changes)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    student = build_student(given, ModelOptions("python:Net"), CLASSES, CPU, net)
    return Trainer(given, student, DATA, loader or FakeLoader(), progress=False)


def killed(out, trainer=trainer, **changes):
    """A run that dies in its last epoch, and is begun again."""

    def kill(epoch, batch):
        if (epoch, batch) == (2, 1):
            raise KilledError

    loader = FakeLoader()
    loader.after_batch = kill
    with pytest.raises(KilledError):
        trainer(out, loader, **changes).fit()
    resumed = trainer(out, **changes)
    resumed.fit()
    return resumed


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "muon", "accumulate": 2},
        {"optimizer": "lamb", "ema": 0.9},
        {"optimizer": "lion", "lr": 1e-3, "clip_grad": 1.0},
        {"optimizer": "adopt", "layer_decay": 0.7, "lr": 1e-3},
        {"nesterov": False},
        {"optimizer": "adafactorbv", "optimizer_options": ("momentum_dtype=bfloat16",)},
    ],
    ids=lambda changes: changes.get("optimizer", "sgd"),
)
def test_a_killed_run_ends_with_the_same_bits(tmp_path, changes):
    whole = trainer(tmp_path / "whole", model=VIT, **changes)
    whole.fit()
    assert same(weights(killed(tmp_path / "cut", model=VIT, **changes)), weights(whole))


def test_a_killed_compiled_run_ends_with_the_same_bits(tmp_path, graphs):
    changes = {"optimizer": "muon", "compile": "default"}
    whole = small(tmp_path / "whole", **changes)
    whole.fit()
    assert same(weights(killed(tmp_path / "cut", small, **changes)), weights(whole)) and graphs() == 3


@pytest.mark.parametrize("name", ["lion", "muon", "lamb", "rmsprop", "adopt", "adagrad", "sgd", "adam", "momentum"])
def test_a_loss_that_is_not_finite_leaves_the_weights_without_a_look_at_it(name):
    """The guard as it works on a GPU: once the flag is up, nothing moves any more."""
    model = net()
    optimizer = build_optimizer(options(optimizer=name), model, CPU)
    assert skips_by_itself(optimizer) == (name in ("sgd", "adam", "momentum"))
    guard = FiniteGuard(optimizer, CPU, scaled=False, lazy=True)

    def step(factor):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 3, 4, 4)).logsumexp(1).mean() * factor
        loss.backward()
        guard.watch(loss, 1)
        optimizer.step()

    before = [parameter.detach().clone() for parameter in model.parameters()]
    step(1.0)
    step(1.0)  # adopt's first one only measures
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    assert not all(map(torch.equal, before, kept))
    for factor in (float("nan"), 1.0, float("inf")):
        step(factor)
    assert all(map(torch.equal, kept, model.parameters()))
    with pytest.raises(UserError, match="not finite by step 4"):
        guard.check(4)


@pytest.mark.parametrize("name", ["lion", "adafactor", "muon", "adamw"])
def test_a_dry_run_says_what_updates_how_much(name):
    chosen = options(optimizer=name, lr=1e-3, min_lr=1e-5, scheduler="tanh", linear_probe=name == "lion")
    model = build_student(chosen, VIT, 5, CPU).model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    count = sum(p.numel() for p in model.parameters())
    said = describe_updates(chosen, model)
    assert said.startswith(f"{name}, learning rate 0.001 to 1e-05 (tanh after 1 epochs of warm-up); ")
    assert (f"{trained:,} of {count:,} parameters" if name == "lion" else "all parameters") in said
    optimizer = build_optimizer(chosen, model, CPU)
    model(torch.randn(2, 3, 224, 224)).sum().backward()
    optimizer.step()
    held = memory_bytes(chosen, model, state_bytes(optimizer))
    assert held["gradients"] == 4 * trained
    if name != "adafactor":  # which keeps the means of rows and columns
        assert 4 * trained <= held["optimiser"] <= 8 * trained
    else:
        assert 0 < held["optimiser"] < 4 * trained
    assert held["optimiser"] == state_bytes(optimizer)
