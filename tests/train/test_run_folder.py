"""``recipe.yaml``: a run's folder holds the recipe that repeats it, and nobody else's file is lost to it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from betons import student_recipe

from ffdr import cli
from ffdr.augment.policy import Policy
from ffdr.config import recipe
from ffdr.config.learning import DataOptions, ModelOptions, TeacherOptions
from ffdr.config.training import TrainOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.train.build import build_trainer
from ffdr.train.run import run
from ffdr.train.run_folder import RunLog
from ffdr.util.errors import UserError

RCFG = Path(__file__).parents[2] / "rcfg"
STRANGE = TrainRecipe(
    train=TrainOptions(
        task="kd", out="on", lr=1e-5, weight_decay=0.0, compile="off", ramp=(0.25, 1.0), sync_batchnorm=True
    ),
    data=DataOptions(train="runs/ä 1: #x\udce9.beton", val="017", mean=(0.1, 1e-7, 0.3), os_cache=False),
    model=ModelOptions(name="resnet50", options=("zero_init_last=false",), checkpoint="a, b\\c '\".pt", drop_path=0.1),
    policy=Policy(),
    teacher=TeacherOptions(models=("resnet50:a,b.pt", "null"), classes="any"),
)


def recipes_of_training():
    """Those in rcfg/ that ``ffdr train`` takes, by name."""
    found = {}
    for file in sorted(RCFG.rglob("*.yaml")):
        for more in ({}, {"teacher__models": "resnet18"}, {"data__reinforced": "r.beton"}):
            try:
                made = recipe.load("train", file, train__out="run", data__train="i.beton", **more)
            except UserError:  # another verb's, a grid, or a teacher or views are missing or out of place
                continue
            if "parts" not in file.parts:
                found[str(file.relative_to(RCFG).with_suffix(""))] = made
    return found


RECIPES = recipes_of_training()


def reread(file):
    return recipe.load("train", file)


def test_there_are_recipes_of_every_task():
    assert {f"digits/{task}" for task in ("erm", "kd", "plus")} < set(RECIPES) and len(RECIPES) > 40


@pytest.mark.parametrize("made", [*RECIPES.values(), STRANGE], ids=[*RECIPES, "strange"])
def test_the_file_reads_as_the_same_recipe(made, tmp_path):
    RunLog(tmp_path).write_recipe(made)
    assert reread(tmp_path / "recipe.yaml") == made
    RunLog(tmp_path).write_recipe(replace(made, train=replace(made.train, resume=False)))
    assert reread(tmp_path / "recipe.yaml") == made  # whoever repeats a run doesn't begin with the end of it


def test_a_run_is_repeated_from_its_folder(digits, tmp_path, capfd):
    """With another folder the same weights; in its own, an interrupted one goes on and a finished one is left alone."""
    first, second = tmp_path / "first", tmp_path / "second"
    plan = student_recipe("erm", digits, "", "", first, val=digits)
    begun = build_trainer(plan, progress=False)
    begun.begin(plan)
    begun.train_epoch()
    begun.save()
    file = first / "recipe.yaml"
    written = file.stat()
    assert cli.main(["train", "--config-file", str(file)]) == 0
    assert "test_efficientnet, 2 epochs" in capfd.readouterr().out
    assert cli.main(["train", "--config-file", str(file), f"--train.out={second}"]) == 0
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert reread(second / "recipe.yaml") == replace(plan, train=replace(plan.train, out=str(second)))
    # A resumed run, also with options that it may change, leaves the file as it was.
    assert cli.main(["train", "--config-file", str(file), "--train.keep=5"]) == 0
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (written.st_mtime_ns, written.st_ino)


def test_a_run_that_starts_afresh_has_its_own_recipe(digits, tmp_path):
    plan = student_recipe("erm", digits, "", "", tmp_path, epochs=1)
    run(plan, progress=False)
    other = replace(plan, train=replace(plan.train, lr=0.02))
    with pytest.raises(UserError, match=r"train\.lr"):
        run(other, progress=False)
    assert reread(tmp_path / "recipe.yaml") == plan
    run(replace(other, train=replace(other.train, resume=False)), progress=False)
    assert reread(tmp_path / "recipe.yaml") == other


def test_what_no_run_wrote_stays(tmp_path, capfd):
    path = tmp_path / "recipe.yaml"
    for content in (
        b"base: mine.yaml\n",
        b"",
        b"\xff" * (9 << 20),
    ):  # the last is larger than what is read of such a file
        path.write_bytes(content)
        RunLog(tmp_path).write_recipe(STRANGE)
        assert path.read_bytes() == content
        assert "recipe.yaml: was not written by ffdr train and stays" in capfd.readouterr().err


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_replaced_and_what_it_leads_to_stays(link, tmp_path):
    (tmp_path / "mine").write_text("base: mine.yaml\n")
    link(tmp_path / "mine", tmp_path / "recipe.yaml")
    RunLog(tmp_path).write_recipe(STRANGE)
    assert (tmp_path / "mine").read_text() == "base: mine.yaml\n"
    assert reread(tmp_path / "recipe.yaml") == STRANGE
