"""Headers and writer of reinforced betons: what they refuse; a file of ImageNet's size."""

import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from betons import put

from ffdr.augment.policy import Policy
from ffdr.augment.view import MIXED_DTYPE
from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton
from ffdr.config.files import WriteOptions
from ffdr.util.errors import UserError
from ffdr.write.images import write_images
from ffdr.write.parts import finish_tables, reinforced_part
from ffdr.write.reinforced import ReinforcedWriter, file_bytes

IMAGENET = 1_281_167
"""Images of its training set."""
GOOD = {
    "views": 2,
    "topk": 3,
    "num_classes": 10,
    "num_images": 20,
    "fingerprint": "0" * 32,
    "mixes": False,
    "policy": asdict(Policy()),
    "teachers": ("a", "b"),
    "resolution": 224,
    "seed": 0,
}


def test_bad_headers_are_refused():
    header = ReinforcedHeader(**GOOD)
    assert ReinforcedHeader.unpack(header.pack().ljust(1024, b"\0")) == header
    assert header.policy["scale"] == [0.08, 1.0]
    for changes in (
        {"views": 0},
        {"views": True},
        {"topk": 11},
        {"num_images": 1 << 32},
        {"fingerprint": "xyz"},
        {"mixes": 1},
        {"teachers": "a"},
        {"teachers": ["long name " * 10] * 10},
        {"seed": -1},
        {"num_classes": 65536, "topk": 65535, "views": 65535},
        {"resolution": "224"},
    ):
        with pytest.raises(UserError, match="reinforced header"):
            ReinforcedHeader(**GOOD | changes)
    for text in (b"{", b"[]", b'{"views": 1}', b'"a"', b"\xff", b"[" * 900):
        raw = b"FFDRRNF1" + len(text).to_bytes(2, "little") + text
        with pytest.raises(UserError, match="reinforced header: unreadable"):
            ReinforcedHeader.unpack(raw.ljust(1024, b"\0"))


def test_writer_refuses_what_a_reader_would(tmp_path):
    options = WriteOptions(source="digits", out=str(tmp_path / "x.beton"), per_class=2, workers=1)
    images = ImageBeton.open(write_images(options, progress=False))
    header = ReinforcedHeader(**GOOD | {"fingerprint": images.fingerprint, "mixes": True})
    views, ids = np.zeros(2, MIXED_DTYPE), np.array([[1, 2, 3]] * 2, np.uint16)
    log_probs = np.array([[-1, -2, -3]] * 2, np.float16)
    partner = views.copy()
    partner["mix"]["partner"] = 20
    with ReinforcedWriter(tmp_path / "y.beton", header, images) as writer:
        for bad, text in (
            ((views["first"], ids, log_probs), "views: "),
            ((views[:1], ids, log_probs), "views: "),
            ((views, ids.astype(np.int64), log_probs), "ids: int64"),
            ((views, ids, log_probs.astype(np.float32)), "log_probs: float32"),
            ((partner, ids, log_probs), "partner"),
            ((views, ids + np.uint16(8), log_probs), "class id 11"),
            ((views, ids, log_probs[:, ::-1]), "not sorted"),
            ((views, ids, -log_probs), "up to 0"),
            ((views, ids, log_probs * np.float16("nan")), "finite"),
            ((views, ids * np.uint16(0), log_probs), "twice"),
            ((views, ids, np.full_like(log_probs, -65504)), "unused entry"),
        ):
            with pytest.raises(ValueError, match=text):
                put(writer, 0, *bad)
        assert writer.done == 0
    with pytest.raises(UserError, match="would replace a file that this run needs"):
        ReinforcedWriter(images.path, header, images)


@pytest.mark.parametrize(("start", "size"), [(4096, 100), (4096, 4096), (8191, 24), (12288, 1000), (40_000, 3000)])
def test_equal_regions_are_those_of_the_allocator(start, size):
    allocator = layout.Allocator(start, page_size=4096)
    assert layout.equal_regions(start, size, 50, 4096).tolist() == [allocator.take(size) for _ in range(50)]


def imagenet_header(views, mixes, topk=10):
    return ReinforcedHeader(views, topk, 1000, IMAGENET, "0" * 32, mixes, asdict(Policy()), ("a",), 224, 0)


@pytest.mark.parametrize(("mixes", "limit"), [(False, 64), (True, 104)])
@pytest.mark.parametrize(("views", "most"), [(400, 1.01), (50, 1.03)])
def test_a_view_is_small_at_imagenets_size(views, most, mixes, limit):
    """Bytes a view with top-10. Besides, an image has 68 bytes of tables, and 0.4 % at most are lost where pages end:
    together at most 1 % for 400 views."""
    header = imagenet_header(views, mixes)
    data = header.view_bytes + header.logit_bytes
    assert data / views <= limit
    size = file_bytes(header)
    assert IMAGENET * (data + 68) < size <= IMAGENET * (1.004 * data + 68 + 8) + 8192
    assert size <= most * IMAGENET * data


@pytest.mark.parametrize("mixes", [False, True])
def test_a_view_is_in_one_page_of_ffcv_and_two_short_reads(mixes):
    """Of images evenly spaced over all of ImageNet: the records and logits of all views."""
    header = imagenet_header(400, mixes)
    part = reinforced_part(header, layout.data_start(header.specs(), IMAGENET))
    chosen = np.arange(0, IMAGENET, 997)
    record, logits = header.view_bytes // 400, 40
    starts = [pointers[chosen].astype(np.int64)[:, None] for pointers in (part.pointers, part.second_pointers)]
    reads = [(start + np.arange(400) * size, size) for start, size in zip(starts, (record, logits), strict=True)]
    pages = [(start // part.page_size, (start + size - 1) // part.page_size) for start, size in reads]
    for page in (pages[0][1], *pages[1]):
        assert np.array_equal(page, pages[0][0])
    # Pages of the operating system: each of the two reads is inside of one, or of two that follow each other.
    touched = sum((start + size - 1) // 4096 - start // 4096 + 1 for start, size in reads)
    assert touched.max() <= 4
    assert touched.mean() < 2.03


def test_a_large_file_opens_small(tmp_path):
    """ImageNet's size: 1,281,167 images of 400 views. The data is a hole in a sparse file."""
    header, path = imagenet_header(400, False), tmp_path / "large.beton"
    part = reinforced_part(header, layout.data_start(header.specs(), IMAGENET))
    with path.open("w+b") as file:
        finish_tables(file, [part], np.zeros(IMAGENET, "<u4"))
    assert path.stat().st_size == file_bytes(header)
    code = f"""
import time
from ffdr.beton.read import ReinforcedBeton
start = time.perf_counter()
assert len(ReinforcedBeton.open({str(path)!r})) == {IMAGENET}
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(time.perf_counter() - start, int(peak[0]) / 1024)
"""
    seconds, mebibytes = map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert seconds < 20  # about 0.5 where nothing else runs; a quadratic algorithm would take hours
    assert mebibytes < 200
    path.unlink()
