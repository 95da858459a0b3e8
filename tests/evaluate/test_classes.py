"""Class numbers by name, the 200 classes of -A and -R, ReaL's labels, ObjectNet's mapping."""

import json
from importlib import resources

import numpy as np
import pytest
import timm.data
from painted import write_mappings

from ffdr.evaluate.classes import NO_LABEL, ObjectNet, class_numbers, places, real_labels, subset, synsets
from ffdr.util.errors import UserError


def table(name):
    return (resources.files("timm.data") / "_info" / name).read_text().split()


def test_synsets_are_imagenets_in_sorted_order():
    assert len(synsets()) == 1000 and list(synsets()) == sorted(synsets())
    assert list(synsets()) == timm.data.ImageNetInfo().label_names()
    assert (synsets()[0], synsets()[999]) == ("n01440764", "n15075141")


@pytest.mark.parametrize("name", ["a", "r"])
def test_subsets_name_their_synsets(name):
    assert [synsets()[number] for number in subset(name)] == table(f"imagenet_{name}_synsets.txt")
    assert len(set(subset(name))) == 200


def test_numbers_are_numbers_in_any_order():
    assert class_numbers(["0", "1", "10", "100", "2"], "v2").tolist() == [0, 1, 10, 100, 2]
    assert class_numbers(["n15075141", "n01440764"], "val").tolist() == [999, 0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0", "1000"], "class '1000' is not below 1000"),
        (["9" * 40], "is not below 1000"),
        (["9" * 5000], "is not below 1000"),
        (["2", "02"], "'2' and '02' are the same class"),
        (["0", "n01440764"], r"some classes are numbers \('0'\), others synsets \(n01440764\)"),
        (["0", "dog"], "'dog' is neither"),
        (["0", "-1"], "'-1' is neither"),
        (["dog"], "'dog' is neither"),
        (["\x1b[31m" * 1000], r"'\\x1b.{1,200} is neither"),
    ],
)
def test_other_names_are_refused(names, message):
    with pytest.raises(UserError, match=f"here: .*{message}"):
        class_numbers(names, "here")


def test_places():
    assert places(np.array([5, 7, 6, 5]), (5, 6)).tolist() == [0, NO_LABEL, 1, 0]


def test_real_labels_are_by_the_number_in_the_name(tmp_path):
    labels = [[] for _ in range(50000)]
    labels[0], labels[6], labels[49999] = [3], [999, 0, 12], [1, 2]
    file = tmp_path / "real.json"
    file.write_text(json.dumps(labels))
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (50000, 7, 2, 1)]
    assert real_labels(str(file), names).tolist() == [[1, 2, -1], [999, 0, 12], [-1, -1, -1], [3, -1, -1]]
    own = real_labels("timm", names)
    theirs = timm.data.RealLabelsImagenet([f"{n}" for n in range(50000)]).real_labels
    assert [[n for n in row if n >= 0] for row in own.tolist()] == [theirs[name] for name in names]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[1]]", "1 entries instead of ReaL's 50,000"),
        (json.dumps([[1]] * 49999), "49,999 entries"),
        (json.dumps([[1]] * 50001), "50,001 entries"),
        ("{}", "{} instead of"),
        ("[", "not JSON"),
        ("[" * 100000, "not JSON"),
        (json.dumps([[1000]] * 50000), r"\[1000\] of image 1 is no list of class numbers below 1000"),
        (json.dumps([[3]] * 41999 + [[-1]] * 8001), r"\[-1\] of image 42,000 "),
        (json.dumps([1] * 50000), "1 of image 1 "),
        (json.dumps([[True]] * 50000), r"\[True\] of image 1 "),
        (json.dumps([[1.0]] * 50000), r"\[1.0\] of image 1 "),
        (json.dumps([[[]]] * 50000), r"\[\[\]\] of image 1 "),
        (json.dumps([[1] * 1_000_000, *[[1]] * 49999]), r"\[1, 1, .{1,30}\] of image 1 "),
        (json.dumps([[]] * 50000), "has no label for any of the 1 images"),
    ],
    ids=range(14),
)
def test_damaged_real_labels_are_refused(tmp_path, content, message):
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(UserError, match=rf"real\.json: {message}"):
        real_labels(str(tmp_path / "real.json"), ["ILSVRC2012_val_00000001.JPEG"])


def test_real_needs_the_names_of_the_validation_set():
    for name in ("ILSVRC2012_val_00050001.JPEG", "000.png"):
        with pytest.raises(UserError, match=name):
            real_labels("timm", [name])


def test_objectnets_mapping_leads_from_folder_to_classes(tmp_path):
    write_mappings(tmp_path / "mappings", {"chair": [765, 423, 559], "alarm_clock": [409]})
    objects = ObjectNet.read(tmp_path / "mappings")
    assert objects == ObjectNet(("alarm_clock", "chair"), ((409,), (423, 559, 765)))
    assert objects.columns().tolist() == [[409, 409, 409], [423, 559, 765]]


def test_a_mapping_of_very_many_objects_is_refused(tmp_path):
    """Each would take as many columns as the one that has the most classes: gigabytes, of a megabyte of text."""
    mappings = tmp_path / "mappings"
    write_mappings(mappings, {"all": range(1000)} | {f"o{number}": [0] for number in range(1000)})
    with pytest.raises(UserError, match=r"mappings: not the mapping that ObjectNet ships \(1,001 objects\)"):
        ObjectNet.read(mappings)


def test_a_damaged_mapping_is_refused(tmp_path):
    mappings = tmp_path / "mappings"
    write_mappings(mappings, {"chair": [765]})
    (mappings / "objectnet_to_imagenet_1k.json").write_text('{"Chair": "throne"}')
    with pytest.raises(UserError, match=r"mappings: not the mapping .*'throne'"):
        ObjectNet.read(mappings)
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps({"Chair": "\x1b[31m" * 100_000}))
    with pytest.raises(UserError, match=r"mappings: not the mapping .{1,300}$"):
        ObjectNet.read(mappings)
    (mappings / "objectnet_to_imagenet_1k.json").unlink()
    with pytest.raises(UserError, match=r"objectnet_to_imagenet_1k.json: No such file"):
        ObjectNet.read(mappings)
