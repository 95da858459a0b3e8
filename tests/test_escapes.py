"""Nothing that strangers write drives a terminal, breaks a table or fills a screen. What archives and studies hold has
tests beside theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from evil import EVIL, as_name, check, check_table, every_evil, refused, run
from PIL import Image
from safetensors.torch import save_file

from ffdr import cli
from ffdr.augment.view import VIEW_DTYPE, plain_view
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, manifest_path
from ffdr.models.build import ModelInfo
from ffdr.reinforce import agreement
from ffdr.train.report import write_report
from ffdr.util.errors import UserError, WriteError
from ffdr.write.reinforced import ReinforcedWriter


@pytest.fixture
def call(capsys):
    """``run``, with what it printed."""
    return partial(run, capsys)


@every_evil
def test_class_names_of_folders_and_manifests(call, tmp_path, evil, teacher):
    for number, name in enumerate((as_name(evil), "z")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 50 * number, np.uint8)).save(tmp_path / "photos" / name / "a.png")
    out, picture = tmp_path / "x.beton", tmp_path / "x.png"
    words = ("--source=imagefolder", "--split=", f"--path={tmp_path / 'photos'}", f"--out={out}", "--workers=1")
    assert call("write", *words)[0] == 0
    assert call("inspect", out, f"--grid={picture}")[0] == 0 and picture.stat().st_size
    assert call("verify", out)[0] == 0
    for words in ([f"--data={out}"], [f"--data={tmp_path / 'photos'}"]):
        assert call("eval", f"--checkpoint={teacher.partition(':')[2]}", *words)[0] == 2
    manifest = manifest_path(out)
    found = json.loads(manifest.read_text())
    found["class_names"] = [evil, *(f"{evil}{number}" for number in range(20))]
    found |= {"source": evil, "split": evil, "versions": {evil: evil}, "options": {"a": [evil] * 9}, "mean": [evil] * 3}
    manifest.write_text(json.dumps(found))
    for words in ((out,), (out, f"--grid={picture}")):
        assert call("inspect", *words)[0] in (0, 2)
    assert call("verify", out)[0] in (0, 1, 2)


@every_evil
def test_teachers_and_policies_in_a_header(call, digits, tmp_path, evil):
    text = evil.encode("ascii", "ignore").decode()[:150]
    images = ImageBeton.open(digits)
    out = tmp_path / "x.beton"
    header = ReinforcedHeader(
        num_images=100, views=2, topk=2, num_classes=10, mixes=False, policy={"crop": text, text[:50]: text[:50]},
        teachers=(text,), resolution=32, seed=0, fingerprint=images.fingerprint,
    )  # fmt: skip
    with ReinforcedWriter(out, header, images) as writer:
        views = np.full((100, 2), plain_view(), VIEW_DTYPE)
        ids = np.tile(np.array([1, 2], np.uint16), (100, 2, 1))
        writer.put(np.arange(100), views, ids, np.log(np.full((100, 2, 2), 0.4)).astype(np.float16))
        writer.finish()
    for words in (("inspect", out), ("inspect", out, f"--images={digits}"), ("verify", out, f"--against={digits}")):
        assert call(*words)[0] == 0
    words = (f"--reinforced={out}", f"--images={digits}", f"--out={tmp_path / 'archive'}")
    refused(call("export", *words), "policy")


@every_evil
@pytest.mark.parametrize("place", ["name", "classes", "fingerprint", "options"])
def test_metadata_of_a_checkpoint(call, digits, tmp_path, place, evil):
    info = ModelInfo("test_efficientnet", 10, 32, (0.3,) * 3, (0.35,) * 3)
    info = replace(info, **{place: (f"{evil}={evil}",) if place == "options" else evil})
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(1)}, path, info.to_metadata())
    assert call("eval", f"--checkpoint={path}", f"--data={digits}")[0] == 2
    words = (f"--images={digits}", f"--out={tmp_path / 'x.beton'}", f"--teacher.models=test_efficientnet:{path}")
    assert call("reinforce", *words)[0] == 2


@every_evil
def test_recipes(call, tmp_path, evil):
    file = tmp_path / "recipe.yaml"
    for content in (
        {evil: {"lr": 1}}, {"train": {evil: 1}}, {"train": {"lr": evil}}, {"train": {"task": evil}}, {"base": evil},
        {"model": {"name": evil}, "data": {"train": evil}},
    ):  # fmt: skip
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        assert call("train", "--config-file", file)[0] == 2


@every_evil
def test_names_of_images(call, tmp_path, evil):
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "0.png")
    (folder / f"{as_name(evil)}.png").write_bytes(b"no image")
    words = ["--source=imagefolder", "--split=", f"--path={tmp_path / 'photos'}", "--workers=1"]
    assert call("write", *words, f"--out={tmp_path / 'x.beton'}")[0] == 2
    assert call("write", *words, f"--out={tmp_path / 'y.beton'}", "--skip-bad=1")[0] in (0, 2)


@every_evil
def test_a_runs_own_report(tmp_path, evil):
    record = {"epoch": 1, "step": 5, "train_loss": 1.0, "seconds": 2.0, "images_per_second": 9.0, "data_wait": 0.1}
    write_report(tmp_path, evil, [record])
    check_table((tmp_path / "report.md").read_bytes().decode())
    assert (tmp_path / "report.png").stat().st_size


@every_evil
def test_sources_of_teachers(evil, capsys):
    logs = torch.full((2, 64, 4), -10.0)
    logs[:, :, 0] = 0
    predictions = agreement.Predictions((evil, "b"), logs, np.arange(64) % 4)
    check(agreement.table(predictions))
    agreement.warn(predictions)
    err = capsys.readouterr().err
    assert err
    check(err)


def test_an_error_of_any_kind_is_one_printable_line(capsys, monkeypatch):
    for error in (UserError(EVIL["all"]), WriteError(28, EVIL["all"], EVIL["all"]), KeyboardInterrupt(EVIL["all"])):
        monkeypatch.setattr(cli, "_run", lambda verb, words, error=error: (_ for _ in ()).throw(error))
        assert cli.main(["train"]) in (1, 2, 130)
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        check(err)
