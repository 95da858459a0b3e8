"""A run beside published results."""

import csv
import json
from pathlib import Path

import pytest

from ffdr.ablate.reference import DIGITS, Training, read_reference, report, select
from ffdr.config.ablation import ReportOptions
from ffdr.models.files import class_digest
from ffdr.util.errors import UserError
from ffdr.util.shipped import recipe_file

ROOT = Path(__file__).parents[2]
REFERENCE = str(ROOT / "results" / "reference" / "imagenet.csv")


def write_run(folder, model="resnet50.a1_in1k", epochs=280, task="dr", classes=1000, ema=0.0, names="", **scores):
    folder.mkdir()
    options = {
        "model": {"name": model},
        "train": {"task": task, "epochs": epochs, "ema": ema, "resolution": 224, "flip_average": True},
        "data": {"num_classes": classes, "classes": names, "center": 0.875},
        "resolved": {"precision": "bfloat16"},
    }
    (folder / "options.json").write_text(json.dumps(options))
    records = [
        {"epoch": 1, "val_top1": 0.1},
        {"epoch": epochs, **{f"val_{key}": value for key, value in scores.items()}},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_a_run_stands_beside_the_nearest_budget(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", top1=0.8, ece=0.031)
    monkeypatch.chdir(tmp_path)
    report(ReportOptions(file=str(run), reference=REFERENCE, out=str(tmp_path / "table.md")))
    text = capsys.readouterr().out
    *table, closing = text.splitlines()
    assert (tmp_path / "table.md").read_text() == "\n".join(table)
    assert closing.startswith(f"{tmp_path / 'table.md'}: set beside published results; next: ffdr ablate ")
    assert recipe_file(Path(closing.rpartition("--config-file ")[2])).is_file()  # in a folder that is not the checkout
    assert "| **this run** | dr |  | 280 | raw | 80.0 | – | – | – | – | 3.1 |" in text
    assert "| apple/ml-dr | erm | ImageNet | 300 | raw | 79.6 (+0.4) |" in text
    assert "| apple/ml-dr | dr | ImageNet+ | 300 | raw | 81.2 (-1.2) |" in text
    assert "| 1000 |" not in text and "MobileNet" not in text
    assert "280 epochs, at 224 px, crop 0.875, bilinear, bfloat16, with mirror images." in text
    assert "libffcv/ffcv-imagenet: views grow from 160 to 192 px; evaluated at 256 px with the mirror image." in text
    (run / "model.safetensors").touch()
    report(ReportOptions(file=str(run), reference=REFERENCE))
    closing = capsys.readouterr().out.splitlines()[-1]
    assert closing.endswith(f" --checkpoint={run}/model.safetensors --json={run}/suite.json")
    assert recipe_file(Path(closing.partition("--config-file ")[2].partition(" ")[0])).is_file()


@pytest.mark.parametrize(
    ("ema", "averaged", "alike", "other"),
    [
        (0.9995, "", "averaged | 80.8 (-0.3)", "raw | 76.8 |"),
        (0.0, "", "raw | 76.8 (+3.7)", "averaged | 80.8 |"),
        (0.0, "yes", "averaged | 80.8 (-0.3)", "raw | 76.8 |"),
    ],
)
def test_averaged_weights_are_set_against_averaged_ones(tmp_path, capsys, ema, averaged, alike, other):
    """ViT-B gains 4 points by averaging: against the other column's figure a run would seem to win or lose by that."""
    run = write_run(tmp_path / "run", model="vit_base_patch16_224", epochs=1000, task="erm", ema=ema, top1=0.805)
    report(ReportOptions(file=str(run), reference=REFERENCE, averaged=averaged))
    text = capsys.readouterr().out
    assert f"| apple/ml-dr | erm | ImageNet | 1000 | {alike} |" in text
    assert f"| apple/ml-dr | erm | ImageNet | 1000 | {other} –" in text
    assert "and other ones are not comparable" in text


def test_a_report_that_does_not_say_its_weights_is_not_set_against_results_that_do(tmp_path, capsys):
    file = tmp_path / "report.json"
    file.write_text(json.dumps({"model": "swin_tiny_patch4_window7_224", "data": "val.beton", "top1": 0.8}))
    report(ReportOptions(file=str(file), reference=REFERENCE, epochs=300))
    text = capsys.readouterr().out
    assert "(" not in "".join(line for line in text.splitlines() if line.startswith("| apple"))
    assert "is unknown (--report.averaged=yes or no says it)" in text
    file.write_text(json.dumps(json.loads(file.read_text()) | {"averaged": True}))
    report(ReportOptions(file=str(file), reference=REFERENCE, epochs=300))
    assert "| apple/ml-dr | dr | ImageNet+ | 300 | averaged | 82.8 (-2.8) |" in capsys.readouterr().out


def test_a_suites_report_fills_all_columns(tmp_path, capsys):
    sets = {name: {"top1": 0.5, "ece": 0.1} for name in ("val", "v2", "r", "a")} | {"c": {"mce": 0.65}}
    (tmp_path / "report.json").write_text(json.dumps({"model": "resnet50", "sets": sets, "missing": {}}))
    rows = [("val", "top1", 80), ("v2", "top1", 70.5), ("c", "mce", 60), ("val", "ece", 4)]
    with open(tmp_path / "mine.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "timm", "task", "data", "epochs", "set", "metric", "percent"])
        writer.writerows([["paper", "resnet50", "dr", "plus", 300, *row] for row in rows])
    report(
        ReportOptions(file=str(tmp_path / "report.json"), reference=str(tmp_path / "mine.csv"), epochs=150, task="dr")
    )
    text = capsys.readouterr().out
    assert "| **this run** | dr |  | 150 |  | 50.0 | 50.0 | 50.0 | 50.0 | 65.0 | 10.0 |" in text
    assert "| paper | dr | plus | 300 |  | 80.0 (-30.0) | 70.5 (-20.5) | – | – | 60.0 (+5.0) | 4.0 (+6.0) |" in text


def test_a_report_in_its_runs_folder_knows_the_training(tmp_path, capsys):
    run = write_run(tmp_path / "run", model="resnet50d", epochs=150, task="erm", top1=0.1)
    (run / "eval.json").write_text(json.dumps({"model": "resnet50d", "data": "val.beton", "top1": 0.789, "ece": 0.02}))
    report(ReportOptions(file=str(run / "eval.json"), reference=REFERENCE))
    text = capsys.readouterr().out
    assert "| **this run** | erm |  | 150 | raw | 78.9 |" in text
    assert "| apple/ml-dr | erm | ImageNet | 150 | raw | 78.9 (+0.0) |" in text


def test_of_each_kind_the_nearest_in_ratio_is_picked():
    def training(name, task, epochs):
        return Training(name, ("m",), task, "d", epochs, {})

    published = [training("a", "dr", e) for e in (100, 400)] + [training("a", "erm", 400), training("b", "dr", 0)]
    ours = Training("x", ("m",), "dr", "", 220, {})
    assert [(t.name, t.task, t.epochs) for t in select(published, ours)] == [
        ("a", "dr", 400),
        ("a", "erm", 400),
        ("b", "dr", 0),
    ]
    assert select(published, Training("x", ("m",), "dr", "", 190, {}))[0].epochs == 100
    assert len(select(published, Training("x", ("m",), "", "", 0, {}))) == 4


def test_a_run_on_the_digits_stands_beside_the_study_of_them(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", "test_efficientnet", 80, "erm", 10, top1=0.817, ece=0.08, names=DIGITS)
    (run / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    report(ReportOptions(file="run"))
    text = capsys.readouterr().out
    assert "| **this run** | erm |  | 80 | raw | 81.7 | 8.0 |" in text
    assert "| results/digits | erm | 100 digits | 80 | raw | 80.7 (+1.0) | 7.6 (+0.4) |" in text
    assert text.splitlines()[-1].endswith("next: ffdr report run --out=report.md")
    assert class_digest(map(str, range(10))) == DIGITS
    (run / "options.json").write_text((run / "options.json").read_text().replace(DIGITS, "0" * 16))
    report(ReportOptions(file="run"))  # of another dataset, of which nothing is published
    assert capsys.readouterr().out.startswith("# 1 run compared")
    with pytest.raises(UserError, match="10 classes"):
        report(ReportOptions(file="run", reference=REFERENCE))


def test_the_table_of_the_digits_holds_the_means_of_the_study():
    study = json.loads((ROOT / "results" / "digits" / "summary.json").read_text())
    means = {
        (group["points"]["task"], int(group["points"]["epochs"]), key): 100 * group[key]["mean"]
        for group in study["groups"]
        for key in ("top1", "ece")
    }
    trainings = read_reference(ROOT / "results" / "reference" / "digits.csv")
    found = {(t.task, t.epochs, key): percent for t in trainings for (_, key), percent in t.percents.items()}
    assert found == pytest.approx(means, abs=0.051)


def test_the_table_of_the_tree_is_whole():
    with open(REFERENCE, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("source", "timm", "task", "data", "epochs", "averaged", "set", "metric")
    keys = [tuple(row[column] for column in columns) for row in rows]
    assert len(set(keys)) == len(keys)  # no result stands twice
    assert all(row["source"] and row["where"] and 0 < float(row["percent"]) < 100 for row in rows)
    found = {
        (t.models[0], t.task, t.epochs): t.percents["val", "top1"]
        for t in read_reference(REFERENCE)
        if t.name == "apple/ml-dr" and not t.averaged
    }
    assert found["vit_base_patch16_224", "erm", 1000] == 76.8 and found["vit_base_patch16_224", "dr", 1000] == 85.1
    assert found["swin_tiny_patch4_window7_224", "dr", 300] == 83.2
    assert found["mobilenetv3_large_100", "dr", 150] == 76.5
    both = {(row["model"], row["task"], row["epochs"]) for row in rows if row["averaged"] == "yes"}
    assert len(both) == 7 * 2 * 3  # models trained with CVNets, for which there are recipes
    assert both <= {(row["model"], row["task"], row["epochs"]) for row in rows if row["averaged"] == "no"}


def test_what_is_refused(tmp_path):
    run = write_run(tmp_path / "run", top1=0.8)
    small = write_run(tmp_path / "small", classes=10, top1=0.8)
    other = write_run(tmp_path / "other", model="resnet51", top1=0.8)
    blind = write_run(tmp_path / "blind")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "half.json").write_text('{"model"')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "words.json").write_text('{"model": "resnet50", "top1": "high"}')
    (tmp_path / "sets.json").write_text('{"model": "resnet50", "sets": [1]}')
    torn = write_run(tmp_path / "torn", top1=0.8)
    (torn / "options.json").write_text("{}")
    deep = write_run(tmp_path / "deep", top1=0.8)
    (deep / "log.jsonl").write_text("[" * 100_000)
    (tmp_path / "bad.csv").write_text(
        "source,timm,task,data,epochs,set,metric,percent\nx,resnet50,dr,d,1,val,top1,high\n"
    )
    for options, text in (
        ({"file": str(tmp_path / "none")}, "no such run"),
        ({"file": str(small)}, "10 classes"),
        ({"file": str(other)}, "no results for resnet51.*did you mean resnet50"),
        ({"file": str(blind)}, "not validated"),
        ({"file": str(tmp_path)}, "holds no run"),
        ({"file": str(tmp_path / "list.json")}, "no report of ffdr eval"),
        ({"file": str(tmp_path / "half.json")}, "not JSON"),
        ({"file": str(tmp_path / "deep.json")}, "not JSON"),
        ({"file": str(deep)}, "not JSON"),
        ({"file": str(tmp_path / "words.json")}, "top1 of val is no number"),
        ({"file": str(tmp_path / "sets.json")}, "no report of ffdr eval"),
        ({"file": str(torn)}, "or a damaged one"),
        ({"file": str(run), "reference": str(tmp_path / "bad.csv")}, "line 2 is no result"),
        ({"file": str(run), "reference": "nowhere.csv"}, "no such file"),
        ({"file": str(run), "task": "drr"}, "did you mean dr"),
        ({"file": str(run), "averaged": "ema"}, "'ema' is not one of"),
        ({"file": str(run), "out": "x.txt"}, "does not end in .md"),
    ):
        with pytest.raises(UserError, match=text):
            report(ReportOptions(**({"reference": REFERENCE} | options)))
