"""A stream that is killed goes on from its beginning and ends with the same bytes; what was finished is recognised."""

import os
from pathlib import Path

import numpy as np
import pytest
from betons import files_in
from crashes import Ordeal, fresh_process
from disks import full_disk
from given import Indexed, Iterated, Locked, picture
from test_resume import interrupt, kill_when, size

import ffdr
from ffdr.beton.read import ImageBeton
from ffdr.util import atomic
from ffdr.util.errors import UserError, WriteError
from ffdr.write import partial

COUNT = 300
STREAM = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1] / "helpers")]!r}
from given import Iterated
import ffdr
ffdr.write(Iterated({COUNT}), sys.argv[1], mode="raw", workers=int(sys.argv[2]), progress=False)
"""


def write(dataset, out, **options):
    return ffdr.write(dataset, out, **{"mode": "raw", "workers": 1, "progress": False} | options)


class Noted(Iterated):
    """Notes what it gives, and may give something else in its place."""

    def __init__(self, count=COUNT, changed=None):
        super().__init__(count)
        self.changed, self.given = changed, 0

    def __iter__(self):
        for i, (pixels, label) in enumerate(super().__iter__()):
            self.given += 1
            yield (255 - pixels if i == self.changed else pixels), label


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return write(Iterated(COUNT), tmp_path_factory.mktemp("whole") / "x.beton")


def same_files(path, other):
    return all(path.with_suffix(end).read_bytes() == other.with_suffix(end).read_bytes() for end in (".beton", ".json"))


@pytest.mark.parametrize(("share", "workers"), [(0.3, 1), (0.7, 2)])
def test_a_killed_stream_goes_on(undisturbed, tmp_path, share, workers):
    out, unfinished = tmp_path / "x.beton", tmp_path / "x.beton.partial"
    assert kill_when(STREAM, [str(out), str(workers)], lambda: size(unfinished) > share * size(undisturbed))
    assert not out.exists() and size(tmp_path / "x.beton.partial.journal") > 0
    write(Iterated(COUNT), out)
    assert same_files(out, undisturbed)
    assert files_in(tmp_path) == ["x.beton", "x.json"]


def write_through_kills(folder):
    ordeal = Ordeal(lambda out: write(Iterated(40), out), folder, seed=1)
    return ordeal.run(25), ordeal.whole


def test_killed_at_random_moments(tmp_path):
    """Also while the data is moved, and after it was."""
    with fresh_process() as process:
        killed, whole = process.submit(write_through_kills, tmp_path / "work").result()
    assert sum(killed.values()) >= 25
    assert {"os.rename", "os.remove", "fsync"} <= set(killed)
    assert sorted(whole) == [".x.beton.work", "x.beton", "x.json"]
    assert whole["x.beton"] == write(Iterated(40), tmp_path / "x.beton").read_bytes()


def stop(tmp_path, monkeypatch, dataset, name="commit", after=10, owner=partial.Partial, **options):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, owner, name, after)
        write(dataset, tmp_path / "x.beton", **options)


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (partial.Partial, "commit", 0),
        (partial.Partial, "commit", 12),
        (partial.Partial, "move", 0),
        (partial, "copy_range", 0),
        (partial.Partial, "publish", 0),
        (os, "replace", 1),
        (partial, "sync_folder", 0),
    ],
)
def test_an_interrupted_stream_goes_on(undisturbed, tmp_path, monkeypatch, owner, name, after):
    stop(tmp_path, monkeypatch, Iterated(COUNT), name, after, owner)
    write(Iterated(COUNT), tmp_path / "x.beton")
    assert same_files(tmp_path / "x.beton", undisturbed)
    assert files_in(tmp_path) == ["x.beton", "x.json"]


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (
            Noted(changed=30),
            r"the dataset from item train/00016 to item train/00031 are not what an interrupted run has read; ",
        ),
        (
            Noted(96),
            "the dataset has fewer items than what an interrupted run has read; remove .*partial to start afresh",
        ),
    ],
)
def test_a_stream_that_has_changed_is_refused(undisturbed, tmp_path, monkeypatch, stream, said):
    stop(tmp_path, monkeypatch, Noted())
    with pytest.raises(UserError, match=said):
        write(stream, tmp_path / "x.beton")
    write(Noted(), tmp_path / "x.beton")  # nothing is lost by it
    assert (tmp_path / "x.beton").read_bytes() == undisturbed.read_bytes()


def test_a_changed_stream_can_start_afresh(tmp_path, monkeypatch):
    stop(tmp_path, monkeypatch, Noted())
    (tmp_path / "x.beton.partial").unlink()
    write(Noted(changed=30), tmp_path / "x.beton")
    assert files_in(tmp_path) == ["x.beton", "x.json"]


def test_what_a_stream_of_few_per_class_has_done_counts(tmp_path, monkeypatch):
    options = {"per_class": 60, "mode": "dct"}
    stop(tmp_path, monkeypatch, Noted(), after=6, **options)
    alone = write(Noted(), tmp_path / "y.beton", **options)
    assert write(Noted(), tmp_path / "x.beton", **options).read_bytes() == alone.read_bytes()
    assert len(ImageBeton.open(alone)) == 180


def test_an_indexed_dataset_goes_on_where_it_stopped(tmp_path, monkeypatch):
    read = []

    class Reads(Locked):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    stop(tmp_path, monkeypatch, Reads(COUNT))
    read.clear()
    write(Reads(COUNT), tmp_path / "x.beton")
    assert read[-(COUNT - 144) :] == [*range(144, COUNT)]
    assert len(read) == 64 + COUNT - 144  # those by which contents are recognised


def test_finished_work_is_not_done_again(undisturbed, tmp_path, capsys):
    before = undisturbed.stat().st_mtime_ns
    stream = Noted()
    stream.__class__ = type("Iterated", (Noted,), {})
    assert write(stream, undisturbed, progress=True) == undisturbed
    assert "already complete (300 images of 3 classes" in capsys.readouterr().out
    assert stream.given == 16
    assert undisturbed.stat().st_mtime_ns == before
    out = write(Indexed(), tmp_path / "i.beton")
    assert write(Indexed(), out, progress=True) == out
    assert "already complete (70 images" in capsys.readouterr().out


class Changed(Indexed):
    def __getitem__(self, i):
        return (picture(i) + (i == 35)).astype(np.uint8), i % 3


@pytest.mark.parametrize(
    ("dataset", "options", "said"),
    [
        (Indexed(71), {}, "made with items=70, not 71"),
        (Iterated(), {}, "made with dataset=Indexed, not Iterated"),
        (type("Indexed", (Changed,), {})(), {}, "made from other contents of --dataset"),
        (Indexed(), {"classes": ["a", "b", "c"]}, "made with classes=cat,dog,owl, not a,b,c"),
        (Indexed(), {"quality": 80}, "made with quality=90, not 80"),
    ],
)
def test_other_data_of_the_same_name_is_refused(tmp_path, dataset, options, said):
    out = write(Indexed(), tmp_path / "x.beton")
    with pytest.raises(UserError, match=rf"^{out}: exists, {said}; --overwrite replaces it$"):
        write(dataset, out, **options)
    write(dataset, out, overwrite=True, **options)


def test_other_rows_of_hugging_faces_are_refused(tmp_path):
    from datasets import Dataset

    rows = {"image": [picture(i).tolist() for i in (1, 1, 1)], "label": [0, 1, 0]}
    table = Dataset.from_dict(rows).with_format("numpy", dtype=np.uint8)
    out = write(table, tmp_path / "x.beton")
    write(table, out)
    with pytest.raises(UserError, match="exists, made with fingerprint="):
        write(Dataset.from_dict(rows | {"label": [0, 1, 1]}).with_format("numpy", dtype=np.uint8), out)


def test_a_stream_asks_for_no_more_than_workers_need(tmp_path):
    """What waits for two workers, and what is handed over, is bounded."""
    ahead = []

    class Watched(Noted):
        def __iter__(self):
            for item in super().__iter__():
                journal = tmp_path / "x.beton.partial.journal"
                done = journal.read_bytes().count(b'"sums"') if self.given % 16 == 0 and journal.exists() else None
                if done is not None:
                    ahead.append(self.given - 16 * done)
                yield item

    write(Watched(), tmp_path / "x.beton", workers=2)
    assert max(ahead) <= 16 * 6


def test_moving_needs_room_and_loses_nothing(undisturbed, tmp_path, monkeypatch):
    with full_disk(size(undisturbed) - 5000), pytest.raises(WriteError, match=r"x\.beton: can't be written: "):
        write(Iterated(COUNT), tmp_path / "x.beton")
    write(Iterated(COUNT), tmp_path / "x.beton")
    assert same_files(tmp_path / "x.beton", undisturbed)


@pytest.mark.parametrize("answer", [OSError(18, "other file system"), 0, 1000])
def test_ranges_are_copied_whatever_the_system_says(tmp_path, monkeypatch, answer):
    def copy(source, target, count, at, to):
        if isinstance(answer, OSError):
            raise answer
        return os.pwrite(target, os.pread(source, min(answer, count), at), to) if answer else 0

    monkeypatch.setattr(os, "copy_file_range", copy)
    data = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as target:
        atomic.copy_range(source.fileno(), target.fileno(), 1001, 17, 3_000_000)
        with pytest.raises(OSError, match="ends early"):
            atomic.copy_range(source.fileno(), target.fileno(), len(data) - 10, 0, 11)
    assert (tmp_path / "b").read_bytes()[17:] == data[1001:3_001_001]
