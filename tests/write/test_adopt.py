"""Betons of stock FFCV, with a manifest and without, go through every verb."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ffdr.beton.layout import JPG, RAW
from ffdr.beton.manifest import manifest_path
from ffdr.beton.read import IMAGENET_MEAN, ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.config.files import AdoptOptions
from ffdr.loader.dataset import ReinforcedDataset
from ffdr.util.errors import UserError
from ffdr.write import adopt as adopting
from ffdr.write.adopt import adopt


@pytest.fixture
def here(stock, tmp_path, monkeypatch):
    """A folder with copies of the stock betons and a file with their classes' names, the working one."""
    for path in stock.glob("*.beton"):
        shutil.copy(path, tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(f"kind {number}" for number in range(10)) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels_of(beton, i):
    """Without ffdr's decoders."""
    data, (width, height) = beton.data(i), beton.sizes[i]
    if beton.modes[i] == RAW:
        return data.reshape(height, width, 3)
    with open("one.jpg", "wb") as file:
        file.write(data.tobytes())
    return np.asarray(Image.open("one.jpg"))


@pytest.mark.parametrize(("name", "workers"), [("jpg", 1), ("smart", 2), ("proportion", 1)])
def test_the_manifest_says_what_is_in_the_file(here, monkeypatch, name, workers):
    monkeypatch.setattr(adopting, "_PORTION", 5)
    path = here / f"{name}.beton"
    before = path.read_bytes(), path.stat().st_mtime_ns
    bare = ImageBeton.open(path)
    assert bare.manifest is None and bare.class_names[3] == "3" and bare.mean == IMAGENET_MEAN
    assert not bare.has_origins
    assert set(bare.modes.tolist()) == ({JPG} if name == "jpg" else {JPG, RAW})
    out = adopt(AdoptOptions(str(path), "names.txt", workers), progress=False)
    assert out == here / f"{name}.json"
    images = ImageBeton.open(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert images.fingerprint == bare.fingerprint == images.manifest["fingerprint"]
    assert images.class_names == tuple(f"kind {number}" for number in range(10))
    assert images.manifest["images_per_class"] == [3] * 4 + [2] * 6
    assert images.manifest["jpeg_images"] == int((images.modes == JPG).sum())
    pixels = np.concatenate([pixels_of(images, i).reshape(-1, 3) for i in range(24)]) / 255
    assert np.allclose(images.mean, pixels.mean(axis=0), rtol=0, atol=1e-12)
    assert np.allclose(images.std, pixels.std(axis=0), rtol=0, atol=1e-12)


def test_without_names_classes_are_numbers(here):
    adopt(AdoptOptions("jpg.beton", workers=1), progress=False)
    assert json.loads((here / "jpg.json").read_text())["class_names"] == list("0123456789")


@pytest.mark.parametrize("adopted", [True, False], ids=["adopted", "bare"])
def test_every_verb_takes_them(here, teacher, capsys, adopted):
    def ffdr(line):
        status = main(line.split())
        said = capsys.readouterr()
        assert status == 0, said.err
        return said.out

    if adopted:
        assert "24 images of 10 classes" in ffdr("adopt smart.beton --classes=names.txt --workers=1")
    ffdr(f"reinforce --images=smart.beton --out=v.beton --teacher.models={teacher} --views=2 --topk=3 --resolution=32")
    ffdr("pack --images=smart.beton --reinforced=v.beton --out=all.beton")
    small = "--model.name=test_efficientnet --epochs=1 --batch_size=8 --resolution=32 --data.workers=1"
    small += "" if adopted else " --data.os_cache=false --data.order=quasi_random"
    ffdr(f"train --task=dr --data.train=smart.beton --data.reinforced=v.beton --data.val=smart.beton --out=run {small}")
    for name in ("all", "smart"):
        ffdr(f"eval --checkpoint=run/model.safetensors --data={name}.beton --json={name}.report --workers=1")
    assert (
        json.loads((here / "all.report").read_text())["nll"] == json.loads((here / "smart.report").read_text())["nll"]
    )
    ffdr("split all.beton --images=i.beton --reinforced=w.beton")
    assert (here / "w.beton").read_bytes() == (here / "v.beton").read_bytes()
    ffdr("subset smart.beton --indices=4:9 --out=part.beton")
    ffdr("subset v.beton --images=smart.beton --indices=4:9 --out=part+.beton")
    part, images = ImageBeton.open("part.beton"), ImageBeton.open("smart.beton")
    views = ReinforcedDataset(part, ReinforcedBeton.open("part+.beton", part)).view(2, 1, 32)[0]
    assert np.array_equal(views, ReinforcedDataset(images, ReinforcedBeton.open("v.beton", images)).view(6, 1, 32)[0])
    for name in ("smart", "all", "i", "part"):
        assert ": intact: " in ffdr(f"verify {name}.beton")
        found = json.loads(ffdr(f"inspect {name}.beton --json"))["images"]
        assert found["original_width"] is None
        assert (found["manifest"] is None) != adopted
    said = ffdr("inspect smart.beton")
    assert "original width          not in the file" in said
    assert ("next: ffdr adopt smart.beton --classes=NAMES.txt" in said) != adopted


def test_refusals(here, stock, capsys):
    def refused(*words):
        before = {path: path.read_bytes() for path in here.iterdir()}
        assert main(["adopt", *words, "--workers=1"]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and not said.out
        assert {path: path.read_bytes() for path in here.iterdir()} == before
        return said.err

    assert "an image beton has a field image of type 2 (FFCV's RGBImageField); fields here are x, y" in refused(
        "named.beton"
    )
    assert "no such file" in refused("none.beton")
    (here / "few.txt").write_text("one\ntwo\n")
    assert "adopt.classes: 2 names, but image 6 of jpg.beton is of class 2, counted from 0" in refused(
        "jpg.beton", "--classes=few.txt"
    )
    assert "none.txt: No such file" in refused("jpg.beton", "--classes=none.txt")
    (here / "jpg.json").write_text("{}")
    for words in ((), ("--overwrite",)):
        assert "jpg.json: is not a manifest of ffdr" in refused("jpg.beton", *words)
    adopt(AdoptOptions("smart.beton", workers=1), progress=False)
    assert "smart.json: is there already; --overwrite replaces it" in refused("smart.beton", "--classes=names.txt")
    assert main(["adopt", "smart.beton", "--classes=names.txt", "--overwrite", "--workers=1"]) == 0
    assert ImageBeton.open("smart.beton").class_names[1] == "kind 1"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_manifest_of_other_images_or_names_is_replaced_when_asked(here, monkeypatch, workers):
    monkeypatch.setattr(adopting, "_PORTION", 5)
    adopt(AdoptOptions("first.beton", workers=1), progress=False)
    shutil.copy("first.json", "jpg.json")
    with pytest.raises(UserError, match=r"jpg.json: not the manifest of this beton"):
        ImageBeton.open("jpg.beton")
    adopt(AdoptOptions("jpg.beton", workers=workers, overwrite=True), progress=False)
    assert len(ImageBeton.open("jpg.beton")) == 24
    adopt(AdoptOptions("jpg.beton", "names.txt", workers=workers, overwrite=True), progress=False)
    assert ImageBeton.open("jpg.beton").class_names[1] == "kind 1"


def test_a_corrupt_image_is_named(here):
    beton = ImageBeton.open("jpg.beton")
    with (here / "jpg.beton").open("r+b") as file:
        file.seek(int(beton.data_ptr[9]))
        file.write(bytes(200))
    with pytest.raises(UserError, match=r"jpg.beton: sample 9: its JPEG is corrupt"):
        adopt(AdoptOptions("jpg.beton", workers=1), progress=False)
    assert not manifest_path(here / "jpg.beton").exists()
