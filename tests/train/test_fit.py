"""The trainer: learns, logs, exports, stops before damage, resumes with the same bits, refuses another run's state."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from fakes import CLASSES, DATA, MEAN, STD, FakeLoader, FakeTeacher, same, trainer, weights

from ffdr.config.learning import ModelOptions
from ffdr.models.build import load_model
from ffdr.train.update.step import FiniteGuard
from ffdr.util.errors import UserError


def test_a_run_learns_and_leaves_its_files(tmp_path):
    run = trainer(tmp_path / "run", val_loader=FakeLoader(n=50, shuffle=False), epochs=4)
    record = run.fit()
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4] and lines[-1] == record
    assert [line["step"] for line in lines] == [4, 8, 12, 16]
    assert record["train_loss"] < 0.7 * lines[0]["train_loss"]
    assert record["val_top1"] > 0.6
    assert set(record) == {
        "epoch", "step", "lr", "train_loss", "images_per_second", "data_wait", "seconds",
        "val_top1", "val_top5", "val_nll", "val_brier", "val_ece",
    }  # fmt: skip
    assert 0 <= record["data_wait"] <= 1 and record["images_per_second"] > 0
    assert sorted(os.listdir(tmp_path / "run")) == [
        ".lock", "best.safetensors", "checkpoints", "log.jsonl", "model.safetensors", "options.json",
        "report-calibration.png", "report-confusion.png", "report.json", "report.md", "report.png",
    ]  # fmt: skip

    model, info = load_model(tmp_path / "run/model.safetensors")
    assert same(model.state_dict(), weights(run))
    assert (info.mean, info.std, info.resolution, info.classes, info.fingerprint) == (MEAN, STD, 32, "abcd", "f00d")
    saved = json.loads((tmp_path / "run/options.json").read_text())
    assert saved["train"]["lr"] == 0.05 and saved["model"]["name"] == "test_resnet"
    assert saved["resolved"]["precision"] == "float32"


def test_the_logged_loss_is_the_mean_over_images(tmp_path):
    """With lr 0 and one epoch the loss of every batch can be computed from the first weights."""
    run = trainer(tmp_path, FakeLoader(n=40), lr=0.0, epochs=1, warmup_epochs=0.0)
    run.model.train()
    losses = [(run.task(run.model, x, t).item(), len(x)) for x, t, _ in FakeLoader(n=40)]
    expected = sum(loss * n for loss, n in losses) / 40
    assert run.fit()["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_task_of_each_kind_trains(tmp_path):
    teacher = FakeTeacher()
    for task, loader in (("erm", FakeLoader()), ("kd", FakeLoader()), ("dr", FakeLoader(topk=2))):
        record = trainer(tmp_path / task, loader, teacher=teacher, task=task, epochs=1).fit()
        assert math.isfinite(record["train_loss"])
    assert set(teacher.asked) == {(MEAN, STD)} and len(teacher.asked) == 4


@pytest.mark.parametrize("changes", [{"optimizer": "adamw", "lr": 1e-3}, {"momentum": 0.0}, {"precision": "bfloat16"}])
def test_optimisers_and_precisions(tmp_path, changes):
    assert math.isfinite(trainer(tmp_path, epochs=1, **changes).fit()["train_loss"])


def test_weights_depend_on_the_seed_only(tmp_path):
    runs = []
    for number, seed in enumerate((7, 7, 8)):
        torch.manual_seed(number)
        run = trainer(tmp_path / str(number), seed=seed, epochs=1, model=ModelOptions("test_vit", drop_path=0.2))
        torch.rand(number)
        run.fit()
        runs.append(weights(run))
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


class KilledError(Exception):
    """What stands for a power cut."""


RESUME_CASES = [
    {},
    {"ema": 0.9},
    {"optimizer": "adamw", "lr": 1e-3, "clip_grad": 1.0, "checkpoint_every": 2},
]


@pytest.mark.parametrize("changes", RESUME_CASES)
def test_a_killed_run_ends_with_the_same_bits(tmp_path, changes):
    """KilledError in the middle of the last epoch; the resumed run starts from the last checkpoint."""
    model = ModelOptions("test_vit", drop_path=0.2)  # stochastic depth draws from torch's generator
    whole = trainer(tmp_path / "whole", model=model, **changes)
    whole.fit()

    def kill(epoch, batch):
        if (epoch, batch) == (2, 1):
            raise KilledError

    loader = FakeLoader()
    loader.after_batch = kill
    with pytest.raises(KilledError):
        trainer(tmp_path / "cut", loader, model=model, **changes).fit()
    resumed = trainer(tmp_path / "cut", model=model, **changes)
    resumed.fit()
    assert resumed.step.count == whole.step.count == 12
    assert same(weights(resumed), weights(whole))
    for name in ("log.jsonl",):
        left, right = ((tmp_path / folder / name).read_text().splitlines() for folder in ("cut", "whole"))
        losses = [[json.loads(line)["train_loss"] for line in lines] for lines in (left, right)]
        assert losses[0] == losses[1]


@pytest.mark.parametrize("stop_at", [(1, 1), (1, 3)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_with_the_next_batch(tmp_path, stop_at, number):
    """A signal in mid-epoch (or in the epoch's last step) saves; the resumed run ends with the same bits."""
    whole = trainer(tmp_path / "whole")
    whole.fit()
    before = signal.getsignal(number)
    loader = FakeLoader()
    loader.after_batch = lambda epoch, batch: os.kill(os.getpid(), number) if (epoch, batch) == stop_at else None
    cut = trainer(tmp_path / "cut", loader)
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    assert signal.getsignal(number) is before
    assert 5 <= cut.step.count <= 8
    resumed = trainer(tmp_path / "cut")
    record = resumed.fit()
    assert same(weights(resumed), weights(whole))
    assert record["train_loss"] == whole.log.records()[-1]["train_loss"]
    assert [line["epoch"] for line in resumed.log.records()] == [1, 2, 3]
    assert resumed.log.records()[1]["train_loss"] == whole.log.records()[1]["train_loss"]


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = trainer(tmp_path)
    record = first.fit()
    loader = FakeLoader()
    loader.__class__ = type("Untouchable", (FakeLoader,), {"__iter__": lambda self: pytest.fail("trained again")})
    (tmp_path / "model.safetensors").unlink()
    assert trainer(tmp_path, loader).fit() == record
    assert same(load_model(tmp_path / "model.safetensors")[0].state_dict(), weights(first))


def test_resume_off_starts_afresh(tmp_path):
    trainer(tmp_path, epochs=1).fit()
    run = trainer(tmp_path, epochs=2, resume=False)
    run.fit()
    assert [line["epoch"] for line in run.log.records()] == [1, 2]


def test_a_run_killed_before_its_first_checkpoint_leaves_no_stale_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch"')
    run = trainer(tmp_path, epochs=1)
    run.fit()
    assert [line["epoch"] for line in run.log.records()] == [1] and "step" in run.log.records()[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 4}, "train.epochs=3, but this run has train.epochs=4"),
        ({"task": "dr"}, "train.task=erm, but this run has train.task=dr"),
        ({"lr": 0.06}, "train.lr=0.05, but this run has train.lr=0.06"),
        ({"model": ModelOptions("test_efficientnet")}, "model.name=test_resnet, .* model.name=test_efficientnet"),
        ({"data": replace(DATA, fingerprint="beef")}, "data.fingerprint=f00d, .* data.fingerprint=beef"),
        ({"loader": FakeLoader(n=32)}, "data.batches=4, but this run has data.batches=2"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, changes, message):
    trainer(tmp_path).fit()
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, **changes).fit()


def test_options_that_leave_the_weights_alone_may_change(tmp_path):
    trainer(tmp_path).fit()
    trainer(tmp_path, eval_every=2, checkpoint_every=3).fit()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 damaged"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "000000004.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"000000004\.pt: no checkpoint could be read"):
        trainer(tmp_path).fit()


def test_a_pickle_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"weights": 1}, tmp_path / "checkpoints" / "000000004.pt")
    with pytest.raises(UserError, match="not a checkpoint"):
        trainer(tmp_path).fit()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_never_reaches_the_weights(tmp_path, lazy, optimizer):
    """lazy is how a GPU is guarded; CPU's fused optimisers obey the same flag."""
    loader = FakeLoader()
    loader.spoil = (1, 1)
    run = trainer(tmp_path, loader, optimizer=optimizer, lr=1e-3)
    run.step.guard = FiniteGuard(run.step.optimizer, run.device, scaled=False, lazy=lazy)
    seen = []
    loader.after_batch = lambda epoch, batch: seen.append({k: v.clone() for k, v in run.model.named_parameters()})
    with pytest.raises(UserError, match=r"not finite by step [68]"):
        run.fit()
    now = dict(run.model.named_parameters())
    assert same(now, seen[4]) and not same(now, seen[3])
    assert torch.load(run.checkpoints.paths()[-1], weights_only=True)["epoch"] == 1


def test_weights_that_are_not_finite_never_replace_a_checkpoint(tmp_path):
    run = trainer(tmp_path)
    run.fit()
    newest = run.checkpoints.paths()[-1]
    before = newest.read_bytes()
    next(run.model.parameters()).data.fill_(torch.nan)
    with pytest.raises(UserError, match="the checkpoint before is kept"):
        run.save()
    assert newest.read_bytes() == before


def test_clipping_bounds_the_gradient(tmp_path):
    run = trainer(tmp_path, clip_grad=1e-3, momentum=0.0, weight_decay=0.0, warmup_epochs=0.0, lr=1.0)
    run.model.train()
    before = [p.detach().clone() for p in run.model.parameters()]
    images, targets, _ = next(iter(run.loader))
    run.step(images, targets)
    moved = torch.stack([(p - q).norm() for p, q in zip(run.model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=0.02)


def test_every_step_has_the_rate_of_the_schedule(tmp_path):
    run = trainer(tmp_path, epochs=2, warmup_epochs=1.0)
    rates = []
    run.loader.after_batch = lambda epoch, batch: rates.append(run.step.optimizer.param_groups[0]["lr"])
    record = run.fit()
    warm = [0.05 / 4 + step * (0.05 - 0.05 / 4) / 4 for step in range(4)]
    cold = [0.025 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates == pytest.approx(warm + cold)
    assert record["lr"] == rates[-1]


def test_averaged_weights_are_evaluated_and_exported(tmp_path):
    run = trainer(tmp_path, ema=0.99)
    run.fit()
    exported = load_model(tmp_path / "model.safetensors")[0].state_dict()
    assert same(exported, run.step.ema.module.state_dict())
    assert not same(exported, run.model.state_dict())


def test_averaging_follows_timms_ramp(tmp_path):
    run = trainer(tmp_path, ema=0.99)
    run.model.train()
    average = None
    for step, (images, targets, _) in enumerate(run.loader, 1):
        run.step(images, targets)
        now = run.model.fc.weight.detach()
        decay = 0.0 if step == 1 else min(0.99, 1 - step ** (-2 / 3))
        average = now.clone() if average is None else decay * average + (1 - decay) * now
    torch.testing.assert_close(run.step.ema.module.fc.weight, average)


def test_validation_and_checkpoints_keep_their_turns(tmp_path):
    run = trainer(tmp_path, val_loader=FakeLoader(n=20), epochs=5, eval_every=2, checkpoint_every=3)
    saved = []
    save = run.save
    run.save = lambda: (saved.append(run.epoch), save())
    run.fit()
    assert [line["epoch"] for line in run.log.records() if "val_top1" in line] == [2, 4, 5]
    assert saved == [3, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "kd"}, "kd needs a live teacher"),
        ({"val_loader": FakeLoader(num_classes=5)}, "data.val: 5 classes, but data.train has 4"),
        ({"model": ModelOptions("test_vit"), "eval_resolution": 48}, "train.eval_resolution: test_vit"),
        ({"precision": "float16"}, "float16 needs a GPU"),
        ({"model": ModelOptions("test_resne")}, "did you mean test_resnet"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_loader_that_breaks_its_promise_is_told(tmp_path):
    loader = FakeLoader()
    loader.__class__ = type("Short", (FakeLoader,), {"__len__": lambda self: 4})
    loader.num_images, loader.batch_size = 32, 8
    loader.__class__ = type("Short", (FakeLoader,), {"__iter__": lambda self: iter(list(FakeLoader(n=32)))})
    with pytest.raises(RuntimeError, match="2 of 4 promised"):
        trainer(tmp_path, loader).fit()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["auto", "float32", "float16"])
def test_gpu_precisions_learn_and_guard(tmp_path, precision):
    class OnGpu(FakeLoader):
        def __iter__(self):
            for images, targets, index in super().__iter__():
                yield images.cuda(), targets.to("cuda"), index

    more = {"ema": 0.9, "clip_grad": 1.0}
    good = trainer(tmp_path / "good", OnGpu(), OnGpu(n=50), device="cuda", precision=precision, **more)
    record = good.fit()
    assert record["val_top1"] > 1 / CLASSES
    loader = OnGpu()
    loader.spoil = (1, 1)
    bad = trainer(tmp_path / "bad", loader, device="cuda", precision=precision)
    with pytest.raises(UserError, match="not finite by step 8"):
        bad.fit()
    assert all(p.isfinite().all() for p in bad.model.parameters())
