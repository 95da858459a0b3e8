"""ffdr verify: every changed byte is found and its sample or section named; what is whole passes."""

import re
import shutil
import zlib
from itertools import pairwise

import numpy as np
import pytest
from betons import MIXING, PLAIN
from handmade import make_merged, make_reinforced

from ffdr.beton import layout
from ffdr.beton.manifest import manifest_path
from ffdr.beton.read import ImageBeton
from ffdr.beton.tables import read_tables
from ffdr.cli import main
from ffdr.config.files import PackOptions, VerifyOptions, WriteOptions
from ffdr.util.errors import UserError
from ffdr.write import verify as module
from ffdr.write.copy.merge import pack
from ffdr.write.images import write_images
from ffdr.write.verify import verify

FLIPS = 500
"""Changed bytes in each kind of file."""


@pytest.fixture(scope="module")
def files(tmp_path_factory, reinforce):
    """Kind → path of a small beton: 30 digits, JPEG and raw."""
    folder = tmp_path_factory.mktemp("verify")
    images = folder / "verified.beton"
    options = WriteOptions(source="digits", out=str(images), mode="proportion", per_class=3, workers=1)
    write_images(options, progress=False)
    files = {"images": images, "plain": reinforce(images, PLAIN), "mixing": reinforce(images, MIXING)}
    files["handmade"] = make_merged(images, files["mixing"], folder / "handmade.beton")
    files["merged"] = folder / "merged.beton"
    pack(PackOptions(str(images), str(files["mixing"]), str(files["merged"])))
    return files


KINDS = ["images", "plain", "mixing", "handmade", "merged"]


def check(path, capsys, **options):
    """Exit status and printed lines."""
    capsys.readouterr()
    status = verify(VerifyOptions(str(path), **options), progress=False)
    return status, capsys.readouterr().out


def copied(path, folder):
    """A copy that may be damaged, with the manifest of the original if it has one."""
    copy = folder / "copy.beton"
    shutil.copy(path, copy)
    if manifest_path(path).exists():
        shutil.copy(manifest_path(path), manifest_path(copy))
    return copy


def places(path):
    """(words of a finding, first byte, end) of every byte in a file."""
    tables = read_tables(path)
    count, size = tables.num_samples, len(tables.memmap)
    head = 24 + 1041 * len(tables.specs)
    alloc = int(np.frombuffer(path.read_bytes()[16:24], "<u8")[0])
    found = [("", 0, 24), ("", 24, head), ("metadata", head, head + tables.metadata.nbytes)]
    stored = [spec.name for spec in tables.specs if spec.type_id != layout.INT]
    words = " or ".join({"aug_params": "views"}.get(name, name) for name in stored)
    for name in stored:
        pointers, sizes = tables.regions(name)
        found += [
            (f"sample {i}: damage in its {words}: the checksum", a, a + s)
            for i, (a, s) in enumerate(zip(pointers.tolist(), sizes.tolist(), strict=True))
        ]
    sums = max(end for _, _, end in found)
    sums += -sums % 8
    found += [("checksums", sums, sums + 16), ("checksum", sums + 16, sums + 16 + 4 * (count + 1))]
    if tables.origin_index is not None:
        found += [("checksums", alloc - 24 * count - 16, alloc - 24 * count)]
        found += [("origin index", alloc - 24 * count, alloc)]
    found = sorted([*found, ("allocation table", alloc, size)], key=lambda part: part[1])
    gaps = [("padding", end, start) for (_, _, end), (_, start, _) in pairwise(found) if end < start]
    return found + gaps


def word_of(parts, at):
    return next(words for words, start, end in parts if start <= at < end)


@pytest.mark.parametrize("chunk", [1 << 23, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_passes(files, kind, chunk, capsys, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    status, out = check(files[kind], capsys)
    assert status == 0
    assert out.startswith(f"{files[kind]}: intact: 30 ")
    assert out.count("\n") == 1 and out.endswith(f"; next: ffdr inspect {files[kind]}\n")


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_byte_is_found_and_named(files, kind, tmp_path, capsys, monkeypatch):
    """Bytes anywhere, and as many in each of the small parts, whose share of the file is tiny."""
    monkeypatch.setattr(module, "_PADDING", 64)  # both ways to check padding
    path = copied(files[kind], tmp_path)
    good = path.read_bytes()
    parts = places(path)
    small = [(start, end) for words, start, end in parts if not words.startswith("sample")]
    rng = np.random.default_rng(KINDS.index(kind))
    for turn in range(FLIPS):
        start, end = (0, len(good)) if turn % 2 else small[turn // 2 % len(small)]
        at = int(rng.integers(start, end))
        damaged = bytearray(good)
        damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        status, out = check(path, capsys)
        assert status == 1, f"byte {at} ({word_of(parts, at)}) was missed"
        assert word_of(parts, at) in out, f"byte {at}: {out}"


def test_padding_of_a_page_and_foreign_data_are_found(files, tmp_path, capsys):
    path = copied(files["plain"], tmp_path)
    data = bytearray(path.read_bytes())
    tables = read_tables(path)
    gap = int(layout.head_size(tables.specs) + tables.metadata.nbytes)
    assert gap + 8 < tables.pointers[0]
    data[gap] = 1
    path.write_bytes(data)
    status, out = check(path, capsys)
    assert status == 1
    assert f"padding: bytes {gap} to {tables.pointers[0]} are not all zero" in out


def test_all_damaged_samples_are_counted(files, tmp_path, capsys):
    path = copied(files["plain"], tmp_path)
    data = bytearray(path.read_bytes())
    pointers = read_tables(path).regions("logits").pointers.tolist()
    for i in range(0, 25):
        data[pointers[i]] ^= 1
        data[pointers[i] + 2] ^= 1
    path.write_bytes(data)
    status, out = check(path, capsys)
    assert status == 1
    assert out.startswith(f"{path}: damaged: 25 of 30 samples, 0 other places\n")
    assert out.endswith(f"{path}: damaged; make it again, or take a copy that is whole\n")
    assert out.count("\n") == 23
    assert "  sample 3: damage in its views or logits: the checksum is " in out
    assert "\n  and 5 more\n" in out


def test_views_that_can_not_be_replayed_are_named(files, tmp_path, capsys):
    """A file whose checksums are right and whose records are not."""
    images = ImageBeton.open(files["images"])
    make_reinforced(tmp_path / "bad.beton", images, crop=0)  # its crops have no width
    status, out = check(tmp_path / "bad.beton", capsys)
    assert status == 1
    assert "damaged: 30 of 30 samples" in out
    assert "  sample 7: views: view 0: crop box has no width or no height\n" in out


def test_images_are_those_that_were_reinforced(files, digits, reinforce, capsys):
    status, out = check(files["plain"], capsys, against=str(files["images"]))
    assert status == 0
    assert re.search(r" [1-9][\d.]* [MG]B/s;|0\.\d*[1-9]\d* MB/s;", out.strip())
    status, out = check(files["plain"], capsys, against=str(digits))
    assert status == 1
    assert out.startswith(f"{files['plain']}: does not belong to {digits}: made for 30 images")
    assert out.count("\n") == 1
    assert "damaged" not in out
    with pytest.raises(UserError, match=r"verify.against: .* holds no views"):
        verify(VerifyOptions(str(files["images"]), against=str(digits)))


def without_checksums(path, folder):
    """The file as stock FFCV would have written it: no sections between data and allocation table, no manifest."""
    tables = read_tables(path)
    data = bytearray(path.read_bytes())
    alloc = int(np.frombuffer(data[16:24], "<u8")[0])
    copy = folder / "stock.beton"
    data[16:24] = int(tables.data_end).to_bytes(8, "little")
    copy.write_bytes(data[: tables.data_end] + data[alloc:])
    return copy


def test_without_checksums_images_are_decoded(files, tmp_path, capsys):
    path = without_checksums(files["images"], tmp_path)
    status, out = check(path, capsys)
    assert status == 0
    assert "no checksums, so the images were decoded instead" in out
    images = ImageBeton.open(path)
    jpeg = int(np.flatnonzero(images.modes == layout.JPG)[3])
    data = bytearray(path.read_bytes())
    data[int(images.data_ptr[jpeg]) + 2] = 0
    path.write_bytes(data)
    status, out = check(path, capsys)
    assert status == 1
    assert f"sample {jpeg}: its JPEG is corrupt" in out
    assert out.startswith(f"{path}: damaged: 1 of 30 samples")


def test_decode_finds_a_bad_jpeg_under_a_right_checksum(files, tmp_path, capsys):
    assert check(files["images"], capsys, decode=True)[0] == 0
    path = without_checksums(files["images"], tmp_path)
    tables, images = read_tables(path), ImageBeton.open(path)
    jpeg = int(np.flatnonzero(images.modes == layout.JPG)[0])
    with path.open("r+b") as file:
        file.seek(int(images.data_ptr[jpeg]))
        file.write(bytes(20))
        file.flush()
        allocations = np.empty(len(tables.pointers), layout.ALLOC_DTYPE)
        allocations["ptr"], allocations["size"] = tables.pointers, tables.sizes
        fresh = ImageBeton.open(path)
        sums = np.array([_sum(tables, fresh, i) for i in range(30)], np.uint32)
        file.seek(tables.data_end)
        layout.write_tables(
            file, tables.specs, tables.page_size, np.array(tables.metadata), sums, [allocations], images.origins
        )
    assert check(path, capsys)[0] == 0
    status, out = check(path, capsys, decode=True)
    assert status == 1
    assert f"sample {jpeg}: its JPEG is corrupt" in out


def _sum(tables, images, i):
    origin = int(tables.regions("origin").pointers[i])
    return zlib.crc32(images.memmap[origin : origin + 24], zlib.crc32(images.data(i)))


def test_exit_statuses(files, tmp_path, capsys):
    path = copied(files["images"], tmp_path)
    assert main(["verify", str(path)]) == 0
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["verify", str(path)]) == 1
    captured = capsys.readouterr()
    assert "not a readable beton" in captured.out
    assert captured.err == ""
    assert main(["verify", str(tmp_path / "nothing.beton")]) == 2
    assert main(["verify", str(tmp_path)]) == 2
    assert main(["verify"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    manifest_path(path).write_text("{")
    assert main(["verify", str(path)]) == 1
