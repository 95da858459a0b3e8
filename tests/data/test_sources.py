"""Sources against torchvision and Pillow, on datasets made on the spot; refusals."""

import hashlib
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from bounded import bounded, bounded_memory
from jpegs import costly_scans
from PIL import Image

from ffdr.data import ReadError, open_source
from ffdr.errors import UserError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (9, 14, 3), np.uint8)


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


MODES = {
    "cmyk.jpg": lambda: Image.fromarray(RNG.integers(0, 256, (9, 14, 4), np.uint8), "CMYK"),
    "grey.jpg": lambda: Image.fromarray(NOISE[..., 0]),
    "grey.png": lambda: Image.fromarray(NOISE[..., 0]),
    "palette.png": lambda: Image.fromarray(NOISE).convert("P"),
    "palette.bmp": lambda: Image.fromarray(NOISE).convert("P"),
    "rgba.png": lambda: Image.fromarray(RNG.integers(0, 256, (9, 14, 4), np.uint8), "RGBA"),
    "rgba.webp": lambda: Image.fromarray(RNG.integers(0, 256, (9, 14, 4), np.uint8), "RGBA"),
    "la.png": lambda: Image.fromarray(NOISE).convert("LA"),
    "bits.png": lambda: Image.fromarray(NOISE).convert("1"),
    "grey.tif": lambda: Image.fromarray(NOISE[..., 0]),
    "rgb.ppm": lambda: Image.fromarray(NOISE),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_mode_becomes_what_pillow_makes_of_it(tmp_path, name):
    (tmp_path / "a").mkdir()
    MODES[name]().save(tmp_path / "a" / name)
    source = open_source("imagefolder", str(tmp_path), "")
    image = source.read(0)
    assert image.mode == "RGB"
    assert np.array_equal(image, Image.open(tmp_path / "a" / name).convert("RGB"))


SIXTEEN = RNG.integers(0, 65536, (9, 14)).astype(np.uint16)


def big_endian_tiff(path):
    """Uncompressed, 16 bits, one strip, the most significant byte first."""
    height, width = SIXTEEN.shape
    tags = ((256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, height))
    tags = (*tags, (279, SIXTEEN.nbytes))
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(struct.pack(">HHIHH", t, 3, 1, v, 0) for t, v in tags)
    path.write_bytes(head.ljust(122, b"\0") + SIXTEEN.astype(">u2").tobytes())


def ppm(path, most):
    path.write_bytes(b"P5 14 9 %d\n" % most + (SIXTEEN.astype(np.int64) * most // 65535).astype(">u2").tobytes())


GREY = {
    "16.png": (lambda path: Image.fromarray(SIXTEEN).save(path), SIXTEEN >> 8),
    "16.tif": (lambda path: Image.fromarray(SIXTEEN).save(path), SIXTEEN >> 8),
    "16 of Motorola's.tif": (big_endian_tiff, SIXTEEN >> 8),
    "16.pgm": (lambda path: ppm(path, 65535), SIXTEEN >> 8),
    "10.pgm": (lambda path: ppm(path, 1023), np.rint(SIXTEEN.astype(np.int64) * 1023 // 65535 / 1023 * 65535) // 256),
}


@pytest.mark.parametrize("name", GREY)
def test_grey_of_16_bits_keeps_its_high_byte(tmp_path, name):
    """As Pillow has it for 16-bit colour; its own conversion makes almost all of it white."""
    save, want = GREY[name]
    (tmp_path / "a").mkdir()
    save(tmp_path / "a" / name)
    assert np.array_equal(open_source("imagefolder", str(tmp_path), "").read(0), np.stack([want] * 3, axis=2))


def test_grey_and_colour_of_16_bits_look_the_same(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(SIXTEEN).save(tmp_path / "a" / "grey.png")
    rows = np.stack([SIXTEEN] * 3, axis=2).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (b"IHDR", struct.pack(">IIBBBBB", 14, 9, 16, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    (tmp_path / "a" / "colour.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    source = open_source("imagefolder", str(tmp_path), "")
    assert np.array_equal(source.read(0), source.read(1))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_grey_of_32_bits_is_refused(tmp_path, kind):
    (tmp_path / "a").mkdir()
    Image.fromarray(SIXTEEN.astype(kind)).save(tmp_path / "a" / "x.tif")
    with pytest.raises(ReadError, match=r"a/x\.tif: ValueError: grey pixels of 32 bits .* no known range"):
        open_source("imagefolder", str(tmp_path), "").read(0)


def test_progressive_gif_and_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees; torchvision ignores it
    save(tmp_path / "a" / "1.jpg", exif=exif)
    save(tmp_path / "a" / "2.jpg", progressive=True)
    Image.fromarray(NOISE).convert("P").save(tmp_path / "a" / "3.png", format="GIF")
    source = open_source("imagefolder", str(tmp_path), "")
    for i in range(3):
        assert source.read(i).size == (14, 9)
        assert np.array_equal(source.read(i), Image.open(tmp_path / source.root / source.origin(i)).convert("RGB"))


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "JPEG2000"])
def test_other_formats_under_an_images_name_meet_no_decoder(tmp_path, kind):
    """Such as PostScript, which Pillow hands to another program."""
    (tmp_path / "a").mkdir()
    Image.fromarray(NOISE).save(tmp_path / "a" / "0.jpg", format=kind)
    with pytest.raises(ReadError, match=r"UnidentifiedImageError: cannot identify image file$"):
        open_source("imagefolder", str(tmp_path), "").read(0)


def test_unreadable_images_name_path_and_cause(tmp_path):
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "a" / "2.png")
    (tmp_path / "a" / "0.jpg").write_bytes(b"no image at all")
    data = (tmp_path / "a" / "1.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(data[: len(data) // 2])
    source = open_source("imagefolder", str(tmp_path), "")
    for i, cause in ((0, "cannot identify"), (1, "truncated")):
        with pytest.raises(ReadError, match=cause) as caught:
            source.read(i)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert copy.origin == caught.value.origin == source.origin(i)
        assert copy.cause == caught.value.cause
        assert str(caught.value).startswith(f"{tmp_path / 'a' / Path(source.origin(i)).name}: ")
        assert str(tmp_path) not in caught.value.cause and "<" not in caught.value.cause
    (tmp_path / "a" / "2.png").unlink()
    with pytest.raises(ReadError, match="No such file"):
        source.read(2)


def test_a_jpeg_of_scan_upon_scan_is_refused(tmp_path):
    """22 KB of them held Pillow for ten seconds, a megabyte for minutes."""
    (tmp_path / "a").mkdir()
    for i, scans in enumerate((30, 450)):
        (tmp_path / "a" / f"{i}.jpg").write_bytes(costly_scans(1024, scans))
    source = open_source("imagefolder", str(tmp_path), "")
    assert source.read(0).size == (1024, 1024)
    with pytest.raises(ReadError, match="more scans than its bytes and its pixels explain"):
        source.read(1)


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
        with pytest.raises(UserError, match="not a list of images a class"):
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
    code = f"import sys, ffdr.data, ffdr.beton.write; print({heavy})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
