"""From a recipe to a trained model, through real betons, for every task; and what is refused before training."""

import json
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
from betons import student_recipe

from ffdr.config import recipe
from ffdr.config.evaluation import EvalOptions
from ffdr.config.files import SubsetOptions
from ffdr.config.learning import ModelOptions, TeacherOptions
from ffdr.evaluate.run import run as evaluate_run
from ffdr.models.build import (
    build_model,
    load_model,
    read_info,
    save_model,
)
from ffdr.train import build
from ffdr.train.build import build_trainer
from ffdr.train.run import run
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks
from ffdr.write.copy.subset import subset


@pytest.mark.parametrize("task", ["erm", "kd", "dr"])
def test_every_task_trains_and_its_model_is_evaluated(digits, reinforced_digits, teacher, tmp_path, task):
    plan = student_recipe(task, digits, reinforced_digits, teacher, tmp_path / "run", epochs=3, val=digits)
    record = run(plan, progress=False)
    assert record["epoch"] == 3
    assert 0 <= record["val_top1"] <= 1
    checkpoint = tmp_path / "run" / "model.safetensors"
    info = read_info(checkpoint)
    assert (info.num_classes, info.resolution) == (10, 32)
    manifest = json.loads(digits.with_suffix(".json").read_text())
    assert list(info.class_names) == manifest["class_names"]
    assert "class_names" not in json.loads((tmp_path / "run/options.json").read_text())["data"]
    options = EvalOptions(checkpoint=str(checkpoint), data=str(digits), json=str(tmp_path / "report.json"))
    report = evaluate_run(options, ModelOptions())
    assert report["top1"] == pytest.approx(record["val_top1"])
    assert report["ece"] == pytest.approx(record["val_ece"], abs=1e-6)
    assert json.loads((tmp_path / "report.json").read_text())["images"] == 100


def test_a_resumed_run_ends_with_the_same_model(digits, reinforced_digits, teacher, tmp_path):
    def train(out, epochs):
        plan = student_recipe("dr", digits, reinforced_digits, teacher, out, epochs=4, checkpoint_every=1)
        if epochs == 4:
            return run(plan, progress=False)
        trainer = build_trainer(plan, progress=False)
        trainer.begin()
        for _ in range(epochs):
            trainer.train_epoch()
            trainer._save_if_due()

    train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    train(tmp_path / "parts", 4)
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_a_resume_with_another_number_of_views_names_both(digits, reinforced_digits, teacher, tmp_path):
    fewer = tmp_path / "fewer.beton"
    subset(SubsetOptions(file=str(reinforced_digits), out=str(fewer), views=2))
    run(student_recipe("dr", digits, reinforced_digits, teacher, tmp_path / "run"), progress=False)
    with pytest.raises(UserError, match=r"supervision=4 views of top-3 .*supervision=2 views of top-3"):
        run(student_recipe("dr", digits, fewer, teacher, tmp_path / "run"), progress=False)


def test_what_does_not_fit_is_refused_before_training(digits, photos, reinforced_digits, teacher, tmp_path):
    def refuse(text, task="dr", images=digits, reinforced=reinforced_digits, **changes):
        with pytest.raises(UserError, match=text):
            run(student_recipe(task, images, reinforced, teacher, tmp_path / "run", **changes), progress=False)

    refuse("fingerprint", images=photos)
    refuse("data.reinforced: task dr .* holds none", reinforced="")
    refuse("test_resnet", name="test_resnett")
    refuse("classes", val=photos)
    refuse("do not fill one batch", batch_size=101)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("device", "precision", "dtype"),
    [("cuda", "bfloat16", torch.bfloat16), ("cuda", "float32", torch.float32), ("cpu", "bfloat16", torch.float32)],
)
def test_a_gpu_validates_in_the_dtype_it_trains_in(digits, monkeypatch, tmp_path, device, precision, dtype):
    made = []
    monkeypatch.setattr(build, "ReinforcedLoader", lambda images, **given: made.append(given))
    plan = student_recipe("erm", digits, "", "", tmp_path / "run", val=digits, precision=precision)
    build.build_val_loader(plan, build.open_data(plan), torch.device(device), Ranks())
    assert made[0]["dtype"] is dtype


def test_a_run_on_a_cpu_is_told_apart_as_before(digits, teacher, tmp_path):
    """What identifies the live teacher holds the recipe's batch size; a run begun by an earlier ffdr must go on."""
    plan = student_recipe("kd", digits, "", teacher, tmp_path / "run", batch_size=20)
    built = build_trainer(plan, progress=False)
    assert built.task.teacher.batch_size == plan.teacher.batch_size == 256


def test_eval_refuses_data_of_other_classes(photos, digits, reinforced_digits, teacher, tmp_path):
    run(student_recipe("erm", digits, reinforced_digits, teacher, tmp_path / "run", epochs=1), progress=False)
    options = EvalOptions(checkpoint=str(tmp_path / "run" / "model.safetensors"), data=str(photos))
    with pytest.raises(UserError, match="class names"):
        evaluate_run(options, ModelOptions())


def test_the_recipes_of_the_tree_train(digits, tmp_path):
    from ffdr.util.shipped import recipes

    plan = recipe.load(
        "train",
        recipes() / "digits" / "erm.yaml",
        data__train=str(digits),
        train__out=str(tmp_path / "run"),
        train__epochs=1,
        train__warmup_epochs=0,
    )
    assert run(plan, progress=False)["epoch"] == 1


def content(folder):
    """Every file with its bytes and time of change."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_refused_run_changes_nothing_of_a_finished_one(digits, reinforced_digits, teacher, tmp_path):
    out = tmp_path / "run"
    run(student_recipe("erm", digits, "", "", out), progress=False)
    before = content(out)
    assert json.loads((out / "recipe.json").read_text())["train"]["lr"] == 0.01
    for plan in (
        student_recipe("erm", digits, "", "", out, lr=0.02),
        student_recipe("dr", digits, reinforced_digits, "", out),
        student_recipe("erm", digits, "", "", out, eval_resolution=8, name="test_convnext"),
    ):
        with pytest.raises(UserError):
            run(plan, progress=False)
        assert content(out) == before


def test_a_model_without_a_checkpoint_is_not_replaced_unasked(digits, tmp_path):
    out = tmp_path / "run"
    plan = student_recipe("erm", digits, "", "", out, epochs=1)
    run(plan, progress=False)
    shutil.rmtree(out / "checkpoints")
    before = content(out)
    with pytest.raises(
        UserError, match=r"train\.out: .* holds model\.safetensors, but no checkpoint of this run; give"
    ):
        run(plan, progress=False)
    assert content(out) == before
    run(replace(plan, train=replace(plan.train, resume=False)), progress=False)
    assert (out / "checkpoints").is_dir()


def test_a_repeated_run_says_that_it_is_finished(digits, tmp_path, capfd):
    out = tmp_path / "my run"
    plan = student_recipe("erm", digits, "", "", out, val=digits, flip_average=True)
    record = run(plan)
    line = capfd.readouterr().out.splitlines()[-1]
    top1 = f"{100 * record['val_top1']:.1f} %"
    made = (
        f"{out}/model.safetensors: test_efficientnet, 2 epochs, top-1 {top1}; next: ffdr eval "
        f"'--eval.checkpoint={out}/model.safetensors' --eval.data={digits} --eval.flip_average=1"
    )
    assert line == made
    before = content(out)
    assert run(plan) == record
    assert capfd.readouterr().out == f"{out}: already trained to epoch 2; {made}\n"
    assert content(out) == before
    # What is missing is made again, without training.
    (out / "report.png").unlink()
    run(plan)
    assert capfd.readouterr().out.splitlines()[-1] == made
    assert (out / "model.safetensors").read_bytes() == before[out / "model.safetensors"][0]
    assert (out / "report.png").exists()


def test_the_closing_line_names_what_eval_needs(digits, tmp_path, capfd):
    run(student_recipe("erm", digits, "", "", tmp_path / "run", epochs=1))
    line = capfd.readouterr().out.splitlines()[-1]
    words = shlex.split(line.partition("next: ")[2])
    assert words[:2] == ["ffdr", "eval"]
    plan = recipe.parse("eval", [*words[2:-1], f"--eval.data={digits}"])
    assert evaluate_run(plan.eval, plan.model)["images"] == 100
    assert words[-1].startswith("--eval.data=")


def test_a_teacher_that_can_not_teach_is_told_before_the_start(digits, teacher, tmp_path):
    plan = student_recipe("kd", digits, "", teacher, tmp_path / "run")
    name, _, path = teacher.partition(":")
    model, info = load_model(path)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1e12)  # finite, but not what comes of it
    save_model(tmp_path / "large.safetensors", model, info)
    broken = replace(plan, teacher=TeacherOptions(models=f"{name}:{tmp_path}/large.safetensors"))
    with pytest.raises(UserError, match=rf"teacher\.models: .*{name}.* not finite .*teacher\.precision"):
        run(broken, progress=False)
    convnext = tmp_path / "convnext.safetensors"
    made = build_model(ModelOptions("test_convnext"), 10, 32)
    save_model(convnext, made, replace(info, name="test_convnext"))
    small = replace(plan, teacher=TeacherOptions(models=f"test_convnext:{convnext}", resolution=8))
    with pytest.raises(UserError, match=r"teacher\.resolution: test_convnext can't take images of 8 px"):
        run(small, progress=False)
    assert not (tmp_path / "run").exists()
