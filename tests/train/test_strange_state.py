"""Checkpoints of strangers in the folder of a run, and given as weights: one line each, quickly."""

import math
import os
import time
from dataclasses import replace

import pytest
import torch
from betons import student_recipe
from crafted import list_bomb, refused, resized, tuple_bomb, zip_of

from ffdr.cli import main
from ffdr.models.build import load_model
from ffdr.models.files import read_info
from ffdr.train.checkpoint import Checkpoints
from ffdr.train.report import write_report
from ffdr.train.run import run
from ffdr.train.run_folder import RunLog
from ffdr.util.errors import UserError


@pytest.fixture(scope="module")
def trained(digits, folder):
    """A finished run's folder, and its recipe."""
    plan = student_recipe("erm", digits, "", "", folder / "strange", epochs=1, ema=0.9)
    run(plan, progress=False)
    return folder / "strange", plan


@pytest.fixture
def state(trained):
    (path,) = (trained[0] / "checkpoints").glob("*.pt")
    return torch.load(path, weights_only=True)


@pytest.fixture
def folder_of(trained, tmp_path):
    """Function state → folder of a run that has come so far, its newest checkpoint."""

    def make(state):
        path = tmp_path / "run" / "checkpoints" / "000000004.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        return path

    return make


RECORD = {
    "epoch": 1, "step": 5, "train_loss": 1.0, "seconds": 2.0, "images_per_second": 9.0, "data_wait": 0.1,
}  # fmt: skip
IDENTITIES = {
    "resolution": {"train.resolution": 60000},
    "resolution text": {"train.resolution": "32"},
    "classes": {"data.num_classes": 10**9},
    "tensor": {"data.num_classes": torch.ones(3)},
    "tensors": {"train.eval_resolution": torch.ones(3)},
    "bomb": {"data.mean": list_bomb()},
    "bombs": {"model.options": [list_bomb()]},
    "options": {"model.options": ("checkpoint_path=x",)},
    "option text": {"model.options": "drop_rate=0.1"},
    "name": {"model.name": "hf-hub:a/b"},
    "nan": {"data.center": float("nan")},
    "huge": {"train.resolution": 1 << 2000},
    "none": {"data.std": None},
}


@pytest.mark.parametrize("changes", IDENTITIES.values(), ids=IDENTITIES)
def test_the_identity_of_a_run_is_read_as_metadata_is(changes, state, folder_of):
    state["identity"] |= changes
    refused(read_info, folder_of(state), match="does not know how to feed its model")


STATES = {
    "identity": ({"identity": [1]}, "does not know how to feed its model"),
    "version": ({"version": torch.ones(2)}, "does not know how to feed its model"),
    "model": ({"model": torch.ones(2), "ema": {}}, "no tensors by name"),
    "ema": ({"ema": [1]}, "no tensors by name"),
    "numbers": ({"ema": {"conv_stem.weight": 1}}, "no tensors by name"),
}


@pytest.mark.parametrize(("changes", "match"), STATES.values(), ids=STATES)
def test_a_state_of_other_kinds_is_no_model(changes, match, state, folder_of):
    refused(load_model, folder_of(state | changes), match=match)


def test_a_checkpoint_of_other_weights_is_told(state, folder_of):
    refused(load_model, folder_of(state | {"ema": {"w": torch.ones(2)}}), match="file|weights")


RESUMED = {
    "identity": ({"identity": 5}, "identity is 5, as no run writes it"),
    "tensor": (lambda s: s["identity"].update({"train.lr": torch.ones(2)}), r"made with train\.lr=tensor"),
    "bomb": (
        lambda s: s["identity"].update({"train.lr": list_bomb()}),
        "more than numbers, texts and tensors, or more",
    ),
    "step": ({"step": -1}, "step is -1, as no run writes it"),
    "epoch": ({"epoch": 1.5}, r"epoch is 1\.5, as no run writes it"),
    "rng": ({"rng": {}}, "rng is {}, as no run writes it"),
    "record": ({"record": {"loss": list_bomb()}}, "record is .* as no run writes it"),
    "record's loss": ({"record": RECORD | {"train_loss": "x"}}, "record is .* as no run writes it"),
    "record's epoch": ({"record": RECORD | {"epoch": 10**400}}, "record is .* as no run writes it"),
    "half a record": ({"record": {"epoch": 1}}, "record is .* as no run writes it"),
    "optimizer": ({"optimizer": {"state": list_bomb(), "param_groups": []}}, "more than numbers, texts and tensors"),
    "loader": ({"loader": {}}, "fits no such run|loader state"),
    "totals": ({"totals": {}}, "fits no such run"),
    "shapes": ({"model": {"conv_stem.weight": torch.ones(2)}}, "fits no such run"),
    "complex": ({"model": {"conv_stem.weight": torch.ones(2, dtype=torch.complex64)}}, "is complex64"),
    "version": ({"version": torch.ones(2)}, "not a checkpoint that this ffdr reads"),
}


@pytest.mark.parametrize(("changes", "match"), RESUMED.values(), ids=RESUMED)
def test_a_run_does_not_go_on_from_what_no_run_wrote(changes, match, trained, state, folder_of):
    if callable(changes):
        changes(state)
    else:
        state |= changes
    path = folder_of(state)
    _, plan = trained
    again = replace(plan, train=replace(plan.train, out=str(path.parent.parent)))
    refused(lambda: run(again, progress=False), match=match)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: zip_of(path, tuple_bomb()),
        lambda path: zip_of(path, resized(10**6, 10**6)),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["tuples", "storage", "pipe", "device"],
)
def test_a_container_that_lies_is_no_checkpoint(make, tmp_path):
    make(tmp_path / "000000001.pt")
    refused(Checkpoints(tmp_path).newest, {}, match=r"000000001\.pt: (no checkpoint could be read|not a file but)")


def test_an_honest_checkpoint_goes_on(trained, state, folder_of):
    """As a number of another type, or a list for a tuple, of earlier versions."""
    state["identity"] |= {"train.clip_grad": 0, "data.mean": list(state["identity"]["data.mean"])}
    path = folder_of(state)
    assert Checkpoints(path.parent).newest({key: state["identity"][key] for key in ("train.lr", "data.num_classes")})
    assert Checkpoints(path.parent).newest({"train.clip_grad": 0.0, "data.mean": tuple(state["identity"]["data.mean"])})
    with pytest.raises(UserError, match=r"made with train\.lr="):
        Checkpoints(path.parent).newest({"train.lr": 5.0})


def test_a_bomb_ends_an_evaluation_with_one_line(state, folder_of, digits, capsys):
    state["identity"]["data.mean"] = list_bomb()
    path, start = folder_of(state), time.monotonic()
    assert main(["eval", f"--checkpoint={path}", f"--data={digits}"]) == 2
    assert time.monotonic() - start < 15
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ffdr eval: {path}: ") and len(line) < 800


@pytest.mark.parametrize(
    "changes",
    [{"train_loss": math.nan}, {"train_loss": math.inf}, {"seconds": 0}, {"val_top1": math.nan}, {"epoch": 10**400},
     {"epoch": True}, {"train_loss": 10**400}, {"val_top1": 1e308}, {"train_loss": "x"}, {"seconds": None},
     {"images_per_second": [1]}, {"val_ece": {}}, {"step": 0.5}],
    ids=str,
)  # fmt: skip
def test_a_report_is_made_of_what_runs_log(tmp_path, changes):
    """Also of a run that diverged."""
    log = RunLog(tmp_path)
    for record in (RECORD, RECORD | {"epoch": 2} | changes):
        log.append(record)
    write_report(tmp_path, "title", log.records())
    assert "# title" in (tmp_path / "report.md").read_text() and (tmp_path / "report.png").stat().st_size
    (tmp_path / "report.md").unlink()
    log.path.unlink()
    log.append({"epoch": 1})
    write_report(tmp_path, "title", log.records())
    assert not (tmp_path / "report.md").exists()
