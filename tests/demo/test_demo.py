"""The demo, shortened: all files, all keys, and arithmetic of the table."""

import functools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ffdr.ablate import evaluation, scores
from ffdr.config.measuring import DemoOptions
from ffdr.demo import report
from ffdr.demo import run as demo
from ffdr.evaluate.corruptions import CorruptedImages


def test_a_short_demo_leaves_all_its_results(tmp_path, monkeypatch, capsys):
    recipes = tmp_path / "rcfg" / "digits"
    shutil.copytree(demo.recipes() / "digits", recipes)
    teacher = (recipes / "teacher.yaml").read_text()
    (recipes / "teacher.yaml").write_text(teacher.replace("epochs: 20", "epochs: 2"))
    reinforce = (recipes / "reinforce.yaml").read_text()
    (recipes / "reinforce.yaml").write_text(reinforce.replace("views: 80", "views: 4"))
    student = (recipes / "parts" / "student.yaml").read_text()
    (recipes / "parts" / "student.yaml").write_text(student.replace("warmup_epochs: 8", "warmup_epochs: 1"))
    monkeypatch.setattr(demo, "recipes", lambda: recipes.parent)
    monkeypatch.setattr(demo, "TEACHERS", ("test_efficientnet",))
    two = functools.partial(CorruptedImages, names=("gaussian_noise", "contrast"))
    monkeypatch.setattr(evaluation, "CorruptedImages", two)

    demo.run_demo(DemoOptions(out=str(tmp_path / "out"), work=str(tmp_path / "wo,rk"), seeds=2, epochs=3))
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    for name in ("erm", "kd", "dr", "teacher"):
        for key in ("top1", "ece", "corruption_top1"):
            assert 0 <= summary[name][key] <= 1
    assert summary["dr"]["runs"] == 2
    assert summary["dr"]["top1"] == pytest.approx(np.mean(summary["dr"]["top1_each"]))
    assert len(summary["comparison"]) == 4
    assert "| DR | 2 |" in (out / "table.md").read_text()
    assert ", fed at 32 px, crop 1, bilinear, float32, no mirror images" in (out / "table.md").read_text()
    closing = capsys.readouterr().out.splitlines()[-1]
    assert closing.startswith(f"{out}: summary.json, table.md, plot.png, views.png, made in ")
    assert closing.endswith(f"; next: ffdr inspect {tmp_path}/wo,rk/small+.beton --images={tmp_path}/wo,rk/small.beton")
    for picture in ("plot.png", "views.png"):
        assert np.asarray(Image.open(out / picture).convert("L")).std() > 5


def test_the_demos_betons_are_replaced(tmp_path):
    """Its folder is its own: files of an earlier demo, or of an earlier ffdr, are no obstacle."""
    before = {name: path.read_bytes() for name, path in demo.write_betons(tmp_path).items()}
    for name in before:
        (tmp_path / f"{name}.beton").write_bytes(b"of another ffdr")
    assert {name: path.read_bytes() for name, path in demo.write_betons(tmp_path).items()} == before


def _runs(dr, erm):
    run = {"nll": 1.0, "ece": 0.1, "corruption_top1": 0.5, "images_per_second": 1.0, "seconds": 1.0}
    by_task = {"dr": dr, "erm": erm, "kd": dr}
    return {task: [{**run, "top1": top1} for top1 in values] for task, values in by_task.items()}


@pytest.mark.parametrize(
    ("dr", "erm", "words"),
    [
        ([0.90, 0.91, 0.92], [0.80, 0.81, 0.82], "better than ERM (+10.00 ± 0.00)"),
        ([0.80, 0.81, 0.82], [0.90, 0.91, 0.92], "worse than ERM (-10.00 ± 0.00)"),
        ([0.90, 0.70, 0.80], [0.80, 0.81, 0.79], "no clear difference from ERM"),
    ],
)
def test_the_comparison_says_who_wins(dr, erm, words):
    assert words in report.compare(_runs(dr, erm))[0]


def test_the_interval_is_student_t():
    # mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.3027
    assert scores.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)
