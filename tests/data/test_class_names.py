"""Names of classes from a file."""

import json

import pytest

from ffdr.data.class_names import read_class_names
from ffdr.util.errors import UserError


def file_of(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    "name, text",
    [
        ("names.txt", "cat\ndog, big\n"),
        ("names.txt", "cat\ndog, big"),
        ("names.json", '["cat", "dog, big"]'),
        ("names.json", '{"1": "dog, big", "0": "cat"}'),
        ("names.json", json.dumps({"0": ["cat", "felis"], "1": ["dog, big", "canis"]})),
    ],
)
def test_a_file_of_names(name, text, tmp_path):
    assert read_class_names(file_of(tmp_path, name, text), "write.classes") == ["cat", "dog, big"]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("names.txt", "", "0 class names, but 1 to 65536 are wanted"),
        ("names.txt", "cat\n\ndog\n", "class 1: '' is not a name"),
        ("names.txt", "crane\ncat\ncrane\n", "classes 0 and 2 are both called 'crane'"),
        ("names.txt", "cat\n" * 65537, "65537 class names"),
        ("names.json", "[1]", "class 0: 1 is not a name"),
        ("names.json", '{"1": "cat"}', "neither a list of names nor a mapping"),
        ("names.json", '"cat"', "neither a list of names nor a mapping"),
        ("names.json", "[", "not JSON"),
    ],
)
def test_what_is_no_file_of_names(name, text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_class_names(file_of(tmp_path, name, text), "write.classes")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_class_names(tmp_path / "none.txt", "write.classes")
