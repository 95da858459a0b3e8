"""``ffdr eval`` from options to files: folders and betons, suites, several ranks; what is refused."""

import csv
import json
import shlex
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from painted import FIRST, Reader, paint, reader_info
from PIL import Image
from ranked import launch

from ffdr.bench.corpus import make_photos
from ffdr.config import recipe
from ffdr.config.evaluation import EvalOptions, SuiteOptions
from ffdr.config.learning import ModelOptions
from ffdr.data.folder import open_folder
from ffdr.evaluate import evaluator, folders
from ffdr.evaluate import report as report_module
from ffdr.evaluate import run as module
from ffdr.evaluate.classes import synsets
from ffdr.evaluate.corruptions import NAMES
from ffdr.models.build import (
    ModelInfo,
    build_model,
    class_digest,
    save_model,
)
from ffdr.util.errors import UserError

COLOURS = ["blue", "green", "red"]


@pytest.fixture
def reader(monkeypatch):
    """The painted images' reader in the place of timm's model; says how many classes and which."""

    def put(num_classes, classes=""):
        info = reader_info(num_classes, classes=classes)
        monkeypatch.setattr(module, "load_named", lambda *_, **__: (Reader(info, num_classes), info))

    return put


def evaluate(**options):
    return module.run(EvalOptions(batch_size=2, workers=1, **options), ModelOptions(name="test_vit"))


def paint_colours(folder):
    answers = {"blue": [0, 0, 1], "green": [1, 2], "red": [2, 2]}
    for name, numbers in answers.items():
        for image, number in enumerate(numbers):
            paint(folder / name / f"{image}.png", number)
    return folder


def test_a_folder_of_the_models_classes(reader, tmp_path):
    reader(3, class_digest(COLOURS))
    data = paint_colours(tmp_path / "data")
    files = {key: str(tmp_path / f"report.{end}") for key, end in (("json", "json"), ("csv", "csv"), ("plot", "png"))}
    report = evaluate(data=str(data), **files)
    assert (report["top1"], report["images"]) == (5 / 7, 7)
    assert report["per_class"] == {"blue": 2 / 3, "green": 1 / 2, "red": 1.0}
    sure = (np.exp(FIRST) / (np.exp(FIRST) + 2)).item()
    assert report["reliability"][14] == {"images": 7, "confidence": pytest.approx(sure), "accuracy": 5 / 7}
    assert report["reliability"][3] == {"images": 0, "confidence": None, "accuracy": None}
    assert report["ece"] == pytest.approx(abs(sure - 5 / 7), abs=1e-6)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    header, row = (tmp_path / "report.csv").read_text().splitlines()
    assert header.startswith("model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation,set")
    assert row.startswith("test_vit,71.429,28.571,100.000,0.000,0.00,28,0.875,bilinear,")
    assert np.asarray(Image.open(tmp_path / "report.png")).std() > 10


@pytest.mark.filterwarnings("error")
def test_a_plot_takes_any_name(reader, tmp_path):
    reader(3)
    data = paint_colours(tmp_path / "$x^$ \ud55c")
    evaluate(data=str(data), plot=str(tmp_path / "plot.png"))
    assert np.asarray(Image.open(tmp_path / "plot.png")).std() > 10


def test_every_evaluation_ends_with_a_command(digits, tmp_path):
    def words(**options):
        model = ModelOptions(name="test_vit", options=("depths=[1,2]", "d=e"))
        line = module._closing({"model": "test_vit"}, [], EvalOptions(**options), model, SuiteOptions())
        return shlex.split(line.partition("; next: ")[2])

    again = words(data="my photos", corruptions=True)
    assert again[:2] == ["ffdr", "eval"] and "--json=REPORT.json" in again
    found = recipe.parse("eval", again[2:])
    assert found.eval == EvalOptions(data="my photos", corruptions=True, json="REPORT.json")
    assert found.model.options == ("depths=[1,2]", "d=e")
    done = {"corruptions": True, "json": "r.json"}
    assert words(data=str(digits), **done) == ["ffdr", "inspect", str(digits)]
    verb, *flags = words(data=str(tmp_path), **done)[1:]
    assert verb == "write" and recipe.parse(verb, flags).path == str(tmp_path)


def test_corruptions_of_a_folder(reader, tmp_path):
    reader(3)
    data = paint_colours(tmp_path / "data")
    pixels, labels = module.evaluation_pixels(open_folder(data, "eval.data"), reader_info(3))
    assert pixels[:, 14, 14].tolist() == [[4, 8 * number + 4, 0] for number in (0, 0, 1, 1, 2, 2, 2)]
    assert labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    report = evaluate(data=str(data), corruptions=True)
    assert [len(report["corruptions"][name]) for name in NAMES] == [5] * 15
    assert report["corruption_top1"] == pytest.approx(np.mean(list(report["corruptions"].values())))
    assert report["corruptions"]["brightness"][4] == 2 / 7  # so light that all look like the last class


class Recorder(Reader):
    """Notes how it is called: images of a batch, pixels a side, dtype of autocast."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.calls = []

    def forward(self, images):
        """As the reader."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        self.calls.append((len(images), images.shape[2], dtype))
        return super().forward(images)


@pytest.mark.parametrize("kind", ["data", "corruptions", "suite"])
@pytest.mark.parametrize(
    "options",
    [{}, {"flip_average": True}, {"precision": "bfloat16"}, {"batch_size": 3}, {"compile": "on"}, {"workers": 2}],
    ids=str,
)
def test_every_pass_has_the_settings_of_the_options(kind, options, tmp_path, monkeypatch):
    """On data, under corruptions, and on a suite with ImageNet-C's whole images."""
    info = reader_info(1000)
    model, compiled, threads = Recorder(info, 1000), [], []
    monkeypatch.setattr(module, "load_named", lambda *_, **__: (model, info))
    monkeypatch.setattr(evaluator, "FixedBatch", lambda forward, key: compiled.append(key) or forward)
    real = folders.thread_count
    monkeypatch.setattr(folders, "thread_count", lambda workers, gpu: threads.append(workers) or real(workers, gpu))
    monkeypatch.setattr(module, "check_model", lambda *_, **__: None)
    monkeypatch.setattr(module, "_check_classes", lambda *_, **__: None)
    for number in range(4):
        paint(tmp_path / "val" / synsets()[number] / f"ILSVRC2012_val_{number + 1:08d}.JPEG", number)
        paint(tmp_path / "sketch" / synsets()[number] / f"sketch_{number}.JPEG", number)
    where = {"data": str(tmp_path / "val")} if kind != "suite" else {}
    suite = SuiteOptions(val=str(tmp_path / "val"), sketch=str(tmp_path / "sketch"))
    settings = {"batch_size": 2, "workers": 1} | options
    report = module.run(
        EvalOptions(**settings, **where, corruptions=kind == "corruptions"), ModelOptions(name="test_vit"), suite
    )
    flips, passes = 1 + settings.get("flip_average", False), {"data": 1, "corruptions": 76, "suite": 2}[kind]
    dtype = getattr(torch, settings.get("precision", "float32"))
    sizes = {2: [2, 2], 3: [3, 1]}[settings["batch_size"]]
    assert model.calls == [(size, 28, dtype) for size in sizes for _ in range(flips)] * passes
    assert compiled == ["eval.compile"] * (settings.get("compile") == "on")
    assert set(threads) == {settings["workers"]}
    assert (report["flip_average"], report["precision"]) == (flips == 2, str(dtype).removeprefix("torch."))
    assert (report["resolution"], report["center"], report["averaged"]) == (28, 0.875, None)
    assert report["compiled"] == bool(compiled)


def test_a_report_says_with_which_settings(tmp_path, capsys):
    names = ["a", "b"]
    for number, name in enumerate(names):
        paint(tmp_path / "data" / name / "0.png", number)
    run = tmp_path / "run"
    run.mkdir()
    info = ModelInfo("test_vit", 2, 32, (0.5,) * 3, (0.25,) * 3, 1.0, class_digest(names))
    for name in ("model.safetensors", "other.safetensors"):
        save_model(run / name, build_model(ModelOptions(name="test_vit"), 2, 32), info)
    (run / "options.json").write_text(json.dumps({"model": {"name": "test_vit"}, "train": {"ema": 0.9}}))
    files = {"json": str(run / "report.json"), "csv": str(run / "report.csv")}
    for name, averaged, words in (("model", True, ", averaged weights"), ("other", None, "")):
        options = EvalOptions(checkpoint=str(run / f"{name}.safetensors"), data=str(tmp_path / "data"), **files)
        module.run(replace(options, flip_average=True), ModelOptions())
        report = json.loads((run / "report.json").read_text())
        assert (report["averaged"], report["flip_average"]) == (averaged, True)
        with open(run / "report.csv", newline="") as file:
            (row,) = csv.DictReader(file)
        spelled = "true" if averaged else ""
        assert (row["precision"], row["flip_average"], row["averaged"]) == ("float32", "true", spelled)
        out = capsys.readouterr().out.splitlines()
        assert out[0].startswith(f"test_vit at 32 px, crop 1, bilinear, float32, with mirror images{words}, on ")
        said, then = out[-1].split("; next: ")
        assert said == f"{run}/report.json, {run}/report.csv: scores of test_vit"
        found = recipe.parse("eval", shlex.split(then)[2:])
        assert found.eval == replace(options, flip_average=True, corruptions=True)


def test_a_suite_file_says_where_the_sets_lie(reader, tmp_path, capsys):
    reader(1000)
    paint(tmp_path / "val" / synsets()[998] / "ILSVRC2012_val_00000001.JPEG", 998)
    file = tmp_path / "suite.yaml"
    file.write_text(f"model: {{name: resnet50.a1_in1k}}\nsuite: {{val: {tmp_path}/val, v2: {tmp_path}/v2}}\n")
    options = recipe.parse("eval", ["--config-file", str(file), "--eval.json", str(tmp_path / "report.json")])
    report = module.run(options.eval, options.model, options.suite)
    assert report["sets"]["val"]["top1"] == 1 and list(report["missing"]) == ["v2"]
    assert "missing: there is no" in capsys.readouterr().out
    file.write_text("suite: {sketsch: x}\n")
    with pytest.raises(UserError, match=r"suite\.sketsch .*did you mean suite\.sketch"):
        recipe.parse("eval", ["--config-file", str(file), "--model.name=resnet50"])


@pytest.mark.parametrize("also", [[], ["--eval.data=x", "--suite.val=y"]])
def test_data_or_a_suite(also):
    with pytest.raises(UserError, match=r"eval\.data: give"):
        recipe.parse("eval", ["--model.name=resnet50", *also])
    with pytest.raises(UserError, match=r"eval\.corruptions"):
        recipe.parse("eval", ["--model.name=resnet50", "--suite.val=y", "--eval.corruptions"])


def test_what_does_not_fit_is_refused(reader, tmp_path):
    data = paint_colours(tmp_path / "data")
    reader(3, class_digest(["a", "b", "c"]))
    with pytest.raises(UserError, match=r"class names are not those .*eval\.classes=any"):
        evaluate(data=str(data))
    assert evaluate(data=str(data), classes="any")["top1"] == 5 / 7
    reader(1000)
    with pytest.raises(UserError, match="3 classes, but the model has 1000"):
        evaluate(data=str(data))
    with pytest.raises(UserError, match=r"eval\.data: there is no"):
        evaluate(data=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"eval\.csv: there is no folder"):
        evaluate(data=str(data), csv=str(tmp_path / "nowhere" / "x.csv"))
    with pytest.raises(UserError, match=r"eval\.plot: .*\.png"):
        evaluate(data=str(data), plot="x.jpg")


def test_v2_is_no_plain_folder(reader, tmp_path):
    reader(1000)
    for number in range(1000):
        (tmp_path / "v2" / str(number)).mkdir(parents=True)
        (tmp_path / "v2" / str(number) / "0.jpg").touch()
    with pytest.raises(UserError, match=r"sorted as text; ImageNetV2 goes in a suite"):
        evaluate(data=str(tmp_path / "v2"))


def test_another_view_than_timms_is_told(capsys):
    module._warn_of_other_view(ModelInfo("resnet50.a1_in1k", 1000, 224, (0.5,) * 3, (0.5,) * 3))
    assert "resnet50.a1_in1k at 288 px, with interpolation bicubic; ffdr's view is bilinear" in capsys.readouterr().err
    module._warn_of_other_view(ModelInfo("resnet50.tv_in1k", 1000, 224, (0.5,) * 3, (0.5,) * 3))
    assert capsys.readouterr().err == ""


def start(ranks, *flags):
    return launch(ranks, ["-m", "ffdr", "eval", *flags], stdout=subprocess.PIPE)


def test_two_ranks_count_every_image_once(tmp_path):
    """Seven images in batches of two: the second rank has one image less."""
    make_photos(tmp_path / "photos", 7, seed=2, width=60, height=50)
    torch.manual_seed(0)
    names = [f"class_{number:02d}" for number in range(7)]
    info = ModelInfo("test_vit", 7, 32, (0.5,) * 3, (0.25,) * 3, classes=class_digest(names))
    checkpoint = tmp_path / "model.safetensors"
    save_model(checkpoint, build_model(ModelOptions(name="test_vit"), 7, 32), info)
    reports = {}
    for ranks in (1, 2):
        file = tmp_path / f"{ranks}.json"
        flags = [f"--eval.checkpoint={checkpoint}", f"--eval.data={tmp_path / 'photos'}", f"--eval.json={file}"]
        processes = start(ranks, *flags, "--eval.batch_size=2", "--eval.workers=1")
        outputs = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0] * ranks, outputs
        assert [bool(out) for out, _ in outputs] == [True, False][:ranks]
        reports[ranks] = json.loads(file.read_text())
    one, two = reports[1], reports[2]
    assert one["images"] == two["images"] == 7
    assert (one["top1"], one["per_class"]) == (two["top1"], two["per_class"])
    for key in ("nll", "brier", "ece"):
        assert two[key] == pytest.approx(one[key], rel=1e-5)


def test_what_is_not_drawn_is_not_said_to_be_written(tmp_path, capsys):
    assert not report_module.plot(tmp_path / "plot.png", {"sets": {"c": {"top1": 0.5}}, "model": "m"})
    assert not (tmp_path / "plot.png").exists() and "not written" in capsys.readouterr().err
