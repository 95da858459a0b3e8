"""``ffdr ablate`` end to end on the digits: results, resumption, kills, failures, preparation."""

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from grids import STUDENT, grid_options, jobs_of
from PIL import Image

from ffdr.ablate.grid import Grid
from ffdr.ablate.prepare import prepare
from ffdr.ablate.run import run_ablation
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.evaluate.robustness import evaluate_corruptions
from ffdr.evaluate.run import build_evaluator, evaluate_images, evaluation_pixels
from ffdr.models.build import load_model
from ffdr.util.errors import UserError

TIMES = ("images_per_second", "seconds", "run_seconds", "exam_seconds")


@pytest.fixture(scope="module")
def study(digits, reinforced_digits, tmp_path_factory):
    """Options of a grid that has run undisturbed, one run at a time."""
    options = grid_options(tmp_path_factory.mktemp("study"), digits, reinforced_digits)
    assert run_ablation(options, main) == 0
    return options


def table(out):
    with open(Path(out) / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def models(options):
    return {job.folder.name: (job.folder / "model.safetensors").stat().st_mtime_ns for job in jobs_of(options)}


def test_every_cell_is_trained_and_examined(study, digits):
    rows = table(study.out)
    assert [(r["task"], r["train.epochs"], r["train.seed"]) for r in rows] == [
        (task, epochs, seed) for task in ("erm", "dr") for epochs in ("4", "12") for seed in ("0", "1")
    ]
    images = ImageBeton.open(digits)
    for row in (rows[0], rows[-1]):
        folder = Path(study.work) / "cells" / row["digest"]
        assert json.loads((folder / "recipe.json").read_text())["train"]["seed"] == int(row["train.seed"])
        assert len((folder / "log.jsonl").read_text().splitlines()) == int(row["train.epochs"])
        scores = evaluate_images(build_evaluator(*load_model(folder / "model.safetensors"), 50), images)
        for key in ("top1", "nll", "ece"):
            assert float(row[key]) == pytest.approx(scores[key], abs=1e-6)
    assert len({row["nll"] for row in rows}) == 8
    text = (Path(study.out) / "table.md").read_text()
    assert "- Models were fed at 32 px, crop 1, bilinear, float32, no mirror images, raw weights." in text
    assert {(r["resolution"], r["center"], r["flip_average"], r["averaged"]) for r in rows} == {
        ("32", "1.0", "False", "False")
    }
    mean = 50 * (float(rows[0]["top1"]) + float(rows[1]["top1"]))
    assert f"| erm | 4 | 2 | {mean:.1f} ± " in text
    gain = 50 * sum(float(rows[n + 4]["top1"]) - float(rows[n]["top1"]) for n in (0, 1))
    assert f"| 4 | erm | {gain:+.2f} ± " in text.replace("**", "")
    for name in ("accuracy.png", "robustness.png"):
        assert np.asarray(Image.open(Path(study.out) / name).convert("L")).std() > 5


def test_finished_cells_are_kept(study, monkeypatch):
    before, rows = models(study), table(study.out)
    monkeypatch.setattr("ffdr.ablate.workers._SPAWN.Process", None)  # no worker is needed
    assert run_ablation(study, main) == 0
    assert models(study) == before
    assert table(study.out) == rows


def test_another_exam_is_sat_anew(study):
    assert all(job.result() for job in jobs_of(study))
    assert not any(job.result() for job in jobs_of(replace(study, corruptions=True)))


def test_killed_in_the_middle_and_two_at_once_give_the_same(study, digits, reinforced_digits, tmp_path):
    """SIGKILL when some cells are finished and one is at work; then on with two jobs."""
    options = grid_options(tmp_path, digits, reinforced_digits)
    grid = {
        key: getattr(options, key) for key in ("out", "work", "settings", "axes", "compare", "test", "jobs", "threads")
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"ablate": grid}, sort_keys=False))
    command = [sys.executable, "-m", "ffdr", "ablate", "--config-file", str(tmp_path / "grid.yaml")]
    cells = Path(options.work) / "cells"

    def begun():
        logs = [log for log in cells.glob("*/log.jsonl") if not (log.parent / "result.json").exists()]
        return [log for log in logs if len(log.read_text().splitlines()) >= 5]

    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not (list(cells.glob("*/result.json")) and begun()):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.005)
        process.kill()
    finished = {path: path.stat().st_mtime_ns for path in cells.glob("*/result.json")}
    (cut, *_) = begun()
    started = cut.read_text().splitlines()[:4]  # of the first four epochs a checkpoint was written
    assert 0 < len(finished) < 8

    assert run_ablation(replace(options, jobs=2), main) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    # Its first epochs were not done again: the measured seconds are the very same.
    assert cut.read_text().splitlines()[:4] == started
    assert without_times(table(options.out)) == without_times(table(study.out))


def test_files_are_prepared_reinforcements_cut_and_failures_told(digits, reinforced_digits, tmp_path, capfd):
    small = "{work}/small.beton"
    settings = STUDENT | {"data.train": small, "data.reinforced": str(reinforced_digits), "train.task": "dr"}
    options = grid_options(
        tmp_path,
        digits,
        reinforced_digits,
        prepare=(
            f"write --source=digits --mode=raw --per_class=10 --workers=1 --out={small}",
            "write --source=digits --mode=raw --per_class=2 --split=test --workers=1 --out={work}/test.beton",
        ),
        settings=settings | {"train.epochs": 1},
        axes={"subset.views": [1, 4], "train.batch_size": [101, 25]},
        test="{work}/test.beton",
        corruptions=True,
    )
    assert run_ablation(options, main) == 1
    assert capfd.readouterr().out.count("ffdr write") == 2
    jobs, rows = jobs_of(options), table(options.out)
    for job, row in zip(jobs, rows, strict=True):
        assert ReinforcedBeton.open(job.recipe.data.reinforced).header.views == int(row["subset.views"])
        if row["train.batch_size"] == "101":
            assert "100 images do not fill one batch of 101" in row["error"] and row["top1"] == ""
        else:  # the cells after a failed one
            assert row["error"] == "" and 0 < float(row["corruption_top1"]) < 1
    assert "do not fill one batch" in (tmp_path / "out" / "table.md").read_text()
    prepare(options, Grid.from_options(options), main)
    assert "ffdr write" not in capfd.readouterr().out
    cut = Path(jobs[0].recipe.data.reinforced)
    cut.write_bytes(reinforced_digits.read_bytes())  # of other work, in a folder that is the study's own
    prepare(options, Grid.from_options(options), main)
    assert ReinforcedBeton.open(cut).header.views == 1


def test_an_edited_preparation_replaces_what_the_study_made(digits, reinforced_digits, tmp_path, capfd):
    """Its folder is its own; a file outside is nobody's to replace but the user's."""
    outside = tmp_path / "outside.beton"

    def prepared(count, second, out="{work}/a.beton"):
        write = "write --source=digits --mode=raw --workers=1"
        lines = (f"{write} --per_class={count} --out={out}", f"{write} --per_class={second} --out={{work}}/b.beton")
        options = grid_options(tmp_path, digits, reinforced_digits, prepare=lines)
        prepare(options, Grid.from_options(options), main)
        return [len(ImageBeton.open(tmp_path / "work" / f"{name}.beton")) for name in "ab"]

    assert prepared(2, 1) == [20, 10]
    assert "--overwrite" not in capfd.readouterr().out
    assert prepared(3, 1) == [30, 10]
    assert capfd.readouterr().out.count(" --overwrite\n") == 2  # the later line, too, which might depend on the first
    with pytest.raises(UserError, match="status 2"):
        prepared(4, -1)  # stopped between the lines
    assert prepared(4, 2) == [40, 20]
    outside.write_bytes(b"the user's")
    with pytest.raises(UserError, match="status 2"):
        prepared(2, 2, outside)
    assert outside.read_bytes() == b"the user's" and "--overwrite replaces it" in capfd.readouterr().err


def test_an_exam_feeds_a_model_as_its_run_validates_it(digits, reinforced_digits, tmp_path, capsys):
    """With mirror images, corrupted ones too, and with the averaged weights, which a run exports."""
    options = grid_options(
        tmp_path,
        digits,
        reinforced_digits,
        settings=STUDENT | {"data.train": str(digits), "train.epochs": 2, "train.ema": 0.5},
        axes={"train.flip_average": [False, True]},
        corruptions=True,
    )
    plain, flipped = jobs_of(options)
    assert (
        plain.evaluation == jobs_of(replace(options, axes={"train.seed": [0]}))[0].evaluation
    )  # earlier results stay valid
    assert flipped.evaluation != plain.evaluation
    assert run_ablation(options, main) == 0
    images = ImageBeton.open(digits)
    rows = table(options.out)
    for job, row in zip((plain, flipped), rows, strict=True):
        flip = job is flipped
        checker = build_evaluator(*load_model(job.folder / "model.safetensors"), 50, flip)
        under = evaluate_corruptions(checker, *evaluation_pixels(images, checker.info))
        assert float(row["nll"]) == pytest.approx(evaluate_images(checker, images)["nll"], abs=1e-6)
        assert float(row["corruption_top1"]) == pytest.approx(under["corruption_top1"], abs=1e-6)
        assert (row["flip_average"], row["averaged"]) == (str(flip), "True")
    assert len({row["nll"] for row in rows}) == len({row["corruption_top1"] for row in rows}) == 2
    text = (tmp_path / "out" / "table.md").read_text()
    for words in ("no mirror images", "with mirror images"):
        assert f"32 px, crop 1, bilinear, float32, {words}, averaged weights (1 run)" in text
    closing = capsys.readouterr().out.splitlines()[-1]
    assert closing.startswith(f"{options.out}: results.csv, table.md, summary.json, ")
    assert f"; next: ffdr eval --checkpoint={options.work}/cells/" in closing and closing.endswith(f"--data={digits}")


def test_a_preparation_that_fails_stops_it(digits, reinforced_digits, tmp_path):
    options = grid_options(tmp_path, digits, reinforced_digits, prepare=("write --source=digit --out=x.beton",))
    with pytest.raises(UserError, match=r"ablate.prepare: ffdr write .* ended with status 2"):
        run_ablation(options, main)
    assert not (tmp_path / "work" / "cells").exists()


def test_the_command_line(tmp_path, digits, reinforced_digits, capsys):
    grid = {
        "out": str(tmp_path / "out"),
        "settings": STUDENT | {"data.train": str(digits)},
        "axes": {"train.seed": [0, 1]},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"ablate": grid}))
    words = ["ablate", "--config-file", str(tmp_path / "grid.yaml")]
    assert main([*words, "--dry_run"]) == 0
    assert capsys.readouterr().out.count("--model.name=test_efficientnet") == 2
    assert main(["ablate", "--ablate.out=x"]) == 2
    assert "ablate.axes: there is no grid" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such run or report" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "out")
