"""Files of weights: a run's checkpoint is fed as the run's own model.safetensors; what is refused of others."""

import os
from dataclasses import replace

import pytest
import torch
from betons import student_recipe

from ffdr.config.evaluation import EvalOptions
from ffdr.config.learning import ModelOptions, TeacherOptions
from ffdr.evaluate.run import run as evaluate_run
from ffdr.models.build import build_model, load_model, load_named
from ffdr.models.files import read_info, read_weights
from ffdr.reinforce.teacher import Teacher
from ffdr.train.run import run
from ffdr.util.errors import UserError


@pytest.fixture(scope="module")
def trained(digits, folder):
    """Folders of two runs: with averaged weights and without; each sees its evaluation views larger."""
    for name, ema in (("averaged", 0.9), ("plain", 0.0)):
        plan = student_recipe("erm", digits, "", "", folder / name, ema=ema, eval_resolution=48)
        run(plan, progress=False)
    return folder


def checkpoint_of(out):
    (path,) = sorted((out / "checkpoints").glob("*.pt"))[-1:]
    return path


@pytest.mark.parametrize("name", ["averaged", "plain"])
def test_a_runs_checkpoint_is_its_model(trained, digits, name, tmp_path):
    """Weights, resolution, normalisation, crop, classes and options: whoever loads it, and by whatever name."""
    path, exported = checkpoint_of(trained / name), trained / name / "model.safetensors"
    expected, info = load_model(exported)
    assert info.resolution == 48
    asked = [
        load_model(path),
        load_named("test_efficientnet", str(path)),
        (build_model(ModelOptions("test_efficientnet", checkpoint=str(path)), 10, 48), read_info(path)),
    ]
    for model, found in asked:
        assert found == replace(info, class_names=())  # of which a checkpoint has the digest
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(
            model.state_dict().values(), expected.state_dict().values(), strict=True
        ))  # fmt: skip
    reports = [
        evaluate_run(EvalOptions(checkpoint=str(file), data=str(digits), workers=1), ModelOptions())
        for file in (path, exported)
    ]
    assert reports[0] == reports[1]
    member = Teacher.from_options(TeacherOptions(models=f"test_efficientnet:{path}"), 10, "cpu").members[0]
    assert (member.resolution, member.mean, member.std) == (48, info.mean, info.std)


def test_a_checkpoint_of_another_layout_names_the_model(trained, tmp_path):
    state = torch.load(checkpoint_of(trained / "plain"), weights_only=True)
    path = tmp_path / "run" / "checkpoints" / "000000001.pt"
    path.parent.mkdir(parents=True)
    identity = {key: value for key, value in state["identity"].items() if key != "data.mean"}
    for changed in ({"version": 1}, {"identity": identity}):
        torch.save(state | changed, path)
        with pytest.raises(UserError, match=r"give .*/run/model\.safetensors, or best\.safetensors") as error:
            load_named("test_efficientnet", str(path))
        assert "\n" not in str(error.value)


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_a_checkpoint_runs_no_code(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.load(checkpoint_of(trained / "plain"), weights_only=True)
    torch.save(state | {"ema": Evil()}, "evil.pt")
    for read in (read_info, read_weights):
        with pytest.raises(UserError, match=r"evil\.pt: no weights could be read from it \(it names posix\.mkdir"):
            read("evil.pt")
    assert not (tmp_path / "evil").exists()


def test_a_folder_is_refused_in_other_words_than_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"a folder; name the file in it, such as .*/model\.safetensors"):
        read_info(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_info(tmp_path / "x.pt")
