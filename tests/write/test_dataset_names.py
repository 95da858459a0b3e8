"""Classes and columns of a dataset that a call brings along: the call's, the recipe's, the dataset's own."""

import numpy as np
import pytest
from given import picture
from PIL import Image
from torchvision.datasets import ImageFolder

import ffdr
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.util.errors import UserError

ROWS = [{"image": 255 - picture(i), "label": 0, "img": picture(i), "kind": 1 + i % 2} for i in range(6)]


def write(dataset, out, **options):
    return ImageBeton.open(ffdr.write(dataset, out, **{"mode": "raw", "workers": 1, "progress": False} | options))


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "three.txt").write_text("one\ntwo\nthree\n")
    path = tmp_path / "x.yaml"
    path.write_text(f"write:\n  columns: img,kind\n  classes: {tmp_path / 'three.txt'}\n")
    return path


def test_a_recipe_names_columns_and_classes_as_a_call_does(recipe, tmp_path):
    found = write(ROWS, tmp_path / "recipe.beton", config_file=recipe)
    assert found.labels.tolist() == [1, 2, 1, 2, 1, 2]
    assert list(found.class_names) == ["one", "two", "three"]
    assert all(np.array_equal(decode_image(found, i), picture(i)) for i in range(6))
    call = write(ROWS, tmp_path / "call.beton", columns=("img", "kind"), classes=["one", "two", "three"])
    assert call.path.read_bytes() == found.path.read_bytes()
    assert call.manifest == found.manifest
    over = write(ROWS, tmp_path / "over.beton", config_file=recipe, columns=("image", "label"), classes=["a"])
    assert over.labels.tolist() == [0] * 6
    assert list(over.class_names) == ["a"]
    assert write(ROWS, tmp_path / "none.beton", config_file=recipe, classes="").class_names == ("0", "1", "2")
    assert write(ROWS, call.path, config_file=recipe).path == call.path, "the same work, however it is said"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": ("img", "img")}, r"^columns: \('img', 'img'\) is not two names"),
        ({"columns": "img,kind"}, r"^columns: 'img,kind' is not two names"),
        ({"classes": 3}, r"^classes: 3 is neither a list of names nor a file that has them$"),
        ({"classes": {"cat", "dog"}}, r"^classes: .* is neither a list of names nor a file"),
        ({"classes": {"dog": 1, "cat": 0}}, r"^classes: .* is neither a list of names nor a file"),
        ({"classes": "~/names.txt", "out": "names.txt"}, r"names\.txt: would replace a file that this run needs"),
    ],
)
def test_names_that_are_none(recipe, tmp_path, monkeypatch, options, said):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    out = tmp_path / options.pop("out", "x.beton")
    with pytest.raises(UserError, match=said):
        write(ROWS, out, config_file=recipe, overwrite=True, **options)
    assert (tmp_path / "names.txt").read_text() == "one\ntwo\nthree\n"


def test_an_image_folder_under_other_names_is_other_work(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(picture(len(name))).save(tmp_path / "pictures" / name / "0.png")
    folder = ImageFolder(tmp_path / "pictures")
    assert write(folder, tmp_path / "x.beton").class_names == ("cat", "dog")
    assert write(folder, tmp_path / "x.beton", classes=["cat", "dog"]).class_names == ("cat", "dog")
    with pytest.raises(UserError, match=r"x\.beton: exists, made from other contents of --classes; --overwrite"):
        write(folder, tmp_path / "x.beton", classes=["Katze", "Hund"])
    assert write(folder, tmp_path / "x.beton", classes=["Katze", "Hund"], overwrite=True).class_names[0] == "Katze"
