"""Models that are not timm's own, through every verb: registered ones, torchvision's, those of a folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from betons import student_recipe
from safetensors.torch import load_file
from timm.models import save_for_hf

from ffdr.cli import main
from ffdr.config.evaluation import EvalOptions
from ffdr.config.learning import ModelOptions, TeacherOptions
from ffdr.config.recipe import parse
from ffdr.evaluate.run import run as evaluate_run
from ffdr.models.build import build_model, load_model, read_info
from ffdr.reinforce.teacher import Teacher
from ffdr.train.dry_run.summary import KnownData, dry_run, plan_work
from ffdr.train.run import run as train_run
from ffdr.util.errors import UserError

FILE = str(Path(__file__).parents[1] / "helpers" / "my_models.py")
TINY = "torchvision:shufflenet_v2_x0_5"


def flags(name, digits, out, *more):
    given = [
        "--train.epochs=1", "--train.batch_size=25", "--train.resolution=32", "--train.lr=0.01", "--data.workers=1",
        f"--data.train={digits}", f"--data.val={digits}", f"--model.name={name}", f"--train.out={out}", *more,
    ]  # fmt: skip
    return given + [f"--model.module={FILE}"] * name.startswith("my_")


def trained(name, digits, out, *more):
    return train_run(parse("train", flags(name, digits, out, *more)), progress=False)


def evaluate(path, digits, **more):
    return evaluate_run(EvalOptions(checkpoint=str(path), data=str(digits), workers=1, precision="float32"), **more)


@pytest.mark.parametrize("name", ["my_tiny", TINY])
def test_they_are_trained_evaluated_tuned_resumed_and_teach(name, digits, tmp_path):
    out = tmp_path / "run"
    record = trained(name, digits, out, "--train.ema=0.5")
    file = out / "model.safetensors"
    model, info = load_model(file)
    assert (info.name, info.num_classes) == (name, 10)
    # the same scores by the verb, and weights by plain names that the library itself loads
    report = evaluate(file, digits, model_options=ModelOptions(module=FILE))
    assert report["top1"] == pytest.approx(record["val_top1"])
    plain = timm.create_model(name) if name == "my_tiny" else torchvision.models.get_model(name[12:], num_classes=10)
    plain.load_state_dict(load_file(file))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain.eval()(images), model(images))
    # a checkpoint of the run says the same, another epoch goes on, a finished run is left alone
    checkpoint = next((out / "checkpoints").iterdir())
    assert read_info(checkpoint) == replace(info, class_names=())
    assert trained(name, digits, out, "--train.ema=0.5") == record
    teacher = Teacher.from_options(TeacherOptions(models=f"{name}:{checkpoint}", module=FILE), 10, "cpu")
    pixels = (images * 255).byte()
    fed = (pixels / 255 - torch.tensor(info.mean)[:, None, None]) / torch.tensor(info.std)[:, None, None]
    torch.testing.assert_close(teacher.log_probs(pixels), model(fed).log_softmax(1), rtol=1e-4, atol=1e-4)
    tuned = build_model(ModelOptions(name, checkpoint=str(file), module=FILE), 3, 32)
    head = {key for key, value in tuned.state_dict().items() if value.shape != model.state_dict()[key].shape}
    assert {key.rpartition(".")[2] for key in head} == {"weight", "bias"} and tuned(images).shape == (2, 3)


def test_a_stopped_run_goes_on_with_the_same_bytes(digits, tmp_path):
    for out, first in (("whole", ()), ("parts", ("--train.checkpoint_every=1",))):
        given = flags("my_built", digits, tmp_path / out, "--train.epochs=2", *first)
        given = list(dict.fromkeys(word for word in given if word != "--train.epochs=1"))
        train_run(parse("train", given), progress=False)
    for file in (tmp_path / "parts").glob("*.safetensors"):
        file.unlink()
    newest = max((tmp_path / "parts" / "checkpoints").iterdir())
    newest.unlink()
    train_run(parse("train", ["--config-file", str(tmp_path / "parts" / "recipe.yaml")]), progress=False)
    whole, parts = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("whole", "parts"))
    assert whole == parts


def test_a_folders_model_is_tuned_and_stored_by_its_architecture(digits, tmp_path):
    torch.manual_seed(0)
    save_for_hf(
        timm.create_model("test_resnet", num_classes=7, stem_type="deep"), tmp_path / "m", safe_serialization=True
    )
    name, out = f"local-dir:{tmp_path / 'm'}", tmp_path / "run"
    record = trained(name, digits, out, "--model.pretrained=true")
    _, info = load_model(out / "model.safetensors")
    assert info.name == "test_resnet" and "stem_type=deep" in info.options and info.num_classes == 10
    assert read_info(next((out / "checkpoints").iterdir())) == replace(info, class_names=())
    assert trained(name, digits, out, "--model.pretrained=true") == record
    assert f"local-dir:{tmp_path / 'm'}" in (out / "recipe.yaml").read_text()
    with pytest.raises(UserError, match=r"made with model\.name="):
        trained("test_resnet", digits, out)


def test_a_live_teacher_of_ones_own(digits, tmp_path):
    trained("my_tiny", digits, tmp_path / "t")
    weights = tmp_path / "t" / "model.safetensors"
    more = ("--train.task=kd", f"--teacher.models=my_tiny:{weights}", f"--teacher.module={FILE}")
    assert trained("test_efficientnet", digits, tmp_path / "s", *more)["val_top1"] >= 0


def test_the_command_line_says_what_is_missing(digits, tmp_path, capsys):
    """In a process that has not imported the file; and that it is allowed beside a checkpoint."""
    trained("my_built", digits, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    entries = timm.models._registry._model_entrypoints
    kept = entries.pop("my_built")
    try:
        assert main(["eval", f"--eval.checkpoint={file}", f"--eval.data={digits}"]) == 2
        said = capsys.readouterr().err
        assert "timm has no model 'my_built'" in said and "--model.module imports what registers others" in said
    finally:
        entries["my_built"] = kept
    given = ["eval", f"--eval.checkpoint={file}", f"--eval.data={digits}", f"--model.module={FILE}"]
    assert main([*given, f"--eval.json={tmp_path / 'r.json'}"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["model"] == "my_built"
    assert main([*given, "--model.name=my_built"]) == 2
    assert "give one of both" in capsys.readouterr().err


def test_a_dry_run_knows_their_size(digits, capsys, tmp_path):
    dry_run(parse("train", [*flags("my_tiny", digits, tmp_path / "x"), "--train.dry_run=true"]))
    assert "my_tiny, 0.00 M parameters, starts from random weights" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()
    recipe = parse("train", flags("torchvision:regnet_y_400mf", digits, tmp_path / "x"))
    work = plan_work(recipe, KnownData(100, 1000, ""))
    assert work.flops[32] == pytest.approx(2 * 0.402e9 * (32 / 224) ** 2, rel=0.2)  # torchvision's own figure


def test_plain_names_have_the_identity_that_they_had(digits, tmp_path):
    """So that checkpoints of earlier versions go on."""
    recipe = student_recipe("erm", digits, "", "", tmp_path / "run", epochs=1)
    train_run(recipe, progress=False)
    checkpoint = torch.load(next((tmp_path / "run" / "checkpoints").iterdir()), weights_only=True)
    keys = [key for key in checkpoint["identity"] if key.startswith("model.")]
    assert keys == ["model.name", "model.drop_path", "model.options", "model.checkpoint", "model.pretrained"]
