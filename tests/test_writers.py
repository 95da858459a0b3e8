"""Whatever is written: a full disk is one line and status 1, in every library, and the earlier file stays as it was."""

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from betons import PLAIN
from disks import full_disk

from ffdr.bench.loading.charts import plot_bytes
from ffdr.bench.results import Report
from ffdr.bench.statistics import Estimate
from ffdr.cli import VERBS, main
from ffdr.config.files import (
    ExportOptions,
    PackOptions,
    TranscodeOptions,
    WriteOptions,
)
from ffdr.evaluate import report as evaluation
from ffdr.evaluate.confusion import PairCounts
from ffdr.evaluate.results.pictures import draw_confusion, draw_mistakes
from ffdr.evaluate.results.tables import ClassResult, write_classes
from ffdr.mldr.exporting import export_archive
from ffdr.models.build import ModelInfo, save_weights
from ffdr.train.checkpoint import _KEYS, Checkpoints
from ffdr.train.report import write_report
from ffdr.train.run_folder import JsonLog
from ffdr.util.atomic import atomic_path, atomic_write, os_errors_as_user_errors
from ffdr.util.errors import UserError, WriteError
from ffdr.util.pictures import drawing
from ffdr.write.copy.merge import pack
from ffdr.write.copy.transcode import transcode
from ffdr.write.images import write_images

INFO = ModelInfo("test_vit", 10, 32, (0.5,) * 3, (0.5,) * 3)
WEIGHTS = {"a": torch.zeros(100_000), "b": torch.zeros(7)}
SCORES = {
    "model": "m", "parameters": 1, "resolution": 32, "center": 1.0, "interpolation": "bilinear", "data": "x",
    "images": 3, "top1": 0.5, "ece": 0.1, "reliability": [{"accuracy": 0.5, "images": 1}] * 15,
}  # fmt: skip
RECORD = {
    "epoch": 1, "step": 9, "train_loss": 1.0, "val_top1": 0.5, "images_per_second": 9.0, "data_wait": 0.1, "seconds": 1,
}  # fmt: skip


def checkpoint(path):
    path.rename(path.with_name("000000001.pt"))
    Checkpoints(path.parent).save(1, {key: {} for key in _KEYS} | {"model": WEIGHTS})


def picture(path):
    with drawing(path, 1, 1) as figure:
        figure.subplots()


WRITERS = {
    "weights": lambda path: save_weights(path, WEIGHTS, INFO),
    "checkpoint": checkpoint,
    "log": lambda path: JsonLog(path).append({"epoch": 1, "names": "x" * 9999}),
    "text": lambda path: atomic_write(path, "x" * 9999),
    "evaluation's table": lambda path: evaluation.write_csv(path, SCORES),
    "evaluation's plot": lambda path: evaluation.plot(path, SCORES),
    "evaluation's classes": lambda path: write_classes(path, [ClassResult(1, 1, 1.0, 1.0, 1.0, None, 0)], ["x" * 99]),
    "evaluation's confusion": lambda path: draw_confusion(path, PairCounts.of(*np.array([[0, 1], [1, 1]])), "ab"),
    "evaluation's mistakes": lambda path: draw_mistakes(path, [], 0, 1),
    "training's report": lambda path: write_report(path.parent, "title", [RECORD]),
    "bench's figures": lambda path: Report("title", ["x" * 999], [], {}, {}).store(str(path.with_suffix(".json"))),
    "bench's plot": lambda path: plot_bytes(path, {"x": Estimate(1.0, 0.5, 2.0, ())}, {"x": 9.0}),
    "pictures": picture,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_reported_and_the_earlier_file_stays(tmp_path, writer):
    path = tmp_path / "x.png"
    path.write_bytes(b"earlier")
    with full_disk(50), pytest.raises(WriteError, match=r"^/.*: can't be written: File too large$") as caught:
        WRITERS[writer](path)
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.glob("*.partial"))
    if writer != "log":
        assert b"earlier" in [file.read_bytes() for file in tmp_path.iterdir()]


@pytest.mark.parametrize("verb", ["write", "transcode", "pack", "export"])
def test_a_full_disk_is_reported_for_every_file_of_data(photos, reinforce, tmp_path, verb):
    views = str(reinforce(photos, PLAIN))

    def run(name):
        out = str(tmp_path / name)
        {
            "write": lambda: write_images(WriteOptions(source="digits", mode="raw", out=out, workers=1), False),
            "transcode": lambda: transcode(TranscodeOptions(str(photos), out=out, workers=1), progress=False),
            "pack": lambda: pack(PackOptions(str(photos), views, out), progress=False),
            "export": lambda: export_archive(ExportOptions(views, str(photos), out), progress=False),
        }[verb]()

    run("kernels.tar.gz")  # they are compiled and written to their cache first, which the limit would hit as well
    with full_disk(5000), pytest.raises(WriteError, match=r"/x\.tar\.gz: can't be written: File too large$"):
        run("x.tar.gz")


def test_a_run_on_a_full_disk_ends_with_one_line_and_status_1(digits, tmp_path, monkeypatch, capsys):
    real = torch.save

    def save(state, file):
        with full_disk(1000):
            real(state, file)

    monkeypatch.setattr(torch, "save", save)
    flags = ["--train.batch_size=50", "--train.resolution=32", "--train.epochs=1", "--model.name=test_efficientnet"]
    status = main(["train", f"--data.train={digits}", f"--train.out={tmp_path}", "--data.workers=1", *flags])
    said = capsys.readouterr().err.splitlines()[-1]
    assert (status, said) == (1, f"ffdr train: {tmp_path}/checkpoints/000000002.pt: can't be written: File too large")


def test_places_that_can_not_be_written_to_are_the_users(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, said in (
        ("none/x", "can't be written: No such file or directory"),
        ("file/x", f"can't be written: {tmp_path}/file is not a folder"),
        ("folder", "a folder; give the name of a file"),
    ):
        with pytest.raises(UserError, match=f"^{tmp_path / path}: {said}$"):
            atomic_write(tmp_path / path, "text")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_what_happens_within_a_write_is_reported_once(tmp_path):
    line = r"^inner: can't be written: No space left on device$"
    with (
        pytest.raises(WriteError, match=line),
        os_errors_as_user_errors(tmp_path / "outer"),
        os_errors_as_user_errors(Path("inner")),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(RuntimeError, match=r"^a fault$"), os_errors_as_user_errors(tmp_path / "outer"):
        raise RuntimeError("a fault")


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o022)
    try:
        for name in WRITERS:
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.png").touch()
            WRITERS[name](tmp_path / name / "x.png")
    finally:
        os.umask(before)
    modes = {str(path): oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*.*")}
    assert set(modes.values()) == {"0o644"}, modes


def test_a_file_that_was_not_written_whole_has_no_name(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "x") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.empty(1 << 58, dtype=torch.uint8),
        lambda: np.empty(1 << 60, np.uint8),
        lambda: bytearray(1 << 62),
        lambda: os.read(os.open("/dev/zero", os.O_RDONLY), 1 << 60),
        lambda: cv2.resize(np.zeros((2, 2), np.uint8), (2**31 - 9, 2**31 - 9)),
    ],
    ids=["torch", "numpy", "python", "system", "opencv"],
)
def test_memory_that_is_not_there_is_one_line_and_status_1(use, monkeypatch, capsys):
    monkeypatch.setitem(VERBS, "train", lambda options: use())
    monkeypatch.setattr("ffdr.cli.parse", lambda verb, words: None)
    assert main(["train"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ffdr train: out of memory") and said.count("\n") == 1
