"""``--write.source=torchvision:NAME``, on files in torchvision's formats that the tests make."""

import pickle

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

import ffdr
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.cli import main
from ffdr.data.torchvision_sets import NAMES
from ffdr.util.errors import UserError


def idx(array):
    """An array as MNIST's files have it."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """FashionMNIST of 30 and 12 images, Food-101 of two images."""
    root, rng = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 30), ("t10k", 12)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return root


def write(root, out, name="FashionMNIST", **options):
    options = {"split": "train", "mode": "raw", "workers": 1, "progress": False} | options
    return ImageBeton.open(ffdr.write(source=f"torchvision:{name}", path=root, out=out / "x.beton", **options))


@pytest.mark.parametrize(("name", "split"), [("FashionMNIST", "train"), ("fashionmnist", "test")])
def test_pixels_labels_and_names(root, tmp_path, name, split):
    theirs, beton = datasets.FashionMNIST(root, split == "train"), write(root, tmp_path, name, split=split)
    assert len(beton) == len(theirs)
    assert list(beton.class_names) == theirs.classes
    for i, (image, label) in enumerate(theirs):
        assert np.array_equal(decode_image(beton, i), np.stack([np.asarray(image)] * 3, 2))
        assert beton.labels[i] == label
    object_ = ffdr.write(theirs, tmp_path / "y.beton", split=split, mode="raw", workers=1, progress=False)
    assert object_.read_bytes() == beton.path.read_bytes()
    assert (beton.manifest["source"], beton.manifest["split"]) == (f"torchvision:{name}", split)


def test_from_the_command_line(root, tmp_path, capsys):
    command = ["write", "--source=torchvision:FashionMNIST", f"--path={root}", f"--out={tmp_path / 'x.beton'}"]
    assert main([*command, "--workers=1", "--per_class=2"]) == 0
    assert "20 images of 10 classes" in capsys.readouterr().out
    assert main([*command, "--workers=1", "--per_class=2"]) == 0
    assert "already complete" in capsys.readouterr().out
    assert main(["write", "--source=python", f"--path={root}", f"--out={tmp_path / 'y.beton'}"]) == 2
    assert "write.source: python stands for the dataset of a call" in capsys.readouterr().err


def test_cifar_100_is_that_of_our_own_reader(tmp_path, monkeypatch):
    """By its fingerprint and its bytes."""
    folder, rng = tmp_path / "cifar-100-python", np.random.default_rng(0)
    folder.mkdir()
    names = [f"class {number}" for number in range(100)]
    for split, count in (("train", 20), ("test", 10)):
        entry = {"data": rng.integers(0, 256, (count, 3072), np.uint8), "fine_labels": [*range(count)]}
        (folder / split).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr(datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    beton = write(tmp_path, tmp_path / "1", "cifar100", split="test")
    ours = ffdr.write(
        source="cifar100", path=tmp_path, split="test", out=tmp_path / "y.beton", mode="raw", progress=False
    )
    assert beton.fingerprint == ImageBeton.open(ours).fingerprint
    assert beton.path.read_bytes() == ours.read_bytes()


def test_a_set_of_files_is_read_by_its_files(tmp_path):
    """EuroSAT, an image folder without splits."""
    for i in range(6):
        path = tmp_path / "eurosat" / "2750" / ("Forest", "River")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    beton = write(tmp_path, tmp_path / "out", "EuroSAT", mode="dct")
    assert beton.manifest["coefficients"] == {"kept": 6}
    assert list(beton.class_names) == ["Forest", "River"]
    with pytest.raises(UserError, match=r"^write.split: EuroSAT has no splits, and no 'test'; leave it out$"):
        write(tmp_path, tmp_path / "out", "EuroSAT", split="test")


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("FashionMNST", "train", r"write.source: torchvision has no dataset 'FashionMNST' for classification \("
         r"did you mean torchvision:FashionMNIST\?\); it has CIFAR10, "),
        ("CocoDetection", "train", "write.source: torchvision has no dataset 'CocoDetection' for classification"),
        ("", "train", "write.source: torchvision has no dataset '' for classification"),
        ("FashionMNIST", "tests", r"write.split: FashionMNIST has train, test, not 'tests' \(did you mean test\?\)"),
        ("Food101", "val", "write.split: Food101: Unknown value 'val' for argument split"),
        ("MNIST", "test", r"write.path: no MNIST in .*: Dataset not found.*; get it with torchvision.datasets.MNIST\('"
         r"/.*', train=False, download=True\)$"),
        ("Food101", "train", r"; get it with torchvision.datasets.Food101\('/.*', split='train', download=True\)$"),
        ("ImageNet", "train", r"; the page of torchvision.datasets.ImageNet says where to get it$"),
    ],
)  # fmt: skip
def test_what_is_refused(root, tmp_path, name, split, said):
    with pytest.raises(UserError, match=said) as caught:
        write(root, tmp_path, name, split=split)
    assert "\n" not in str(caught.value)


def test_all_names_are_torchvisions():
    assert [name for name in NAMES if not hasattr(datasets, name)] == []
    with pytest.raises(UserError, match=r"write.source: 'torchvison:MNIST' is not one of digits, .*, torchvision:NAME"):
        ffdr.write(source="torchvison:MNIST", path="x", out="x.beton")
    with pytest.raises(UserError, match=r"write.path: source torchvision:MNIST needs the folder it lies in"):
        ffdr.write(source="torchvision:MNIST", out="x.beton")
