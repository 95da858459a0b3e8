"""Truncated, damaged and hostile files: one clear error or a harmless file, never a crash or an absurd allocation.

The fuzzing (fuzz.py) runs in child processes with little memory, so that a crash is a failed test and not a dead test
run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import fuzz
import mutations
import numpy as np
import pytest
from effects import with_effects
from handmade import make_mixed, make_reinforced, make_stock
from jpegs import many_scans
from mutations import N

from ffdr.beton import layout
from ffdr.beton.layout import ALLOC_DTYPE, FIELD_DTYPE, HEADER_DTYPE
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.tables import read_tables
from ffdr.codec.jpeg.libjpeg import decode_jpeg
from ffdr.config.files import PackOptions, WriteOptions
from ffdr.util.errors import UserError
from ffdr.write.copy.merge import pack
from ffdr.write.images import write_images


def test_a_jpeg_of_very_many_scans_is_refused():
    """Each scan costs as much as decoding the image: a large one would hold a thread for minutes."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert decode_jpeg(np.frombuffer(many_scans(400), np.uint8), pixels)
    assert (pixels == 128).all()
    assert not decode_jpeg(np.frombuffer(many_scans(800), np.uint8), pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """images.beton: 20 digits, JPEG and raw; coefficients.beton: the same as coefficients; mixed.beton: some of
    each; reinforced.beton: two mixing views each; effects.beton: the same with effects; merged.beton: images and views;
    stock.beton: the images, without checksums, and with fields of all types."""
    folder = tmp_path_factory.mktemp("hostile")
    options = WriteOptions(source="digits", out=str(folder / "coefficients.beton"), mode="dct", per_class=2, workers=1)
    write_images(options, progress=False)
    (folder / "coefficients.json").unlink()
    out = folder / "images.beton"
    write_images(WriteOptions(source="digits", out=str(out), mode="proportion", per_class=2, workers=1), progress=False)
    (folder / "images.json").rename(folder / "manifest.json")
    make_reinforced(folder / "reinforced.beton", ImageBeton.open(out))
    with_effects(folder / "reinforced.beton", out, folder / "effects.beton")
    make_stock(folder / "stock.beton", ImageBeton.open(out))
    make_mixed(folder / "mixed.beton", ImageBeton.open(out), ImageBeton.open(folder / "coefficients.beton"))
    merged = PackOptions(str(out), str(folder / "reinforced.beton"), str(folder / "merged.beton"))
    pack(merged, progress=False)
    return folder


def test_damaged_files_never_crash(folder):
    """Hundreds of ways to damage each kind of file, two thirds of them with checksums made right again; more if the
    variable FFDR_FUZZ_ROUNDS says so."""
    rounds = int(os.environ.get("FFDR_FUZZ_ROUNDS", 300))
    command = [sys.executable, str(Path(fuzz.__file__)), str(folder), "0", str(rounds), *fuzz.KINDS]
    child = subprocess.run(command, capture_output=True, text=True, timeout=240 + rounds)
    assert child.returncode == 0, child.stderr[-3000:]
    reports = json.loads(child.stdout)
    print({kind: {key: report[key] for key in ("used", "refused", "slowest")} for kind, report in reports.items()})
    for kind, report in reports.items():
        assert report["used"] + report["refused"] == rounds
        assert report["wrong"] == 0
        assert report["used"] > rounds * 0.1, kind
        assert report["refused"] > rounds * 0.3, kind
        assert report["slowest"] < fuzz.SECONDS, kind
        assert all((line.isprintable() and ".beton" in line) or ".json: " in line for line in report["lines"].values())
        assert len(report["lines"]) > 10, kind  # many different checks were at work


@pytest.mark.parametrize("name", ["images.beton", "coefficients.beton", "merged.beton", "reinforced.beton"])
def test_every_bit_of_the_tables_is_covered_by_a_checksum(folder, name):
    """Without a corrected checksum nothing passes, but for bits that switch the checksum off in stock betons."""
    data = (folder / name).read_bytes()
    kind = ReinforcedBeton if name.startswith("reinforced") else ImageBeton
    path = folder / f"bits_{name}"
    rng = np.random.default_rng(1)
    header = np.frombuffer(data[:24], HEADER_DTYPE)[0]
    head = 24 + int(header["num_fields"]) * FIELD_DTYPE.itemsize
    for at in [*range(24), *rng.integers(24, head, 60), *rng.integers(int(header["alloc_table_ptr"]), len(data), 60)]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a readable beton"):
            kind.open(path)


@pytest.mark.parametrize("name", ["images.beton", "coefficients.beton", "merged.beton", "reinforced.beton"])
def test_truncated_files_are_refused(folder, name):
    data = (folder / name).read_bytes()
    kind = ReinforcedBeton if name.startswith("reinforced") else ImageBeton
    lengths = {0, 1, 23, 24, 25, 1064, 1065, 5000, len(data) // 2, *range(len(data) - 24 * 2 * N - 48, len(data), 7)}
    path = folder / f"cut_{name}"
    for length in lengths:
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="not a readable beton"):
            kind.open(path)
    path.write_bytes(data + b"\0" * 24)
    with pytest.raises(UserError, match="not a readable beton"):
        kind.open(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "less than a header"), (bytes(100), "version 0"), (b"\x02\0\x01\0" + bytes(96), "did not finish")],
)
def test_other_files_are_told_apart(tmp_path, content, text):
    (tmp_path / "x.beton").write_bytes(content)
    for kind in (ImageBeton, ReinforcedBeton):
        with pytest.raises(UserError, match=text):
            kind.open(tmp_path / "x.beton")
        with pytest.raises(UserError, match="no such file"):
            kind.open(tmp_path / "y.beton")
        with pytest.raises(UserError, match="a folder"):
            kind.open(tmp_path)


def test_kinds_are_not_mixed_up(folder):
    with pytest.raises(UserError, match="has a field image .* fields here are aug_params, logits"):  # noqa: RUF043
        ImageBeton.open(folder / "reinforced.beton")
    with pytest.raises(UserError, match="fields here are image, label, origin"):
        ReinforcedBeton.open(folder / "images.beton")


def patched(folder, name, changes):
    """A copy of a file with a consistent checksum in which some metadata or allocations are changed."""
    data = bytearray((folder / name).read_bytes())
    header = np.frombuffer(data[:24], HEADER_DTYPE)[0]
    specs = read_tables(folder / name).specs
    start, alloc = layout.head_size(specs), int(header["alloc_table_ptr"])
    metadata = np.frombuffer(data, layout.metadata_dtype(specs), N, start)
    allocations = np.frombuffer(data, ALLOC_DTYPE, -1, alloc)
    changes(metadata, allocations)
    path = folder / f"patched_{name}"
    path.write_bytes(mutations.Whole(folder / name).sealed(data))
    return path


def assign(array, index, name, value):
    array[name][index] = value


def enlarge(image):
    """Claim that the first JPEG is huge."""
    jpeg = np.flatnonzero(image["mode"] == layout.JPG)[0]
    image["width"][jpeg] = image["height"][jpeg] = 65535


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (lambda m, a: assign(m["image"], 3, "width", 0), "sample 3: its image has no pixels"),
        (lambda m, a: assign(m["image"], 3, "mode", 9), "sample 3: its image is stored in a mode"),
        (lambda m, a: assign(m["image"], slice(3, None), "width", 33), "raw image does not have"),
        (lambda m, a: enlarge(m["image"]), "more pixels than a JPEG of that many bytes"),
        (lambda m, a: assign(m["image"], 3, "data_ptr", 2**63), "sample 3: image: the pointer leads to nothing"),
        (lambda m, a: assign(m["image"], 3, "data_ptr", int(m["image"]["data_ptr"][3]) + 8), "sample 3: image"),
        (lambda m, a: assign(m, 3, "label", -1), "sample 3: its label is not a class id"),
        (lambda m, a: assign(m, 3, "label", 1 << 16), "sample 3: its label is not a class id"),
        (lambda m, a: assign(m, 3, "origin", 0), "sample 3: origin: the pointer leads to nothing"),
        (lambda m, a: assign(m, 3, "origin", int(m["image"]["data_ptr"][4])), "sample 3: its origin is not three"),
        (lambda m, a: assign(a, 5, "size", 2**64 - 1), "overlap"),
        (lambda m, a: assign(a, 5, "size", int(a["size"][5]) + 64), "overlap"),
        (lambda m, a: assign(a, -1, "size", 1 << 20), "overlap"),
        (lambda m, a: assign(a, -1, "ptr", 2**64 - 8), "overlap"),
        (lambda m, a: assign(a, 0, "ptr", 8), "overlap"),
        (lambda m, a: assign(a, 0, "size", 0), "overlap"),
    ],
)
def test_each_lie_is_named(folder, changes, text):
    with pytest.raises(UserError, match=text):
        ImageBeton.open(patched(folder, "images.beton", changes))


def test_manifest_is_checked(folder, tmp_path):
    data = (folder / "images.beton").read_bytes()
    good = json.loads((folder / "manifest.json").read_text())
    (tmp_path / "x.beton").write_bytes(data)
    path = tmp_path / "x.json"

    def opened(**changes):
        path.write_text(json.dumps(good | changes))
        return ImageBeton.open(tmp_path / "x.beton")

    assert opened().class_names == tuple("0123456789")
    assert opened(mean=[0, 0.5, 1]).mean == (0, 0.5, 1)
    assert opened(format="of something else").manifest is None
    for changes, text in (
        ({"fingerprint": "0" * 32}, "fingerprint 0000"),
        ({"num_images": 21}, "describes 21 images"),
        ({"class_names": ["a"], "num_classes": 1}, "not one of the manifest's 1 classes"),
        ({"class_names": "abcdefghij"}, "class_names"),
        ({"mean": [0, 0]}, "mean: 2 values"),
        ({"std": [0, 0, 0]}, "std: 0 is not above 0"),
        ({"std": [0.2, 0.2, 58]}, "std: 58 is above 1, .* divide by 255"),
        ({"mean": [True] * 3}, "mean: .* is not a number for each channel"),
        ({"mean": None}, "mean: None"),
        ({"std": ["1", 1, 1]}, "std: .* is not a number for each channel"),
        ({"mean": [float("nan")] * 3}, "mean: nan is not from 0 to 1"),
    ):
        with pytest.raises(UserError, match=text):
            opened(**changes)
    path.write_text("{")
    with pytest.raises(UserError, match="not a readable manifest"):
        ImageBeton.open(tmp_path / "x.beton")


def test_reinforced_beton_of_other_images_is_refused(folder, tmp_path):
    write_images(WriteOptions(source="digits", out=str(tmp_path / "x.beton"), per_class=3, workers=1), progress=False)
    mine, others = ImageBeton.open(folder / "images.beton"), ImageBeton.open(tmp_path / "x.beton")
    ReinforcedBeton.open(folder / "reinforced.beton", mine)
    with pytest.raises(UserError, match=f"20 images .*{mine.fingerprint}.* has 30 with {others.fingerprint}"):
        ReinforcedBeton.open(folder / "reinforced.beton", others)
    with pytest.raises(UserError, match=mine.fingerprint):
        make_reinforced(tmp_path / "y.beton", others, num_images=20, fingerprint=mine.fingerprint)


@pytest.mark.parametrize(
    ("field", "offset", "value", "text"),
    [
        ("logit_ptr", 0, b"\x0a\x00", "class id 10 is not below 10"),
        ("logit_ptr", 6, b"\x00\x7c", "not a finite number"),  # infinity
        ("logit_ptr", 6, b"\x00\x7e", "not a finite number"),  # NaN
        ("logit_ptr", 6, b"\x00\x3c", "not a finite number up to 0"),  # 1.0
        ("logit_ptr", 8, b"\x00\x00", "not sorted"),
        ("view_ptr", 24, b"\x14\x00\x00\x00", "partner is not one of the 20 images"),
    ],
)
def test_records_are_checked_on_access(folder, field, offset, value, text):
    data = bytearray((folder / "reinforced.beton").read_bytes())
    at = int(getattr(ReinforcedBeton.open(folder / "reinforced.beton"), field)[7]) + offset
    data[at : at + len(value)] = value
    (folder / "records.beton").write_bytes(data)
    beton = ReinforcedBeton.open(folder / "records.beton")
    beton.views(6)
    beton.logits(6)
    assert beton.is_intact(6)
    assert not beton.is_intact(7)
    with pytest.raises(UserError, match=f"sample 7: .*{text}"):
        beton.views(7)
        beton.logits(7)
