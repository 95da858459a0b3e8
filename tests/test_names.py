"""Names that are not UTF-8, of folders, files and classes, go through every verb; printing survives every terminal."""

import csv
import io
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from ffdr.beton.read import ImageBeton
from ffdr.cli import main
from ffdr.config.files import WriteOptions
from ffdr.config.learning import ModelOptions
from ffdr.models.build import (
    ModelInfo,
    build_model,
    class_digest,
    read_info,
    save_model,
)
from ffdr.train.tracking.tensorboard import TensorBoard
from ffdr.util.errors import UserError
from ffdr.util.text import printable, readable
from ffdr.write.images import write_images

CLASSES = [os.fsdecode(name) for name in (b"a", b"caf\xe9", "\N{SNOWMAN}".encode())]
MODEL = "test_efficientnet"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose name is not UTF-8, with a data set of such names and a model for it."""
    place = tmp_path_factory.mktemp("names") / os.fsdecode(b"d\xe9")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (place / "data" / name).mkdir(parents=True)
        for number in range(4):
            file = place / "data" / name / os.fsdecode(b"%d\xff.png" % number)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(file)
    (place / "data" / CLASSES[1] / os.fsdecode(b"bad\xe9.png")).write_bytes(b"no image")
    info = ModelInfo(MODEL, 3, 32, (0.3,) * 3, (0.3,) * 3, classes=class_digest(CLASSES))
    save_model(place / "m.safetensors", build_model(ModelOptions(name=MODEL), 3, 32), info)
    return place


def options(place, out, workers=1, **changes):
    return WriteOptions(
        source="imagefolder", path=str(place / "data"), split="", out=str(out), workers=workers, **changes
    )


@pytest.fixture(scope="module")
def images(place):
    return write_images(options(place, place / "x.beton", on_error="skip", workers=2), progress=False)


def test_an_image_beton_keeps_the_names(images):
    beton = ImageBeton.open(images)
    assert list(beton.class_names) == CLASSES
    manifest = images.with_suffix(".json").read_bytes()
    assert rb"caf\udce9" in manifest and "\N{SNOWMAN}".encode() in manifest
    (skipped,) = json.loads(manifest)["skipped"]
    assert os.fsencode(skipped["origin"]) == b"caf\xe9/bad\xe9.png"


def test_a_killed_run_goes_on(place, images, tmp_path):
    """The journal has the names, too."""
    out = tmp_path / "x.beton"
    with pytest.raises(UserError, match=r"can't be read"):
        write_images(options(place, out), progress=False)
    assert (tmp_path / "x.beton.partial").exists()
    write_images(options(place, out, on_error="skip"), progress=False)
    assert out.read_bytes() == images.read_bytes()
    assert out.with_suffix(".json").read_bytes() == images.with_suffix(".json").read_bytes()


def test_every_verb_takes_them(place, images, monkeypatch, capfd):
    def ffdr(*words):
        assert main(list(words)) == 0, capfd.readouterr().err
        return capfd.readouterr().out

    monkeypatch.chdir(place)
    small = ["--train.resolution=32", "--train.batch_size=6", "--train.epochs=1", "--data.workers=1"]
    train = ["train", *small, f"--model.name={MODEL}", f"--data.train={images}"]
    ffdr(*train, f"--train.out={place / 'erm'}", f"--data.val={images}")
    model = place / "erm" / "model.safetensors"
    assert read_info(model).classes == class_digest(CLASSES)
    again = ffdr(*train, f"--train.out={place / 'erm'}", "--train.resume=1")  # its checkpoint is found and read
    assert "already trained to epoch 1" in again
    out = place / "y.beton"
    flags = ["--reinforce.views=2", "--reinforce.topk=2", "--reinforce.resolution=32", "--teacher.batch_size=4"]
    teacher = f"--teacher.models={MODEL}:{place / 'm.safetensors'}"
    ffdr("reinforce", f"--reinforce.images={images}", f"--reinforce.out={out}", teacher, *flags)
    ffdr(*train, "--train.task=kd", teacher, f"--train.out={place / 'kd'}")
    ffdr("inspect", str(out), f"--images={images}", f"--grid={place / 'grid.png'}")
    assert json.loads(ffdr("inspect", str(images), "--json"))["path"] == str(images)
    ffdr("verify", str(out), f"--against={images}")
    ffdr("pack", f"--pack.images={images}", f"--pack.reinforced={out}", f"--pack.out={place / 'packed.beton'}")
    ffdr("subset", str(out), "--views=1", f"--out={place / 'fewer.beton'}")
    ffdr("export", f"--reinforced={out}", f"--images={images}", f"--out={place / 'archive.tar.gz'}")
    ffdr("import", f"--archive={place / 'archive.tar.gz'}", f"--images={images}", f"--out={place / 'z.beton'}")
    for file in ("m.onnx", "m.pt2"):
        ffdr("export-model", f"--checkpoint={model}", f"--out={place / file}")
    report = [
        f"--eval.{key}={place / f'report.{end}'}" for key, end in (("json", "json"), ("csv", "csv"), ("plot", "png"))
    ]
    report.append(f"--eval.results={place / 'results'}")
    for bad in place.glob("data/*/bad*"):
        bad.unlink()
    for data in (images, place / "data"):
        ffdr("eval", f"--eval.checkpoint={model}", f"--eval.data={data}", *report)
    found = json.loads((place / "report.json").read_text(encoding="utf-8"))
    assert found["data"] == str(place / "data")
    assert set(found["per_class"]) == set(CLASSES)
    with open(place / "results" / "classes.csv", newline="", encoding="utf-8") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [printable(name) for name in CLASSES]


def test_tensorboard_which_can_not_write_there_is_refused(place):
    with pytest.raises(UserError, match=r"^train\.tensorboard: .* is not UTF-8; leave it out$"):
        TensorBoard(place, "train.tensorboard")


def test_digests_of_ordinary_names_stay():
    assert class_digest(["cat", "\N{SNOWMAN}"]) == "d796f2c423eab5b3"
    assert class_digest(CLASSES) != class_digest([readable(name) for name in CLASSES])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_can_be_printed_to(images, monkeypatch, encoding):
    """Whatever it can't show is escaped."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["inspect", str(images)]) == 0
    assert main(["inspect", str(images), "--json"]) == 0
    assert main(["verify", str(images.with_name("\N{SNOWMAN}"))]) == 2
    text = out.buffer.getvalue().decode(encoding)
    assert r"d\udce9/x.beton" in text
    assert json.loads(text[text.index("\n{\n") :])["path"] == str(images)
    assert ("\N{SNOWMAN}" if encoding == "utf-8" else r"\u2603") in err.buffer.getvalue().decode(encoding)
