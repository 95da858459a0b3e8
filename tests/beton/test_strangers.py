"""Betons and manifests that somebody made by hand to take time, memory, or another file's place."""

import json
import os
import pickle
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
from betons import PLAIN
from handmade import make_merged
from jpegs import costly_scans, many_scans, picture, rewrite
from PIL import Image

from ffdr.beton import layout, manifest, tables
from ffdr.beton.header import HEADER_MAGIC, ReinforcedHeader
from ffdr.beton.manifest import manifest_path
from ffdr.beton.opened import OpenFile
from ffdr.beton.read import ImageBeton, ReinforcedBeton, open_both
from ffdr.codec.jpeg.coefficients import from_jpeg
from ffdr.codec.jpeg.libjpeg import decode_jpeg
from ffdr.codec.jpeg.read import Unsupported, read_jpeg
from ffdr.config.files import VerifyOptions
from ffdr.loader.ffcv_loader import _OwnPages
from ffdr.loader.pages import PageCache
from ffdr.loader.replay import replayer
from ffdr.loader.replay.replayer import Replayer
from ffdr.loader.views import StoredViews, ViewBatch
from ffdr.util.errors import DamagedError, UserError
from ffdr.write import verify


@pytest.fixture
def copy(digits, tmp_path):
    """A copy of the digits, with its manifest."""
    path = tmp_path / "copy.beton"
    shutil.copy(digits, path)
    shutil.copy(manifest_path(digits), manifest_path(path))
    return path


# Claims


@pytest.mark.parametrize("name", ["image", "origin"])
def test_samples_that_share_data_are_refused(copy, name):
    """A million samples of the same hundred megabytes would take days to verify, and a hundred terabytes to split."""

    def share(data, metadata):
        pointers = metadata["image"]["data_ptr"] if name == "image" else metadata["origin"]
        pointers[7] = pointers[3]

    rewrite(copy, share)
    with pytest.raises(DamagedError, match=f"sample 7: {name}: the pointer leads to another sample's data"):
        ImageBeton.open(copy)


@pytest.mark.parametrize(
    ("at", "size", "value", "text"),
    [
        (2, 2, 0xFFFF, "65535 fields"),
        (2, 2, 64, "64 field descriptors do not fit|field name|has type"),
        (4, 4, 0, "page size 0"),
        (4, 4, 0xFFFFFFFF, "page size 4294967295 is not a power of two"),
        (8, 8, 0, "it holds no samples"),
        (8, 8, 2**64 - 1, "18446744073709551615 samples need"),
        (8, 8, 2**61 + 100, "samples need"),  # times its metadata's bytes, a small number in 64 bits
        (16, 8, 2**64 - 24, "allocation table at byte 18446744073709551592"),
        (16, 8, 24, "allocation table at byte 24"),
    ],
)
def test_counts_of_the_header_are_checked_before_they_are_used(copy, at, size, value, text):
    data = bytearray(copy.read_bytes())
    data[at : at + size] = value.to_bytes(size, "little")
    copy.write_bytes(data)
    with pytest.raises(DamagedError, match=text):
        ImageBeton.open(copy)


def test_pages_of_a_small_file_take_no_more_memory_than_the_file(copy):
    images = ImageBeton.open(copy)
    huge = PageCache(replace(images, page_size=layout.MAX_PAGE_SIZE))
    assert images.file.size <= huge.page_size < 2 * images.file.size
    assert (huge.page_N == 0).all()
    assert PageCache(replace(images, page_size=1 << 19)).page_size == 1 << 19


def test_images_larger_than_the_memory_are_refused_before_memory_is_taken(photos, monkeypatch):
    images = ImageBeton.open(photos)
    large = replace(images, sizes=np.full_like(images.sizes, 60_000))
    monkeypatch.setattr(replayer, "machine_memory", lambda: 64 << 30)
    with pytest.raises(UserError, match=r"60000×60000 pixels: .* in 8 threads needs 8\d\.\d GiB .* has 64\.0 GiB"):
        Replayer(large, 32, threads=8)
    Replayer(images, 32, threads=2)


def test_scans_that_cost_far_more_than_their_bytes_are_refused():
    """450 scans of one image in as many bytes as 50 would take: half a minute for a large one."""
    pixels = np.zeros((1024, 1024, 3), np.uint8)
    fair, bomb = costly_scans(1024, 30), costly_scans(1024, 450)
    assert len(bomb) < 4 * len(fair)
    assert decode_jpeg(np.frombuffer(fair, np.uint8), pixels)
    assert (pixels == 128).all()
    assert not decode_jpeg(np.frombuffer(bomb, np.uint8), pixels)
    with pytest.raises(ValueError, match="more scans than"):
        read_jpeg(bomb)
    assert decode_jpeg(np.frombuffer(many_scans(400), np.uint8), np.zeros((8, 8, 3), np.uint8))  # small ones may


def test_a_jpeg_of_another_size_is_found_before_memory_is_taken_for_it(tmp_path):
    Image.fromarray(picture(0, 96, 64)).save(tmp_path / "x.jpg", quality=90)
    data = (tmp_path / "x.jpg").read_bytes()
    assert read_jpeg(data, (96, 64))[0].width == 96
    at = data.index(b"\xff\xc0") + 5
    large = data[:at] + b"\x20\x00\x20\x00" + data[at + 4 :] + bytes(1 << 20)  # enough bytes for 8192 × 8192
    with pytest.raises(Unsupported, match="8192×8192 pixels, not 96×64"):
        read_jpeg(large, (96, 64))
    found, how = from_jpeg(large, (96, 64), lambda: picture(0, 96, 64), 90)
    assert (found.width, found.height, how) == (96, 64, "unsupported JPEG")


# Manifests


def written(path, text):
    manifest_path(path).write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
    return path


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_images": True}, "it describes True images"),
        ({"num_images": "\x1b]0;x\x07" * 1000}, r"it describes '\\x1b\]0;x"),
        ({"num_images": 10**4000}, "it describes a number of .* bits images"),
        ({"fingerprint": ["\x1b" * 1000]}, r"with fingerprint \['\\x1b"),
        ({"class_names": [[]] * 10}, "class_names must be a list of names"),
        ({"class_names": ["x"] * 65537}, "class_names must be a list of names"),
        ({"class_names": [*map(str, range(11))]}, "it says 10 classes, but names 11"),
        ({"num_classes": 9}, "it says 9 classes, but names 10"),
        ({"skipped": 5}, "skipped must be a list, not 5"),
        ({"skipped": None}, "skipped must be a list, not None"),
        ({"options": ["\x1b"]}, r"options must be a dictionary, not \['\\x1b'\]"),
        ({"split": {}}, "split must be a text, not {}"),
        ({"mean": ["x" * 90] * 9}, "mean: 9 values"),
        ({"mean": {"\x1b": 1}}, "mean: .* is not a number for each channel"),
        ({"more": json.loads("[" * 99 + "]" * 99)}, "nested more than 8 deep"),
        ({"source": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_what_a_manifest_says_is_typed_and_bounded(copy, changes, text):
    good = json.loads(manifest_path(copy).read_text())
    with pytest.raises(DamagedError, match=text) as refused:
        ImageBeton.open(written(copy, good | changes))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500 + len(str(copy))


def test_a_name_of_bytes_that_are_not_utf8_is_read(copy):
    good = json.loads(manifest_path(copy).read_text())
    names = ["caf\udce9", *good["class_names"][1:]]
    assert ImageBeton.open(written(copy, good | {"class_names": names})).class_names == tuple(names)


def test_a_manifest_of_many_values_or_bytes_is_not_parsed(copy, monkeypatch):
    mark = b'{"format": "ffdr images 1", "x": ['
    many = mark + b"[]," * (1 << 20) + b"0]}"
    manifest_path(copy).write_bytes(mark)
    os.truncate(manifest_path(copy), 10 << 30)
    monkeypatch.setattr(manifest.json, "loads", None)
    with pytest.raises(DamagedError, match=r"10\.0 GiB, the most is 32\.0 MiB"):
        ImageBeton.open(copy)
    with pytest.raises(DamagedError, match="holds more than 1,048,576 values"):
        ImageBeton.open(written(copy, many))
    # Another program's file of this name is none of ours, however large.
    assert ImageBeton.open(written(copy, many.replace(b"ffdr", b"coco"))).manifest is None
    manifest_path(copy).write_bytes(b"{}")
    os.truncate(manifest_path(copy), 10 << 30)
    assert ImageBeton.open(copy).manifest is None


@pytest.mark.parametrize("depth", [900, 100_000])
def test_brackets_upon_brackets_are_one_line(copy, depth):
    text = b'{"format": "ffdr images 1", "x": ' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(DamagedError, match="not a readable manifest"):
        ImageBeton.open(written(copy, text))


# Headers of reinforced betons


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"policy": {"a": [[[[[[[[[1]]]]]]]]]}}, "nested more than 8 deep"),
        ({"policy": {"a": float("nan")}}, "its policy is no JSON"),
        ({"policy": {"a": float("inf")}}, "its policy is no JSON"),
        ({"\x1b[31m": 1}, r"unreadable: .*\\x1b\[31m"),
        ({"views": "\x1b" * 90}, r"views is '\\x1b"),
        ({"views": 1e999}, "views is inf"),
        ({"teachers": 5}, "unreadable"),
        ({"teachers": [5]}, "teachers must be a list of names"),
        ({"fingerprint": "\x1b[2J"}, r"fingerprint '\\x1b\[2J' is not 32"),
    ],
)
def test_what_a_header_says_is_typed_and_bounded(digits, reinforced_digits, changes, text):
    good = ReinforcedBeton.open(reinforced_digits).header
    facts = json.loads(good.pack()[10:]) | changes
    body = json.dumps(facts, separators=(",", ":")).encode()
    with pytest.raises(UserError, match=text) as refused:
        ReinforcedHeader.unpack(HEADER_MAGIC + len(body).to_bytes(2, "little") + body)
    assert str(refused.value).isprintable()


# Other files under the same name


def swapped(monkeypatch, path, other):
    """From now on, whoever opens ``path`` gets it, and then its name is given to ``other``."""

    class Swapping(OpenFile):
        def __init__(self, name):
            super().__init__(name)
            if name == path and other.exists():
                other.rename(path)

    monkeypatch.setattr(tables, "OpenFile", Swapping)


def broken(path, out):
    """Another beton of the same tables, whose pixels are noise."""
    images, data = ImageBeton.open(path), bytearray(path.read_bytes())
    for start, size in zip(images.data_ptr.tolist(), images.data_size.tolist(), strict=True):
        data[start : start + size] = bytes(range(256)) * (size // 256)
    out.write_bytes(data)
    return out


def test_a_file_that_is_replaced_while_it_is_verified_is_the_one_that_was_opened(copy, tmp_path, monkeypatch, capsys):
    swapped(monkeypatch, copy, broken(copy, tmp_path / "other.beton"))
    assert verify.verify(VerifyOptions(file=str(copy)), progress=False) == 0
    assert "intact: 100 images" in capsys.readouterr().out
    assert not (tmp_path / "other.beton").exists()
    assert verify.verify(VerifyOptions(file=str(copy)), progress=False) == 1  # now it is that one


def test_both_parts_of_a_file_are_of_one_file(copy, reinforced_digits, tmp_path, monkeypatch):
    path = make_merged(copy, reinforced_digits, tmp_path / "merged.beton")
    shutil.copy(reinforced_digits, tmp_path / "other.beton")
    swapped(monkeypatch, path, tmp_path / "other.beton")
    images, reinforced = open_both(path)
    assert images.file is reinforced.file


def test_pages_are_read_from_the_file_that_was_opened(copy, tmp_path):
    images = ImageBeton.open(copy)
    wanted = images.data(3).copy()
    broken(copy, tmp_path / "other.beton").rename(copy)
    storage = _OwnPages(PageCache(images))
    with storage.schedule_epoch([np.arange(5)]) as plan:
        plan.start_batch(0)
        at = storage.compile_reader()(images.data_ptr[3:4], plan.state)[0] - np.uint64(plan.memory.ctypes.data)
        assert np.array_equal(plan.memory.ravel()[int(at) : int(at) + len(wanted)], wanted)


def test_a_file_that_is_cut_under_a_running_loader_is_one_line(copy, reinforced_digits, tmp_path):
    """Where the map is read next, the process would end with a bus error."""
    views_copy = tmp_path / "views.beton"
    shutil.copy(reinforced_digits, views_copy)
    images, reinforced = ImageBeton.open(copy), ReinforcedBeton.open(views_copy)
    source, replayer = StoredViews(reinforced, seed=0), Replayer(images, 32, threads=1)
    index, batch = np.arange(100), ViewBatch.blank(100, source.entries)
    source.fill(np.zeros_like(index), index, batch)
    out = np.empty((100, 32, 32, 3), np.uint8)
    replayer(replayer.spans(index), batch.records, out)
    for path in (copy, views_copy):
        os.truncate(path, 8192)
    with pytest.raises(UserError, match=r"copy\.beton: was cut from \d+ to 8192 bytes while it was open"):
        replayer(replayer.spans(index), batch.records, out)
    with pytest.raises(UserError, match=r"views\.beton: was cut from"):
        source.fill(np.zeros_like(index), index, batch)


def test_a_pickle_takes_neither_another_manifest_nor_another_header(copy, reinforce, digits, tmp_path):
    images = pickle.dumps(ImageBeton.open(copy))
    assert pickle.loads(images).class_names == tuple("0123456789")
    good = json.loads(manifest_path(copy).read_text())
    written(copy, good | {"std": [0.5, 0.5, 0.5]})
    with pytest.raises(UserError, match="is another file than the one that was opened"):
        pickle.loads(images)

    views = tmp_path / "views.beton"
    shutil.copy(reinforce(digits, PLAIN), views)
    opened = ReinforcedBeton.open(views)
    reinforced = pickle.dumps(opened)
    other = replace(opened.header, teachers=("another",))
    found = tables.read_tables(views)
    assert len(other.pack()) == len(opened.header.pack())
    data = bytearray(views.read_bytes().replace(opened.header.pack(), other.pack()))
    head, sums = layout.head_size(found.specs) + found.metadata.nbytes, layout.checksum_bytes(len(opened))
    crc = zlib.crc32(data[found.data_end + sums :], zlib.crc32(data[:head]))
    at = found.data_end + 16 + 4 * len(opened)
    data[at : at + 4] = crc.to_bytes(4, "little")
    views.write_bytes(data)
    assert ReinforcedBeton.open(views).header == other
    with pytest.raises(UserError, match="is another file than the one that was opened"):
        pickle.loads(reinforced)


def test_pipes_and_devices_are_no_betons(copy, tmp_path):
    """A pipe that nobody writes to would be waited for, for ever."""
    os.mkfifo(tmp_path / "pipe.beton")
    for path in (tmp_path / "pipe.beton", "/dev/zero"):
        with pytest.raises(UserError, match="a pipe or device, not a file"):
            ImageBeton.open(path)
    manifest_path(copy).unlink()
    os.mkfifo(manifest_path(copy))
    with pytest.raises(UserError, match="not a readable manifest: a pipe or device"):
        ImageBeton.open(copy)
    manifest_path(copy).unlink()
    manifest_path(copy).symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a readable manifest: a pipe or device"):
        ImageBeton.open(copy)


def test_every_zeroed_part_of_a_merged_file_is_one_line(copy, reinforced_digits, tmp_path):
    path = make_merged(copy, reinforced_digits, tmp_path / "merged.beton")
    whole, found = path.read_bytes(), tables.read_tables(path)
    head = layout.head_size(found.specs) + found.metadata.nbytes
    for start, end in [(0, head), (found.data_end, len(whole))]:
        for at in range(start, end, 509):
            stop = min(at + 509, end)
            if not any(whole[at:stop]):
                continue
            path.write_bytes(whole[:at] + bytes(stop - at) + whole[stop:])
            with pytest.raises(UserError, match=r"merged\.beton: not a readable beton: "):
                open_both(path)
