"""Class names and class tables that mean harm are refused in one line, in little time and memory."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from bounded import bounded, bounded_memory

from ffdr.evaluate.classes import ObjectNet, check_classes, class_numbers, real_labels
from ffdr.models.files import ModelInfo, class_digest
from ffdr.util.errors import UserError

LONG = "7" * 5_000


def test_names_of_thousands_of_digits_are_no_numbers():
    info = ModelInfo("m", 2, 32, (0.5,) * 3, (0.5,) * 3, classes="0" * 16)
    with pytest.raises(UserError, match="its class names are not those that m was trained with"):
        check_classes(info, [LONG, "a1"], "data", "eval.classes")


def test_the_first_other_name_is_said():
    info = ModelInfo("m", 2, 32, (0.5,) * 3, (0.5,) * 3)
    names = ("cat", "dog")
    info = replace(info, classes=class_digest(names), class_names=names)
    check_classes(info, names, "data", "eval.classes")
    with pytest.raises(UserError, match=r"trained with: class 1 is 'd\\u202eog', not 'dog' \(eval\.classes=any"):
        check_classes(info, ["cat", "d\u202eog"], "data", "eval.classes")
    with pytest.raises(UserError, match=r"class '7777.* is not below 1000") as error:
        class_numbers([LONG, "1"], "data")
    assert len(str(error.value)) < 300
    assert class_numbers(["0007", "999"], "data").tolist() == [7, 999]


def test_tables_of_labels_are_bounded(tmp_path):
    file = tmp_path / "real.json"
    file.write_text(json.dumps([[1] * 100_000] + [[]] * 49_999))  # a row of every image would be as long
    with bounded(seconds=5), bounded_memory(megabytes=200), pytest.raises(UserError, match="of image 1 is no list"):
        real_labels(str(file), ["ILSVRC2012_val_00000001.JPEG"] * 50_000)
    for path in ("/dev/zero", str(tmp_path)):
        with bounded(seconds=5), pytest.raises(UserError, match="not a regular file"):
            real_labels(path, [])


def test_a_mapping_of_strangers_is_told_in_one_line(tmp_path):
    names = {
        "folder_to_objectnet_label.json": '{"a": "A"}', "objectnet_to_imagenet_1k.json": '{"A": "x"}',
        "imagenet_to_label_2012_v2": "x", "pytorch_to_imagenet_2012_id.json": '{"0": 1e999}',
    }  # fmt: skip
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="not the mapping that ObjectNet ships"):
        ObjectNet.read(tmp_path)
    (tmp_path / "imagenet_to_label_2012_v2").unlink()
    (tmp_path / "imagenet_to_label_2012_v2").symlink_to("/dev/zero")
    with bounded(seconds=5), pytest.raises(UserError, match="not a regular file"):
        ObjectNet.read(tmp_path)
