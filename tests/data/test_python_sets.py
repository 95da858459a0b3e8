"""What is refused of a dataset that Python code brings along: in one line that names the item and what is wanted."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from given import NAMES, Indexed, Locked, picture
from PIL import Image
from torchvision.datasets import FakeData
from torchvision.transforms import ToTensor

import ffdr
from ffdr.beton.manifest import read_manifest
from ffdr.data.python_sets import PythonSet, adapt, is_indexable, own_names
from ffdr.util.errors import UserError

IMAGE = picture(0)


def refusal(dataset, tmp_path, **options):
    with pytest.raises(UserError) as caught:
        ffdr.write(dataset, tmp_path / "x.beton", **{"workers": 1, "progress": False} | options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.beton").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ((IMAGE, 1, 2), "a tuple of 3, but (image, label) is wanted"),
        (IMAGE, "array("),
        (7, "7, but (image, label) is wanted"),
        ((None, 0), "None, but an image is wanted: a PIL image, uint8 pixels of shape (H, W, 3)"),
        ((["a"], 0), "['a'], but an image is wanted"),
        ((IMAGE / 255, 0), "pixels of type float64, but uint8 from 0 to 255 is wanted: leave out the transform that"),
        ((torch.zeros(3, 8, 8), 0), "pixels of type float32, but uint8"),
        ((IMAGE.astype(np.int64), 0), "pixels of type int64, but uint8"),
        ((IMAGE > 3, 0), "pixels of type bool, but uint8"),
        ((IMAGE.transpose(2, 0, 1), 0), "pixels of shape (3, 40, 50), but an image is wanted"),
        ((IMAGE[None], 0), "pixels of shape (1, 40, 50, 3)"),
        ((torch.from_numpy(IMAGE)[None], 0), "pixels of shape (1, 40, 50, 3)"),
        ((IMAGE[:0], 0), "pixels of shape (0, 50, 3)"),
        ((IMAGE, 1.0), "label 1.0, but an integer is wanted, or the name of a class"),
        ((IMAGE, True), "label True, but an integer"),
        ((IMAGE, np.bool_(1)), f"label {np.bool_(1)!r}, but an integer"),
        ((IMAGE, None), "label None, but an integer"),
        ((IMAGE, torch.tensor([1, 2])), "label tensor([1, 2]), but an integer"),
        ((IMAGE, -1), "label -1 is none of the 3 classes"),
        ((IMAGE, 3), "label 3 is none of the 3 classes"),
        ((IMAGE, "dok"), "label 'dok' is none of the classes (did you mean dog?)"),
        ((IMAGE, b"3"), "label 3 is none of the 3 classes"),
        ({"img": IMAGE, "label": 0}, "no column 'image', only img, label"),
        ({"image": IMAGE, "labels": 0}, "no column 'label', only image, labels (did you mean labels?)"),
    ],
)
def test_an_item_that_is_no_image_with_a_label(tmp_path, item, said):
    """Wherever it stands, and whether one may skip to it or not."""
    good = (IMAGE, 0)
    for options in ({}, {"per_class": 9}):
        message = refusal([good, good, item], tmp_path, classes=NAMES, on_error="skip", **options)
        assert message.startswith(f"dataset: item 2: {said}")


def test_a_bad_item_far_behind_is_refused_by_every_reader(tmp_path):
    class Late(Locked):
        def __getitem__(self, i):
            return picture(i), 9 if i == 69 else 0

    items = [(picture(i), 9 if i == 169 else 0) for i in range(200)]
    for dataset, place in ((Late(), 69), (items, 169), (iter(items), 169)):
        for workers in (1, 2):
            message = refusal(iter(items) if place == 169 and dataset is not items else dataset, tmp_path,
                              workers=workers, classes=NAMES)  # fmt: skip
            assert message == f"dataset: item {place}: label 9 is none of the 3 classes"


@pytest.mark.parametrize(
    ("dataset", "options", "said"),
    [
        ([], {}, "dataset: it has no images"),
        (iter(()), {}, "dataset: it has no images"),
        ("cifar10", {}, "dataset: 'cifar10' is no dataset: wanted is one of (image, label)"),
        (Path("x"), {}, "dataset: PosixPath('x') is no dataset"),
        (7, {}, "dataset: 7 is no dataset"),
        ({"train": [], "test": []}, {}, "dataset: a dict of train, test; give one of them, as in dataset['train']"),
        ([(IMAGE, "cat")], {}, "dataset: item 0: label 'cat' is a text; classes=[…] names the classes in their order"),
        ([(IMAGE, 1 << 16)], {}, "dataset: item 0: label 65536 is none from 0 to 65535"),
        ([(IMAGE, 0)], {"classes": ["a", "a"]}, "classes: classes 0 and 1 are both called 'a'"),
        ([(IMAGE, 0)], {"classes": []}, "classes: 0 class names, but 1 to 65536 are wanted"),
        ([(IMAGE, 0)], {"columns": "image"}, "columns: 'image' is not two names, as in columns=('image', 'label')"),
        ([(IMAGE, 0)], {"source": "digits"}, "call: write.source: a dataset is given, too; leave one of them out"),
        ([(IMAGE, 0)], {"path": "x"}, "call: write.path: a dataset is given, too"),
        ([(IMAGE, 0)], {"mode": "png"}, "write.mode: 'png' is not one of jpg, raw, proportion, dct"),
        ([(IMAGE, 0)], {"qualty": 3}, "call: unknown key write.qualty (did you mean write.quality?)"),
        (FakeData(3, (3, 8, 8), transform=ToTensor()), {}, "dataset: item 0: pixels of type float32, but uint8 from 0"),
    ],
)
def test_what_is_no_dataset(tmp_path, dataset, options, said):
    assert refusal(dataset, tmp_path, **options).startswith(said)


def test_a_dataset_that_knows_no_length(tmp_path):
    class Endless(Locked):
        def __len__(self):
            raise TypeError("nobody knows")

    assert refusal(Endless(), tmp_path) == "dataset: it does not say how many items it has: TypeError: nobody knows"


def test_a_dataset_that_stops_in_the_middle(tmp_path):
    def items():
        yield IMAGE, 0
        raise RuntimeError("the network is away")

    assert refusal(items(), tmp_path) == "dataset: item 1: the dataset stopped: RuntimeError: the network is away"


def test_a_row_without_an_image_may_be_skipped(tmp_path):
    """As a row of a Parquet file may, which is what such datasets are made of; one without a label may not."""
    rows = [
        {"image": IMAGE, "label": 0},
        {"image": None, "label": 1},
        {"image": {"bytes": None, "path": None}, "label": 1},
    ]
    assert refusal(rows, tmp_path).startswith("item train/00001: can't be read: ValueError: the row has no image")
    ffdr.write(rows, tmp_path / "x.beton", on_error="skip", workers=1, progress=False)
    skipped = read_manifest(tmp_path / "x.json")["skipped"]
    assert [one["origin"] for one in skipped] == ["train/00001", "train/00002"]
    without = [{"image": IMAGE, "label": None}]
    assert refusal(without, tmp_path / "y", on_error="skip").startswith("dataset: item 0: label None, but an integer")


def test_hugging_faces_columns(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageColumn

    features = Features({"img": ImageColumn(), "fine": ClassLabel(names=NAMES), "coarse": ClassLabel(names=["a", "b"])})
    table = Dataset.from_dict({"img": [Image.fromarray(IMAGE)], "fine": [2], "coarse": [1]}, features=features)
    said = "dataset: 2 columns are of type ClassLabel (fine, coarse), of img, fine, coarse; columns=(image, label)"
    assert refusal(table, tmp_path).startswith(said)
    said = "columns: no column 'corse', only img, fine, coarse (did you mean coarse?)"
    assert refusal(table, tmp_path, columns=("img", "corse")) == said
    found = adapt(table, "train", columns=("img", "coarse"))
    assert (found.names, found.item(0).label) == (["a", "b"], 1)
    assert refusal(DatasetDict({"train": table}), tmp_path).startswith("dataset: a DatasetDict of train; give one of")


def test_an_object_that_workers_can_not_open_says_so(tmp_path, monkeypatch):
    module = tmp_path / "here" / "only_here.py"
    module.parent.mkdir()
    module.write_text("from given import Indexed\nclass Mine(Indexed):\n    pass\n")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(module.parent)
        from only_here import Mine
    message = refusal(Mine(), tmp_path, workers=2)
    assert message.startswith(
        "dataset: a worker process can't open it: No module named 'only_here'; workers=1 reads it"
    )


def test_what_is_indexed_and_what_is_gone_through():
    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return 3

        def __iter__(self):
            return iter(())

    assert [is_indexable(one) for one in (Indexed(), [], Stream(), iter([]), Indexed)] == [True, True, *[False] * 3]


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("pictures/train/cat/1.jpg", "cat/1.jpg"),
        ("/cat/pictures/cat/more/1.jpg", "cat/more/1.jpg"),
        ("zip://train/cat/1.jpg::https://somewhere/cat/x.zip", "cat/1.jpg"),
        ("pictures/dog/1.jpg", "val/00005"),
        ("cat", "val/00005"),
        ("1.jpg", "val/00005"),
        ("", "val/00005"),
    ],
)
def test_origins(path, origin):
    assert PythonSet([], NAMES, ("image", "label"), "val", {})._origin(5, 0, path) == origin
    assert PythonSet([], None, ("image", "label"), "val", {})._origin(5, 0, path) == "val/00005"


def test_names_that_are_none_are_left():
    synonyms = [("a", "b"), ("a",)]
    assert own_names(SimpleNamespace(classes=synonyms, wnids=["n01", "n02"])) == ["n01", "n02"]
    assert own_names(SimpleNamespace(classes=synonyms, wnids=["n01", "n01"])) is None
