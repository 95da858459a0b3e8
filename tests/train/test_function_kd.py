"""Task kd with a function or a module of the caller as the live teacher: what a named teacher teaches."""

import pytest
import torch
from safetensors.torch import load_file

import ffdr
from ffdr.cli import main
from ffdr.models.build import load_model
from ffdr.reinforce import FunctionTeacher
from ffdr.util.errors import UserError

SIDE = 32


def trained(images, out, teacher, **changes):
    plan = {"epochs": 1, "batch_size": 25, "resolution": SIDE, "warmup_epochs": 0, "seed": 3, "lr": 0.01, **changes}
    data = {"train": images, "workers": 1}
    ffdr.train(task="kd", out=out, data=data, teacher=teacher, model={"name": "test_efficientnet"}, **plan)
    return load_file(out / "model.safetensors")


def test_a_student_of_a_function(digits, teacher, tmp_path):
    model, info = load_model(teacher.partition(":")[2])
    seen = []

    def function(pixels):
        seen.append((pixels.dtype, tuple(pixels.shape[1:])))
        return model((pixels.permute(0, 3, 1, 2) / 255 - info.mean[0]) / info.std[0])

    named = trained(digits, tmp_path / "named", {"models": teacher})
    module = trained(digits, tmp_path / "module", FunctionTeacher(model, mean=info.mean, std=info.std))
    pixels = trained(digits, tmp_path / "pixels", function)
    assert all(torch.equal(module[key], value) for key, value in named.items())
    assert set(seen) == {(torch.uint8, (SIDE, SIDE, 3))}
    for key, value in named.items():
        torch.testing.assert_close(pixels[key], value, atol=2e-4, rtol=1e-3)

    with pytest.raises(
        UserError, match=r"teacher \w{12}, but this run has .*teacher \w{12}"
    ):  # another one is another run
        trained(digits, tmp_path / "pixels", lambda pixels: function(pixels) * 2)


def test_the_recipe_of_such_a_run_says_that_its_teacher_was_a_function(digits, tmp_path, capsys):
    trained(digits, tmp_path / "run", FunctionTeacher(lambda pixels: torch.zeros(len(pixels), 10), "flat"))
    assert main(["train", f"--config-file={tmp_path / 'run' / 'recipe.yaml'}", f"--out={tmp_path / 'again'}"]) == 2
    assert "teacher.models: function:flat: a function, which only a call from Python" in capsys.readouterr().err


def test_a_dry_run_takes_the_function_too(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat").touch()  # a file of the function's name is no checkpoint
    seen = []

    def flat(pixels):
        seen.append(len(pixels))
        return torch.zeros(len(pixels), 10)

    plan = {"task": "kd", "epochs": 1, "batch_size": 25, "resolution": SIDE, "warmup_epochs": 0, "dry_run": True}
    call = {"data": {"train": digits, "workers": 1}, "model": {"name": "test_efficientnet"}, **plan}
    ffdr.train(teacher=FunctionTeacher(flat, "flat"), **call)
    assert 25 in seen and "the teacher and" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^teacher: flat answers \(6, 9\)"):
        ffdr.train(teacher=FunctionTeacher(lambda pixels: torch.zeros(len(pixels), 9), "flat"), **call)
