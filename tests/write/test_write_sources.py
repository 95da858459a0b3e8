"""``ffdr write`` from shards, Parquet files, tables and Fashion-MNIST, through the command line."""

import csv
import gzip
import io
import json
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffdr.beton.layout import origin_key
from ffdr.beton.manifest import manifest_path
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.cli import main

COUNT = 40
NAMES = ["ant", "bee", "cat"]


def encoded(seed):
    """JPEGs and PNGs, in colour and grey, of several sizes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed % 5, 30 - seed % 3, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(("RGB", "L")[seed % 7 == 0]).save(file, ("JPEG", "PNG")[seed % 2])
    return file.getvalue()


IMAGES = [encoded(seed) for seed in range(COUNT)]
LABELS = [seed * 7 // 2 % 3 for seed in range(COUNT)]


def webdataset(folder):
    wds = pytest.importorskip("webdataset")
    for shard in range(2):
        with wds.TarWriter(str(folder / f"shard-{shard:02d}.tar")) as writer:
            for i in range(20 * shard, 20 * shard + 20):
                writer.write({"__key__": f"{i:04d}", ("jpg", "png")[i % 2]: IMAGES[i], "cls": LABELS[i]})
    origins = [f"{i:04d}.{('jpg', 'png')[i % 2]}" for i in range(COUNT)]
    (folder / "names.json").write_text(json.dumps(NAMES))
    return [f"--path={folder}/shard-{{00..01}}.tar", f"--classes={folder}/names.json"], origins


def parquet(folder):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = [{"bytes": image, "path": None} for image in IMAGES]
    data = datasets.Dataset.from_dict({"image": rows, "label": LABELS}, features=features)
    for n in range(2):
        part = data.select(range(25 * n, min(COUNT, 25 * n + 25)))
        part.to_parquet(folder / f"train-{n:05d}-of-00002.parquet", batch_size=7)
    return [f"--path={folder}"], [f"train-{i // 25:05d}-of-00002.parquet#{i % 25}" for i in range(COUNT)]


def table(folder):
    (folder / "images").mkdir()
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "where", "what"))
        for i, image in enumerate(IMAGES):
            (folder / f"images/{i}.bin").write_bytes(image)
            writer.writerow((f"x{i}", f"images/{i}.bin", NAMES[LABELS[i]]))
    return [f"--path={folder}/list.csv", "--columns=where,what"], [f"images/{i}.bin" for i in range(COUNT)]


MAKERS = {"webdataset": webdataset, "parquet": parquet, "csv": table}


def write(source, words, out, **options):
    options = {"mode": "raw", "workers": 1} | options
    return main(["write", f"--source={source}", *words, f"--out={out}", *(f"--{k}={v}" for k, v in options.items())])


def data_of(path):
    return path.read_bytes(), manifest_path(path).read_bytes()


@pytest.fixture(params=MAKERS)
def source(request, tmp_path):
    (tmp_path / "in").mkdir()
    return request.param, *MAKERS[request.param](tmp_path / "in")


def test_raw_pixels_are_pillows(source, tmp_path):
    name, words, origins = source
    assert write(name, words, tmp_path / "x.beton") == 0
    beton = ImageBeton.open(tmp_path / "x.beton")
    assert beton.class_names == tuple(NAMES)
    assert beton.labels.tolist() == LABELS
    assert beton.origins[:, 2].tolist() == [origin_key(origin) for origin in origins]
    for i, image in enumerate(IMAGES):
        assert np.array_equal(decode_image(beton, i), Image.open(io.BytesIO(image)).convert("RGB"))


def test_bytes_do_not_depend_on_workers(source, tmp_path):
    name, words, _ = source
    for workers in (1, 2):
        assert write(name, words, tmp_path / f"{workers}.beton", mode="jpg", workers=workers) == 0
    assert data_of(tmp_path / "1.beton") == data_of(tmp_path / "2.beton")


def test_coefficients_of_jpegs_in_shards_are_kept(tmp_path):
    words, _ = webdataset(tmp_path)
    assert write("webdataset", words, tmp_path / "x.beton", mode="dct") == 0
    assert json.loads((tmp_path / "x.json").read_text())["coefficients"] == {"kept": 20, "no JPEG": 20}


@pytest.mark.parametrize("name", MAKERS)
def test_a_bad_image_is_named_or_skipped(name, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    bad = [*IMAGES[:20], b"\xff\xd8 not much of a JPEG", *IMAGES[21:]]
    monkeypatch.setattr(sys.modules[__name__], "IMAGES", bad)
    words, origins = MAKERS[name](tmp_path / "in")
    assert write(name, words, tmp_path / "x.beton") == 2
    where = {
        "webdataset": "shard-01.tar: 0020.jpg",
        "parquet": "00000-of-00002.parquet: row 20",
        "csv": "images/20.bin",
    }
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{where[name]}: can't be read: UnidentifiedImageError: cannot identify image file" in error
    assert write(name, words, tmp_path / "x.beton", on_error="skip") == 0
    manifest = json.loads((tmp_path / "x.json").read_text())
    assert [skipped["origin"] for skipped in manifest["skipped"]] == [origins[20]]
    assert len(ImageBeton.open(tmp_path / "x.beton")) == COUNT - 1


KILLED = """
import os, sys
from ffdr.data.tables.packed import PackedSource
from ffdr.data.tables.listing import ListedFiles
from ffdr.cli import main
for kind in (PackedSource, ListedFiles):
    def read(self, i, before=kind.read):
        if i == 33:
            os._exit(9)
        return before(self, i)
    kind.read = read
main(sys.argv[1:])
"""


def test_a_killed_run_is_resumed(source, tmp_path):
    name, words, _ = source
    assert write(name, words, tmp_path / "whole.beton") == 0
    options = ["write", f"--source={name}", *words, f"--out={tmp_path}/x.beton", "--mode=raw", "--workers=1"]
    run = subprocess.run([sys.executable, "-c", KILLED, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 9, run.stderr
    assert (tmp_path / "x.beton.partial").exists()
    assert main(options) == 0
    assert data_of(tmp_path / "x.beton") == data_of(tmp_path / "whole.beton")


def test_finished_work_is_known_by_its_options(tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    words, _ = webdataset(tmp_path / "in")
    out = tmp_path / "x.beton"
    assert write("webdataset", words, out) == 0
    manifest = json.loads(manifest_path(out).read_text())
    assert not {"columns", "classes"} & set(manifest["options"])
    assert str(tmp_path) not in manifest_path(out).read_text()
    monkeypatch.chdir(tmp_path / "in")
    capsys.readouterr()
    assert write("webdataset", ["--path=shard-{00..01}.tar", "--classes=names.json"], out) == 0
    assert "already complete" in capsys.readouterr().out
    for path, classes, other in (
        ("shard-{00..01}.tar", "other.json", "made from other contents of --classes"),
        ("shard-{00..01}.tar", "", "made with other settings"),
        ("shard-*.tar", "names.json", "made with path="),
    ):
        (tmp_path / "in/other.json").write_text('["x", "y", "z"]')
        assert write("webdataset", [f"--path={path}", *([f"--classes={classes}"] if classes else [])], out) == 2
        assert other.split("path=")[0] in capsys.readouterr().err
    assert write("webdataset", [*words, "--columns=jpg;png,cls"], out) == 2
    assert "columns" in capsys.readouterr().err
    assert write("webdataset", [*words, "--columns=jpg;png,cls"], tmp_path / "y.beton") == 0
    assert json.loads((tmp_path / "y.json").read_text())["options"]["columns"] == ["jpg;png", "cls"]
    assert (tmp_path / "y.beton").read_bytes() == out.read_bytes()


def test_outputs_never_replace_what_is_read(tmp_path, capsys):
    words, _ = webdataset(tmp_path)
    for out in (tmp_path / "shard-01.tar", tmp_path / "names.beton"):
        assert write("webdataset", words, out, overwrite=True) == 2
        assert "would replace a file that this run needs" in capsys.readouterr().err


def test_fashionmnist(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">4i", 0x803, 20, 28, 28) + pixels.tobytes())
    )
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 20) + bytes(i % 10 for i in range(20)))
    for workers in (1, 2):
        assert write("fashionmnist", [f"--path={tmp_path}"], tmp_path / f"{workers}.beton", workers=workers) == 0
    assert data_of(tmp_path / "1.beton") == data_of(tmp_path / "2.beton")
    beton = ImageBeton.open(tmp_path / "1.beton")
    assert beton.class_names[9] == "Ankle boot"
    assert beton.labels.tolist() == [i % 10 for i in range(20)]
    assert all(np.array_equal(decode_image(beton, i), np.stack([pixels[i]] * 3, axis=2)) for i in range(20))


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--source=digits", "--columns=a,b"],
            "write.columns: source digits has its own; leave it out, it is for webd",
        ),
        (["--source=imagefolder", "--path=.", "--classes=x"], "write.classes: source imagefolder has its own"),
        (["--source=fashionmnist", "--path=.", "--classes=x"], "write.classes: source fashionmnist has its own"),
        (["--source=csv"], "write.path: source csv needs"),
        (["--source=csv", "--path=x", "--columns=a"], "write.columns: 'a' does not name two columns"),
        (["--source=csv", "--path=x", "--classes=nowhere"], "nowhere: No such file"),
        (["--source=webdatasets", "--path=x"], r"did you mean webdataset?"),
    ],
)
def test_refusals_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["write", *words, "--out=x.beton"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_new_options_change_nothing_for_other_sources(tmp_path):
    """What was written before they came is known still, and resumed."""
    assert main(["write", "--source=digits", "--mode=raw", "--per_class=2", f"--out={tmp_path}/x.beton"]) == 0
    assert list(json.loads((tmp_path / "x.json").read_text())["options"]) == [
        "source", "split", "mode", "proportion", "max_resolution", "quality", "growth", "per_class",
    ]  # fmt: skip


def test_the_page_on_data_runs_as_it_stands(tmp_path, monkeypatch):
    """Its commands, on files of the kinds and names that they speak of."""
    wds, datasets = pytest.importorskip("webdataset"), pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    for folder in ("pictures/train/ant", "pictures/train/bee", "shards", "hub/data"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(4):
        (tmp_path / f"pictures/train/{NAMES[i % 2]}/{i}.img.png").write_bytes(IMAGES[i])
    for n in range(2):
        with wds.TarWriter(f"shards/train-{n:03d}.tar") as writer:
            writer.write({"__key__": f"{n}", "jpg": IMAGES[n], "cls": n, "json": {"label": NAMES[n]}})
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    columns = {"label": datasets.ClassLabel(names=NAMES), "fine_label": datasets.ClassLabel(names=["x", "y"])}
    rows = {"image": [{"bytes": IMAGES[0], "path": None}] * 2, "label": [0, 2], "fine_label": [1, 0]}
    data = datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image(), **columns}))
    data.to_parquet("hub/data/train-00000-of-00001.parquet")
    data.to_parquet("hub/data/test-00000-of-00001.parquet")
    header, split = "path,label,file,species,split", {0: "train", 1: "val"}
    lines = [f"pictures/train/{NAMES[i % 2]}/{i}.img.png" for i in range(4)]
    table = [header, *(f"{line},{i},{line},{NAMES[i % 2]},{split[i % 2]}" for i, line in enumerate(lines))]
    (tmp_path / "list.csv").write_text("\n".join(table))
    raw = tmp_path / "downloads/FashionMNIST/raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 3, 28, 28) + bytes(3 * 28 * 28))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 3) + b"\0\1\2")
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("ffdr ")]
    assert [main([*command[1:], "--workers=1"]) for command in commands] == [0] * 8
    found = {path.stem: ImageBeton.open(path) for path in tmp_path.glob("*.beton")}
    assert {name: ([*map(int, beton.labels)], len(beton.class_names)) for name, beton in found.items()} == {
        "folder": ([0, 0, 1, 1], 2), "shards": ([0, 1], 3), "json": ([0, 1], 2), "parquet": ([0, 2], 3),
        "fine": ([1, 0], 2), "table": ([0, 2], 3), "val": ([0, 0], 1), "fashion": ([0, 1, 2], 10),
    }  # fmt: skip
