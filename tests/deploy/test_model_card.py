"""The model card: its head as the hub reads it, its example as a reader runs it, what it says of a run."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import yaml
from exported import CLASSES, weights
from huggingface_hub import ModelCard
from PIL import Image

import ffdr
from ffdr.beton.read import ImageBeton
from ffdr.util.errors import UserError

TITLE = "my: net | <b> [x](y) `z`"


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """The folder of a run of three epochs, of which the last but one was the best."""
    out = tmp_path_factory.mktemp("run") / "erm"
    small = {"batch_size": 50, "resolution": 32, "epochs": 3, "warmup_epochs": 0, "seed": 1}
    ffdr.train(
        out=out, model={"name": "test_efficientnet"}, data={"train": digits, "val": digits, "workers": 1},
        progress=False, **small,
    )  # fmt: skip
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for record, top1 in zip(log, (0.25, 0.75, 0.5), strict=True):
        record["val_top1"] = top1
    (out / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    return out


def card_of(folder):
    """What the hub's library makes of it, and its text."""
    return ModelCard.load(folder / "README.md"), (folder / "README.md").read_text(encoding="utf-8")


def scores_of(card):
    return {(result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results}


def test_what_is_known_of_a_run(run, digits, tmp_path):
    out = ffdr.export_model(
        checkpoint=run / "model.safetensors", out=tmp_path / TITLE, license="cc-by-4.0", progress=False
    )
    card, text = card_of(out)
    head = yaml.safe_load(text.split("---\n")[1])
    assert {key: head[key] for key in ("license", "library_name", "pipeline_tag")} == {
        "license": "cc-by-4.0", "library_name": "timm", "pipeline_tag": "image-classification",
    }  # fmt: skip
    assert {"timm", "image-classification"} <= set(head["tags"]) and "accuracy" in head["metrics"]
    assert card.data.model_name == TITLE
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    expected = {"accuracy": 0.5, "nll": log[-1]["val_nll"], "ece": log[-1]["val_ece"]}
    found = scores_of(card)
    assert {key: found["digits", key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert "| digits |  | 50.00% |" in text and "32 px, crop 0.875, bilinear, float32" in text
    assert ImageBeton.open(digits).fingerprint in text
    assert f"ffdr {ffdr.__version__}, torch " in text and "trained on labels alone" in text
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    assert recipe["train"]["epochs"] == 3 and recipe["train"]["seed"] == 1
    assert recipe["model"]["name"] == "test_efficientnet"
    assert recipe["data"] == {**recipe["data"], "train": "digits.beton", "val": "digits.beton"}
    assert str(tmp_path) not in text and str(run.parent) not in text and str(digits.parent) not in text
    names = json.loads((out / "config.json").read_text())["label_names"]
    assert tuple(names) == ImageBeton.open(digits).class_names


@pytest.mark.parametrize(("file", "top1"), [("best.safetensors", 0.75), ("checkpoints/000000006.pt", 0.5)])
def test_scores_are_those_of_the_weights(run, tmp_path, file, top1):
    out = ffdr.export_model(checkpoint=run / file, out=tmp_path / "hub", progress=False)
    assert scores_of(card_of(out)[0])["digits", "accuracy"] == top1


def test_another_runs_folder_counts_for_nothing(run, tmp_path):
    """Weights that lie where they were not trained."""
    shutil.copytree(run, tmp_path / "run")
    weights(tmp_path / "run" / "model.safetensors", "test_efficientnet")
    out = ffdr.export_model(checkpoint=tmp_path / "run" / "model.safetensors", out=tmp_path / "hub", progress=False)
    card, text = card_of(out)
    assert card.data.eval_results is None and "Recipe" not in text and "ab" * 16 in text


@pytest.mark.parametrize("damage", ["[1]", "{", '{"train": 1}', '{"data": {"val": [1]}, "train": {"task": {}}}'])
def test_a_damaged_folder_is_left_out(run, tmp_path, damage):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "recipe.json").write_text(damage)
    options = json.loads((run / "options.json").read_text())
    options["train"]["task"], options["data"]["center"], options["data"]["num_images"] = ["dr"], "x" * 9, {}
    (tmp_path / "run" / "options.json").write_text(json.dumps(options))
    out = ffdr.export_model(checkpoint=tmp_path / "run" / "model.safetensors", out=tmp_path / "hub", progress=False)
    assert card_of(out)[0].data.library_name == "timm"


def test_a_report_adds_its_sets(run, tmp_path, digits):
    model = run / "model.safetensors"
    report = ffdr.evaluate(checkpoint=model, data=digits, workers=1, json=tmp_path / "eval.json")
    suite = {key: report[key] for key in ("model", "resolution", "center", "interpolation", "precision")}
    scores = {"images": 7, "top1": 0.125, "top5": 0.5, "nll": 2.5, "ece": 0.25, "brier": 0.75, "center": 1.0}
    (tmp_path / "suite.json").write_text(json.dumps({**suite, "sets": {"v2|x": scores}, "missing": {}}))
    single = ffdr.export_model(checkpoint=model, out=tmp_path / "a", report=tmp_path / "eval.json", progress=False)
    assert scores_of(card_of(single)[0])["digits", "accuracy"] == pytest.approx(report["top1"], abs=1e-6)
    several = ffdr.export_model(checkpoint=model, out=tmp_path / "b", report=tmp_path / "suite.json", progress=False)
    card, text = card_of(several)
    found = scores_of(card)
    assert {metric: found["v2|x", metric] for metric in ("accuracy", "top5_accuracy", "nll", "ece", "brier")} == {
        "accuracy": 0.125, "top5_accuracy": 0.5, "nll": 2.5, "ece": 0.25, "brier": 0.75,
    }  # fmt: skip
    assert "| v2\\|x | 7 | 12.50% | 50.00% | 2.5000 | 25.00% | 0.7500 | 32 px, crop 1, bilinear" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not what ffdr eval writes"),
        ('{"model": "test_efficientnet"}', "is not what ffdr eval writes"),
        ('{"model": "test_vit", "data": "x", "top1": 0.5}', "is of test_vit, but this is test_efficientnet"),
        ('{"model": "test_efficientnet", "data": "x", "parameters": 7}', "with 7 parameters, but this has "),
        ('{"model": "test_efficientnet", "data": "x", "top1": "high"}', "top1: 'high' is no score"),
        ('{"model": "test_efficientnet", "data": "x", "nll": NaN}', "nll: nan is no score"),
        ('{"model": "test_efficientnet", "sets": {"x": 3}}', "'x' has no scores"),
        ('{"model": "test_efficientnet", "data": "x", "center": "y"}', "its settings are not those"),
    ],
)
def test_a_report_that_is_none(run, tmp_path, content, message):
    (tmp_path / "eval.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        ffdr.export_model(checkpoint=run / "model.safetensors", out=tmp_path / "hub", report=tmp_path / "eval.json")
    assert str(caught.value).startswith("export_model.report: ") and not (tmp_path / "hub").exists()


def test_its_example_runs_without_ffdr(tmp_path):
    model = weights(tmp_path / "m.safetensors", "test_vit")
    out = ffdr.export_model(checkpoint=tmp_path / "m.safetensors", out=tmp_path / "hub", progress=False)
    text = card_of(out)[1]
    code = re.search(r"```python\n(.*?)```", text, re.S)[1] + 'import sys\nassert "ffdr" not in sys.modules\n'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)).save(out / "image.jpg")
    environment = {"PYTHONIOENCODING": "utf-8", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, encoding="utf-8", env=environment)
    assert run.returncode == 0, run.stderr
    said = {name: float(share) for name, share in re.findall(r"(.*?): ([\d.]+)%\n", run.stdout, re.S)}
    view = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{out}", pretrained=True))
    with torch.no_grad():
        image = timm.data.create_transform(**view)(Image.open(out / "image.jpg"))
        probabilities = 100 * model(image[None]).softmax(1)[0]
    best = {CLASSES[number]: probabilities[number].item() for number in probabilities.topk(5).indices.tolist()}
    assert said == pytest.approx(best, abs=0.1)
    assert "license" not in yaml.safe_load(text.split("---\n")[1])
