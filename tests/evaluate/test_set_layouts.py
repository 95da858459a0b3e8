"""What is not laid out as the published set is refused in one line before a model is loaded; exit status 2."""

import json
import os
import shutil

import imagenet_sets as sets
import pytest
from bounded import bounded
from PIL import Image

from ffdr import cli
from ffdr.evaluate import run as module

FIRST, SECOND = sets.SYNSETS[sets.VAL[0]], sets.SYNSETS[sets.VAL[1]]
FREE = sets.SYNSETS[5]
"""No class of the drawn sets."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return sets.draw_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def copied(drawn, tmp_path):
    """Function that copies one of the sets, to be changed."""

    def copy(name):
        path = tmp_path / drawn[name].name
        (shutil.copytree if drawn[name].is_dir() else shutil.copy)(drawn[name], path)
        return path

    return copy


@pytest.fixture(autouse=True)
def unloaded(monkeypatch):
    """A model is loaded."""

    class LoadedError(Exception):
        pass

    def load(*_, **__):
        raise LoadedError

    monkeypatch.setattr(module, "load_named", load)
    return LoadedError


def refused(capsys, **paths):
    """The one line with which sets are refused."""
    with bounded(seconds=20):
        flags = [f"--suite.{name}={path}" for name, path in paths.items()]
        status = cli.main(["eval", "--model.name=test_vit", *flags])
    said = capsys.readouterr()
    assert status == 2 and said.out == ""
    (line,) = said.err.splitlines()
    assert line.isprintable() and len(line) < 600
    return line.removeprefix("ffdr eval: ")


@pytest.mark.parametrize("name", ["val", "v2", "a", "r", "sketch", "objectnet", "c"])
def test_what_is_drawn_is_taken(drawn, name, unloaded):
    with pytest.raises(unloaded):
        cli.main(["eval", "--model.name=test_vit", f"--suite.{name}={drawn[name]}"])


# ImageNet-C.


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (["snow"], "no snow/1 and 4 more"),
        (["noise/shot_noise/4"], "no shot_noise/4"),
        (["noise", "blur"], "no gaussian_noise/1 and 34 more"),
    ],
)
def test_c_lacks_a_corruption_or_a_severity(copied, drawn, capsys, gone, message):
    root = copied("c")
    for name in gone:
        shutil.rmtree(root / name)
    expected = f"suite.c: mCE needs 15 corruptions at 5 severities; {root} has {message}"
    assert refused(capsys, c=root) == expected
    assert refused(capsys, c=root, sketch=drawn["sketch"]) == expected  # not after an hour with the others


def test_c_is_another_set(drawn, capsys):
    for name in ("val", "objectnet"):
        assert refused(capsys, c=drawn[name]).endswith(f"; {drawn[name]} has no gaussian_noise/1 and 74 more")


def test_c_has_other_images_in_one_part(copied, capsys):
    root = copied("c")
    lost, kept = root / "snow" / "3" / sets.SYNSETS[301], root / "snow" / "3" / sets.SYNSETS[6]
    lost.rename(root / "lost")
    line = refused(capsys, c=root)
    assert line == (
        f"suite.c: every part must hold the same images, but of {lost.name} {lost.parent} has 0 and "
        f"{root}/noise/gaussian_noise/1 1"
    )
    (root / "lost").rename(lost)
    shutil.copy(next(kept.iterdir()), kept / "more.JPEG")
    assert f"but of {kept.name} {kept.parent} has 2 and" in refused(capsys, c=root)
    shutil.rmtree(lost.parent)
    lost.parent.mkdir()
    assert refused(capsys, c=root) == f"suite.c: {lost.parent} has no subfolders; there must be one per class"


# Classes by synset and by number.


def test_v2_has_other_numbers(copied, capsys):
    root = copied("v2")
    for name, message in (
        ("1000", "class '1000' is not below 1000"),
        ("9" * 40, "is not below 1000"),
        ("02", "'02' and '2' are the same class"),
        ("²", "class '²' is neither a synset of ImageNet, such as n01440764, nor a number"),
        (FIRST, f"some classes are numbers ('0'), others synsets ({FIRST})"),
    ):
        (root / "999").rename(root / name)
        line = refused(capsys, v2=root)
        assert line.startswith(f"suite.v2: {root}: ") and line.endswith(message)
        (root / name).rename(root / "999")


def test_a_part_of_a_set_is_told_before_it_is_scored(copied, capsys, unloaded):
    root = copied("v2")
    shutil.rmtree(root / "999")
    with pytest.raises(unloaded):
        cli.main(["eval", "--model.name=test_vit", f"--suite.v2={root}", "--suite.a=nowhere"])
    assert capsys.readouterr().err.splitlines() == [
        "ffdr eval: suite.a is left out: there is no nowhere",
        "ffdr eval: suite.v2: scored on 14 of the published set's 10,000 images",
    ]


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("a", "r", "n01443537 is not one of the set's 200 classes"),
        ("r", "val", f"{FIRST} is not one of the set's 200 classes"),
        ("a", "v2", f"{FIRST} is not one of the set's 200 classes"),
        ("val", "v2", "is named as an image of another set (suite.v2)"),
        ("val", "sketch", "is named as an image of another set (suite.sketch)"),
        ("sketch", "val", "is named as an image of another set (suite.val)"),
        ("sketch", "v2", "is named as an image of another set (suite.v2)"),
        ("v2", "val", "is named as an image of another set (suite.val)"),
        ("v2_top", "sketch", "is named as an image of another set (suite.sketch)"),
        ("val", "c", "class 'blur' is neither a synset of ImageNet, such as n01440764, nor a number"),
        ("objectnet", "val", "has no folder images, as the published set does"),
    ],
)
def test_a_folder_of_another_set(drawn, capsys, name, other, message):
    line = refused(capsys, **{name: drawn[other]})
    assert line.startswith(f"suite.{name}: {drawn[other]}") and line.endswith(message)


def test_more_images_than_were_published(drawn, capsys, monkeypatch):
    for name, count in (("v2", 16), ("a", 20), ("objectnet", 24), ("c", 3)):
        monkeypatch.setitem(module_suite().PUBLISHED, name, count - 1)
        line = refused(capsys, **{name: drawn[name]})
        assert line.startswith(f"suite.{name}: ")
        assert line.endswith(f"has {count} images, but the published set has {count - 1}")


def module_suite():
    from ffdr.evaluate import suite

    return suite


# ObjectNet.


def test_objectnet_without_its_mapping(copied, capsys):
    root = copied("objectnet")
    mappings = root / "mappings"
    for file in sorted(mappings.iterdir()):
        text = file.read_text()
        file.unlink()
        assert refused(capsys, objectnet=root) == f"{file}: No such file or directory"
        file.symlink_to("/dev/zero")
        assert refused(capsys, objectnet=root) == f"{file}: not a regular file"
        file.unlink()
        file.write_text("[[[]]]")
        assert refused(capsys, objectnet=root).startswith(f"{mappings}: not the mapping that ObjectNet ships (")
        file.write_text(text)
    shutil.rmtree(mappings)
    line = f"suite.objectnet: {root} has no folder mappings, as the published set does"
    assert refused(capsys, objectnet=root) == line
    line = f"suite.objectnet: {root / 'images'} has no folder images, as the published set does"
    assert refused(capsys, objectnet=root / "images") == line


def test_objectnet_of_other_folders(copied, capsys):
    root = copied("objectnet")
    for name in sets.OBJECTS:
        shutil.rmtree(root / "images" / name)
    assert refused(capsys, objectnet=root).endswith("images has no folder that the mapping names")


# ReaL.


def test_real_of_another_length(drawn, copied, capsys):
    file = copied("real")
    labels = json.loads(file.read_text())
    for changed in (labels[:-1], [*labels, [1]]):
        file.write_text(json.dumps(changed))
        line = f"{file}: {len(changed):,} entries instead of ReaL's 50,000 lists of class numbers"
        assert refused(capsys, val=drawn["val"], real=file) == line
    for kind in ("/dev/zero", os.fspath(file.parent)):
        file.unlink()
        file.symlink_to(kind)
        assert refused(capsys, val=drawn["val"], real=file) == f"{file}: not a regular file"


def test_real_needs_the_published_file_names(copied, capsys):
    root = copied("val")
    next((root / FIRST).iterdir()).rename(root / FIRST / "0.jpg")
    line = refused(capsys, val=root, real="timm")
    assert line == "'0.jpg': ReaL's labels go by names such as ILSVRC2012_val_00000001.JPEG"


# Folders.


def test_empty_folders(copied, capsys):
    root = copied("val")
    (root / FREE).mkdir()
    assert refused(capsys, val=root).startswith(f"suite.val: {root}: no images (.jpg")
    (root / FREE).rename(root / "\x1b[31mred")
    assert refused(capsys, val=root).endswith("of \\x1b[31mred")
    shutil.rmtree(root)
    root.mkdir()
    assert refused(capsys, val=root) == f"suite.val: {root} has no subfolders; there must be one per class"


@pytest.mark.parametrize("links", [{"up": ".."}, {"up": "..", "above": "../.."}, {"here": "."}, {"a": "a"}], ids=str)
def test_links_that_lead_round(copied, capsys, links):
    root = copied("val")
    for name, target in links.items():
        (root / FIRST / name).symlink_to(target)
    line = refused(capsys, val=root)
    looped = [f"suite.val: {root / FIRST / name} is a link to a folder that is read anyway" for name in links]
    assert line in looped or line == f"{root / FIRST / 'a'}: Too many levels of symbolic links"


def test_links_that_double_at_every_level(copied, capsys):
    """2^30 paths to one image."""
    root = copied("val")
    depths = root.parent / "depths"
    for depth in range(30):
        (depths / str(depth)).mkdir(parents=True)
        for name in "ab":
            (depths / str(depth) / name).symlink_to(depths / str(depth + 1))
    (depths / "30").mkdir()
    Image.new("RGB", (8, 8)).save(depths / "30" / "x.jpg")
    (root / FREE).symlink_to(depths / "0")
    assert refused(capsys, val=root).endswith("is a link to a folder that is read anyway")


def test_a_class_that_is_a_link_to_all(copied, capsys):
    root = copied("val")
    (root / FREE).symlink_to(".")
    assert refused(capsys, val=root) == f"suite.val: {root / FREE} is a link to a folder that is read anyway"


def test_a_pipe_among_the_images(copied, capsys):
    root = copied("val")
    os.mkfifo(root / FIRST / "pipe.JPEG")
    assert refused(capsys, val=root) == f"suite.val: {root / FIRST / 'pipe.JPEG'} is not a regular file"


def test_links_that_lead_elsewhere_are_followed(drawn, tmp_path, unloaded):
    """As published scripts make the clean images of a set of 200 classes."""
    root = tmp_path / "clean"
    root.mkdir()
    for number in sets.SHARED:
        (root / sets.SYNSETS[number]).symlink_to(drawn["val"] / sets.SYNSETS[number])
    (root / FIRST).mkdir()
    for path in (drawn["val"] / FIRST).iterdir():
        (root / FIRST / path.name).symlink_to(path)
    (root / FIRST / "more").symlink_to(drawn["val"] / sets.SYNSETS[999])
    with pytest.raises(unloaded):
        cli.main(["eval", "--model.name=test_vit", f"--suite.val={root}"])
