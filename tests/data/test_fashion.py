"""Fashion-MNIST against torchvision, on files made on the spot, and on Debian's where they are installed."""

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from bounded import bounded, bounded_memory

from ffdr.data import open_source
from ffdr.util.errors import UserError

COUNTS = {"train": 25, "t10k": 12}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def images(count, seed=0, side=28):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side), np.uint8)
    return struct.pack(">4i", 0x803, count, side, side) + pixels.tobytes()


def labels(count, seed=0):
    return struct.pack(">2i", 0x801, count) + bytes((i * 7 + seed) % 10 for i in range(count))


@pytest.fixture
def root(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, (prefix, count) in enumerate(COUNTS.items()):
        for kind, data in (("images-idx3", images(count, seed)), ("labels-idx1", labels(count, seed))):
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(data)
            (raw / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
    return tmp_path


def check(source, theirs):
    assert source.class_names == theirs.classes
    assert source.labels.tolist() == theirs.targets.tolist()
    assert len(source) == len(theirs)
    for i in range(0, len(theirs), max(1, len(theirs) // 50)):
        assert np.array_equal(source.read(i), theirs[i][0].convert("RGB"))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kept", ["*ubyte", "*.gz", "*"])
@pytest.mark.parametrize("place", ["", "FashionMNIST/raw"])
def test_fashionmnist_is_torchvisions(root, split, kept, place):
    from torchvision.datasets import FashionMNIST

    theirs = FashionMNIST(str(root), train=split == "train")
    raw = root / "FashionMNIST" / "raw"
    for path in set(raw.iterdir()) - set(raw.glob(kept)):
        path.unlink()
    source = open_source("fashionmnist", str(root / place), split)
    check(source, theirs)
    assert source.origin(3) == f"{split}/00003"


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize("split", ["train", "test"])
def test_debians_files(tmp_path, split):
    from torchvision.datasets import FashionMNIST

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in DEBIAN.glob("*ubyte*"):
        data = path.read_bytes()
        (raw / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(data) if path.suffix == ".gz" else data)
    check(open_source("fashionmnist", str(DEBIAN), split), FashionMNIST(str(tmp_path), train=split == "train"))


def test_missing_files_say_how_to_get_them(root):
    for place in ("nowhere", "FashionMNIST"):
        with pytest.raises(
            UserError, match=r"no Fashion-MNIST in .*torchvision.datasets.FashionMNIST\(.*download=True"
        ):
            open_source("fashionmnist", str(root / place), "train")
    shutil.rmtree(root / "FashionMNIST")
    with pytest.raises(UserError, match=r"\(FashionMNIST/raw/t10k-images-idx3-ubyte.gz is missing\)"):
        open_source("fashionmnist", str(root), "test")
    with pytest.raises(UserError, match=r"write.split: fashionmnist has train, test, not 'val'"):
        open_source("fashionmnist", str(root), "val")


@pytest.mark.parametrize(
    "kind, data, message",
    [
        ("images-idx3", b"", "it ends early"),
        ("images-idx3", images(25)[:-1], "it ends early"),
        ("images-idx3", images(25) + b"x", "it goes on behind the 19,600 bytes"),
        ("images-idx3", labels(25), "it begins with 0x00000801 and 25 entries"),
        ("images-idx3", struct.pack(">4I", 0x803, 2**32 - 1, 28, 28), "and 4,294,967,295 entries"),
        ("images-idx3", struct.pack(">4I", 0x803, 0, 28, 28), "and 0 entries"),
        ("images-idx3", struct.pack(">4I", 0x803, 60_000, 2**31, 2**31), "2147483648×2147483648 pixels, not 28×28"),
        ("images-idx3", struct.pack(">4I", 0x803, 60_000, 28, 28), "it ends early"),
        ("labels-idx1", labels(24), "it has 24 labels for 25 images"),
        ("labels-idx1", labels(25)[:-1] + b"\x0a", "it has a label 10, but 0 to 9 are the classes"),
        ("labels-idx1", labels(25)[:-1], "it ends early"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_one_line(root, kind, data, message, packed):
    path = root / "FashionMNIST" / "raw" / f"train-{kind}-ubyte"
    if packed:
        path.unlink()
        path = path.with_name(f"{path.name}.gz")
    path.write_bytes(gzip.compress(data) if packed else data)
    with bounded(5), bounded_memory(300), pytest.raises(UserError, match=message) as caught:
        open_source("fashionmnist", str(root), "train")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gzip_files_that_are_none_or_never_end(root):
    path = root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.with_suffix("").unlink()
    good = path.read_bytes()
    for data, message in (
        (b"not gzip", "Not a gzipped file"),
        (good[:-30], "Compressed file ended"),
        (good[:40] + b"\xff" * 40 + good[80:], "not a readable file"),
        (
            gzip.compress(images(60_000)[:16]) + 400 * gzip.compress(bytes(1 << 20)),
            "it goes on behind the 47,040,000 bytes",
        ),
    ):
        path.write_bytes(data)
        with bounded(10), bounded_memory(300), pytest.raises(UserError, match=message):
            open_source("fashionmnist", str(root), "train")
