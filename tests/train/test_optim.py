"""Optimisers decay what they should; the schedule has the shape it promises."""

import itertools
import math

import pytest
import torch

from ffdr.config.training import TrainOptions
from ffdr.train.update.optim import build_optimizer
from ffdr.train.update.schedule import build_schedule

CPU = torch.device("cpu")


def options(**changes):
    return TrainOptions(out="run", **({"lr": 0.4, "weight_decay": 0.01} | changes))


def model():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_only_weights_of_two_or_more_dimensions_decay(name, kind):
    net = model()
    optimizer = build_optimizer(options(optimizer=name), net, CPU)
    assert isinstance(optimizer, kind)
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decayed) == len(list(net.parameters()))
    for parameter in net.parameters():
        assert decayed[id(parameter)] == (0.01 if parameter.ndim >= 2 else 0.0)
    assert all(group["fused"] for group in optimizer.param_groups)


def test_sgd_is_nesterov_when_it_has_momentum():
    for momentum in (0.9, 0.0):
        group = build_optimizer(options(momentum=momentum), model(), CPU).param_groups[0]
        assert (group["momentum"], group["nesterov"]) == (momentum, momentum > 0)


def rates(steps_per_epoch=10, **changes):
    given = options(**changes)
    optimizer = build_optimizer(given, model(), CPU)
    schedule = build_schedule(given, optimizer, steps_per_epoch)
    values = []
    for step in range(given.epochs * steps_per_epoch):
        schedule.step_update(step)
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        values.append(optimizer.param_groups[0]["lr"])
    return values


def test_warm_up_then_cosine():
    lr = rates(epochs=5, warmup_epochs=1.5)
    assert lr[0] == pytest.approx(0.4 / 15) and lr[15] == pytest.approx(0.4) == pytest.approx(max(lr))
    steps = [right - left for left, right in itertools.pairwise(lr[:16])]
    assert max(steps) - min(steps) < 1e-9
    for step in range(15, 50):
        assert lr[step] == pytest.approx(0.2 * (1 + math.cos(math.pi * (step - 15) / 35)))
    assert lr[-1] > 0


@pytest.mark.parametrize("changes", [{"epochs": 1, "warmup_epochs": 0.0}, {"epochs": 2, "warmup_epochs": 2.0}])
def test_no_warm_up_and_nothing_but_warm_up(changes):
    lr = rates(**changes)
    assert lr[0] == pytest.approx(0.4 if changes["warmup_epochs"] == 0 else 0.02)
    assert all(0 < value <= 0.4 + 1e-12 for value in lr)
