"""Learning rates by step are timm's; the plateau's follow the validation, and go on bit for bit."""

import warnings

import pytest
import torch
from fakes import FakeLoader, same, trainer, weights
from timm.scheduler import CosineLRScheduler, PlateauLRScheduler, create_scheduler_v2

from ffdr.config.idle import idle_options
from ffdr.config.training import TrainOptions
from ffdr.train.update.optim import build_optimizer
from ffdr.train.update.schedule import build_schedule
from ffdr.util.errors import UserError

CPU, STEPS = torch.device("cpu"), 10


def options(**changes):
    return TrainOptions(out="run", **({"lr": 0.4, "epochs": 8, "warmup_epochs": 2.0} | changes))


def optimizer_of(chosen):
    return build_optimizer(chosen, torch.nn.Linear(3, 2), CPU)


def rates(schedule, steps):
    found = []
    for step in steps:
        schedule.step_update(step)
        found.append(schedule.optimizer.param_groups[0]["lr"])
    return found


CURVES = [
    ({}, {"sched": "cosine"}),
    ({"min_lr": 0.01, "warmup_lr": 1e-3}, {"sched": "cosine", "min_lr": 0.01, "warmup_lr": 1e-3}),
    ({"scheduler": "linear", "min_lr": 0.02}, {"sched": "poly", "decay_rate": 1.0, "min_lr": 0.02}),
    ({"scheduler": "poly", "power": 2.0}, {"sched": "poly", "decay_rate": 2.0}),
    ({"scheduler": "tanh", "min_lr": 1e-3}, {"sched": "tanh", "min_lr": 1e-3}),
    ({"scheduler": "step", "decay_epochs": 2.4, "decay_rate": 0.5},
     {"sched": "step", "decay_epochs": 2.4, "decay_rate": 0.5, "warmup_prefix": False}),
    ({"scheduler": "multistep", "decay_milestones": (3.0, 6.0)},
     {"sched": "multistep", "decay_milestones": [3, 6], "decay_rate": 0.1, "warmup_prefix": False}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "timms"), CURVES, ids=lambda part: part.get("scheduler", ""))
def test_every_step_has_the_rate_of_timms_scheduler(changes, timms):
    chosen = options(**changes)
    behind = {"warmup_prefix": True, "num_epochs": 6} | timms
    theirs, _ = create_scheduler_v2(
        optimizer_of(chosen), **({"warmup_lr": 0.4 / 20} | behind), warmup_epochs=2, step_on_epochs=False,
        updates_per_epoch=STEPS,
    )  # fmt: skip
    ours = rates(build_schedule(chosen, optimizer_of(chosen), STEPS), range(80))
    assert ours == rates(theirs, range(80))
    assert max(ours) == pytest.approx(0.4) and len(set(ours)) > 3


def test_the_cosine_has_the_bits_that_it_always_had():
    chosen = options(warmup_epochs=1.3)
    plain = CosineLRScheduler(optimizer_of(chosen), t_initial=67, warmup_t=13, warmup_lr_init=0.4 / 13,
                              warmup_prefix=True, t_in_epochs=False)  # fmt: skip
    assert rates(build_schedule(chosen, optimizer_of(chosen), STEPS), range(80)) == rates(plain, range(80))


@pytest.mark.parametrize("changes", [changes for changes, _ in CURVES])
def test_a_rate_depends_on_its_step_alone(changes):
    chosen = options(**changes)
    whole = rates(build_schedule(chosen, optimizer_of(chosen), STEPS), range(80))
    assert rates(build_schedule(chosen, optimizer_of(chosen), STEPS), (71, 3, 40)) == [whole[71], whole[3], whole[40]]


SCORES = [0.1, 0.1, 0.3, 0.5, 0.5, 0.4, 0.2, 0.5, 0.6, 0.1, 0.1, 0.1, 0.1, 0.1]


def test_a_plateau_is_timms():
    chosen = options(scheduler="plateau", epochs=14, patience_epochs=1, decay_rate=0.5, min_lr=0.07)
    ours = build_schedule(chosen, optimizer_of(chosen), STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PlateauLRScheduler(optimizer_of(chosen), decay_rate=0.5, patience_t=1, warmup_t=2, lr_min=0.07)
    expected, found = [], []
    for epoch, score in enumerate(SCORES, 1):
        rates(ours, range((epoch - 1) * STEPS, epoch * STEPS))
        found.append(ours.optimizer.param_groups[0]["lr"])
        ours.observe(epoch, score)
        ours.observe(epoch, score)  # as a run does that was stopped in between
        expected.append(theirs.optimizer.param_groups[0]["lr"])
        theirs.step(epoch, score)
    assert found[2:] == expected[2:] and len(set(found[2:])) == 4 and min(found) == 0.07


def test_a_plateau_waits_for_epochs_not_for_validations():
    chosen = options(scheduler="plateau", warmup_epochs=0.0, epochs=14, patience_epochs=4, eval_every=2)
    schedule, found = build_schedule(chosen, optimizer_of(chosen), STEPS), []
    for epoch in range(2, 13, 2):
        rates(schedule, range((epoch - 2) * STEPS, epoch * STEPS))
        schedule.observe(epoch, 0.5)
        found.append(schedule.optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.4, 0.4, 0.4, 0.04, 0.04, 0.04])


class KilledError(Exception):
    """What stands for a power cut."""


@pytest.mark.parametrize("at", [(3, 1), (5, 3)])
def test_a_killed_run_on_a_plateau_ends_with_the_same_bits(tmp_path, at):
    changes = {"scheduler": "plateau", "patience_epochs": 0, "decay_rate": 0.5, "epochs": 7, "lr": 0.3}

    def begun(name, loader=None):
        return trainer(tmp_path / name, loader, FakeLoader(n=20, shuffle=False), **changes)

    def kill(epoch, batch):
        if (epoch, batch) == at:
            raise KilledError

    whole, loader = begun("whole"), FakeLoader()
    whole.fit()
    assert len({record["lr"] for record in whole.log.records()}) > 2
    loader.after_batch = kill
    with pytest.raises(KilledError):
        begun("cut", loader).fit()
    resumed = begun("cut")
    resumed.fit()
    assert same(weights(resumed), weights(whole))
    assert [r["lr"] for r in resumed.log.records()] == [r["lr"] for r in whole.log.records()]


def test_a_validation_that_is_repeated_counts_once(tmp_path, monkeypatch):
    """The log can't be written after the validation: the checkpoint that is then saved knows of it."""
    changes = {"scheduler": "plateau", "patience_epochs": 0, "epochs": 4, "checkpoint_every": 4, "lr": 0.0}
    val = FakeLoader(n=20, shuffle=False)
    whole = trainer(tmp_path / "whole", val_loader=val, **changes)
    whole.fit()
    cut = trainer(tmp_path / "cut", val_loader=val, **changes)
    append = cut.log.append

    def full(record):
        if record["epoch"] == 2:
            raise OSError(28, "No space left on device", "log.jsonl")
        append(record)

    monkeypatch.setattr(cut.log, "append", full)
    with pytest.raises(OSError, match="No space"):
        cut.fit()
    resumed = trainer(tmp_path / "cut", val_loader=val, **changes)
    resumed.fit()
    assert resumed.step.schedule.state_dict() == whole.step.schedule.state_dict()


def test_checkpoints_of_other_schedules_hold_what_they_always_did(tmp_path):
    run = trainer(tmp_path, epochs=1)
    assert "schedule" not in run.step.state_dict()
    assert "schedule" in trainer(tmp_path, epochs=1, scheduler="plateau").step.state_dict()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_lr": 0.5}, r"train\.min_lr: 0\.5, the lowest rate, exceeds the peak, train\.lr=0\.4"),
        ({"warmup_lr": 0.5}, r"train\.warmup_lr: a warm-up from 0\.5 would fall"),
        ({"scheduler": "cosin"}, r"train\.scheduler: .*did you mean cosine"),
        ({"scheduler": "step"}, r"train\.decay_epochs: every 30 epochs .* train\.epochs=8"),
        ({"scheduler": "multistep"}, r"train\.decay_milestones: none are not rising epochs"),
        ({"scheduler": "multistep", "decay_milestones": (6.0, 3.0)}, r"decay_milestones: 6,3 are not rising"),
        ({"scheduler": "multistep", "decay_milestones": (3.0, 9.0)}, r"decay_milestones: 3,9 .* the end, 8"),
        ({"scheduler": "plateau", "decay_rate": 1.0}, r"train\.decay_rate: plateau needs a factor"),
    ],
)
def test_rates_that_contradict_each_other_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        options(**changes)


def test_a_plateau_needs_a_validation():
    from betons import student_recipe

    with pytest.raises(UserError, match=r"train\.scheduler: plateau .* give data\.val"):
        student_recipe("erm", "i.beton", "", "", "run", scheduler="plateau")


def test_options_of_another_scheduler_are_told():
    from betons import student_recipe

    plan = student_recipe(
        "erm", "i.beton", "", "", "run", decay_epochs=3.0, decay_milestones=(1.0,), decay_rate=0.3, patience_epochs=2,
        power=2.0, warmup_epochs=0.0, warmup_lr=1e-3, weight_decay=0.0, decay_norms=True, optimizer="lion", lr=0.01,
        momentum=0.5, layer_decay=1.0,
    )  # fmt: skip
    told = [line.split()[0].removeprefix("train.") for line in idle_options(plan)]
    assert sorted(told) == sorted(
        ["decay_epochs", "decay_milestones", "decay_rate", "patience_epochs", "power", "warmup_lr", "decay_norms",
         "momentum", "layer_decay"]
    )  # fmt: skip
    stepped = student_recipe("erm", "i.beton", "", "", "run", scheduler="step", decay_epochs=0.5, epochs=2, min_lr=1e-3)
    assert [line.split()[0] for line in idle_options(stepped)] == ["train.min_lr"]
