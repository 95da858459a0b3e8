"""Parquet files that Hugging Face's datasets has written, against its own reading."""

import io
import pickle
import subprocess
import sys
import threading

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounded import bounded, bounded_memory
from PIL import Image

from ffdr.data import ReadError, open_source
from ffdr.data.tables import parquet
from ffdr.util.errors import UserError


@pytest.fixture(autouse=True, scope="module")
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def encoded(seed, kind="PNG", mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (5 + seed % 3, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def dataset(count, start=0, paths=True, names=("cat", "dog", "cow"), image="image", label="label"):
    """Images in PNG and JPEG, in colour and grey."""
    rows = [
        {"bytes": encoded(i, ("PNG", "JPEG")[i % 2], ("RGB", "L")[i % 3 == 0]), "path": f"{i}.png" if paths else None}
        for i in range(start, start + count)
    ]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(names))})
    labels = [(i * i) % len(names) for i in range(start, start + count)]
    return datasets.Dataset.from_dict({image: rows, label: labels}, features=features)


@pytest.fixture
def files(tmp_path):
    """Two files of a split and one of another, in row groups of four, three and two rows."""
    (tmp_path / "data").mkdir()
    for name, start, count, rows in (
        ("train-00000-of-00002", 0, 10, 4),
        ("train-00001-of-00002", 10, 7, 3),
        ("test-00000-of-00001", 50, 5, 2),
    ):
        dataset(count, start).to_parquet(tmp_path / "data" / f"{name}.parquet", batch_size=rows)
    return tmp_path


def same(source, theirs, image="image", label="label"):
    assert len(source) == len(theirs)
    assert source.labels.tolist() == theirs[label]
    raw = theirs.cast_column(image, datasets.Image(decode=False))
    for i in range(len(theirs)):
        assert source.file_bytes(i) == raw[i][image]["bytes"]
        assert np.array_equal(source.read(i), theirs[i][image].convert("RGB"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_are_those_of_datasets(files, split):
    source = open_source("parquet", str(files), split)
    theirs = datasets.load_dataset(str(files), split=split, cache_dir=str(files / ".cache"))
    same(source, theirs)
    assert source.class_names == theirs.features["label"].names == ["cat", "dog", "cow"]
    assert source.labels.dtype == np.int64
    assert source.origin(1) == {"train": "1.png", "test": "51.png"}[split]


def test_files_lists_and_patterns(files):
    train = [str(files / "data" / f"train-0000{n}-of-00002.parquet") for n in (0, 1)]
    theirs = datasets.Dataset.from_parquet(train, cache_dir=str(files / ".cache"))
    for path in (",".join(train), f"{files}/data/train-*.parquet", f"{files}/data/train-0000{{0..1}}-of-00002.parquet"):
        same(open_source("parquet", path, "whatever"), theirs)
    assert len(open_source("parquet", str(files), "")) == 22
    with pytest.raises(
        UserError, match=r"write.split: none of data/test-00000-of-00001.parquet, .* has 'val' as a word"
    ):
        open_source("parquet", str(files), "val")


def test_names_of_images(files):
    source = open_source("parquet", str(files), "train")
    assert [source.origin(i) for i in range(17)] == [f"{i}.png" for i in range(17)]
    assert source.place("12.png") == f"{files}/data/train-00001-of-00002.parquet: row 2"
    for twins in ({"paths": False}, {"start": 0}):
        dataset(3, **twins).to_parquet(files / "data" / "train-2.parquet")
        source = open_source("parquet", str(files), "train")
        assert source.origin(12) == "train-00001-of-00002.parquet#2"
        assert source.origin(17) == "train-2.parquet#0"
        assert source.place("train-2.parquet#0") == f"{files}/data/train-2.parquet: row 0"


def test_other_columns(tmp_path):
    dataset(6, image="img", label="fine_label").to_parquet(tmp_path / "x.parquet")
    path, theirs = str(tmp_path / "x.parquet"), dataset(6, image="img", label="fine_label")
    same(open_source("parquet", path), theirs, "img", "fine_label")  # the only ones that fit
    same(open_source("parquet", path, "train", ("img", "fine_label")), theirs, "img", "fine_label")
    for columns, message in (
        (("image", "fine_label"), r"has no column 'image'; it has img, fine_label"),
        (("img", "fine_labels"), r"no column 'fine_labels'.*\(did you mean fine_label\?\)"),
        (("fine_label", "img"), "column 'fine_label' is of type int64, not encoded images"),
        (("img",), "'img' does not name two columns"),
        (("img", "img"), "'img,img' does not name two columns"),
    ):
        with pytest.raises(UserError, match=f"write.columns: .*{message}"):
            open_source("parquet", path, "train", columns)


def table(path, images, labels, **options):
    pq.write_table(pa.table({"image": images, "label": labels}), path, **options)


def test_plain_bytes_and_labels_that_are_texts(tmp_path):
    images = [encoded(i) for i in range(4)]
    kinds = (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()))
    for n, kind in enumerate(kinds):
        image = pa.array(images, (pa.binary(), pa.large_binary())[n % 2])
        table(tmp_path / "x.parquet", image, pa.array(["dog", "cat", "dog", "ant"]).cast(kind), row_group_size=3)
        source = open_source("parquet", str(tmp_path / "x.parquet"))
        assert source.class_names == ["ant", "cat", "dog"]
        assert source.labels.tolist() == [2, 1, 2, 0]
        assert [source.file_bytes(i) for i in range(4)] == images
        assert source.origin(3) == "x.parquet#3"
    table(tmp_path / "x.parquet", images, pa.array([3, 0, 1, 1], pa.uint8()))
    source = open_source("parquet", str(tmp_path / "x.parquet"))
    assert (source.class_names, source.labels.tolist()) == (["0", "1", "2", "3"], [3, 0, 1, 1])


def test_class_names_of_a_file(files, tmp_path):
    (tmp_path / "names.txt").write_text("chat\nchien\nvache\n")
    source = open_source("parquet", str(files), "train", (), str(tmp_path / "names.txt"))
    assert source.class_names == ["chat", "chien", "vache"]
    assert source.labels.tolist() == open_source("parquet", str(files), "train").labels.tolist()
    (tmp_path / "names.txt").write_text("chat\nchien\n")
    with pytest.raises(UserError, match=r"write.classes: 2 class names, but the files describe 3 classes"):
        open_source("parquet", str(files), "train", (), str(tmp_path / "names.txt"))


@pytest.mark.parametrize(
    "images, labels, message",
    [
        ([b"x", b"x"], [0, None], "x.parquet: row 1 has no label"),
        ([b"x", b"x"], ["a", " "], "x.parquet: row 1 has no label"),
        ([b"x", b"x"], [0, -1], "x.parquet: row 1: its label -1 is none of the class ids 0 to 65535; -1 stands for"),
        ([b"x", b"x"], [0, 1 << 40], "row 1: its label 1099511627776 is none of"),
        ([b"x"], [0.5], "column 'label' is of type double, not whole numbers or texts"),
        ([b"x"], [True], "column 'label' is of type bool"),
        (["x"], [1], "column 'image' is of type string, not encoded images"),
        ([{"path": "x"}], [1], "column 'image' is of type struct<path: string>, not"),
        (pa.array([], pa.binary()), pa.array([], pa.int64()), "no rows"),
    ],
)
def test_tables_that_are_none(tmp_path, images, labels, message):
    table(tmp_path / "x.parquet", images, labels)
    with pytest.raises(UserError, match=message) as caught:
        open_source("parquet", str(tmp_path / "x.parquet"))
    assert "\n" not in str(caught.value)


def test_rows_without_bytes(tmp_path):
    images = [{"bytes": None, "path": "a.png"}, {"bytes": b"no image", "path": "b.png"}, None]
    table(tmp_path / "x.parquet", pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})), [0, 0, 0])
    source = open_source("parquet", str(tmp_path / "x.parquet"))
    for i, cause in enumerate(("has no bytes of an image", "cannot identify image file", "has no bytes of an image")):
        with pytest.raises(ReadError, match=f"x.parquet: row {i}: .*{cause}"):
            source.read(i)


def test_files_that_differ(files):
    dataset(3, 90, names=("cat", "cow", "dog")).to_parquet(files / "data" / "train-3.parquet")
    with pytest.raises(UserError, match=r"train-3.parquet has other columns or class names than the file before"):
        open_source("parquet", str(files), "train")


@pytest.mark.parametrize("at", [0, 100, -200, -30, -8])
def test_damaged_and_cut_files(files, at):
    path = files / "data" / "train-00001-of-00002.parquet"
    good = path.read_bytes()
    for data in (good[:at], good[:at] + b"\xff" * 60 + good[at:][60:]):
        path.write_bytes(data)
        with bounded(10), bounded_memory(2000):
            try:
                source = open_source("parquet", str(files), "train")
            except UserError as error:
                assert "train-00001" in str(error) and "\n" not in str(error)
                continue
            for i in range(len(source)):
                try:
                    source.read(i)
                except ReadError as error:
                    assert "train-00001" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("limit, most", [("_MOST_GROUP_BYTES", 400), ("_MOST_GROUP_ROWS", 3)])
def test_large_row_groups_are_refused(files, monkeypatch, limit, most):
    monkeypatch.setattr(parquet, limit, most)
    with pytest.raises(
        UserError, match=r"its row group 0 has 4 rows with .* of images, which are read at once; write it with"
    ):
        open_source("parquet", str(files), "train")


def test_threads_copies_and_what_is_kept(files, monkeypatch):
    source = open_source("parquet", str(files), "train")
    most = 2 * max(size for *_, size in source._groups)
    monkeypatch.setattr(parquet, "_MOST_KEPT_BYTES", most)
    expected = [encoded(i, ("PNG", "JPEG")[i % 2], ("RGB", "L")[i % 3 == 0]) for i in range(17)]
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(17).tolist():
            if source.file_bytes(i) != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(source._groups[group][2] for group in source._kept) <= most
    assert 2 <= len(source._kept) < len(source._groups) == 6
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._kept
    assert [copy.file_bytes(i) for i in range(17)] == expected


def test_a_file_that_has_changed(files):
    source = open_source("parquet", str(files), "train")
    state = source.state(np.arange(17))
    dataset(10, 30).to_parquet(files / "data" / "train-00000-of-00002.parquet")
    with pytest.raises(ReadError, match=r"row 0: OSError: train-00000-of-00002.parquet has changed while it was read"):
        source.read(0)
    assert open_source("parquet", str(files), "train").state(np.arange(17)) != state


def test_pyarrow_is_optional(files):
    code = "import sys; sys.modules['pyarrow'] = None; from ffdr.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["write", "--source=parquet", f"--path={files}", f"--out={files}/x.beton"]
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == "ffdr write: write.source: parquet needs pyarrow; pip install pyarrow\n"
