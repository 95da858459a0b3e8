"""ImageNet's sets in their own layouts, painted small, with answers that are known beforehand."""

import csv
import json
from math import exp

import pytest
import torch
from painted import Reader, paint, reader_info, write_mappings

from ffdr.config.evaluation import SuiteOptions
from ffdr.config.files import WriteOptions
from ffdr.evaluate.classes import subset, synsets
from ffdr.evaluate.evaluator import Evaluator
from ffdr.evaluate.report import as_text, write_csv
from ffdr.evaluate.suite import ALEXNET_ERROR, PUBLISHED, check_model, corruption_errors, open_suite, run_suite
from ffdr.models.build import class_digest
from ffdr.util.errors import UserError
from ffdr.write.images import write_images


def run(center=0.875, **sets):
    info = reader_info(center=center)
    evaluator = Evaluator(Reader(info), info, torch.device("cpu"), batch_size=2, workers=1)
    plan = open_suite(SuiteOptions(**{name: str(path) for name, path in sets.items()}))
    return run_suite(evaluator, plan)


def paint_val(folder, images, file="ILSVRC2012_val_{:08d}.JPEG"):
    """images: (class, answers …) each, numbered as the validation set's files are."""
    for number, (label, *answers) in enumerate(images, 1):
        paint(folder / synsets()[label] / file.format(number), *answers)
    return folder


def paint_sketch(folder, images):
    return paint_val(folder, images, "sketch_{}.JPEG")


def scores(report, name):
    return [report["sets"][name][key] for key in ("top1", "top5", "images")]


def test_val_and_sketch_go_by_synset_even_if_classes_lack(tmp_path):
    images = [(999, 999), (999, 5), (7, 7), (300, 8, 300)]
    report = run(val=paint_val(tmp_path / "val", images), sketch=paint_sketch(tmp_path / "sketch", images))
    for name in ("val", "sketch"):
        assert scores(report, name) == [0.5, 0.75, 4]
        per_class = report["sets"][name]["per_class"]
        assert per_class == {synsets()[7]: 1.0, synsets()[300]: 0.0, synsets()[999]: 0.5}
    assert list(report["sets"]) == ["val", "sketch"] and report["missing"] == {}


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_v2_folders_are_class_numbers(tmp_path, kind):
    """Sorted as text 10 comes before 2, and every class but 0 and 1 would be scored as another."""
    path = tmp_path / "v2"
    for number in (0, 1, 2, 10, 11, 100, 999):
        paint(path / str(number) / "a.jpeg", number)
    if kind == "beton":
        out = tmp_path / "v2.beton"
        options = {"split": "", "mode": "raw", "workers": 1}
        write_images(WriteOptions(source="imagefolder", path=str(path), out=str(out), **options), progress=False)
        path = out
    for name in ("v2", "v2_threshold", "v2_top"):
        assert scores(run(**{name: path}), name) == [1.0, 1.0, 7]


@pytest.mark.parametrize("name", ["a", "r"])
def test_answers_outside_the_200_classes_do_not_count(tmp_path, name):
    inside = subset(name)
    outside = next(number for number in range(1000) if number not in inside)
    for number, (label, *answers) in enumerate(
        [(inside[0], outside, inside[0]), (inside[199], outside, inside[199]), (inside[3], inside[4], inside[3])]
    ):
        paint(tmp_path / name / synsets()[label] / f"{number}.jpg", *answers)
    val = [(inside[0], inside[0]), (inside[1], outside, inside[1]), (outside, outside), (inside[2], inside[3])]
    report = run(**{name: tmp_path / name, "val": paint_val(tmp_path / "val", val)})
    assert scores(report, name)[::2] == [2 / 3, 3]
    assert scores(report, f"{name}_clean")[::2] == [2 / 3, 3]
    assert scores(report, "val")[::2] == [0.5, 4]
    assert report["sets"][name]["gap"] == 0.0
    assert report["sets"][name]["per_class"] == {synsets()[inside[k]]: float(k != 3) for k in (0, 199, 3)}
    # The masked classes take no probability: of 200, not of 1,000, and the outside answer's 10 is gone.
    sure = report["sets"][name]["reliability"]
    expected = 2 * exp(6) / (exp(6) + 199) + exp(10) / (exp(10) + exp(6) + 198)
    assert sum(part["images"] * (part["confidence"] or 0) for part in sure) == pytest.approx(expected, rel=1e-4)


def test_a_class_of_another_set_is_refused(tmp_path):
    outside = next(number for number in range(1000) if number not in subset("a"))
    paint(tmp_path / "a" / synsets()[outside] / "0.jpg", outside)
    with pytest.raises(UserError, match=rf"suite\.a: .*{synsets()[outside]} is not one of the set's 200"):
        run(a=tmp_path / "a")


def test_real_takes_any_of_its_labels_and_leaves_out_images_without(tmp_path):
    labels = [[] for _ in range(50000)]
    labels[0], labels[1], labels[3] = [5, 6], [7], [101, 102, 103]
    (tmp_path / "real.json").write_text(json.dumps(labels))
    # Answers: the second label; another, with the label second; no label at all, so left out; none of the three.
    val = paint_val(tmp_path / "val", [(5, 6), (8, 8, 7), (9, 9), (101, 4)])
    report = run(val=val, real=tmp_path / "real.json")
    assert scores(report, "real") == [1 / 3, 2 / 3, 3]
    assert scores(report, "val")[::2] == [0.5, 4]
    assert not {"nll", "brier", "per_class"} & set(report["sets"]["real"]) and "ece" in report["sets"]["real"]
    assert "real" in run(val=val, real="timm")["sets"]


def test_real_says_what_it_lacks(tmp_path):
    val = paint_val(tmp_path / "val", [(5, 5)])
    sketch = paint_sketch(tmp_path / "sketch", [(5, 5)])
    assert "val" in run(sketch=sketch, real="timm")["missing"]["real"]
    out = tmp_path / "val.beton"
    write = WriteOptions(source="imagefolder", path=str(val), split="", out=str(out), mode="raw", workers=1)
    write_images(write, progress=False)
    report = run(val=out, real="timm")
    assert "file name" in report["missing"]["real"] and list(report["sets"]) == ["val"]


def test_objectnet_maps_masks_and_crops(tmp_path):
    """The red frame of two pixels turns every answer round (``painted``); cut off, the left one is the first."""
    root = tmp_path / "objectnet-1.0"
    write_mappings(root / "mappings", {"chair": [765, 423, 559], "alarm_clock": [409], "lamp": [846]})
    outside = 0
    for number, (folder, *answers) in enumerate(
        [
            ("chair", 559, 409),  # any of its classes is right
            ("chair", 409, 423),
            ("alarm_clock", outside, 409),  # masked
            ("lamp", 846, 0),
            ("unshared", 846, 846),  # no class of ImageNet: left out
        ]
    ):
        paint(root / "images" / folder / f"{number}.png", *answers, frame=2)
    report = run(objectnet=root, center=1.0)
    assert scores(report, "objectnet") == [0.75, 1.0, 4]
    assert report["sets"]["objectnet"]["per_class"] == {"alarm_clock": 1.0, "chair": 0.5, "lamp": 1.0}
    for part in ("images", "mappings"):
        (root / part).rename(root / "away")
        with pytest.raises(UserError, match=f"no folder {part}"):
            run(objectnet=root)
        (root / "away").rename(root / part)


def paint_corrupted(root, errors):
    """errors: {corruption: errors in halves by severity}, of two images. They have a frame, so that they are only
    answered as the folder says if the model sees the whole of them."""
    for number, (name, halves) in enumerate(errors.items()):
        home = root / name if number % 2 else root / "group" / name  # as one archive or several unpack
        for severity, wrong in enumerate(halves, 1):
            for image in range(2):
                right = 10 + image
                shown = right + 500 if image < wrong else right
                paint(home / str(severity) / synsets()[right] / f"{image}.JPEG", 3, shown, frame=3)


def test_mce_by_hand(tmp_path):
    halves = {name: [0, 0, 1, 2, 2] if name != "snow" else [2, 2, 2, 2, 2] for name in ALEXNET_ERROR}
    paint_corrupted(tmp_path / "c", halves)
    result = run(c=tmp_path / "c", center=0.5)["sets"]["c"]  # the model's own crop would cut the frames off
    assert result["errors"]["fog"] == [0, 0, 0.5, 1, 1] and result["errors"]["snow"] == [1] * 5
    assert result["ce"]["fog"] == pytest.approx(0.5 / 0.819324)
    ones = 0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324
    ones = [*ones, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500]
    expected = sum((1 if k == 7 else 0.5) / error for k, error in enumerate(ones)) / 15
    assert result["mce"] == pytest.approx(expected) and result["top1"] == pytest.approx(1 - (14 * 0.5 + 1) / 15)


def test_alexnet_has_an_mce_of_one():
    result = corruption_errors({name: [error] * 5 for name, error in ALEXNET_ERROR.items()})
    assert result["mce"] == pytest.approx(1) and len(result["ce"]) == 15


def test_a_set_that_is_not_there_is_missing_and_the_rest_runs(tmp_path):
    report = run(c=tmp_path / "c", val=paint_val(tmp_path / "val", [(1, 1)]), v2=tmp_path / "nowhere")
    assert list(report["sets"]) == ["val"]
    assert report["missing"] == {name: f"there is no {tmp_path / to}" for name, to in (("v2", "nowhere"), ("c", "c"))}
    with pytest.raises(UserError, match="no set is there: v2: there is no"):
        run(v2=tmp_path / "nowhere")


def test_models_of_other_classes_are_refused():
    check_model(reader_info(classes=class_digest(synsets())))
    check_model(reader_info())
    with pytest.raises(UserError, match="1,000 classes, but test_vit has 10"):
        check_model(reader_info(10))
    with pytest.raises(UserError, match=r"other classes .*eval\.classes=any"):
        check_model(reader_info(classes=class_digest(reversed(synsets()))))
    check_model(reader_info(classes=class_digest(reversed(synsets()))), any_names=True)


def test_table_and_csv(tmp_path):
    paint_corrupted(tmp_path / "c", {name: [0, 0, 0, 0, 2] for name in ALEXNET_ERROR})
    val = paint_val(tmp_path / "val", [(999, 999), (999, 5), (7, 7), (300, 8, 300)])
    report = run(val=val, c=tmp_path / "c", a=tmp_path / "nowhere")
    report = {
        "model": "resnet50.x", "resolution": 224, "center": 0.95, "interpolation": "bilinear", "parameters": 25557032,
        **report,
    }  # fmt: skip
    text = as_text(report)
    assert f"mCE {100 * report['sets']['c']['mce']:.2f}" in text and "a              missing: there is no" in text
    assert f"the published set has {PUBLISHED['val']} images" in text
    write_csv(tmp_path / "results.csv", report)
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    timm = ["model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct", "interpolation"]
    assert [rows[0][key] for key in timm] == (
        ["resnet50.x", "50.000", "50.000", "75.000", "25.000", "25.56", "224", "0.950", "bilinear"]
    )
    assert (rows[1]["set"], rows[1]["top1"], rows[1]["crop_pct"], rows[1]["top5"]) == ("c", "80.000", "1.000", "")
    assert rows[1]["images"] == "2" and f"the published set has {PUBLISHED['c']} images" in text
