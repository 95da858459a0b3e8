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
from ffdr.beton.layout import ALLOC_DTYPE
from ffdr.beton.read import ImageBeton
from ffdr.beton.reinforced import ReinforcedWriter
from ffdr.beton.write import write_images
from ffdr.errors import UserError
from ffdr.options import WriteOptions

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
    with pytest.raises(UserError, match="is the image beton itself"):
        ReinforcedWriter(images.path, header, images)


@pytest.mark.parametrize(("start", "size"), [(4096, 100), (4096, 4096), (8191, 24), (12288, 1000), (40_000, 3000)])
def test_equal_regions_are_those_of_the_allocator(start, size):
    allocator = layout.Allocator(start, page_size=4096)
    assert layout.equal_regions(start, size, 50, 4096).tolist() == [allocator.take(size) for _ in range(50)]


def test_a_large_file_opens_fast_and_small(tmp_path):
    """ImageNet's size: 1,281,167 images of 400 views. The data is a hole in a sparse file."""
    count, path = 1_281_167, tmp_path / "large.beton"
    header = ReinforcedHeader(400, 10, 1000, count, "0" * 32, False, asdict(Policy()), ("a",), 224, 0)
    specs, sample = header.specs(), header.view_bytes + header.logit_bytes
    metadata = np.zeros(count, layout.metadata_dtype(specs))
    metadata["aug_params"] = layout.data_start(specs, count) + np.arange(count, dtype=np.uint64) * sample
    metadata["logits"] = metadata["aug_params"] + np.uint64(header.view_bytes)
    allocations = np.empty((count, 2), ALLOC_DTYPE)
    allocations["sample_id"] = np.arange(count)[:, None]
    allocations["ptr"] = np.stack([metadata["aug_params"], metadata["logits"]], axis=1)
    allocations["size"] = header.view_bytes, header.logit_bytes
    with path.open("w+b") as file:
        file.seek(int(metadata["aug_params"][-1]) + sample)
        layout.write_tables(file, specs, 1 << 23, metadata, np.zeros(count, "<u4"), [allocations.ravel()])
    code = f"""
import time
from ffdr.beton.read import ReinforcedBeton
start = time.perf_counter()
assert len(ReinforcedBeton.open({str(path)!r})) == {count}
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(time.perf_counter() - start, int(peak[0]) / 1024)
"""
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(2)]
    seconds, mebibytes = (min(float(run[k]) for run in runs) for k in (0, 1))
    assert seconds < 2
    assert mebibytes < 200
    path.unlink()
