"""What needs a GPU to be seen: no waits in a step, memory that stays, compiled steps that learn as plain ones do.

Few and quick, since a GPU is often there for minutes only; what can be seen on a CPU is tested there.
"""

import itertools
import time
from dataclasses import replace

import pytest
import torch
from betons import MIXING, student_recipe
from fakes import CLASSES, FakeLoader, trainer

from ffdr import ReinforcedLoader
from ffdr.config.learning import TeacherOptions
from ffdr.evaluate.metrics import Scores, predict
from ffdr.models.compiling import FixedBatch
from ffdr.reinforce.teacher import Teacher
from ffdr.train.build import build_trainer
from ffdr.train.run import run
from ffdr.train.stopwatch import stopwatch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
GPU = torch.device("cuda")


class OnGpu(FakeLoader):
    """All batches lie on the GPU."""

    def __iter__(self):
        for images, targets, index in super().__iter__():
            yield images.to(GPU), targets.to(GPU), index


def begun(out, **changes):
    run = trainer(out, OnGpu(topk=2), device=GPU, **changes)
    run.begin()
    run.model.train()
    return run


def steps(run, batches):
    for images, targets, _ in batches:
        run.step(images, targets)


def assert_no_waits(run, batches):
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(run, batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")


UPDATES = [{"task": "dr", "clip_grad": 1.0}, {"precision": "float16"}, {"optimizer": "lion"}, {"optimizer": "muon"}]


@pytest.mark.parametrize("changes", UPDATES)
def test_a_step_waits_for_nothing(tmp_path, changes):
    run = begun(tmp_path, ema=0.9, **changes)
    batches = list(OnGpu(topk=2))
    steps(run, batches)
    assert_no_waits(run, batches[:3])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_parts_of_a_batch_learn_alike_in_every_mode(tmp_path, mode):
    """With CUDA graphs, too, whose replays write where the gradients of the part before lay; and nothing waits."""
    batches = list(OnGpu(topk=2))
    shared = {"task": "dr", "accumulate": 2, "precision": "float32", "lr": 0.0}
    runs = [begun(tmp_path / name, compile=name, **shared) for name in ("off", mode)]
    for each in runs:
        steps(each, batches)  # the fourth step is a replay
    assert runs[1].step.compiled == mode
    for left, right in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-4)
    assert_no_waits(runs[1], batches[:3])


def test_memory_is_the_same_after_ten_epochs(digits, reinforced_digits, tmp_path):
    plan = student_recipe("dr", digits, reinforced_digits, "", tmp_path, epochs=11, compile="off")
    training, reserved = build_trainer(plan, progress=False), []
    training.begin()
    for _ in range(11):
        training.train_epoch()
        reserved.append(torch.cuda.memory_reserved())
    assert len(set(reserved[3:])) == 1, reserved


def test_growing_views_compile_once_per_size(digits, reinforced_digits, tmp_path):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    growth = {"min_resolution": 32, "resolution": 64, "ramp": (0.2, 0.8), "epochs": 4, "compile": "default"}
    run(student_recipe("dr", digits, reinforced_digits, "", tmp_path, **growth), progress=False)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_a_live_teacher_and_a_resumed_run(digits, reinforced_digits, teacher, tmp_path):
    plan = student_recipe("kd", digits, reinforced_digits, teacher, tmp_path, val=digits, ema=0.9, eval_every=1)
    first = build_trainer(plan, progress=False)
    first.begin()
    first.train_epoch()
    first.save()
    again = build_trainer(plan, progress=False)
    again.begin()
    assert again.step.count == first.step.count == 4
    pairs = zip(first.step.state_dict()["model"].values(), again.step.state_dict()["model"].values(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    record = run(plan, progress=False)
    assert (record["epoch"], record["step"]) == (2, 8)
    assert 0 <= record["data_wait"] <= 1 and 0 <= record["val_top1"] <= 1


def test_compiled_evaluation_scores_the_same(tmp_path):
    model = begun(tmp_path).model
    loader = OnGpu(n=50, shuffle=False)
    plain, compiled = Scores(CLASSES, GPU), Scores(CLASSES, GPU)
    for scores, forward in ((plain, model), (compiled, FixedBatch(model, "eval.compile"))):
        predict(model, loader, lambda logits, y, _, scores=scores: scores.update(logits, y.label), forward=forward)
    plain, compiled = plain.compute(), compiled.compute()
    assert compiled["images"] == plain["images"] == 50
    assert compiled["nll"] == pytest.approx(plain["nll"], rel=1e-2)


def test_a_teachers_precision_is_what_was_asked(teacher):
    pixels = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.set_float32_matmul_precision("high")  # as a student in bfloat16 leaves it
    asked = {name: TeacherOptions(models=teacher, precision=name) for name in ("float32", "bfloat16")}
    answers = {name: Teacher.from_options(given, 10, GPU).log_probs(pixels).cpu() for name, given in asked.items()}
    exact = Teacher.from_options(asked["float32"], 10, "cpu").log_probs(pixels)
    torch.testing.assert_close(answers["float32"], exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(answers["bfloat16"], exact, rtol=0.2, atol=0.2)
    compiled = Teacher.from_options(replace(asked["float32"], compile="on"), 10, GPU).log_probs(pixels).cpu()
    torch.testing.assert_close(compiled, exact, rtol=1e-4, atol=1e-4)


def test_two_loaders_are_read_at_once(digits, reinforce):
    given = {"batch_size": 10, "resolution": 32, "device": GPU, "dtype": torch.uint8}
    pair = [ReinforcedLoader(digits, reinforce(digits, MIXING), seed=seed, **given) for seed in (1, 2)]
    alone = [[images.cpu() for images, _, _ in loader] for loader in pair]
    for loader in pair:
        loader.set_epoch(0)
    for number, batches in enumerate(zip(*pair, strict=True)):
        for which, (images, _, _) in enumerate(batches):
            assert torch.equal(images.cpu(), alone[which][number])


def test_waiting_is_the_gpus_and_not_the_hosts():
    def slow():
        for _ in range(5):
            time.sleep(0.05)
            yield torch.ones(8, device=GPU)

    torch.ones(8, device=GPU).sum().item()  # loads the kernels
    starved = stopwatch(GPU)
    for batch in starved.timed(slow()):
        batch.sum()
    torch.cuda.synchronize()
    assert 0.8 < starved.data_wait < 1

    side = torch.randn(8192, 8192, device=GPU)
    side @ side
    torch.cuda.synchronize()
    busy = stopwatch(GPU)
    for _ in busy.timed(itertools.repeat(None, 10)):
        for _ in range(4):
            side @ side
    torch.cuda.synchronize()
    assert busy.data_wait < 0.05
