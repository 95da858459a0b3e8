"""``ffdr report`` over any number of runs: what it says of them, what it sets apart, what it refuses."""

import csv
import json
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pytest
from evil import check_table, every_evil
from matplotlib import rc_context
from matplotlib.text import Text
from run_folders import log, write_run
from scipy import stats

from ffdr.ablate import comparison_plot
from ffdr.ablate.comparison import numbers
from ffdr.ablate.runs import by_validation, read_runs
from ffdr.cli import main
from ffdr.config import recipe
from ffdr.util.errors import UserError
from ffdr.util.pictures import _STYLE, COLOURS, CONTEXT, Picture


@pytest.fixture
def three(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "erm", log(4, 0.5))
    write_run(tmp_path / "dr", log(3, 0.7), asked=8, task="dr", data__reinforced="x.beton", lr=0.2)
    write_run(tmp_path / "kd", log(4, 0.6, seconds=20.0), task="kd", teacher__models="resnet50")
    return ["erm", "dr", "kd"]


def cells(text, name):
    """The row of a run, by the headings of its table."""
    lines = text.splitlines()
    place = next(number for number, line in enumerate(lines) if f"| {name} " in line)
    top = max(number for number in range(place) if lines[number].startswith("|--")) - 1
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[top], lines[place])]
    return dict(zip(*split, strict=True))


def test_runs_side_by_side(three, tmp_path, capsys):
    assert main(["report", *three, "--out=x.md", "--csv=x.csv", "--json=x.json", "--plot=x.png"]) == 0
    text = capsys.readouterr().out
    row = cells(text, "dr")
    assert (row["task"], row["model"], row["data"]) == ("dr", "resnet18", "train.beton f00d1111")
    assert (row["epochs"], row["top-1"], row["best top-1"]) == ("3 of 8, unfinished", "70.00%", "70.00% (epoch 3)")
    assert (row["NLL"], row["ECE"], row["images/s"], row["data wait"]) == ("1.3000", "2.00%", "100", "25.0%")
    assert (row["train.lr"], row["data.reinforced"], row["teacher.models"]) == ("0.2", "x.beton", "")
    assert cells(text, "kd")["seconds"] == "80" and cells(text, "erm")["epochs"] == "4"
    assert "train.momentum" not in text and "train.out" not in text
    assert text.count("## Validated on val.beton (fingerprint beef0000)") == 1
    assert text.splitlines()[-1].startswith("x.md, x.csv, x.json, x.png: 3 runs compared; next: ffdr eval ")
    assert (tmp_path / "x.md").read_text().splitlines()[:9] == text.splitlines()[:9]
    with open("x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["run"], r["finished"]) for r in rows] == [("erm", "true"), ("dr", "false"), ("kd", "true")]
    assert [float(r["top1"]) for r in rows] == pytest.approx([0.5, 0.7, 0.6])
    (group,) = json.loads((tmp_path / "x.json").read_text())["groups"]
    assert [run["nll"] for run in group["runs"]] == pytest.approx([1.5, 1.3, 1.4]) and group["means"] == []
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_scores_on_other_images_stand_apart(three, tmp_path, capsys):
    write_run(tmp_path / "away", log(2), val="other.beton", fingerprint="0000beef")
    write_run(tmp_path / "old", log(2), fingerprint="")
    write_run(tmp_path / "blind", log(2, validated=False), val="")
    assert main(["report", *three, "away", "old", "blind"]) == 0
    text = capsys.readouterr().out
    assert "on different images stand in different tables" in text
    parts = text.split("## ")[1:]
    assert [part.partition("\n")[0] for part in parts] == [
        "Validated on val.beton (fingerprint beef0000)", "Validated on other.beton (fingerprint 0000beef)",
        "Validated on val.beton (fingerprint not recorded)", "Not validated",
    ]  # fmt: skip
    assert [part.count("| resnet18 ") for part in parts] == [3, 1, 1, 1]
    assert cells(text, "blind")["top-1"] == "–"


def test_runs_that_differ_in_their_seeds_are_averaged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scores = (0.5, 0.54, 0.61)
    for seed, top1 in enumerate(scores):
        write_run(tmp_path / f"s{seed}", log(4, top1), seed=seed)
    write_run(tmp_path / "half", log(2, 0.9), asked=4, seed=7)
    write_run(tmp_path / "other", log(4, 0.9), seed=8, lr=0.3)
    names = ["s0", "s1", "s2", "half", "other"]
    assert main(["report", *names, "--json=x.json"]) == 0
    text = capsys.readouterr().out
    half = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))[1] - np.mean(scores)
    assert f"| 1, 2, 3 | erm  | resnet18 | 4      | {100 * np.mean(scores):.1f} ± {100 * half:.1f} " in text
    (mean,) = json.loads((tmp_path / "x.json").read_text())["groups"][0]["means"]
    assert mean["runs"] == names[:3]
    assert mean["top1"] == pytest.approx({"mean": np.mean(scores), "half_width": half})


def test_one_run_on_data_of_which_nothing_is_published(three, capsys):
    assert main(["report", "erm"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# 1 run compared") and cells(text, "erm")["top-1"] == "50.00%"
    assert main(["report", "--runs=erm"]) == 0
    assert capsys.readouterr().out == text


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, which are not written."""
    figures = []

    @contextmanager
    def drawing(file, width, height):
        with rc_context(_STYLE):
            figures.append(Picture(figsize=(width, height), layout="constrained", dpi=200))
            yield figures[-1]
            figures[-1].draw_without_rendering()

    monkeypatch.setattr(comparison_plot, "drawing", drawing)
    return figures


def draw(folders):
    runs = read_runs(folders)
    comparison_plot.draw("x.png", by_validation(runs), numbers(runs))


def test_the_picture_holds_all_curves_over_epochs_and_time(three, drawn):
    draw(three)
    over_epochs, over_time, nll, _ = drawn[0].axes
    lines = {line.get_color(): line for line in over_epochs.lines}
    assert lines[COLOURS[0]].get_xydata() == pytest.approx(np.array([(e, 70 * e / 3) for e in (1, 2, 3)]))  # the best
    assert [line.get_linestyle() for line in over_epochs.lines] == ["-", "-", "--"]
    clock = {line.get_color(): line for line in over_time.lines}
    assert clock[COLOURS[1]].get_xdata() == pytest.approx([20, 40, 60, 80])
    assert {line.get_color(): line for line in nll.lines}[COLOURS[2]].get_ydata() == pytest.approx(
        [2 - 0.5 * e / 4 for e in (1, 2, 3, 4)]
    )
    assert over_epochs.get_ylim()[0] >= 0 and over_time.get_ylim()[1] <= 100
    assert all(tick == round(tick) for tick in over_epochs.get_xticks())
    said = [text.get_text() for text in over_epochs.texts]
    assert sorted(said) == ["1 erm", "2 dr (3 of 8)", "3 kd"]
    assert sorted(text.get_text() for text in over_time.texts) == ["1", "2", "3"]


def test_axes_have_whole_epochs_and_no_more_than_all_of_the_images(tmp_path, drawn):
    draw([write_run(tmp_path / name, log(1, 0.99)) for name in "ab"])
    over_epochs, over_time, *_ = drawn[0].axes
    assert over_epochs.get_ylim()[1] == over_time.get_ylim()[1] == 100
    assert all(tick == round(tick) for tick in over_epochs.get_xticks())


def test_of_thirty_runs_the_best_are_named_and_no_names_touch(tmp_path, drawn, capsys):
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.7, 0.72, 30)
    folders = [
        write_run(tmp_path / f"run-{number}", log(20 + number % 3, top1), lr=0.1 + number)
        for number, top1 in enumerate(scores)
    ]
    draw(folders)
    axes = drawn[0].axes[0]
    assert len(axes.lines) == 30 and sum(line.get_color() == CONTEXT for line in axes.lines) == 23
    best = np.argsort(-scores)[:7]
    assert sorted(text.get_text() for text in axes.texts) == sorted(f"{n + 1} run-{n}" for n in best)
    for axes in drawn[0].axes:
        boxes = [Text.get_window_extent(text).padded(-1) for text in axes.texts]
        assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert main(["report", *folders]) == 0
    assert "| 30 | run-29 " in capsys.readouterr().out


def test_what_is_no_run_is_told_in_one_line(three, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    damaged = tmp_path / "damaged"
    write_run(damaged, log(1))
    (damaged / "options.json").write_text("[" * 100_000)
    for folder, said in (
        ("empty", "empty holds no run; a run of ffdr train has options.json and log.jsonl"),
        (".", "holds no run, but runs such as "), ("none", "none is not there"), ("file", "file is no folder"),
        ("damaged", "damaged has a damaged options.json"), ("./erm", "./erm is given twice"),
    ):  # fmt: skip
        assert main(["report", "erm", folder]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    for flags, said in (
        (["--epochs=3"], "report.epochs: is for one run"), (["--csv=x.txt"], r"does not end in \.csv"),
        (["--plot=none/x.png"], "there is no folder none"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            recipe.parse("report", ["erm", "kd", *flags])


@every_evil
def test_logs_and_settings_of_strangers(tmp_path, monkeypatch, capsys, evil):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_run(tmp_path / name, log(2))
    path = tmp_path / "a" / "recipe.json"
    content = json.loads(path.read_text())
    content["train"] |= {"optimizer": evil, "task": evil, "lr": [evil] * 500, "seed": {evil: evil}}
    content["data"]["val"] = content["data"]["train"] = content["model"]["name"] = evil
    path.write_text(json.dumps(content))
    options = json.loads((tmp_path / "a" / "options.json").read_text())
    options["validation"]["fingerprint"] = options["data"]["fingerprint"] = evil
    options["train"]["epochs"] = evil
    (tmp_path / "a" / "options.json").write_text(json.dumps(options))
    with open(tmp_path / "a" / "log.jsonl", "a") as file:
        file.write('{"epoch": 3, "val_top1": NaN}\n{"epoch": ' + "9" * 9999 + "}\n[[[")
    assert main(["report", "a", "b", "--out=x.md", "--plot=x.png"]) == 0
    check_table(capsys.readouterr().out)
    check_table((tmp_path / "x.md").read_text())
    assert (tmp_path / "x.png").stat().st_size
