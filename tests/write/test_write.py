"""Writing image betons: pixels, determinism, options, bad images, dead workers."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from betons import files_in
from offset_table import read_offset_table
from PIL import Image

from ffdr.bench.corpus import make_photos
from ffdr.beton import layout
from ffdr.beton.layout import JPG, RAW, origin_key
from ffdr.beton.manifest import manifest_path
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.codec.jpeg.segments import encode_jpeg
from ffdr.config.files import WriteOptions
from ffdr.data import open_source
from ffdr.util.errors import UserError
from ffdr.write import images as write
from ffdr.write.images import select, write_images
from ffdr.write.partial import Partial


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """60 photographs of two sizes in 10 classes."""
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, 40, seed=1, width=120, height=90)
    make_photos(folder / "more", 20, seed=2, width=61, height=83)
    for path in sorted((folder / "more").glob("*/*")):
        path.rename(folder / path.parent.name / f"m{path.name}")
    shutil.rmtree(folder / "more")
    return folder


def options(photos, out, **changes):
    basic = WriteOptions(source="imagefolder", path=str(photos), split="", out=str(out / "x.beton"), workers=1)
    return replace(basic, **changes)


def written(photos, out, **changes):
    return ImageBeton.open(write_images(options(photos, out, **changes), progress=False))


@pytest.mark.parametrize("mode", ["jpg", "raw", "proportion"])
def test_bytes_do_not_depend_on_workers(photos, tmp_path, mode):
    found = set()
    for workers in (1, 2, 3):
        path = write_images(options(photos, tmp_path / str(workers), mode=mode, workers=workers), progress=False)
        found.add((path.read_bytes(), manifest_path(path).read_bytes()))
        assert files_in(path.parent) == ["x.beton", "x.json"]
    assert len(found) == 1


def test_raw_images_are_the_sources_pixels(photos, tmp_path):
    source, beton = open_source("imagefolder", str(photos), ""), written(photos, tmp_path, mode="raw")
    assert len(beton) == len(source) == 60
    assert (beton.modes == RAW).all()
    assert beton.class_names == tuple(source.class_names)
    for i in range(60):
        image = source.read(i)
        assert np.array_equal(decode_image(beton, i), image)
        assert beton.labels[i] == source.labels[i]
        assert beton.origins[i].tolist() == [*image.size, origin_key(source.origin(i))]
        assert beton.sizes[i].tolist() == beton.original_sizes[i].tolist() == list(image.size)
        assert beton.is_intact(i)
    stacked = np.concatenate([np.asarray(source.read(i)).reshape(-1, 3) for i in range(60)]) / 255
    assert np.allclose(beton.mean, stacked.mean(0), atol=1e-12)
    assert np.allclose(beton.std, stacked.std(0), atol=1e-12)


def test_jpeg_images_are_what_pillow_decodes(photos, tmp_path):
    source, beton = open_source("imagefolder", str(photos), ""), written(photos, tmp_path)
    assert (beton.modes == JPG).all()
    for i in range(60):
        pixels = decode_image(beton, i)
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(beton.data(i).tobytes()))))
        assert np.abs(pixels.astype(float) - np.asarray(source.read(i))).mean() < 5
    assert any(read_offset_table(beton.data(i)) for i in range(60))
    assert beton.fingerprint == written(photos, tmp_path / "raw", mode="raw").fingerprint


def test_proportion_and_quality(photos, tmp_path):
    modes = {}
    for share in (0.0, 0.4, 1.0):
        beton = written(photos, tmp_path / str(share), mode="proportion", proportion=share)
        modes[share] = beton.modes
        jpegs = [i for i in range(60) if beton.modes[i] == JPG]
        assert all((int(beton.origins[i, 2]) % 2**64) / 2**64 < share for i in jpegs)
    assert (modes[0.0] == RAW).all()
    assert 8 < (modes[0.4] == JPG).sum() < 40
    assert (modes[1.0] == JPG).all()
    sizes = [written(photos, tmp_path / str(quality), quality=quality).data_size.sum() for quality in (50, 90)]
    assert sizes[0] < sizes[1]


def test_max_resolution_shrinks_and_never_enlarges(photos, tmp_path):
    source = open_source("imagefolder", str(photos), "")
    beton = written(photos, tmp_path, mode="raw", max_resolution=100)
    whole = written(photos, tmp_path / "whole", mode="raw")
    assert {tuple(size) for size in beton.sizes.tolist()} == {(100, 75), (61, 83)}
    assert {tuple(size) for size in beton.original_sizes.tolist()} == {(120, 90), (61, 83)}
    assert beton.fingerprint == whole.fingerprint
    for i in range(60):
        expected = source.read(i)
        if expected.width == 120:
            expected = expected.resize((100, 75), Image.Resampling.LANCZOS)
        assert np.array_equal(decode_image(beton, i), expected)


def test_per_class_keeps_the_first(photos, tmp_path):
    source, beton = open_source("imagefolder", str(photos), ""), written(photos, tmp_path, mode="raw", per_class=2)
    firsts = [i for c in range(10) for i in np.flatnonzero(source.labels == c)[:2]]
    assert [key for _, _, key in beton.origins.tolist()] == [origin_key(source.origin(i)) for i in firsts]
    assert select(np.array([1, 0, 1, 1, 0, 2]), 2).tolist() == [0, 1, 2, 4, 5]
    assert select(np.array([1, 0, 1]), 0).tolist() == [0, 1, 2]
    assert select(np.array([1, 0, 1]), 5).tolist() == [0, 1, 2]


def test_manifest(photos, tmp_path):
    beton = written(photos, tmp_path, per_class=3)
    manifest = json.loads((tmp_path / "x.json").read_text())
    assert manifest == beton.manifest
    assert manifest["num_images"] == 30
    assert manifest["images_per_class"] == [3] * 10
    assert manifest["options"]["quality"] == 90
    assert not {"out", "path", "workers"} & set(manifest["options"])
    assert str(tmp_path) not in json.dumps(manifest)
    assert manifest["fingerprint"] == beton.fingerprint == layout.fingerprint(beton.origins, beton.labels)
    assert manifest["image_bytes"] == beton.data_size.sum()


@pytest.fixture
def damaged(photos, tmp_path):
    """The photographs, of which numbers 3 and 50 are no images."""
    folder = tmp_path / "damaged"
    shutil.copytree(photos, folder)
    source = open_source("imagefolder", str(folder), "")
    for i in (3, 50):
        (folder / source.origin(i)).write_bytes(b"\xff\xd8 not much of a JPEG")
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_image_stops_with_its_path(damaged, tmp_path, workers):
    source = open_source("imagefolder", str(damaged), "")
    with pytest.raises(UserError, match="cannot identify image file") as caught:
        write_images(options(damaged, tmp_path / "out", workers=workers), progress=False)
    assert str(damaged / source.origin(3)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "x.beton").exists()


def test_a_message_names_a_path_that_exists(damaged, tmp_path, monkeypatch):
    """The split's folder is part of it."""
    monkeypatch.chdir(damaged.parent)
    plan = options(".", tmp_path, workers=1, split=damaged.name)
    with pytest.raises(UserError, match=r"^damaged/.*\.jpg: can't be read: ") as caught:
        write_images(plan, progress=False)
    assert Path(str(caught.value).split(": ")[0]).is_file()


def test_bad_images_are_skipped_and_listed(photos, damaged, tmp_path):
    source = open_source("imagefolder", str(damaged), "")
    with pytest.raises(UserError, match="can't be read"):  # the skipping runs then resume what this one began
        write_images(options(damaged, tmp_path / "0", mode="raw"), progress=False)
    betons = [written(damaged, tmp_path / str(n), mode="raw", on_error="skip", workers=n) for n in (0, 1, 2)]
    assert len({beton.path.read_bytes() for beton in betons}) == 1
    kept = [i for i in range(60) if i not in (3, 50)]
    assert betons[0].labels.tolist() == source.labels[kept].tolist()
    whole = written(photos, tmp_path / "whole", mode="raw")
    for n, i in enumerate(kept):
        assert np.array_equal(decode_image(betons[0], n), decode_image(whole, i))
    skipped = betons[0].manifest["skipped"]
    assert [entry["origin"] for entry in skipped] == [source.origin(3), source.origin(50)]
    assert "cannot identify" in skipped[0]["cause"]
    assert str(tmp_path) not in json.dumps(betons[0].manifest)
    # To stop on what was skipped before is a matter of the option alone, not of a new start.
    with pytest.raises(UserError, match="can't be read"):
        write_images(options(damaged, tmp_path / "1", mode="raw", on_error="stop"), progress=False)


class DeadlySource:
    """Kills the process that reads image 37."""

    class_names = ("a",)
    labels = np.zeros(64, np.int64)

    def __len__(self):
        return 64

    def origin(self, i):
        return f"image{i}"

    def state(self, index):
        return str(index.tolist())

    def place(self, origin):
        return origin

    def read(self, i):
        if i == 37:
            os._exit(9)
        return Image.new("RGB", (8, 8))


def test_dead_worker_is_reported(photos, tmp_path):
    with pytest.raises(UserError, match=r"worker process died.*image\d+ to image63"):
        write._SourceWriter(options(photos, tmp_path, workers=2), DeadlySource(), np.arange(64)).run(False)


UNGUARDED = """
import sys
from ffdr.write.images import write_images
from ffdr.config.files import WriteOptions
print("started")
write_images(WriteOptions(source="digits", mode="raw", per_class=9, out=sys.argv[1], workers=2), progress=False)
"""


@pytest.mark.parametrize("temporary", ["short", "long" * 30])
def test_a_script_without_the_guard_may_use_workers(tmp_path, temporary):
    """Nor does a temporary folder matter whose name leaves no room for that of a socket."""
    (tmp_path / temporary).mkdir()
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "x.beton")]
    environment = os.environ | {"TMPDIR": str(tmp_path / temporary)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (run.returncode, run.stdout, run.stderr) == (0, "started\n", "")
    alone = WriteOptions(source="digits", mode="raw", per_class=9, out=str(tmp_path / "y.beton"), workers=1)
    assert (tmp_path / "x.beton").read_bytes() == write_images(alone, progress=False).read_bytes()


class SizedSource(DeadlySource):
    """Images of given sizes."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.labels = np.zeros(len(sizes), np.int64)

    def __len__(self):
        return len(self.sizes)

    def read(self, i):
        return Image.new("RGB", self.sizes[i], (i, 2 * i, 255))


def test_nothing_crosses_a_page_and_pages_grow(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(layout.Allocator.__init__, "__defaults__", (1 << 14,))
    sizes = [(40, 40)] * 20 + [(100, 100)] + [(30, 30)] * 9 + [(7, 3)]
    source = SizedSource(sizes)
    write._SourceWriter(options(photos, tmp_path, mode="raw"), source, np.arange(len(sizes))).run(False)
    beton = ImageBeton.open(tmp_path / "x.beton")
    page = int(np.frombuffer(beton.memmap[:24].tobytes(), layout.HEADER_DTYPE)[0]["page_size"])
    assert page == 1 << 15  # 30,000 bytes of the large image do not fit into 16 KiB
    first, last = beton.data_ptr, beton.data_ptr + beton.data_size + np.uint64(24)
    assert (first // page == last // page).all()
    for i in range(len(sizes)):
        assert (decode_image(beton, i) == (i, 2 * i, 255)).all()
        assert beton.is_intact(i)


def test_output_is_checked_before_any_work(photos, tmp_path):
    (tmp_path / "file").write_text("")
    for out, text in ((tmp_path / "file" / "x.beton", "can't be written"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=text):
            write_images(replace(options(photos, tmp_path), out=str(out)), progress=False)
    with pytest.raises(UserError, match="not a folder"):
        write_images(options(tmp_path / "nowhere", tmp_path), progress=False)


def test_existing_output_stays_until_the_new_one_is_complete(photos, damaged, tmp_path):
    before = write_images(options(photos, tmp_path), progress=False).read_bytes()
    with pytest.raises(UserError, match="can't be read"):
        write_images(options(damaged, tmp_path, overwrite=True), progress=False)
    assert (tmp_path / "x.beton").read_bytes() == before
    ImageBeton.open(tmp_path / "x.beton")
    written(photos, tmp_path, quality=50, overwrite=True)
    assert (tmp_path / "x.beton").read_bytes() != before


def test_two_runs_on_one_file(photos, tmp_path):
    first = Partial(tmp_path / "x.beton", b"", lambda file, record: False)
    with pytest.raises(UserError, match="another run is writing it"):
        write_images(options(photos, tmp_path), progress=False)
    first.close()
    assert write_images(options(photos, tmp_path), progress=False).exists()


def test_jpeg_that_is_corrupt_or_of_another_size(photos, tmp_path):
    beton = written(photos, tmp_path)
    data = bytearray(beton.path.read_bytes())
    start = int(beton.data_ptr[7])
    frame = data.index(b"\xff\xc0", start)
    data[frame + 5] ^= 0x10  # 4,096 rows more than there is memory for
    data[int(beton.data_ptr[8])] = 0
    tables = data.index(b"\xff\xc4", int(beton.data_ptr[10]))
    data[tables + 4] = 0xFF  # a Huffman table of no known class
    scan = data.index(b"\xff\xda", int(beton.data_ptr[11])) + 40
    data[scan : scan + 2] = b"\xff\xd9"  # ends before its pixels do
    small, start = encode_jpeg(np.zeros((16, 16, 3), np.uint8), 90), int(beton.data_ptr[12])
    data[start : start + len(small)] = small  # a good JPEG, but it would leave most of the image as it was
    beton.path.write_bytes(data)
    beton = ImageBeton.open(beton.path)
    for i in (7, 8, 10, 11, 12):
        assert not beton.is_intact(i)
        with pytest.raises(UserError, match=f"sample {i}"):
            decode_image(beton, i)
    assert beton.is_intact(9)
    with pytest.raises(IndexError):
        decode_image(beton, 60)


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from ffdr.write.images import write_images
from ffdr.config.files import WriteOptions
write_images(WriteOptions(source="digits", mode="raw", out=sys.argv[1], workers=1), progress=False)
"""


def test_full_disk_is_one_line(tmp_path):
    arguments = [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.beton")]
    run = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].endswith("x.beton: can't be written: File too large")


def test_a_json_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / "x.json").write_text('{"precious": 1}')
    with pytest.raises(UserError, match="not a manifest of ffdr"):
        write_images(WriteOptions(source="digits", out=str(tmp_path / "x.beton"), mode="raw"), progress=False)
    assert (tmp_path / "x.json").read_text() == '{"precious": 1}'
