"""An FKD file that does not fit is named with what is wrong, in one line, and no file appears."""

import os
import pickle
import re

import fkd_oracle as oracle
import numpy as np
import pytest
import torch
from bounded import bounded, bounded_memory
from evil import EVIL, check

from ffdr.config.files import ImportOptions
from ffdr.fkd.entries import Schema, crops_of, logits_of, pixels
from ffdr.mldr.importing import import_archives as import_ml_dr
from ffdr.util.errors import UserError


def put(part, at, value):
    """A change of one value of crop 2."""

    def change(content):
        content[part][(2, *at)] = value
        return content

    return change


def reshaped(part, make):
    def change(content):
        return [make(array) if number == part else array for number, array in enumerate(content)]

    return change


MISTAKES = {
    "nan": (put(0, (1,), np.nan), r"crop 2: \[.*nan.*\] \(top, left, height, width\) is not inside the image"),
    "infinite": (put(0, (2,), np.inf), "crop 2: .* is not inside the image"),
    "below 0": (put(0, (0,), -0.25), "crop 2: .* is not inside the image"),
    "beyond": (put(0, (slice(None),), [0.5, 0.0, 0.51, 1.0]), r"crop 2: \[0.5, 0.0, 0.5\d+, 1.0\] .* not inside"),
    "empty": (put(0, (3,), 0.0), "crop 2: .* is not inside the image"),
    "pixels": (put(0, (slice(None),), [3, 4, 20, 20]), "crop 2: .* is not inside the image"),
    "three numbers": (reshaped(0, lambda a: a[:, :3]), r"its crops are \(3, 3\) float32, not \(crops, 4\)"),
    "whole numbers": (reshaped(0, lambda a: a.astype(np.int64)), r"its crops are \(3, 4\) int64"),
    "no crop": (lambda content: [part[:0] for part in content], r"its crops are \(0, 4\)"),
    "flips": (reshaped(1, lambda a: a[:2]), r"its flips are \(2,\) bool, not \(3,\) bool"),
    "flips of floats": (reshaped(1, lambda a: a.astype(np.float32)), r"its flips are \(3,\) float32"),
    "a flip": (reshaped(1, lambda a: a.astype(np.uint8) + 2), "crop 0: its flip is [23], neither 0 nor 1"),
    "labels": (reshaped(2, lambda a: a[:2]), r"its labels are \(2, 2, 5\) float32, not \(3, …\)"),
    "no label": (reshaped(2, lambda a: np.float32(3)), r"it holds something else than arrays|its labels are \(\)"),
    "a scalar": (reshaped(2, lambda a: np.array(3.0)), r"its labels are \(\) float64"),
    "three rows": (reshaped(2, lambda a: np.zeros((3, 3, 5))), r"its labels have shape \(3, 3, 5\), not"),
    "many classes": (reshaped(2, lambda a: np.zeros((3, 2, 13))), r"its labels have shape \(3, 2, 13\), not"),
    "other top-k": (
        reshaped(2, lambda a: a[:, :, :4]),
        "has marginal labels of 4, but the first file read .* of 5",
    ),
    "other form": (
        reshaped(2, lambda a: a[:, :, 0]),
        "has smoothing labels of 1, but the first file read .* of 5",
    ),
    "fewer crops": (lambda content: [part[:2] for part in content], "has 2 crops, but the first file read has 3"),
    "class": (put(2, (0, 1), 12), r"crop 2: class ids \[.*12.0.*\] are not all whole numbers below 12"),
    "half a class": (put(2, (0, 1), 1.5), "crop 2: class ids .* are not all whole numbers"),
    "negative class": (put(2, (0, 1), -1), "crop 2: class ids .* are not all whole numbers"),
    "no class": (put(2, (0, 1), np.nan), "crop 2: class ids .* are not all whole numbers"),
    "class twice": (put(2, (0, slice(0, 2)), 3), r"crop 2: class ids \[3, 3.*\] repeat a class"),
    "sum": (put(2, (1, 0), 1.5), "crop 2: probabilities .* are not from 0 to 1, or their sum is not"),
    "below 0 prob": (put(2, (1, 4), -0.1), "crop 2: probabilities .* are not from 0 to 1"),
    "nan prob": (put(2, (1, 0), np.nan), "crop 2: probabilities .* are not from 0 to 1"),
    "two arrays": (lambda content: content[:2], "it holds 2 arrays, not crops, flips and labels"),
    "SRe2L": (lambda content: content * 2, "it holds six arrays, as files of SRe2L do"),
    "lists": (lambda content: [part.tolist() for part in content], "it holds something else than arrays"),
    "a dictionary": (lambda content: dict(enumerate(content)), "it holds a dict, not a list of arrays"),
    "one array": (lambda content: content[0], "it holds a array, not a list of arrays"),
    "texts": (reshaped(2, lambda a: np.array(["a"] * 3)), "it holds a NumPy 'U1', not a plain number"),
    "objects": (reshaped(2, lambda a: np.array([None] * 3)), "it holds a NumPy 'O8', not a plain number"),
    "bfloat16": (reshaped(2, lambda a: torch.zeros(3, dtype=torch.bfloat16)), "it names torch.BFloat16Storage"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(load, pictures, tmp_path, mistake):
    change, text = MISTAKES[mistake]
    made = oracle.make(pictures, "marginal_k5")
    files = oracle.files_of(made)
    path = sorted(made)[5]
    name = f"imagenet/train/{path.partition('.')[0]}.tar"
    files[name] = oracle.saved(change([part.copy() for part in made[path][1]]))
    with pytest.raises(UserError) as error:
        load(oracle.write_folder(tmp_path / "a", files))
    said = str(error.value)
    assert re.search(text, said), said
    assert f"{path.partition('.')[0]}.tar: " in said
    check(said, most=2000)
    assert "\n" not in said
    assert not (tmp_path / "out.beton").exists()


def test_labels_that_are_no_probabilities(load, pictures, tmp_path):
    """Logits over all classes, as SRe2L stores them."""
    made = oracle.make(pictures, "full")
    for number, (value, text) in enumerate(((-3.0, "least value -3"), (9.0, "sum"), (np.nan, "sum nan"))):
        path = sorted(made)[7]
        _, content = made[path]
        spoilt = content[2].copy()
        spoilt[1, 3] = value
        files = oracle.files_of(made | {path: (None, [*content[:2], spoilt])})
        with pytest.raises(UserError, match=rf"crop 1: its label over all classes .*{text}.* no probabilities"):
            load(oracle.write_folder(tmp_path / f"{number}", files))


def test_missing_strange_and_double_files_are_named(load, pictures, tmp_path):
    files = oracle.files_of(oracle.make(pictures, "hard"))
    names = sorted(files)
    strange = files | {"imagenet/train/n00000003/other.tar": files[names[0]]}
    del strange[names[7]]
    text = "has 24 images: images without a file: {}; files without an image: n00000003/other"
    for number, archive in enumerate(
        (oracle.write_folder(tmp_path / "a", strange), oracle.write_tar(tmp_path / "a.tar", strange))
    ):
        with pytest.raises(UserError, match=text.format("7") + "; --import.sizes=FOLDER finds"):
            load(archive)
        with pytest.raises(UserError, match=text.format("n00000003/n00000003_7.png") + "$"):
            load(archive, sizes=str(pictures))
        assert not (tmp_path / "out.beton").exists(), number
    many = {name: data for name, data in strange.items() if "n00000001" not in name}
    many |= {f"val/n00000001/v{n}.tar": b"" for n in range(90)}
    text = r"without a file: 2, 3, 7; .*n00000001/v10, n00000001/v11 and 86 more"
    with pytest.raises(UserError, match=text) as error:
        load(oracle.write_folder(tmp_path / "many", many))
    assert len(str(error.value)) < 1000
    double = oracle.write_folder(tmp_path / "double", files | {"train/" + names[3][15:]: files[names[3]]})
    with pytest.raises(UserError, match=r"holds n00000001/n00000001_3.tar twice"):
        load(double)
    with pytest.raises(UserError, match=r"holds no file such as CLASS/NAME.tar"):
        load(oracle.write_tar(tmp_path / "none.tar", {"readme": b""}))


@pytest.mark.parametrize("write", [oracle.write_tar, oracle.write_folder])
def test_archives_of_the_other_format_are_known(load, images, pictures, tmp_path, write):
    """Both ways: a line says where to look."""
    others = {f"ImageNet_plus/{name}.pth.tar": b"x" for name in ("config", *range(24))}
    with pytest.raises(
        UserError, match=r"holds no file such as CLASS/NAME.tar; of another format\? See import.format$"
    ):
        load(write(tmp_path / "other.tar", others))
    files = oracle.files_of(oracle.make(pictures, "hard"))
    archive = write(tmp_path / "own.tar", files)
    options = ImportOptions(archive=(str(archive),), images=str(images.path), out=str(tmp_path / "x.beton"))
    with pytest.raises(UserError, match=r"holds no entry such as 0.pth.tar; of another format\? See import.format$"):
        import_ml_dr(options, progress=False)


def test_images_of_one_name_are_refused(load, images, pictures, tmp_path):
    """A folder with n/a.png and n/a.jpg: FKD has one file for both."""
    folder = oracle.make_pictures(tmp_path / "pictures")
    first, second = sorted((folder / "n00000004").iterdir())
    second.rename(folder / "n00000004" / f"{first.name.partition('.')[0]}.webp")
    archive = oracle.write_folder(tmp_path / "a", oracle.files_of(oracle.make(pictures, "hard")))
    with pytest.raises(UserError, match=r"import\.sizes: .* have one name"):
        load(archive, sizes=str(folder))


def test_float16_can_not_count_many_classes():
    content = [np.full((2, 4), 0.25, np.float16), np.zeros(2, bool), np.zeros((2, 2, 5), np.float16)]
    crops = crops_of(content)
    with pytest.raises(ValueError, match="class ids are float16, which can't count 21841 classes"):
        logits_of(crops, Schema(2, "marginal", 5, 21841), 5)
    with pytest.raises(ValueError, match="of 2 classes, or a class and its probability"):
        crops_of([*content[:2], np.zeros((2, 2))]).schema(2)


def test_pixels_come_back_from_both_precisions():
    """float32: of any image; float16: of sides below 2,048."""
    for dtype, most in ((np.float32, 65535), (np.float16, 2047)):
        for length in (1, 2, 333, 500, 1024, most):
            size = np.arange(1, length + 1)
            start = length - size
            given = ((part / length).astype(dtype).astype(np.float64) for part in (start, size))
            found = pixels(*given, length)
            assert np.array_equal(found, [start, size])


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def test_no_hostile_file_is_run(load, pictures, tmp_path):
    """Neither in place of the list, nor of an array."""
    made = oracle.make(pictures, "marginal_k5")
    path = sorted(made)[3]
    target = tmp_path / "made"
    call = Runs(os.system, f"touch {target}")
    pickle.loads(pickle.dumps(call))  # the attack is real
    target.unlink()
    for number, content in enumerate((call, [*made[path][1][:2], call], [call, *made[path][1][1:]])):
        files = oracle.files_of(made) | {f"imagenet/train/{path.partition('.')[0]}.tar": oracle.saved(content)}
        with pytest.raises(UserError, match=r"it names .*system"):
            load(oracle.write_folder(tmp_path / f"{number}", files))
        assert not target.exists()


def test_files_that_are_cut_off(load, pictures, tmp_path):
    files = oracle.files_of(oracle.make(pictures, "marginal_k5"))
    name = sorted(files)[3]
    folder = oracle.write_folder(tmp_path / "a", files)
    for share in (0.0, 0.3, 0.9, 0.999):
        (folder / name).write_bytes(files[name][: int(share * len(files[name]))])
        with pytest.raises(UserError, match=r"n00000001_3.tar: not a zip"):
            load(folder)
    (folder / name).write_bytes(oracle.saved([np.zeros(3)], _use_new_zipfile_serialization=False))
    with pytest.raises(UserError, match=r"n00000001_3.tar: not a zip as torch.save writes it"):
        load(folder)
    tar = oracle.write_tar(tmp_path / "a.tar", files)
    tar.write_bytes(tar.read_bytes()[:30_000])
    with pytest.raises(UserError, match=r"a.tar: cut off or damaged"):
        load(tar)


def test_folders_without_end_are_refused(load, pictures, tmp_path):
    folder = oracle.write_folder(tmp_path / "a", oracle.files_of(oracle.make(pictures, "hard")))
    (folder / "imagenet" / "again").symlink_to(folder)
    load(folder)
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / "x.tar")
    with bounded(seconds=5), pytest.raises(UserError, match="files without an image: pipe/x"):
        load(folder, out="other.beton")
    os.mkfifo(folder / "imagenet" / "train" / "n00000000" / "n00000000_1.tar.tar")
    with bounded(seconds=5), pytest.raises(UserError):
        load(folder, out="other.beton")


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_names_that_drive_a_terminal(load, pictures, tmp_path, evil):
    files = oracle.files_of(oracle.make(pictures, "hard"))
    tar = oracle.write_tar(tmp_path / "a.tar", files | {f"{evil}/{evil}.tar": b""}, below="x/")
    with bounded(seconds=5), bounded_memory(300), pytest.raises(UserError, match="files without an image") as error:
        load(tar)
    check(str(error.value), most=3000)
