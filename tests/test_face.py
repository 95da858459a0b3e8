"""What ``import ffdr`` offers: names imported on first use, verbs as functions whatever else is imported, and types."""

import inspect
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import ffdr
from ffdr.beton.read import ImageBeton
from ffdr.config.verbs import TrainRecipe
from ffdr.util.errors import UserError

ROOT = Path(__file__).parent.parent
VERBS = ["evaluate", "export_model", "reinforce", "train", "write"]
SCRIPT = """
from ffdr import Policy, ReinforcedDataset, ReinforcedLoader, SparseTargetLoss, SparseTargets
from ffdr import evaluate, reinforce, train, write
import ffdr.train.fit

beton = write(source="digits", out="x.beton", quality=90)
reveal_type(beton)
reveal_type(reinforce(images=beton, out="y.beton", policy=Policy(erase=0.5), teacher={"models": "resnet18"}))
reveal_type(train(out="runs/x", progress=False))
reveal_type(evaluate(checkpoint="m.safetensors", data=beton))
reveal_type(SparseTargetLoss)
reveal_type(ffdr.ReinforcedLoader)
train(progress="maybe")
"""


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options).stdout


def test_all_names_can_be_imported():
    assert python("from ffdr import *; print(*sorted(name for name in dir() if name[0] != '_'))").split() == sorted(
        ffdr.__all__
    )


def test_dir_lists_what_is_not_imported_yet():
    assert set(python("import ffdr; print(*dir(ffdr))").split()) >= {*ffdr.__all__, "__version__"}


def test_a_name_that_is_none():
    with pytest.raises(AttributeError, match="module 'ffdr' has no attribute 'reinforced'"):
        _ = ffdr.reinforced


@pytest.mark.parametrize(
    ("verb", "before"),
    [
        ("train", ""),
        ("train", "import ffdr.train"),
        ("train", "import ffdr.train.update.losses"),
        ("train", "from ffdr.train import train as other"),
        ("write", "from ffdr.write import receipt"),
        ("evaluate", "import ffdr.evaluate.metrics"),
        ("reinforce", "from ffdr.reinforce import shards"),
        ("export_model", "import ffdr.deploy.run"),
    ],
)
def test_a_verb_is_a_function_before_and_after_its_modules_are_imported(verb, before):
    code = f"""{before}
from ffdr import {verb}
import ffdr.train.update.losses, ffdr.write.receipt
assert ffdr.{verb} is {verb} and callable({verb})
assert ffdr.train.update.losses.__name__ == 'ffdr.train.update.losses'
try:
    {verb}(no_such_option=1)
except ValueError as error:
    print(error)"""
    assert "unknown key" in python(code)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_shows_its_signature(verb):
    parameters = inspect.signature(getattr(ffdr, verb)).parameters
    first = {"write": "dataset", "reinforce": "images"}.get(verb, "config_file")
    assert [*parameters][:: len(parameters) - 1] == [first, "options"] and "config_file" in parameters


def test_refusals_come_before_the_slow_imports():
    code = """import sys, ffdr
try:
    ffdr.train(lr="x", out="runs/x")
except ValueError as error:
    print(error, {'torch', 'ffcv', 'numba', 'timm', 'cv2'} & set(sys.modules))"""
    assert python(code) == "call: train.lr: 'x' is not a number set()\n"


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("train", {"epochz": 1}, "call: unknown key train.epochz (did you mean train.epochs?)"),
        ("train", {"model": {"nam": "resnet18"}}, "call: unknown key model.nam (did you mean model.name?)"),
        ("train", {"model": "resnet18"}, "call: model: 'resnet18' is neither a mapping of options nor ModelOptions"),
        ("train", {"policy": ffdr.Policy}, "call: policy: "),
        ("train", {"out": "x", "epochs": 2.5}, "call: train.epochs: 2.5 is not an integer"),
        ("train", {"out": "x"}, "data.train: give the image beton to train on"),
        ("write", {"source": None}, "call: write.source has no value; give one, or leave it out"),
        ("write", {"source": "digit", "out": "x"}, "write.source: 'digit' is not one of digits, "),
        ("reinforce", {"images": "x.beton", "out": "y.beton"}, "teacher.models: name the teacher"),
        ("evaluate", {}, "eval.data: give an image beton or a folder of images"),
    ],
)
def test_mistakes_are_those_of_the_command_line(verb, options, message):
    with pytest.raises(UserError) as caught:
        getattr(ffdr, verb)(**options)
    assert str(caught.value).startswith(message)


def test_options_come_from_a_recipe_and_from_the_call(tmp_path, monkeypatch):
    """The call wins; a section is a mapping or an options object, a path any path."""
    file = tmp_path / "x.yaml"
    file.write_text("train: {epochs: 3, lr: 0.5}\nmodel: {name: resnet18}\npolicy: {flip: 0.25}\n")
    asked = []
    monkeypatch.setattr("ffdr.train.run.run", lambda recipe, progress, *_: asked.append(recipe) or {"epoch": 3})
    policy = ffdr.Policy(crop="padded", erase=0.5)
    record = ffdr.train(config_file=file, lr=0.25, out=tmp_path, data={"train": tmp_path / "x.beton"}, policy=policy)
    (recipe,) = asked
    assert record == {"epoch": 3} and isinstance(recipe, TrainRecipe)
    assert (recipe.train.epochs, recipe.train.lr, recipe.train.out) == (3, 0.25, str(tmp_path))
    assert (recipe.data.train, recipe.model.name) == (str(tmp_path / "x.beton"), "resnet18")
    assert asdict(recipe.policy) == asdict(policy)


def test_the_whole_path(tmp_path, capsys):
    images = ffdr.write(source="digits", out=tmp_path / "x.beton", mode="raw", per_class=4, workers=1, progress=False)
    assert ImageBeton.open(images).num_images == 40
    small = {"name": "test_efficientnet"}
    flags = {"batch_size": 20, "resolution": 32, "epochs": 1, "warmup_epochs": 0}
    record = ffdr.train(
        out=tmp_path / "run", data={"train": images, "val": images, "workers": 1}, model=small, progress=False, **flags
    )
    assert record["epoch"] == 1 and 0 <= record["val_top1"] <= 1
    checkpoint = tmp_path / "run" / "model.safetensors"
    teacher = {"models": (f"test_efficientnet:{checkpoint}",)}
    made = ffdr.reinforce(
        images=images, out=tmp_path / "x+.beton", views=2, topk=3, teacher=teacher, workers=1, progress=False
    )
    assert len(ffdr.ReinforcedDataset(images, made)) == 40
    capsys.readouterr()
    report = ffdr.evaluate(checkpoint=checkpoint, data=images, workers=1, json=tmp_path / "r.json")
    assert report["top1"] == json.loads((tmp_path / "r.json").read_text())["top1"]
    assert capsys.readouterr().out.startswith("test_efficientnet at 32 px")


def test_type_checkers_see_functions_and_classes(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "script.py").write_text(SCRIPT)
    heavy = ("torch", "numpy", "timm", "cv2", "PIL", "matplotlib", "yaml", "tqdm", "safetensors", "huggingface_hub")
    sections = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in heavy)
    # What is asked is what the face says, not what the rooms' own types are: those are checked where the code is.
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nfollow_imports = silent\nignore_missing_imports = true\nmypy_path = {ROOT}\n{sections}"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "script.py"]
    lines = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
    revealed = [line.split('Revealed type is "')[1].rstrip('"') for line in lines if "Revealed" in line]
    assert revealed[:3] == ["pathlib.Path", "pathlib.Path", "dict[str, Any]"]
    assert [kind.rpartition("ffdr.")[2] for kind in revealed[4:]] == [
        "train.update.losses.SparseTargetLoss", "loader.loader.ReinforcedLoader",
    ]  # fmt: skip
    assert "Any" not in revealed
    (error,) = [line for line in lines if ": error: " in line]
    assert 'Argument "progress" to "train"' in error


def test_the_loader_is_also_where_it_used_to_be():
    from ffdr.loader import ReinforcedLoader

    assert ReinforcedLoader is ffdr.ReinforcedLoader
