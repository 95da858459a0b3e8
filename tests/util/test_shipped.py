"""Recipes that come with ffdr, by name from any folder."""

from pathlib import Path

import pytest

from ffdr.config import recipe
from ffdr.util.errors import UserError
from ffdr.util.shipped import recipe_file, recipes, references

ROOT = Path(__file__).parents[2]


def test_a_checkout_has_them_at_its_top():
    assert (recipes(), references()) == (ROOT / "rcfg", ROOT / "results" / "reference")


@pytest.mark.parametrize("name", ["digits/erm", "rcfg/digits/erm.yaml"])
def test_a_name_is_a_shipped_recipe_unless_such_a_file_exists(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert recipe_file(Path(name)) == ROOT / "rcfg" / "digits" / "erm.yaml"
    Path(name).mkdir(parents=True)  # a folder is no recipe
    assert recipe_file(Path(name)) == ROOT / "rcfg" / "digits" / "erm.yaml"
    Path(name).rmdir()
    Path(name).write_text("train: {epochs: 3, out: x}\ndata: {train: y}\nmodel: {name: resnet18}\n")
    assert recipe_file(Path(name)) == Path(name)
    assert recipe.parse("train", ["--config-file", name]).train.epochs == 3


def test_a_base_is_one_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    Path("below/mine.yaml").write_text("base: [digits/kd, other]\nmodel: {name: resnet18}\n")
    Path("below/other").write_text("train: {epochs: 70, out: x}\nteacher: {models: resnet50}\n")
    found = recipe.parse("train", ["--config-file=below/mine.yaml"])
    assert (found.train.task, found.train.epochs, found.model.name) == ("kd", 70, "resnet18")


@pytest.mark.parametrize(
    ("name", "near"),
    [("digits/emr", "digits/erm"), ("plus", "cifar100/ft_plus, cifar100/plus"), ("food101/pluss", "food101/plus")],
)
def test_a_wrong_name_is_answered_with_the_nearest(tmp_path, monkeypatch, name, near):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{name}: No such file, and .* the nearest are {near}") as caught:
        recipe.parse("train", ["--config-file", name])
    assert "\n" not in str(caught.value) and "parts" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits/erm.yml", "../rcfg/digits/erm.yaml", "/digits/erm.yaml", "xyz"])
def test_other_paths_are_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{name}: No such file or directory$"):
        recipe.parse("train", ["--config-file", name])
