"""Sources against torchvision, on datasets made on the spot; refusals."""

import hashlib
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from bounded import bounded, bounded_memory
from PIL import Image

from ffdr.data import open_source
from ffdr.util.errors import UserError


def save(path, seed=0, size=(14, 9), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    """Two classes, nested folders, upper-case and foreign extensions, names that sort unlike numbers."""
    for seed, name in enumerate(
        ("train/b/10.png", "train/b/9.JPG", "train/b/sub/a.webp", "train/B/x.bmp", "train/a b/é.jpeg", "val/a b/1.png")
    ):
        save(tmp_path / name.replace(".JPG", ".jpg"), seed)
    (tmp_path / "train/b/9.jpg").rename(tmp_path / "train/b/9.JPG")
    (tmp_path / "train/b/notes.txt").write_text("not an image")
    return tmp_path


def test_imagefolder_is_torchvisions(tree):
    from torchvision.datasets import ImageFolder

    theirs, ours = ImageFolder(tree / "train"), open_source("imagefolder", str(tree), "train")
    assert [str(tree / "train" / ours.origin(i)) for i in range(len(ours))] == [path for path, _ in theirs.samples]
    assert ours.class_names == theirs.classes
    assert ours.labels.tolist() == theirs.targets
    assert ours.labels.dtype == np.int64
    for i, (image, _) in enumerate(theirs):
        assert np.array_equal(ours.read(i), image)


def test_empty_split_is_the_path_itself(tree):
    inner, outer = open_source("imagefolder", str(tree / "train"), ""), open_source("imagefolder", str(tree), "train")
    assert [inner.origin(i) for i in range(len(inner))] == [outer.origin(i) for i in range(len(outer))]


def test_same_order_when_read_from_a_pickle(tree):
    source = open_source("imagefolder", str(tree), "train")
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.origin(i) for i in range(len(copy))] == [source.origin(i) for i in range(len(source))]
    assert np.array_equal(copy.read(1), source.read(1))
    with pytest.raises(IndexError):
        source.origin(len(source))


def test_digits_splits_never_change():
    parts = {split: open_source("digits", "", split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1098, "val": 199, "test": 500}
    origins = {split: [part.origin(i) for i in range(len(part))] for split, part in parts.items()}
    assert len({name for names in origins.values() for name in names}) == 1797
    digest = hashlib.sha256(json.dumps(origins, sort_keys=True).encode()).hexdigest()
    # They must stay what they were when results were measured on them.
    assert digest == "14f39cbb01a069036d4a1d21a3deb40b64c3836e3a091283c62292f9d16d78dd"
    for part in parts.values():
        share = np.bincount(part.labels) / len(part)
        assert share.min() > 0.08
        assert share.max() < 0.12


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    source = open_source("digits", "", "test")
    for i in (0, 100, len(source) - 1):
        number = int(source.origin(i).removeprefix("digits/"))
        assert source.labels[i] == labels[number]
        grey = Image.fromarray(np.rint(images[number].reshape(8, 8) * 255 / 16).astype(np.uint8))
        pixels = np.asarray(source.read(i))
        expected = np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC))
        assert np.array_equal(pixels, expected[..., None].repeat(3, axis=2))


def write_cifar(root, split="train", n=7, protocol=2, module=b"numpy.core.multiarray", **changes):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(1).integers(0, 256, (n, 3072), np.uint8)
    entry = {"data": data, "fine_labels": list(range(n)), "filenames": ["same.png"] * n, **changes}
    # The published files were made by Python 2 and name NumPy's old module.
    (folder / split).write_bytes(re.sub(rb"numpy\._?core\.multiarray", module, pickle.dumps(entry, protocol)))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"name {i}" for i in range(100)]}, 2))
    return data


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_cifar100(tmp_path, module):
    data = write_cifar(tmp_path, module=module)
    source = open_source("cifar100", str(tmp_path), "train")
    assert source.class_names[3] == "name 3"
    assert source.labels.tolist() == list(range(7))
    assert np.array_equal(source.read(5), data[5].reshape(3, 32, 32).transpose(1, 2, 0))
    assert [source.origin(i) for i in (0, 6)] == ["train/00000", "train/00006"]


class Code:
    """Its pickle makes a folder when it is read by an unpickler that lets it."""

    def __reduce__(self):
        return (os.mkdir, ("it ran",))


@pytest.mark.parametrize(
    "changes",
    [{"data": Code()}, {"data": np.zeros((7, 5), np.uint8)}, {"fine_labels": [200] * 7}, {"fine_labels": ["a"] * 7}],
)
def test_cifar100_runs_no_code_and_checks_shapes(tmp_path, monkeypatch, changes):
    write_cifar(tmp_path, **changes)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"write\.path"):
        open_source("cifar100", str(tmp_path), "train")
    assert not (tmp_path / "it ran").exists()


def test_cifar100_takes_no_bytes_for_addresses(tmp_path):
    """NumPy's own reader believes a type that says of itself that it has no objects, and has."""

    def made(called, *arguments):
        return b"c" + called + b"\n(" + b"".join(arguments) + b"tR"

    def plain(value):
        return pickle.dumps(value, 2)[2:-1]

    fields = b"}" + plain("a") + b"(" + made(b"numpy\ndtype", plain("O8")) + b"K\0ts"
    lying = made(b"numpy\ndtype", plain("V8"))
    lying += b"(K\3" + plain("|") + b"N" + plain(("a",)) + fields + b"K\x08K\1K\0tb"
    array = made(b"numpy.core.multiarray\n_reconstruct", b"cnumpy\nndarray\n", b"K\0\x85", plain("b"))
    array += b"(K\1K\4\x85" + lying + b"\x89U\x20" + b"A" * 32 + b"tb"
    write_cifar(tmp_path)
    file = tmp_path / "cifar-100-python" / "train"
    for entry in (plain("fine_labels") + array, plain("data") + array):
        file.write_bytes(b"\x80\2}(" + entry + b"u.")
        with pytest.raises(UserError, match="an array of something else than whole numbers"):
            open_source("cifar100", str(tmp_path), "train")


@pytest.mark.parametrize("kind", [np.uint8, np.int64, ">i4"])
def test_cifar100_labels_may_be_an_array_or_numbers_of_numpy(tmp_path, kind):
    numbers = np.arange(7).astype(kind)
    for labels in (numbers, list(numbers)):
        write_cifar(tmp_path, fine_labels=labels)
        assert open_source("cifar100", str(tmp_path), "train").labels.tolist() == [*range(7)]


@pytest.mark.parametrize(
    ("name", "file"),
    [("cifar100", "cifar-100-python/train"), ("cifar100", "cifar-100-python/meta"),
     ("flowers102", "flowers-102/setid.mat"), ("food101", "food-101/meta/train.json")],
)  # fmt: skip
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_files_of_a_dataset_are_files(tmp_path, name, file, make):
    write_cifar(tmp_path)
    (tmp_path / "flowers-102" / "jpg").mkdir(parents=True)
    (tmp_path / "flowers-102" / "imagelabels.mat").touch()
    (tmp_path / "food-101" / "images").mkdir(parents=True)
    (tmp_path / "food-101" / "meta").mkdir()
    (tmp_path / file).unlink(missing_ok=True)
    make(tmp_path / file)
    if name == "flowers102":
        (tmp_path / "flowers-102" / "imagelabels.mat").unlink()
        make(tmp_path / "flowers-102" / "imagelabels.mat")
    with bounded(5), pytest.raises(UserError, match="not a regular file"):
        open_source(name, str(tmp_path), "train")


def test_cifar100_makes_no_room_for_values_that_are_not_there(tmp_path):
    """Put aside by a number of two billions."""
    write_cifar(tmp_path)
    (tmp_path / "cifar-100-python" / "meta").write_bytes(b"\x80\2Nr\xff\xff\xff\x7f0}.")
    with bounded(5), bounded_memory(500), pytest.raises(UserError, match="not CIFAR-100: KeyError"):
        open_source("cifar100", str(tmp_path), "train")


def test_names_that_are_none_are_refused(tmp_path):
    bomb = "x"
    for _ in range(26):
        bomb = [bomb] * 10
    write_cifar(tmp_path)
    (tmp_path / "cifar-100-python" / "meta").write_bytes(pickle.dumps({"fine_label_names": [bomb] * 100}, 2))
    with bounded(5), pytest.raises(UserError, match="a class has no name"):
        open_source("cifar100", str(tmp_path), "train")
    (tmp_path / "food-101" / "meta").mkdir(parents=True)
    (tmp_path / "food-101" / "images").mkdir()
    for image in ("a\\u0000b", "a\\ud800"):
        (tmp_path / "food-101" / "meta" / "train.json").write_text(f'{{"a": ["a/{image}"]}}')
        with pytest.raises(UserError, match="not a list of images per class"):
            open_source("food101", str(tmp_path), "train")


def test_flowers102(tmp_path):
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    for image in range(1, 7):
        save(tmp_path / f"flowers-102/jpg/image_{image:05d}.jpg", image)
    savemat(tmp_path / "flowers-102/imagelabels.mat", {"labels": np.array([[1, 1, 102, 5, 6, 7]])})
    savemat(
        tmp_path / "flowers-102/setid.mat",
        {"trnid": np.array([[2, 3]]), "valid": np.array([[6]]), "tstid": np.array([[1, 4, 5]])},
    )
    train, val = (open_source("flowers102", str(tmp_path), split) for split in ("train", "val"))
    assert train.labels.tolist() == [0, 101]
    assert val.labels.tolist() == [6]
    assert val.origin(0) == "jpg/image_00006.jpg"
    assert len(train.class_names) == len(set(train.class_names)) == 102
    assert train.class_names[0] == "pink primrose"
    assert train.class_names == getattr(Flowers102, "classes", train.class_names)  # since 0.22
    assert np.array_equal(train.read(1), Image.open(tmp_path / "flowers-102/jpg/image_00003.jpg"))


def matrix(name, kind, shape, data):
    """A variable of a MATLAB 5 file, compressed; data: what follows its name. After MATLAB's "MAT-File Format"."""

    def element(number, content):
        return struct.pack("<II", number, len(content)) + content + bytes(-len(content) % 8)

    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    packed = zlib.compress(element(14, head + element(1, name.encode()) + data), 9)
    return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed


CELL, DOUBLE, UINT8 = 1, 6, 9
NUMBERS = struct.pack("<II", 2, 100 << 20) + bytes(100 << 20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (matrix("labels", CELL, (1, 2**31 - 1), b""), "it is 1×2147483647 of the kind cell"),
        (matrix("labels", CELL, (2**20, 2**20), b""), "of the kind cell"),
        (matrix("labels", UINT8, (1, 100 << 20), NUMBERS), "it is 1×104857600 of the kind uint8"),
        (matrix("labels", UINT8, (1, 3), NUMBERS), "no readable variable labels"),
        (matrix("labels", DOUBLE, (1, 3), struct.pack("<II", 9, 2**32 - 8) + bytes(64)), "no readable variable labels"),
        (bytes(1 << 17) + b"0", "has more than 128.0 KiB, the most that is read of such a file"),
    ],
    ids=["cells", "more cells", "numbers", "more numbers than said", "a number of bytes that lies", "size"],
)
def test_a_matlab_file_makes_no_more_memory_than_the_datasets(tmp_path, content, message):
    (tmp_path / "flowers-102" / "jpg").mkdir(parents=True)
    for name in ("imagelabels.mat", "setid.mat"):
        (tmp_path / "flowers-102" / name).write_bytes(content)
    with bounded(5), bounded_memory(700), pytest.raises(UserError, match=message):
        open_source("flowers102", str(tmp_path), "train")


def test_food101_is_torchvisions(tmp_path):
    from torchvision.datasets import Food101

    listing = {"waffles": ["waffles/2", "waffles/1"], "apple_pie": ["apple_pie/7"]}
    for seed, image in enumerate(["waffles/2", "waffles/1", "apple_pie/7"]):
        save(tmp_path / f"food-101/images/{image}.jpg", seed)
    (tmp_path / "food-101/meta").mkdir()
    (tmp_path / "food-101/meta/test.json").write_text(json.dumps(listing))
    theirs, ours = Food101(tmp_path, "test"), open_source("food101", str(tmp_path), "test")
    assert ours.class_names == theirs.classes
    assert ours.labels.tolist() == theirs._labels
    assert [tmp_path / "food-101" / ours.origin(i) for i in range(3)] == theirs._image_files
    (tmp_path / "food-101/meta/test.json").write_text(json.dumps({"a": ["../../secret"]}))
    with pytest.raises(UserError, match="outside"):
        open_source("food101", str(tmp_path), "test")


@pytest.mark.parametrize("name", ["cifar100", "flowers102", "food101"])
def test_missing_dataset_says_how_to_get_it(tmp_path, name):
    with pytest.raises(UserError, match=r"torchvision\.datasets\.\w+\(.*, download=True\)") as caught:
        open_source(name, str(tmp_path), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "split", "text"),
    [
        ("digits", "trian", r"train, val, test, not 'trian' \(did you mean train\?\)"),
        ("cifar100", "val", "train, test, not 'val'"),
        ("flowers102", "valid", r"did you mean val\?"),
        ("imagefolder", "trains", r"did you mean train\?"),
        ("imagefoldr", "train", r"did you mean imagefolder\?"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(tree, name, split, text):
    with pytest.raises(UserError, match=text):
        open_source(name, str(tree), split)


def test_imagefolder_refuses_what_torchvision_refuses(tree):
    with pytest.raises(UserError, match="not a folder"):
        open_source("imagefolder", str(tree / "nowhere"), "")
    with pytest.raises(UserError, match="no subfolders"):
        open_source("imagefolder", str(tree / "train"), "a b")
    (tree / "train/empty").mkdir()
    with pytest.raises(UserError, match=r"no images .* of empty"):
        open_source("imagefolder", str(tree), "train")


def test_import_is_light():
    heavy = "[m for m in ('torch', 'sklearn', 'scipy', 'ffcv') if m in sys.modules]"
    code = f"import sys, ffdr.data, ffdr.write.images; print({heavy})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
