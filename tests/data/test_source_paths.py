"""What write.path names, against braceexpand, which webdataset uses."""

import os

import pytest

from ffdr.data.tables.paths import _alternatives, find_files, relative_names, split_paths
from ffdr.util.errors import UserError

braceexpand = pytest.importorskip("braceexpand").braceexpand


@pytest.mark.parametrize(
    "pattern",
    [
        "a", "s-{000..127}.tar", "{7..11}", "{007..11}", "{3..-2}", "{-02..1}", "{0..9..3}", "{9..0..4}", "{a,b}",
        "{a,}x{,b}",
        "x{1..2}y{a,b{3..4}}z", "{{1..2},{a,b}}", "{a}", "{}", "x{a}{b,c}", r"\{1..2\}", r"{a\,b,c}", "{1..2}{3..4}",
        "{x..}", "{0..0}", "{00..2}", "{1.5..2}",
    ],
)  # fmt: skip
def test_braces_are_webdatasets(pattern):
    assert list(_alternatives(pattern)) == list(braceexpand(pattern))


@pytest.mark.parametrize("pattern", ["{", "}", "a{1..2", "a{b,{c}"])
def test_braces_alone(pattern):
    with pytest.raises(ValueError, match="Unbalanced"):
        list(braceexpand(pattern))
    with pytest.raises(UserError, match="a brace without its other one"):
        list(_alternatives(pattern))


def test_commas():
    assert split_paths("a,b{c,d},e") == ["a", "b{c,d}", "e"]
    assert split_paths(r"a\,b,c") == [r"a\,b", "c"]
    assert split_paths("a,,b,") == ["a", "b"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (
        "train-1.x", "train-0.x", "my_train_2.x", "training-0.x", "val/train.x", "train/0.x",
        ".hidden.x", ".cache/train.x", "train.y", "a{0..1}.x", "b,c.x",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(text, split="", endings=(".x",)):
    return [str(path) for path in find_files(text, split, endings)]


def test_files(folder):
    assert found(".", "train") == ["my_train_2.x", "train-0.x", "train-1.x", "train/0.x", "val/train.x"]
    assert found(".", "val") == ["val/train.x"]
    assert len(found(".")) == 8
    assert found("train-{1..0}.x", "val") == ["train-1.x", "train-0.x"]  # files that are named have no split
    assert found("train-?.x,val", "train") == ["train-0.x", "train-1.x", "val/train.x"]
    assert found("a{0..1}.x") == ["a{0..1}.x"]  # it is there, as it is spelled
    assert found("b,c.x") == ["b,c.x"]
    assert found("**/train.?") == ["train.y", "val/train.x"]


@pytest.mark.parametrize(
    "text, split, message",
    [
        (".", "tain", "write.split: none of .* and 8 more in . has 'tain' as a word"),
        ("train-0.x,train-?.x", "", "train-0.x is read twice, also as train-0.x"),
        ("link.x,train-0.x", "", "train-0.x is read twice, also as link.x"),
        ("nowhere/x", "", "there is no file or folder nowhere/x"),
        ("nowhere/*", "", "no file is called nowhere/\\*"),
        ("empty", "", "empty has no .x files"),
        ("pipe.x", "", "pipe.x is not a regular file"),
        (".", "", "gone.x: No such file"),
        ("gone.x", "", "there is no file or folder gone.x"),
        ("{0..99}{0..99}{0..99}", "", "there is no file or folder 000"),
        ("", "", "there is no file or folder"),
    ],
)
def test_refusals(folder, text, split, message):
    os.mkfifo("pipe.x")
    os.symlink("train-0.x", "link.x")
    os.symlink("nowhere", "gone.x")
    os.mkdir("empty")
    with pytest.raises(UserError, match=message):
        find_files(text, split, (".x",))


def test_names_that_tell_files_apart(folder):
    assert relative_names(find_files("train-*.x", "", (".x",))) == ["train-0.x", "train-1.x"]
    (folder / "val/0.x").touch()
    assert relative_names(find_files("train/0.x,val/0.x", "", (".x",))) == ["train/0.x", "val/0.x"]
