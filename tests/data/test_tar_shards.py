"""Tar shards against webdataset's own reading of what its own writer wrote."""

import io
import json
import pickle
import threading

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from ffdr.data import ReadError, open_source
from ffdr.data.tables import packed
from ffdr.util.errors import UserError


def encoded(seed, kind="JPEG", size=(9, 7)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write(path, samples):
    """A shard of samples: key → members."""
    with wds.TarWriter(str(path)) as shard:
        for key, members in samples.items():
            shard.write({"__key__": key, **members})


def theirs(paths, image="jpg;png", label="cls"):
    """Keys, image bytes and labels as webdataset reads them, in its order."""
    data = wds.WebDataset(list(map(str, paths)), shardshuffle=False).to_tuple("__key__", image, label)
    return [(key, pixels, int(number)) for key, pixels, number in data]


def ours(source):
    return [
        (source.origin(i).split("/", 1)[-1].rsplit(".", 1)[0], source.file_bytes(i), int(source.labels[i]))
        for i in range(len(source))
    ]


@pytest.fixture
def shards(tmp_path):
    """Three shards of JPEGs and PNGs, with members that are none of ours, keys that sort otherwise than they stand."""
    paths = [tmp_path / f"shard-{number:03d}.tar" for number in (8, 9, 10)]
    for number, path in enumerate(paths):
        write(path, {
            f"{7 - i}{number}": {
                ("jpg", "png")[i % 2]: encoded(10 * number + i, ("JPEG", "PNG")[i % 2]), "cls": str((i + number) % 3),
                "txt": "a caption", "json": json.dumps({"label": ["cat", "dog"][i % 2], "id": i}),
            }
            for i in range(5)
        })  # fmt: skip
    return paths


def test_samples_are_webdatasets(shards, tmp_path):
    source = open_source("webdataset", f"{tmp_path}/shard-{{008..010}}.tar", "train")
    assert ours(source) == theirs(shards)
    assert source.class_names == ["0", "1", "2"]
    assert source.labels.dtype == np.int64
    for i in range(len(source)):
        expected = Image.open(io.BytesIO(source.file_bytes(i))).convert("RGB")
        assert np.array_equal(source.read(i), expected)
    assert source.place(source.origin(6)) == f"{shards[1]}: 61.png"


@pytest.mark.parametrize("form", ["{0}", "{0}/*.tar", "{0}/shard-008.tar,{0}/shard-009.tar,{0}/shard-010.tar"])
def test_folders_patterns_and_lists(shards, tmp_path, form):
    source = open_source("webdataset", form.format(tmp_path), "")
    assert ours(source) == theirs(shards)


def test_a_split_chooses_in_a_folder(shards, tmp_path):
    (tmp_path / "val").mkdir()
    shards[2].rename(tmp_path / "val" / "shard-010.tar")
    shards[1].rename(tmp_path / "in-train-009.tar")
    assert ours(open_source("webdataset", str(tmp_path), "val")) == theirs([tmp_path / "val" / "shard-010.tar"])
    assert ours(open_source("webdataset", str(tmp_path), "train")) == theirs([tmp_path / "in-train-009.tar"])
    with pytest.raises(UserError, match=r"write.split: none of .* has 'tset' as a word .* an empty split takes all"):
        open_source("webdataset", str(tmp_path), "tset")


def test_a_field_of_json_may_be_the_label(shards, tmp_path):
    source = open_source("webdataset", str(tmp_path), "", ("png;jpg", "json.label"))
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [0, 1, 0, 1, 0] * 3
    (tmp_path / "names.txt").write_text("dog\ncow\ncat\n")
    source = open_source("webdataset", str(tmp_path), "", ("png;jpg", "json.label"), str(tmp_path / "names.txt"))
    assert source.class_names == ["dog", "cow", "cat"]
    assert source.labels.tolist() == [2, 0, 2, 0, 2] * 3
    ids = open_source("webdataset", str(tmp_path), "", ("png;jpg", "json.id"))
    assert ids.labels.tolist() == [*range(5)] * 3


def test_keys_that_shards_share(tmp_path):
    for number in range(2):
        write(tmp_path / f"{number}.tar", {f"00{i}": {"jpg": encoded(2 * number + i), "cls": number} for i in range(2)})
    source = open_source("webdataset", str(tmp_path), "")
    assert [source.origin(i) for i in range(4)] == [
        "0.tar/000.jpg", "0.tar/001.jpg", "1.tar/000.jpg", "1.tar/001.jpg",
    ]  # fmt: skip
    assert source.place("1.tar/000.jpg") == f"{tmp_path}/1.tar: 000.jpg"
    assert ours(source) == theirs([tmp_path / "0.tar", tmp_path / "1.tar"])


def test_folders_dots_and_what_is_no_sample(tmp_path):
    """As GNU tar packs a folder, in GNU's format, with names longer than a header holds."""
    import tarfile

    long = "n" * 150
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("./", "./a.b/"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        for name, data in {
            "./a.b/1.jpg": encoded(1), "./a.b/1.CLS": b" 1\n", "__meta__": b"x", "README": b"x", "c/2.cls": b"0",
            "c/2.seg.png": b"", "c/2.PNG": encoded(2, "PNG"), f"{long}/{long}.jpg": encoded(3),
            f"{long}/{long}.cls": b"0",
        }.items():  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    source = open_source("webdataset", str(tmp_path / "x.tar"))
    assert [source.origin(i) for i in range(3)] == ["a.b/1.jpg", "c/2.PNG", f"{long}/{long}.jpg"]
    read = theirs([tmp_path / "x.tar"])
    assert [source.file_bytes(i) for i in range(3)] == [image for _, image, _ in read] == [
        encoded(1), encoded(2, "PNG"), encoded(3),
    ]  # fmt: skip
    assert source.labels.tolist() == [label for *_, label in read] == [1, 0, 0]


@pytest.mark.parametrize(
    "samples, message",
    [
        ({"1": {"cls": "0"}}, r"sample 1: has no member .jpg or .*, only cls; --write.columns names both"),
        ({"1": {"jpg": b"x"}}, r"sample 1: has no member .cls, only jpg; --write.columns names both, such as jpg,json"),
        ({"1": {"jpg": b"x", "cls": "cat"}}, "sample 1: its label 'cat' in .cls is not a whole number"),
        ({"1": {"jpg": b"x", "cls": b"\xff"}}, "is not text in UTF-8"),
        ({"1": {"jpg": b"x", "cls": "-1"}}, "1.jpg: its label -1 is none of the class ids 0 to 65535; -1 stands for"),
        ({"1": {"jpg": b"x", "cls": "70000"}}, "1.jpg: its label 70000 is none of the class ids 0 to 65535"),
        ({"1": {"jpg": b"x", "png": b"y", "cls": "0"}}, "sample 1: has several images; --write.columns=jpg,cls takes"),
        ({"1": {"jpg": b"", "cls": "0"}}, "sample 1: its image has 0 bytes"),
        ({"1": {"jpg": b"x", "cls": " " * (1 << 20) + "0"}}, "sample 1: its label has 1.0 MiB"),
        ({"1": {"txt": "x"}, "2": {"jpg": b"x", "cls": "0"}}, "sample 1: has no member .jpg"),
    ],
)
def test_samples_that_are_none(tmp_path, samples, message):
    write(tmp_path / "x.tar", samples)
    with pytest.raises(UserError, match=message) as caught:
        open_source("webdataset", str(tmp_path / "x.tar"))
    assert str(tmp_path / "x.tar") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_out_of_the_names(shards, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"shard-008.tar: 50.jpg: its label 2 is none of the class ids 0 to 1"):
        open_source("webdataset", str(tmp_path), "", (), str(tmp_path / "names.txt"))
    with pytest.raises(UserError, match=r"74?\w*.jpg: its label 'cat' is none of the 1 class names \(dig\)"):
        (tmp_path / "names.txt").write_text("dig\n")
        open_source("webdataset", str(tmp_path), "", ("jpg;png", "json.label"), str(tmp_path / "names.txt"))
    for field, message in (("none", "sample 70: its .json has no field none"), ("", "has no field")):
        with pytest.raises(UserError, match=message):
            open_source("webdataset", str(tmp_path), "", ("jpg;png", f"json.{field}"))


def test_twins_and_paths_that_are_none(shards, tmp_path):
    write(tmp_path / "twins.tar", {"1": {"jpg": b"x", "cls": "0"}, "2": {"jpg": b"x", "cls": "0"}})
    data = (tmp_path / "twins.tar").read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512)
    (tmp_path / "twins.tar").write_bytes(2 * data + bytes(1024))
    for path, message in (
        ("twins.tar", "two images are called twins.tar/1.jpg"),
        ("none.tar", "there is no file or folder .*none.tar"),
        ("none*.tar", "no file is called .*none"),
        ("shard-{008.tar", "a brace without its other one"),
        ("shard-{0..1000000000}.tar", "there is no file or folder"),
        ("shard-008.tar,{0}/shard-008.tar", "is read twice"),
    ):
        with pytest.raises(UserError, match=message):
            open_source("webdataset", f"{tmp_path}/{path.replace('{0}', str(tmp_path))}")
    (tmp_path / "z.tar.gz").touch()
    with pytest.raises(UserError, match=r"z.tar.gz is compressed, and can't be read at random; unpack it to a .tar"):
        open_source("webdataset", str(tmp_path / "z.tar.gz"))


def test_threads_processes_and_many_shards(tmp_path, monkeypatch):
    """More shards than are kept open, read by several threads and by a copy."""
    monkeypatch.setattr(packed, "_MOST_OPEN", 2)
    for number in range(8):
        write(
            tmp_path / f"{number}.tar", {f"{number}-{i}": {"jpg": encoded(8 * number + i), "cls": i} for i in range(4)}
        )
    source = open_source("webdataset", str(tmp_path), "")
    expected = [image for _, image, _ in theirs(sorted(tmp_path.glob("*.tar")))]
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(len(source)).tolist():
            if source.file_bytes(i) != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(source.files._open) == 2
    copy = pickle.loads(pickle.dumps(source))
    assert not copy.files._open
    assert [copy.file_bytes(i) for i in range(len(copy))] == expected


def test_a_shard_that_has_changed(shards, tmp_path):
    source = open_source("webdataset", str(tmp_path), "")
    state = source.state(np.arange(len(source)))
    source = pickle.loads(pickle.dumps(source))
    write(shards[0], {"1": {"jpg": encoded(1), "cls": 0}})
    with pytest.raises(ReadError, match=r"shard-008.tar: 70.jpg: OSError: shard-008.tar has changed while it was read"):
        source.read(0)
    source.read(5)
    write(tmp_path / "shard-008.tar", {"1": {"jpg": encoded(1), "cls": 0}})
    assert open_source("webdataset", str(tmp_path), "").state(np.arange(3)) != state
    shards[1].write_bytes(b"")
    with pytest.raises(ReadError, match=r"shard-009.tar: 71.jpg"):
        pickle.loads(pickle.dumps(source)).file_bytes(5)
