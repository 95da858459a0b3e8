"""``eval.results``: its tables against scikit-learn, torch and NumPy; its pictures against pixels."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from painted import Reader, paint, reader_info
from PIL import Image
from ranked import finish, launch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import ffdr
from ffdr.beton.layout import origin_key
from ffdr.beton.read import ImageBeton
from ffdr.config import recipe
from ffdr.config.evaluation import EvalOptions, SuiteOptions
from ffdr.config.files import WriteOptions
from ffdr.config.learning import ModelOptions
from ffdr.data.folder import open_folder
from ffdr.evaluate import run as module
from ffdr.evaluate.classes import synsets
from ffdr.evaluate.confusion import PairCounts
from ffdr.evaluate.evaluator import Evaluator
from ffdr.evaluate.results import pictures, tables
from ffdr.models.build import ModelInfo, build_model, class_digest, load_model, save_model
from ffdr.util.errors import UserError
from ffdr.write.images import write_images

NAMES = ["=1+1", 'a,"b"', "cat", "猫"]
ANSWERS = [[0, 0, 1], [1, 1], [0, 0, 2, 3], [2]]
"""What the painted reader says to the images of each class; it is equally sure of all."""
TRUE = [label for label, answers in enumerate(ANSWERS) for _ in answers]
SAID = [answer for answers in ANSWERS for answer in answers]
FILES = {"classes.csv", "confusion.csv", "confusion.png", "mistakes.png", "predictions.csv"}


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def records(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def reader(monkeypatch):
    def put(num_classes, **more):
        info = reader_info(num_classes, **more)
        monkeypatch.setattr(module, "load_named", lambda *_, **__: (Reader(info, num_classes), info))

    return put


@pytest.fixture
def painted(tmp_path):
    for name, answers in zip(NAMES, ANSWERS, strict=True):
        for image, answer in enumerate(answers):
            paint(tmp_path / "data" / name / f"{image}.png", answer)
    return tmp_path / "data"


def evaluate(suite=None, **options):
    return module.run(EvalOptions(**{"batch_size": 2, "workers": 1} | options), ModelOptions(name="test_vit"), suite)


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    """A model whose outputs differ from image to image, and its logits on the digits by torch alone."""
    torch.manual_seed(3)
    net = build_model(ModelOptions(name="test_vit"), 10, 32)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    names = ImageBeton.open(digits).class_names
    info = ModelInfo("test_vit", 10, 32, (0.3,) * 3, (0.35,) * 3, classes=class_digest(names), class_names=names)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, net, info)
    net, info = load_model(path)
    evaluator = Evaluator(net, info, torch.device("cpu"), workers=1)
    with torch.inference_mode():
        logits = torch.cat([net(batch) for batch, _, _ in evaluator.loader(ImageBeton.open(digits))])
    return path, logits


def test_the_files_of_one_data_set(reader, painted, tmp_path, capsys):
    reader(4, classes=class_digest(NAMES))
    plain = evaluate(data=str(painted))
    assert not (tmp_path / "results").exists() and "lowest accuracy" not in capsys.readouterr().out
    report = evaluate(data=str(painted), results=str(tmp_path / "results"))
    assert report == plain and json.dumps(report)
    assert {file.name for file in (tmp_path / "results").iterdir()} == FILES
    out = capsys.readouterr().out
    assert "    0.00% of 1 images: 猫, most often cat\n" in out and "2 images (50.00%): cat → =1+1\n" in out
    assert f"{tmp_path / 'results'}: scores of test_vit; next: " in out
    head, *rows = table(tmp_path / "results/confusion.csv")
    assert head == ["true \\ predicted", *NAMES] and [row[0] for row in rows] == NAMES
    np.testing.assert_array_equal(np.array(rows)[:, 1:].astype(int), confusion_matrix(TRUE, SAID))
    assert table(tmp_path / "results/classes.csv")[1:] == [
        ["=1+1", "3", "4", "0.5", "0.666667", "0.571429", 'a,"b"', "1"],
        ['a,"b"', "2", "3", "0.666667", "1", "0.8", "", "0"],
        ["cat", "4", "2", "0.5", "0.25", "0.333333", "=1+1", "2"],
        ["猫", "1", "1", "0", "0", "0", "cat", "1"],
    ]
    found = records(tmp_path / "results/predictions.csv")
    source = open_folder(painted, "")
    assert [row["path"] for row in found] == [source.origin(i) for i in range(10)]
    assert [row["label"] for row in found] == ["=1+1"] * 3 + ['a\\,"b"'] * 2 + ["cat"] * 4 + ["猫"]
    assert [row["predicted"] for row in found] == [NAMES[said] for said in SAID]
    assert [row["correct"] == "true" for row in found] == np.equal(TRUE, SAID).tolist()
    assert len(found[0]) == 5 + 2 * 4  # as many classes as there are


def test_classes_are_scikit_learns():
    rng = np.random.default_rng(0)
    true, said = rng.integers(0, 12, 300), rng.integers(0, 12, 300)
    true[true == 3], said[said == 5] = 4, 6  # a class without images, one without predictions
    true[true == 11], said[said == 11] = 10, 10  # and one without either
    found = tables.class_results(PairCounts.of(true, said), 12)
    precision, recall, f1, support = precision_recall_fscore_support(true, said, labels=range(12), zero_division=np.nan)
    numbers = np.array([[result.precision, result.recall, result.f1] for result in found], float)
    np.testing.assert_allclose(numbers, np.stack([precision, recall, f1], 1), rtol=1e-12)
    assert [result.images for result in found] == support.tolist()
    assert [result.predictions for result in found] == np.bincount(said, minlength=12).tolist()
    matrix = confusion_matrix(true, said, labels=range(12))
    np.fill_diagonal(matrix, 0)
    assert [result.confused_images for result in found] == matrix.max(1).tolist()
    others = [int(row.argmax()) if row.any() else None for row in matrix]
    assert [result.confused_with for result in found] == others


@pytest.mark.parametrize("batch", [7, 100])
def test_predictions_of_a_beton_are_torchs(model, digits, tmp_path, batch):
    checkpoint, logits = model
    options = EvalOptions(checkpoint=str(checkpoint), data=str(digits), results=str(tmp_path / "r"), batch_size=batch)
    report = module.run(options, ModelOptions())
    images, found = ImageBeton.open(digits), records(tmp_path / "r/predictions.csv")
    assert [int(row["number"]) for row in found] == list(range(100))
    assert [int(row["key"], 16) for row in found] == [key % 2**64 for key in images.origins[:, 2].tolist()]
    assert {row["path"] for row in found} == {""}
    top = logits.softmax(1).topk(5)
    columns = ["", "_2", "_3", "_4", "_5"]
    names = [[row[f"predicted{end}"] for end in columns] for row in found]
    assert names == [[images.class_names[i] for i in row] for row in top.indices.tolist()]
    shares = [[float(row[f"confidence{end}"]) for end in columns] for row in found]
    torch.testing.assert_close(torch.tensor(shares), top.values, rtol=0, atol=2e-6)
    assert sum(row["correct"] == "true" for row in found) == round(report["top1"] * 100)
    recalls = {row["class"]: row["recall"] for row in records(tmp_path / "r/classes.csv")}
    assert {name: float(recalls[name]) for name in report["per_class"]} == pytest.approx(report["per_class"], abs=1e-6)


def test_two_ranks_write_what_one_process_does(model, digits, tmp_path):
    flags = {"checkpoint": str(model[0]), "data": str(digits), "batch_size": 10, "workers": 1}
    module.run(EvalOptions(**flags, results=str(tmp_path / "1")), ModelOptions())
    command = ["-m", "ffdr", "eval", *(f"--eval.{key}={value}" for key, value in flags.items())]
    statuses, errors = finish(launch(2, [*command, f"--eval.results={tmp_path / '2'}"]))
    assert statuses == [0, 0], errors
    for name in FILES:
        one, two = ((tmp_path / ranks / name).read_bytes() for ranks in ("1", "2"))
        assert one == two, name


def test_paths_of_a_beton_are_found_by_key(reader, painted, tmp_path):
    reader(4, classes=class_digest(NAMES))
    write_images(WriteOptions(source="imagefolder", path=str(painted), split="", out=str(tmp_path / "i.beton")))
    results = {"data": str(tmp_path / "i.beton"), "results": str(tmp_path / "r")}
    evaluate(**results, paths=str(painted))
    paths = [row["path"] for row in records(tmp_path / "r/predictions.csv")]
    assert paths == [path.relative_to(painted).as_posix() for path in sorted(painted.rglob("*.png"))]
    keys = [int(row["key"], 16) for row in records(tmp_path / "r/predictions.csv")]
    assert keys == [origin_key(path) % 2**64 for path in paths]
    paint(tmp_path / "other" / "cat" / "unknown.png", 0)
    with pytest.raises(UserError, match=r"eval\.paths: none of the images of .*i\.beton is from"):
        evaluate(**results, paths=str(tmp_path / "other"))


def test_names_of_a_beton_without_any_are_the_models(monkeypatch, digits, tmp_path):
    names = tuple(f"model's {number}" for number in range(12))
    info = ModelInfo("test_vit", 12, 28, (0.5,) * 3, (0.2,) * 3, classes=class_digest(names), class_names=names)
    monkeypatch.setattr(module, "load_named", lambda *_, **__: (Reader(info, 12), info))
    (tmp_path / "d.beton").write_bytes(digits.read_bytes())
    evaluate(data=str(tmp_path / "d.beton"), results=str(tmp_path / "r"), classes="any")
    assert [row["class"] for row in records(tmp_path / "r/classes.csv")] == list(names)


def test_sets_of_a_suite_have_folders_of_their_own(reader, tmp_path):
    """ReaL's images have several labels, or none; of ImageNet-A all other classes are masked."""
    reader(1000)
    for number, (label, answer) in enumerate([(0, 0), (6, 7), (6, 6), (9, 9)], 1):
        paint(tmp_path / "val" / synsets()[label] / f"ILSVRC2012_val_{number:08d}.JPEG", answer)
    paint(tmp_path / "a" / synsets()[6] / "x.jpg", 0, 11)  # class 0 is none of ImageNet-A's
    labels = [[0], [7, 6], [5, 4], []] + [[]] * 49996
    (tmp_path / "real.json").write_text(json.dumps(labels))
    suite = SuiteOptions(val=str(tmp_path / "val"), real=str(tmp_path / "real.json"), a=str(tmp_path / "a"))
    report = evaluate(suite, results=str(tmp_path / "r"))
    folders = {folder.name: {file.name for file in folder.iterdir()} for folder in (tmp_path / "r").iterdir()}
    one_label = {"val": FILES, "a": FILES, "a_clean": FILES}
    assert folders == {**one_label, "real": {"predictions.csv", "mistakes.png"}}
    real = records(tmp_path / "r/real/predictions.csv")
    assert [(row["number"], row["correct"]) for row in real] == [("0", "true"), ("1", "true"), ("2", "false")]
    assert real[1]["label"] == f"{synsets()[7]},{synsets()[6]}"
    (masked,) = records(tmp_path / "r/a/predictions.csv")
    assert (masked["predicted"], masked["label"]) == (synsets()[11], synsets()[6])
    assert len(records(tmp_path / "r/a/classes.csv")) == 200
    clean = records(tmp_path / "r/a_clean/predictions.csv")
    assert len(clean) == report["sets"]["a_clean"]["images"] == 2
    assert [row["number"] for row in clean] == ["1", "2"]


# Pictures.


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def has_colour(pixels, colour, tolerance=3):
    return int((np.abs(pixels - np.array(colour)).max(2) <= tolerance).sum())


def test_the_worst_mistakes_come_first_and_are_the_images(tmp_path, monkeypatch):
    """Plain images, and a model that is the surer the redder; two of each class, one of which is wrong."""
    colours = {"0": [(10, 0, 250), (240, 0, 30)], "1": [(200, 0, 60), (30, 0, 200)]}
    for name, values in colours.items():
        for number, colour in enumerate(values):
            path = tmp_path / "data" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), colour).save(path)

    class Red(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            red = images[:, 0].mean((1, 2)) * 8 - 3
            return torch.stack([-red, red], 1)

    info = ModelInfo("test_vit", 2, 32, (0.0,) * 3, (1.0,) * 3)
    monkeypatch.setattr(module, "load_named", lambda *_, **__: (Red(), info))
    drawn = []
    real = pictures.draw_mistakes
    monkeypatch.setattr(pictures, "draw_mistakes", lambda path, *rest: drawn.append(rest) or real(path, *rest))
    evaluate(data=str(tmp_path / "data"), results=str(tmp_path / "r"))
    ((mistakes, wrong, images),) = drawn
    assert (wrong, images) == (2, 4)
    assert [(m.where, m.labels, m.predicted) for m in mistakes] == [("0/1.png", ["0"], "1"), ("1/1.png", ["1"], "0")]
    assert mistakes[0].pixels.shape == (32, 32, 3) and (mistakes[0].pixels == (240, 0, 30)).all()
    picture = pixels_of(tmp_path / "r/mistakes.png")
    side = 0.8 * pictures.PAGE / 6 * 200
    assert min(has_colour(picture, colours["0"][1]), has_colour(picture, colours["1"][1])) > side**2
    assert has_colour(picture, colours["0"][0]) == has_colour(picture, colours["1"][0]) == 0
    first, second = (np.argwhere((picture == colour).all(2)).min(0) for colour in ((240, 0, 30), (30, 0, 200)))
    assert first[0] == second[0] and first[1] < second[1]


def test_a_view_is_what_the_model_is_shown(digits):
    images = ImageBeton.open(digits)
    info = ModelInfo("test_vit", 10, 24, (0.5,) * 3, (0.5,) * 3, center=0.8)
    pixels, _ = module.evaluation_pixels(images, info, workers=1)
    evaluator = Evaluator(torch.nn.Identity(), info, torch.device("cpu"))
    for number in (0, 57, 99):
        np.testing.assert_array_equal(evaluator.view(images, number), pixels[number])


@pytest.mark.parametrize("classes", [1, 3, 10, 40])
def test_a_matrix_has_a_cell_of_its_colour_for_each_pair(tmp_path, classes):
    true = np.arange(classes).repeat(2)
    said = np.where(np.arange(2 * classes) % 2, (true + 1) % classes, true)
    pictures.draw_confusion(tmp_path / "c.png", PairCounts.of(true, said), [f"n{number}" for number in range(classes)])
    picture = pixels_of(tmp_path / "c.png")
    assert max(picture.shape) < 2600
    wrong, right = pictures._colours()
    side, share = 200 * pictures._cell(classes), 0.5 if classes > 1 else 1
    areas = [has_colour(picture, 255 * np.array(colours(pictures._NORM(share))[:3]), 1) for colours in (right, wrong)]
    assert areas[0] > 0.5 * classes * side**2
    assert classes == 1 or areas[1] == pytest.approx(areas[0], rel=0.1)


def test_of_many_classes_the_most_confused_are_shown(tmp_path, monkeypatch):
    labels = []
    real = pictures.shortened
    monkeypatch.setattr(pictures, "shortened", lambda text, width: labels.append(text) or real(text, width))
    true, said = np.arange(1000).repeat(5), np.arange(1000).repeat(5)
    said[35:40], said[4990:4994] = 500, 7  # all of class 7, four of class 998
    pictures.draw_confusion(tmp_path / "c.png", PairCounts.of(true, said), [f"n{number}" for number in range(1000)])
    assert labels == ["n7", "n500", "n998"]
    labels.clear()
    pictures.draw_confusion(tmp_path / "c.png", PairCounts.of(true, true), [f"n{number}" for number in range(1000)])
    assert labels == [f"n{number}" for number in range(30)]


@pytest.mark.filterwarnings("error")
def test_pictures_take_any_name(tmp_path):
    names = ["$x^$", "\udce9", "x" * 500, "a\nb", "\u202e", "\ud55c"]
    pictures.draw_confusion(tmp_path / "c.png", PairCounts.of(np.arange(6), np.arange(6)[::-1]), names)
    mistakes = [pictures.Mistake(np.zeros((8, 9, 3), np.uint8), name, [name], name, 0.5) for name in names]
    pictures.draw_mistakes(tmp_path / "m.png", mistakes, 6, 6)
    assert min(pixels_of(tmp_path / name).std() for name in ("c.png", "m.png")) > 5


def test_no_mistakes_are_said(tmp_path):
    pictures.draw_mistakes(tmp_path / "m.png", [], 0, 7)
    assert pixels_of(tmp_path / "m.png").std() > 1


def test_classes_by_the_ten_thousand_are_pairs(tmp_path):
    counts = PairCounts.of(np.array([5, 65535, 5]), np.array([5, 1, 5]))
    tables.write_confusion(tmp_path / "c.csv", counts, [f"n{number}" for number in range(1 << 16)])
    assert table(tmp_path / "c.csv") == [["true", "predicted", "images"], ["n5", "n5", "2"], ["n65535", "n1", "1"]]


# What is refused, and what is replaced.


def test_what_cannot_be_written_is_refused_before_the_model_is_built(painted, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("built")

    monkeypatch.setattr(module, "load_named", never)
    (tmp_path / "file").touch()
    (tmp_path / "taken/mistakes.png").mkdir(parents=True)
    data = {"data": str(painted)}
    for options, message in (
        ({"results": str(tmp_path / "no/r")}, r"eval\.results: there is no folder .*/no"),
        ({"results": str(tmp_path / "file")}, r"eval\.results: .*/file is not a folder"),
        ({"results": str(tmp_path / "taken")}, r"mistakes\.png: a folder"),
        ({"results": str(tmp_path / "r"), "paths": str(tmp_path / "no")}, r"eval\.paths: .*/no is not a folder"),
        ({"results": str(tmp_path / "r"), "paths": str(painted)}, r"eval\.paths: the data is a folder itself"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(**data, **options)
    with pytest.raises(UserError, match=r"eval\.paths: .*eval\.results"):
        EvalOptions(paths=str(painted))
    with pytest.raises(UserError, match=r"eval\.paths: .*suite"):
        recipe.parse("eval", ["--model.name=x", "--suite.val=y", "--eval.results=r", "--eval.paths=z"])


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_may_not_be_written_to_is_refused_first(there, painted, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_named", None)
    closed = tmp_path / "r" if there else tmp_path
    if there:
        closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed)  # root may write anywhere
    with pytest.raises(UserError, match=r"eval\.results: .*/r can't be written: this user may not write to"):
        ffdr.evaluate(model={"name": "resnet18"}, data=painted, results=tmp_path / "r", workers=1)


def test_files_of_an_earlier_evaluation_are_replaced(reader, painted, tmp_path):
    reader(4, classes=class_digest(NAMES))
    (tmp_path / "r").mkdir()
    for name in FILES | {"mine.txt"}:
        (tmp_path / "r" / name).write_text("old")
    with pytest.raises(UserError, match="no data"):
        ffdr.evaluate(data=str(tmp_path / "no data"), model={"name": "test_vit"}, results=str(tmp_path / "r"))
    assert {file.read_text() for file in (tmp_path / "r").iterdir()} == {"old"}
    evaluate(data=str(painted), results=str(tmp_path / "r"))
    assert {file.name for file in (tmp_path / "r").iterdir() if file.read_bytes() != b"old"} == FILES
    assert (tmp_path / "r/mine.txt").read_text() == "old"
