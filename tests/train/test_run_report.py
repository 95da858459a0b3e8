"""The report of a run: its numbers against scikit-learn and NumPy, what its pictures hold, what it is made of again."""

import json
import os
import signal
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pytest
import torch
from fakes import FakeLoader, trainer
from matplotlib import rc_context
from matplotlib.text import Text
from ranked import finish, launch
from sklearn.metrics import confusion_matrix, log_loss

from ffdr.evaluate.temperature import fit_temperature
from ffdr.train import run_folder
from ffdr.train.report import confused, curves, outputs, write_report
from ffdr.train.report.confused import shares
from ffdr.train.report.outputs import Outputs
from ffdr.train.signals import Stopped, StopRequest
from ffdr.util import pictures
from ffdr.util.pictures import _STYLE, Picture
from ffdr.util.ranks import Ranks

PARTS = ("report-calibration.png", "report-confusion.png", "report.json", "report.md", "report.png")


def records(epochs, every=1, **more):
    """A log with numbers that all differ."""
    found = []
    for epoch in range(1, epochs + 1):
        record = {
            "epoch": epoch, "step": 10 * epoch, "lr": 0.1 / epoch, "train_loss": 2 / epoch, "seconds": 5.0,
            "data_wait": 0.01 * epoch % 1, "images_per_second": 100.0 + epoch,
        }  # fmt: skip
        if epoch % every == 0:
            record |= {
                "val_top1": 0.9 - abs(epoch - 0.7 * epochs) / 2 / epochs,
                "val_nll": 1.9 / epoch,
                "val_ece": 0.05,
            }
        found.append(record | more)
    return found


def model_outputs(n=400, classes=6, seed=0):
    """Logits (n, classes) of a model that is too sure of itself, and labels (n,)."""
    rng = np.random.default_rng(seed)
    logits = 4 * rng.normal(size=(n, classes))
    return logits.astype(np.float32), (logits / 3 + rng.gumbel(size=logits.shape)).argmax(1)


def findings(logits, labels, batch=64, order=None, names=()):
    """By batches in any order."""
    order = np.arange(len(labels)) if order is None else order
    kept = Outputs(len(labels), logits.shape[1], Ranks(), names)
    for start in range(0, len(order), batch):
        index = torch.from_numpy(order[start : start + batch])
        kept.update(torch.from_numpy(logits)[index], torch.from_numpy(labels)[index], index)
    return kept.gather()


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was drawn last, which is not written."""
    figures = []

    @contextmanager
    def drawing(file, width, height):
        with rc_context(_STYLE):
            figures.append(Picture(figsize=(width, height), layout="constrained"))
            yield figures[-1]
            figures[-1].draw_without_rendering()

    monkeypatch.setattr(curves, "drawing", drawing)
    return figures


def softmax(logits):
    chances = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)


def test_the_report_says_what_scikit_learn_and_a_grid_find(tmp_path):
    logits, labels = model_outputs()
    names = tuple("abcdef")
    write_report(tmp_path, "a, b", records(3), findings(logits, labels, names=names))
    found = json.loads((tmp_path / "report.json").read_text())
    grid = np.exp(np.linspace(0, 2, 1000))
    best = min(grid, key=lambda t: -np.log(softmax(logits[::2] / t)[range(200), labels[::2]]).mean())
    calibration, odd = found["calibration"], logits[1::2]
    assert calibration["temperature"] == pytest.approx(best, rel=0.003)
    assert (calibration["fitted_on"], calibration["judged_on"], calibration["validation_images"]) == (200, 200, 400)
    for side, t in (("before", 1.0), ("after", calibration["temperature"])):
        chances = softmax(odd / t)
        assert calibration[side]["nll"] == pytest.approx(log_loss(labels[1::2], chances, labels=range(6)), rel=1e-5)
        sure, right = chances.max(1), chances.argmax(1) == labels[1::2]
        parts = [(sure * 15).astype(int) == number for number in range(15)]
        assert calibration[side]["ece"] == pytest.approx(
            sum(abs((right[part] - sure[part]).sum()) for part in parts) / 200, abs=1e-6
        )
        assert [row["images"] for row in calibration[side]["reliability"]] == [int(part.sum()) for part in parts]
    matrix = confusion_matrix(labels, logits.argmax(1))
    np.fill_diagonal(wrong := matrix.copy(), 0)
    worst = found["most_confused"][0]
    assert worst["images"] == wrong.max()
    assert wrong[names.index(worst["true"]), names.index(worst["predicted"])] == wrong.max()
    assert worst["share"] == pytest.approx(wrong.max() / matrix.sum(1)[names.index(worst["true"])])
    numbers, percent = shares(findings(logits, labels))
    assert percent == pytest.approx((100 * matrix / matrix.sum(1, keepdims=True))[np.ix_(numbers, numbers)])
    text = (tmp_path / "report.md").read_text()
    before, t = calibration["before"], calibration["temperature"]
    assert f"| as it is | {before['nll']:.4f} | {before['ece']:.2%} |" in text
    assert f"by **{t:.4g}** before softmax" in text and f"| logits divided by {t:.4g} |" in text
    assert f"| {worst['true']} | {worst['predicted']} | {worst['images']} | {worst['share']:.1%} |" in text
    for name in PARTS[:2]:
        assert f"({name})" in text and (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_any_batches_in_any_order_make_the_same_bytes(tmp_path):
    logits, labels = model_outputs()
    for name, found in (
        ("a", findings(logits, labels)),
        ("b", findings(logits, labels, 7, np.random.default_rng(0).permutation(400))),
    ):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, "t", records(40), found)
    for name in PARTS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_of_many_logits_evenly_spaced_ones_are_kept(tmp_path, monkeypatch):
    logits, labels = model_outputs()
    monkeypatch.setattr(outputs, "MOST_LOGITS", 150 * 6 + 5)
    found = findings(logits, labels, 7, np.random.default_rng(0).permutation(400))
    places = [next(i for i in range(400) if i * 150 // 400 == place) for place in range(150)]
    assert (found.logits == logits[places]).all() and (found.labels == labels[places]).all()
    assert found.confusion.images.sum() == 400
    write_report(tmp_path, "t", records(1), found)
    content = json.loads((tmp_path / "report.json").read_text())["calibration"]
    assert content["temperature"] == pytest.approx(fit_temperature(logits[places][::2], labels[places][::2]), abs=1e-8)
    assert "of 150 evenly spaced ones" in (tmp_path / "report.md").read_text()


RANK = """
import sys
import numpy as np, torch
from ffdr.train.report.outputs import Outputs
from ffdr.util.ranks import Ranks

with Ranks.join() as ranks:
    logits, labels = (torch.from_numpy(part) for part in np.load(sys.argv[1]).values())
    kept = Outputs(len(labels), logits.shape[1], ranks)
    for index in torch.arange(ranks.rank, len(labels), 2).split(9):
        kept.update(logits[index], labels[index], index)
    found = kept.gather()
    assert (found is None) == (ranks.rank == 1)
    if found:
        np.savez(sys.argv[2], found.logits, found.labels, *found.confusion)
"""


def test_two_ranks_find_what_one_finds(tmp_path):
    logits, labels = model_outputs()
    np.savez(tmp_path / "in.npz", logits=logits, labels=labels)
    status, said = finish(launch(2, ["-c", RANK, tmp_path / "in.npz", tmp_path / "out.npz"]))
    assert status == [0, 0], said
    alone = findings(logits, labels)
    shared = np.load(tmp_path / "out.npz").values()
    for mine, theirs in zip(shared, (alone.logits, alone.labels, *alone.confusion), strict=True):
        assert (mine == theirs).all() and mine.dtype == theirs.dtype


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (3, 1), (300, 5)])
def test_the_picture_holds_the_log_and_says_how_it_ends(tmp_path, drawn, epochs, every):
    log = records(epochs, every)
    curves.draw(tmp_path / "x.png", "title", log)
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0].axes}
    for heading, key, scale in (
        ("validation top-1, %", "val_top1", 100), ("learning rate", "lr", 1), ("images/s", "images_per_second", 1),
        ("data wait, % of the time", "data_wait", 100),
    ):  # fmt: skip
        expected = [(record["epoch"], scale * record[key]) for record in log if key in record]
        assert panels[heading].lines[0].get_xydata() == pytest.approx(np.array(expected))
    loss, nll = panels["loss"].lines
    assert loss.get_ydata() == pytest.approx([record["train_loss"] for record in log])
    assert nll.get_ydata() == pytest.approx([record["val_nll"] for record in log if "val_nll" in record])
    best = max((record for record in log if "val_top1" in record), key=lambda record: record["val_top1"])
    said = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert f"best {100 * best['val_top1']:.1f}%, epoch {best['epoch']}" in said
    assert f"training {log[-1]['train_loss']:.3f}" in said and f"{log[-1]['images_per_second']:,.0f}" in said
    assert_apart(drawn[0])
    assert not any(axes.get_legend() for axes in drawn[0].axes)


def assert_apart(figure):
    """No label lies over another, and none leaves the picture."""
    boxes = [Text.get_window_extent(text).padded(-1) for axes in figure.axes for text in axes.texts]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    page = figure.bbox.padded(2)
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)


def test_all_panels_are_laid_out_once(tmp_path, monkeypatch):
    calls, lay_out = [], Picture.draw_without_rendering
    monkeypatch.setattr(Picture, "draw_without_rendering", lambda figure: calls.append(lay_out(figure)))
    curves.draw(tmp_path / "x.png", "title", records(3))
    assert len(calls) == 2  # for the labels, and with them


@pytest.mark.filterwarnings("error")
def test_names_of_classes_that_no_font_has_stay_short(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "_reported", set())
    monkeypatch.setattr(pictures, "_families", lambda characters: ())
    names = ("\u732b" * 30, "a" * 300, "$x$\n", "d", "e", "f")
    logits, labels = model_outputs()
    found = findings(logits, labels, names=names)
    assert confused.section(tmp_path / "x.png", found)
    assert "no installed font has \\u732b" in capsys.readouterr().err
    assert max(len(confused._name(names, number)) for number in range(6)) <= 24


def test_curves_that_end_together_or_nowhere_have_names_all_the_same(tmp_path, drawn):
    log = records(9)
    for record in log:
        record["val_nll"] = record["train_loss"]
    log[-1] |= {"train_loss": float("nan"), "images_per_second": float("inf")}
    curves.draw(tmp_path / "x.png", "title", log)
    said = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert "training 0.250, epoch 8" in said and "validation NLL 0.222" in said and "108, epoch 8" in said
    assert_apart(drawn[0])


def test_old_logs_have_a_report_without_what_they_lack(tmp_path):
    old = [{key: value for key, value in record.items() if key != "lr"} for record in records(4, every=9)]
    for name in PARTS[:2]:
        (tmp_path / name).write_text("of an earlier report")
    write_report(tmp_path, "title", old)
    assert sorted(os.listdir(tmp_path)) == ["report.json", "report.md", "report.png"]
    assert set(json.loads((tmp_path / "report.json").read_text())) == {"title", "training"}
    assert "Calibration" not in (tmp_path / "report.md").read_text()


class Counted(FakeLoader):
    """Counts its passes."""

    passes, act = 0, staticmethod(lambda: None)

    def __iter__(self):
        self.passes += 1
        for number, batch in enumerate(super().__iter__()):
            if number == 1:
                self.act()
            yield batch


def validation():
    return Counted(n=50, shuffle=False)


def test_the_last_validation_hands_its_outputs_on(tmp_path):
    val = validation()
    run = trainer(tmp_path, val_loader=val, epochs=2, ema=0.5)
    record = run.fit()
    assert val.passes == 2
    run.result.eval()
    with torch.inference_mode():
        logits = run.result(val.images).numpy()
    found = json.loads((tmp_path / "report.json").read_text())
    t = fit_temperature(logits[::2], val.labels.numpy()[::2])
    assert found["calibration"]["temperature"] == pytest.approx(t, rel=1e-3)
    nll = log_loss(val.labels[1::2], softmax(logits[1::2]), labels=range(4))
    assert found["calibration"]["before"]["nll"] == pytest.approx(nll, rel=1e-4)
    assert found["training"]["val_nll"] == pytest.approx(record["val_nll"])
    assert json.loads((tmp_path / "options.json").read_text())["validation"] == {
        "num_images": 50,
        "fingerprint": "f00d",
    }


class KilledError(Exception):
    """What stands for a power cut."""


def test_a_run_killed_before_its_report_makes_the_same_when_started_again(tmp_path, monkeypatch):
    given = []

    def kill(*arguments):
        given.extend(arguments)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(run_folder, "write_report", kill)
        trainer(tmp_path / "run", val_loader=validation(), epochs=2).fit()
    trainer(tmp_path / "run", val_loader=validation(), epochs=2).fit()
    (tmp_path / "whole").mkdir()
    write_report(tmp_path / "whole", *given[1:])
    for name in PARTS:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    untouched = validation()
    trainer(tmp_path / "run", val_loader=untouched, epochs=2).fit()
    for name in PARTS[:3]:  # as earlier versions left it
        (tmp_path / "run" / name).unlink()
    trainer(tmp_path / "run", val_loader=untouched, epochs=2).fit()
    assert untouched.passes == 0 and not (tmp_path / "run" / "report.json").exists()


def test_a_run_that_starts_afresh_does_not_pass_for_finished_by_an_earlier_report(tmp_path, monkeypatch):
    trainer(tmp_path, epochs=1).fit()

    def kill(*arguments):
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(run_folder, "write_report", kill)
        trainer(tmp_path, epochs=1, resume=False, lr=0.01).fit()
    assert not (tmp_path / "report.md").exists()
    trainer(tmp_path, epochs=1, lr=0.01).fit()
    assert (tmp_path / "report.md").exists()


def test_outputs_of_another_pass_are_the_same_and_a_stop_breaks_it_off(tmp_path):
    """As when a callback made an epoch the last that was validated like any other."""
    first = trainer(tmp_path, val_loader=validation(), epochs=1)
    first.fit()
    report = (tmp_path / "report.json").read_bytes()
    val = validation()
    run = trainer(tmp_path, val_loader=val, epochs=1)
    run.begin()
    found = run._findings()
    assert val.passes == 1
    run.log.write_report("test_resnet, erm", found)
    assert (tmp_path / "report.json").read_bytes() == report
    val.act = lambda: os.kill(os.getpid(), signal.SIGTERM)
    run._outputs = None
    with pytest.raises(Stopped), StopRequest() as run._stop:
        run._findings()
