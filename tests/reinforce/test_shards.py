"""Shards: how the work is cut, and which files are believed."""

import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ffdr.augment.view import MIXED_DTYPE
from ffdr.beton.header import ReinforcedHeader
from ffdr.reinforce.shards import SHARD_VIEWS, LabelledShard, ShardFolder, cut

HEADER = ReinforcedHeader(
    views=3,
    topk=2,
    num_classes=10,
    num_images=100,
    fingerprint="0" * 32,
    mixes=True,
    policy={},
    teachers=("one",),
    resolution=32,
    seed=1,
)


@pytest.mark.parametrize(
    ("num_images", "views", "batch", "images"),
    [
        (1_281_167, 400, 256, 40),  # 64 batches of 256 hold 40 images
        (1_281_167, 10, 256, 1638),
        (100, 3, 16, 5),  # small: one batch a shard
        (1000, 100, 64, 15),  # 1,562 batches: 24 a shard
        (50, 400, 256, 1),  # a view more than a batch
        (3, 65535, 1, 1),
        (1, 1, 10**6, 10**6),
    ],
)
def test_cut(num_images, views, batch, images):
    shards = cut(num_images, views, batch)
    assert all(a.stop == b.start for a, b in pairwise(shards))
    assert (shards[0].start, shards[-1].stop) == (0, num_images)
    assert len(shards[0]) == min(images, num_images)
    assert len(shards[0]) * views <= max(SHARD_VIEWS, views, batch)


def labelled(first, seed=0):
    rng = np.random.default_rng(seed)
    views = np.frombuffer(rng.bytes(4 * 3 * MIXED_DTYPE.itemsize), MIXED_DTYPE).reshape(4, 3).copy()
    views["mix"]["partner"] %= 100
    ids = rng.permuted(np.tile(np.arange(10, dtype=np.uint16), (4, 3, 1)), axis=2)[..., :2]
    return LabelledShard(first, views, ids, -np.sort(rng.uniform(0, 9, (4, 3, 2)), axis=2).astype(np.float16))


def test_what_is_written_is_read(tmp_path):
    folder = ShardFolder(tmp_path / "x.beton", HEADER, "teacher")
    folder.create()
    for first in (8, 0):
        folder.write(labelled(first, first))
    found = list(folder.finished())
    assert [path.name for path, _ in found] == ["0000000000-0000000003.shard", "0000000008-0000000011.shard"]
    for (_, shard), first in zip(found, (0, 8), strict=True):
        expected = labelled(first, first)
        assert shard.index.tolist() == list(range(first, first + 4))
        assert shard.views.tobytes() == expected.views.tobytes()
        assert np.array_equal(shard.ids, expected.ids) and np.array_equal(shard.log_probs, expected.log_probs)


def test_a_shard_of_other_work_or_a_damaged_one_is_not_believed(tmp_path):
    out = tmp_path / "x.beton"
    folder = ShardFolder(out, HEADER, "teacher")
    folder.create()
    folder.write(labelled(0))
    path, shard = next(folder.finished())
    assert shard is not None
    for header, identity in ((replace(HEADER, seed=2), "teacher"), (HEADER, "another")):
        assert next(ShardFolder(out, header, identity).finished()) == (path, None)
    whole = path.read_bytes()
    for at in [*range(60), *range(60, len(whole), 7)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert next(folder.finished())[1] is None, at
        path.write_bytes(whole[:at])
        assert next(folder.finished())[1] is None, at


def test_a_shard_that_no_run_has_made_is_not_believed(tmp_path):
    """Although the work and all checksums are right."""
    folder = ShardFolder(tmp_path / "x.beton", HEADER, "teacher", largest=4)
    folder.create()
    good = labelled(0)
    partner, ids, more = good.views.copy(), good.ids.copy(), labelled(0)
    partner["mix"]["partner"] = 100
    ids[0, 0] = 3
    twice = [np.concatenate([part, part]) for part in (more.views, more.ids, more.log_probs)]
    for bad in (
        replace(good, views=partner),
        replace(good, ids=ids),
        replace(good, ids=good.ids + np.uint16(10)),
        replace(good, log_probs=-good.log_probs),
        replace(good, log_probs=np.full_like(good.log_probs, np.nan)),
        replace(good, first=97),
        LabelledShard(0, *twice),
    ):
        folder.write(bad)
        (path, found), *rest = folder.finished()
        assert found is None and not rest
        path.unlink()
    folder.write(good)
    path, found = next(folder.finished())
    assert found is not None
    (tmp_path / "moved").write_bytes(path.read_bytes())
    with path.open("r+b") as file:
        file.truncate(10 << 30)
    assert next(folder.finished())[1] is None
    for place in (lambda: path.symlink_to(tmp_path / "moved"), lambda: os.mkfifo(path), lambda: path.touch()):
        path.unlink()
        place()
        assert list(folder.finished()) == [(path, None)]


def test_only_its_own_files_are_removed(tmp_path):
    folder = ShardFolder(tmp_path / "x.beton", HEADER, "")
    folder.create()
    (folder.path / "a.shard.host-1.partial").write_bytes(b"half")
    (folder.path / "notes.txt").write_text("mine")
    folder.create()
    folder.remove()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]
    (folder.path / "notes.txt").unlink()
    folder.remove()
    assert not folder.path.exists()
