"""Tables of images: written by csv and pandas, read by pandas for comparison."""

import csv
import os

import numpy as np
import pandas as pd
import pytest
from bounded import bounded, bounded_memory
from PIL import Image

from ffdr.data import ReadError, open_source
from ffdr.util.errors import UserError

ROWS = [("b/1.png", "dog"), ("a/x, y.png", "cat"), ('a/"2".png', "dog"), ("a/é.png", "cow")]


@pytest.fixture
def images(tmp_path):
    for seed, (name, _) in enumerate(ROWS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def write(folder, rows, name="x.csv", header=None, **options):
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options)
        writer.writerows([*([header] if header else []), *rows])
    return str(folder / name)


def check(source, folder, rows=ROWS):
    assert [source.origin(i) for i in range(len(source))] == [name for name, _ in rows]
    assert [source.class_names[label] for label in source.labels] == [label for _, label in rows]
    for i, (name, _) in enumerate(rows):
        assert np.array_equal(source.read(i), Image.open(folder / name))
        assert source.file_bytes(i) == (folder / name).read_bytes()
        assert source.place(source.origin(i)) == str(folder / name)


@pytest.mark.parametrize("header", [None, ("path", "label"), ("File_Name", " CLASS "), ("image", "target")])
@pytest.mark.parametrize("dialect", ["excel", "unix"])
def test_csv(images, header, dialect):
    source = open_source("csv", write(images, ROWS, header=header, dialect=dialect))
    check(source, images)
    assert source.class_names == ["cat", "cow", "dog"]
    assert source.labels.dtype == np.int64


def test_tsv_and_the_mark_of_utf8(images):
    check(open_source("csv", write(images, ROWS, "x.tsv", ("path", "label"), dialect="excel-tab")), images)
    (images / "y.csv").write_bytes(
        b"\xef\xbb\xbf" + (images / "x.tsv").read_bytes().replace(b", ", b"_").replace(b"\t", b",")
    )
    assert open_source("csv", str(images / "y.csv")).origin(0) == "b/1.png"


def test_pandas_columns_and_splits(images):
    table = pd.DataFrame(ROWS, columns=["img", "species"])
    table["split"], table["label"], table["id"] = ["train", "test", "train", "train"], 7, [4, 2, 2, 0]
    table.to_csv(images / "x.csv")  # with a column of numbers before the others
    path = str(images / "x.csv")
    for split in ("train", "test", ""):
        rows = pd.read_csv(path)
        rows = rows[rows.split == split] if split else rows
        check(
            open_source("csv", path, split, ("img", "species")), images, list(zip(rows.img, rows.species, strict=True))
        )
        assert open_source("csv", path, split, ("img", "id")).labels.tolist() == rows.id.tolist()
    assert open_source("csv", path, "", ("img", "id")).class_names == ["0", "1", "2", "3", "4"]
    with pytest.raises(
        UserError, match=r"write.split: no row is of 'tain', only of train, test \(did you mean train\?\)"
    ):
        open_source("csv", path, "tain", ("img", "id"))
    table.to_csv(path, header=False)
    check(open_source("csv", path, "test", ("1", "2")), images)  # without a header, no column is called split
    table.rename(columns=str.upper).rename(columns={"IMG": "PATH", "ID": "LABEL", "LABEL": "NUMBER"}).to_csv(path)
    assert open_source("csv", path, "train").labels.tolist() == [4, 2, 0]


def test_labels_are_ids_or_names(images):
    (images / "names.txt").write_text("10\n9\ncow\n")
    path = write(images, [(name, str(9 + n % 2)) for n, (name, _) in enumerate(ROWS)])
    assert open_source("csv", path).labels.tolist() == [9, 10, 9, 10]
    named = open_source("csv", path, "", (), str(images / "names.txt"))
    assert (named.labels.tolist(), named.class_names) == ([1, 0, 1, 0], ["10", "9", "cow"])
    (images / "names.txt").write_text("".join(f"name {n}\n" for n in range(11)))
    assert open_source("csv", path, "", (), str(images / "names.txt")).labels.tolist() == [9, 10, 9, 10]
    (images / "names.txt").write_text("".join(f"name {n}\n" for n in range(10)))
    with pytest.raises(UserError, match=r"x.csv: a/x, y.png: its label 10 is none of the class ids 0 to 9"):
        open_source("csv", path, "", (), str(images / "names.txt"))
    (images / "names.txt").write_text("cat\ndag\ncow\n")
    with pytest.raises(UserError, match=r"b/1.png: its label 'dog' is none of the 3 class names .*did you mean dag"):
        open_source("csv", write(images, ROWS), "", (), str(images / "names.txt"))


def test_paths_elsewhere(images, tmp_path_factory):
    """From the table's folder, also upwards and through a link to it; absolute ones stay so outside of it."""
    lists, link = tmp_path_factory.mktemp("lists"), tmp_path_factory.mktemp("links") / "deep"
    rows = [(os.path.relpath(images / ROWS[0][0], lists), 0), (str(images / ROWS[1][0]), 1), (f"{lists}/in.png", 0)]
    Image.new("RGB", (3, 3)).save(lists / "in.png")
    write(lists, [*rows, ("./in2.png", 0)], header=("path", "label"))
    link.symlink_to(lists)
    source = open_source("csv", str(link / "x.csv"))
    assert [source.origin(i) for i in range(4)] == [rows[0][0], rows[1][0], "in.png", "in2.png"]
    for i in range(2):
        assert np.array_equal(source.read(i), Image.open(images / ROWS[i][0]))
    assert source.read(2).size == (3, 3)
    with pytest.raises(ReadError, match=r"in2.png: FileNotFoundError"):
        source.read(3)


@pytest.mark.parametrize(
    "text, columns, message",
    [
        ("", (), "x.csv: has no rows"),
        ("\n\n", (), "x.csv: has no rows"),
        ("path,label\n", (), "x.csv: has no rows"),
        ("img,kind\nb/1.png,0\n", (), "line 1: neither a header with a path and a label nor a path that is there with"),
        ("b/1.png\n", (), "line 1: neither"),
        ("x" * 5000 + ",0\n", (), "line 1: neither"),
        ("b/1.png;dog\n", (), "line 1: neither"),
        ("path,label\nb/1.png\n", (), r"line 2: has 1 columns, not 2: b/1.png"),
        ("path,label\nb/1.png,\n", (), r"line 2: b/1.png has no label"),
        ("path,label\n,0\n", (), r"line 2: '' is not a path"),
        ("path,label\na\0b,0\n", (), r"line 2: .* is not a path|line contains NUL"),
        ("path,label\nb/1.png,-1\n", (), r"b/1.png: its label -1 is none of the class ids"),
        ("path,label\nb/1.png,1\n./b/1.png,0\n", (), "b/1.png stands in it twice"),
        ("path,label\nb/1.png,a\x1bb\n", (), r"'a\\x1bb' is not a name"),
        ("path,label\nb/1.png,0\n", ("path", "labl"), r"has no column 'labl', only path, label \(did you mean label"),
        ("b/1.png,0\n", ("0", "2"), "line 1: has 2 columns, not 3"),
        ("b/1.png,0\n", ("0", "99999999999"), "has no column"),
        ('path,label\n"' + "x" * 200_000 + '",0\n', (), "line 2: field larger than field limit"),
        ("path,label\n" + "x" * (2 << 20), (), "line 2: has more than 1,048,576 characters"),
        (b"path,label\n\xff.png,0\n", (), "not text in UTF-8"),
    ],
)
def test_tables_that_are_none(images, text, columns, message):
    (images / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with bounded(5), bounded_memory(200), pytest.raises(UserError, match=message) as caught:
        open_source("csv", str(images / "x.csv"), "train", columns)
    assert str(caught.value).isprintable()


def test_what_is_no_file(images):
    os.mkfifo(images / "pipe")
    with bounded(5), pytest.raises(UserError, match="not a regular file"):
        open_source("csv", str(images / "pipe"))
    with pytest.raises(UserError, match=r"none.csv: No such file"):
        open_source("csv", str(images / "none.csv"))
    source = open_source("csv", write(images, [("pipe", 0), ("/dev/zero", 0), ("a", 0)], header=("path", "label")))
    for i in range(3):
        for read in (source.read, source.file_bytes):
            with bounded(5), pytest.raises(ReadError, match="not a regular file"):
                read(i)
