"""Tables and plots of made-up results, whose numbers are known."""

import csv
import json

import numpy as np
import pytest
from grids import made_up
from PIL import Image

from ffdr.ablate.plot import _ladder, plot_study
from ffdr.ablate.report import compare, write_csv, write_summary, write_table

GAIN = {("erm", "4"): 0.5, ("erm", "12"): 0.6, ("dr", "4"): 0.55, ("dr", "12"): 0.7}


def scores(points):
    """DR gains 5 points at 4 epochs, give or take one, and 10 at 12 epochs, give or take nothing."""
    seed = int(points["train.seed"])
    sway = 0.01 * (1 - 2 * seed) if (points["task"], points["train.epochs"]) == ("dr", "4") else 0
    top1 = GAIN[points["task"], points["train.epochs"]] + 0.02 * seed + sway
    return {
        "top1": top1,
        "nll": 1.0,
        "ece": 0.1,
        "corruption_top1": top1 / 2,
        "images_per_second": 100.0,
        "seconds": 2.0,
    }


def broken(points):
    return None if points["task"] == "erm" and points["train.seed"] == "1" else scores(points)


def test_the_comparison_is_paired_by_seed(tmp_path):
    grid, rows = made_up(tmp_path, scores)
    short, long = compare(grid, rows)
    assert (short.context, short.ours, short.other) == ((("train.epochs", "4"),), "dr", "erm")
    # gains 6 and 4: mean 5, standard error 1, t(0.975, 1) = 12.706
    assert short.differences["top1"].mean == pytest.approx(5)
    assert short.differences["top1"].half == pytest.approx(12.706, rel=1e-4)
    assert short.differences["top1"].verdict == "no clear difference"
    assert long.differences["top1"].mean == pytest.approx(10)
    assert long.differences["top1"].verdict == "better"
    assert long.differences["corruption_top1"].mean == pytest.approx(5)


def test_only_seeds_that_both_have_are_compared(tmp_path):
    grid, rows = made_up(tmp_path, broken)
    short, _ = compare(grid, rows)
    assert short.differences["top1"].mean == pytest.approx(6)  # seed 0 alone
    assert short.differences["top1"].half is None


def test_the_csv_has_a_row_a_cell(tmp_path):
    _, rows = made_up(tmp_path, broken)
    write_csv(tmp_path / "results.csv", rows)
    with open(tmp_path / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8
    first = table[0]
    assert (first["task"], first["train.epochs"], first["train.seed"], first["train.task"]) == ("erm", "4", "0", "erm")
    assert (float(first["top1"]), float(first["seconds"])) == (0.5, 2.0)
    assert first["command"].startswith("ffdr train --model.name=test_efficientnet")
    assert (table[1]["top1"], table[1]["error"]) == ("", "it broke")


def test_the_table_shows_means_differences_and_failures(tmp_path):
    grid, rows = made_up(tmp_path, broken)
    write_table(tmp_path / "table.md", grid, rows, "Study", ["a setting"])
    text = (tmp_path / "table.md").read_text()
    assert "| dr | 12 | 2 | 71.0 ± 12.7 |" in text  # 70 and 72
    assert "| erm | 12 | 1 | 60.0 |" in text
    assert "| 12 | erm | +10.00 (one pair) |" in text
    assert "- task=erm epochs=4 seed=1: it broke" in text
    assert "- a setting" in text and "torch" in text
    grid, rows = made_up(tmp_path, scores)
    write_table(tmp_path / "table.md", grid, rows, "Study", [])
    assert "| 12 | erm | **+10.00 ± 0.00** better |" in (tmp_path / "table.md").read_text()


def test_the_summary_has_every_number(tmp_path):
    grid, rows = made_up(tmp_path, scores)
    write_summary(tmp_path / "summary.json", grid, rows, "Study", [])
    summary = json.loads((tmp_path / "summary.json").read_text())
    group = next(g for g in summary["groups"] if g["points"] == {"task": "dr", "train.epochs": "12"})
    assert (group["top1"]["each"], group["seeds"]) == ([0.7, 0.72], [0, 1])
    assert group["top1"]["mean"] == pytest.approx(0.71)
    assert group["top1"]["half_width"] == pytest.approx(0.127062, rel=1e-4)
    assert summary["differences"][1]["top1"]["mean"] == pytest.approx(10)
    assert {"torch", "cpu", "commit", "command"} <= set(summary["environment"])


def test_plots_show_curves(tmp_path):
    grid, rows = made_up(tmp_path, scores)
    files = plot_study(tmp_path, grid, rows)
    assert [file.name for file in files] == ["accuracy.png", "robustness.png"]
    for file in files:
        picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
        blue = (abs(picture - (31, 119, 180)).sum(2) < 30).sum()
        grey = (abs(picture - (127, 127, 127)).sum(2) < 30).sum()
        assert blue > 200 and grey > 200


@pytest.mark.filterwarnings("error")
def test_plots_take_any_label(tmp_path):
    """Dollars are no mathematics, and what begins with an underscore stands in the legend, too."""
    axes = {"$x^$": {"$\\alpha_$": {}, "\ud55c": {}, "caf\udce9": {}}, "kind": {"_$y^$": {}, "_\ud55c": {}}}
    grid, rows = made_up(tmp_path, lambda points: {"top1": 0.5, "seconds": 1.0}, axes=axes)
    (file,) = plot_study(tmp_path, grid, rows)
    assert np.asarray(Image.open(file).convert("L")).std() > 5


@pytest.mark.parametrize(
    ("axes", "heading", "places", "off"),
    [
        ({"train.seed": [0, 1], "train.epochs": [4, 8]}, "epochs", [4, 8], {"train.epochs"}),
        ({"budget": {"s": {"train.epochs": 4}, "l": {"train.epochs": 8}}}, "epochs", [4, 8], {"budget"}),
        ({"train.lr": [0.1, 0.4], "x": {"a": {}, "b": {}, "c": {}}}, "train.lr", [0.1, 0.4], {"train.lr"}),
        ({"policy": {"rrc": {}, "mr": {}}, "train.seed": [0, 1]}, "policy", [0, 1], {"policy"}),
        ({"train.seed": [0, 1]}, "", [0], set()),
    ],
)
def test_what_the_horizontal_axis_shows(tmp_path, axes, heading, places, off):
    grid, rows = made_up(tmp_path, lambda points: {"top1": 0.5, "seconds": 1.0}, axes=axes)
    ladder = _ladder(grid, rows)
    assert (ladder.heading, ladder.off) == (heading, off)
    assert sorted({ladder.place(row) for row in rows}) == places
    assert [file.name for file in plot_study(tmp_path, grid, rows)] == ["accuracy.png"]
