"""Killed at any moment, a write goes on and ends with the bytes of one that was not killed."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from betons import files_in, put
from crashes import Ordeal, fresh_process
from disks import full_disk

from ffdr.augment.view import MIXED_DTYPE
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import WriteOptions
from ffdr.util.errors import UserError, WriteError
from ffdr.write import partial
from ffdr.write.images import write_images
from ffdr.write.reinforced import ReinforcedWriter

WRITE = """
import sys
from ffdr.write.images import write_images
from ffdr.config.files import WriteOptions
if __name__ == "__main__":
    write_images(WriteOptions(source="digits", out=sys.argv[1], workers=int(sys.argv[2])), progress=False)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """1,098 digits as JPEG, written at one go."""
    out = tmp_path_factory.mktemp("whole") / "x.beton"
    write_images(options(out), progress=False)
    return out


def options(out, **changes):
    return replace(WriteOptions(source="digits", out=str(out), workers=1), **changes)


def same_files(path, other):
    return path.read_bytes() == other.read_bytes() and (
        path.with_suffix(".json").read_bytes() == other.with_suffix(".json").read_bytes()
    )


def kill_when(script, arguments, reached, limit=60):
    """Run a script and kill it as soon as ``reached()``. Whether it was still running; its workers must end too."""
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], start_new_session=True)
    end = time.monotonic() + limit
    while process.poll() is None and not reached():
        assert time.monotonic() < end
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    end = time.monotonic() + 20
    while members(process.pid):
        assert time.monotonic() < end, "worker processes are left behind"
        time.sleep(0.02)
    return killed


def members(session):
    """Processes, other than zombies, of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def size(path):
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize(("share", "workers"), [(0.001, 1), (0.3, 1), (0.5, 2), (0.8, 1)])
def test_killed_write_resumes(undisturbed, tmp_path, share, workers):
    out = tmp_path / "x.beton"
    unfinished, journal = tmp_path / "x.beton.partial", tmp_path / "x.beton.partial.journal"
    threshold = share * size(undisturbed)
    assert kill_when(WRITE, [str(out), str(workers)], lambda: size(unfinished) > max(threshold, 41_000))
    assert not out.exists()
    assert size(journal) > 0
    write_images(options(out), progress=False)
    assert same_files(out, undisturbed)
    assert files_in(tmp_path) == ["x.beton", "x.json"]


def write_through_kills(folder):
    ordeal = Ordeal(lambda out: write_images(options(out, per_class=40), progress=False), folder, seed=1)
    return ordeal.run(60), ordeal.whole


def test_killed_at_random_moments(tmp_path):
    with fresh_process() as process:
        killed, whole = process.submit(write_through_kills, tmp_path / "work").result()
    assert killed["time"] > 0
    assert sum(killed.values()) >= 60
    assert {"os.rename", "fsync"} <= set(killed)
    assert sorted(whole) == [".x.beton.work", "x.beton", "x.json"]
    alone = write_images(options(tmp_path / "x.beton", per_class=40), progress=False)
    assert whole["x.beton"] == alone.read_bytes()


def test_a_full_disk_loses_nothing_finished(undisturbed, tmp_path, monkeypatch):
    from ffdr.data.digits import Digits

    original, reads = Digits.read, []
    monkeypatch.setattr(Digits, "read", lambda self, i: reads.append(i) or original(self, i))
    out = tmp_path / "x.beton"
    with (
        full_disk(size(undisturbed) // 2),
        pytest.raises(WriteError, match=r"x\.beton: can't be written: File too large$"),
    ):
        write_images(options(out), progress=False)
    assert not out.exists()
    stopped_at = len(reads)
    assert 200 < stopped_at < 900
    write_images(options(out), progress=False)
    assert reads[stopped_at] >= stopped_at - 2 * 16  # only the chunk that did not fit, and one in a buffer
    assert same_files(out, undisturbed)
    assert files_in(tmp_path) == ["x.beton", "x.json"]


def interrupt(monkeypatch, owner, name, after):
    """Make ``owner.name`` raise once it has been called ``after`` times."""
    original, calls = getattr(owner, name), []

    def fail(*arguments, **keywords):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize(("name", "after"), [("commit", 0), ("commit", 1), ("commit", 30), ("publish", 0)])
def test_interrupted_write_resumes(undisturbed, tmp_path, monkeypatch, name, after):
    """Also just before the rename, when tables and manifest are already there."""
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, partial.Partial, name, after)
        write_images(options(tmp_path / "x.beton"), progress=False)
    write_images(options(tmp_path / "x.beton"), progress=False)
    assert same_files(tmp_path / "x.beton", undisturbed)


def stop_half_way(tmp_path, monkeypatch, **changes):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, partial.Partial, "commit", 30)
        write_images(options(tmp_path / "x.beton", **changes), progress=False)
    return tmp_path / "x.beton.partial", tmp_path / "x.beton.partial.journal"


def test_only_what_is_intact_is_kept(undisturbed, tmp_path, monkeypatch, capfd):
    """A torn end of either file, or data that never reached the disk, is written again."""
    for damage in ("tail", "journal", "cut", "data"):
        folder = tmp_path / damage
        unfinished, journal = stop_half_way(folder, monkeypatch)
        data, notes = bytearray(unfinished.read_bytes()), bytearray(journal.read_bytes())
        if damage == "tail":
            data += b"\xff" * 10_000
            notes += b"\xff" * 7
        elif damage == "journal":
            notes[len(notes) // 2] ^= 1
        elif damage == "cut":
            del data[-100:]
        else:
            data[-20_000:-10_000] = bytes(10_000)
        unfinished.write_bytes(data)
        journal.write_bytes(notes)
        write_images(options(folder / "x.beton"), progress=False)
        assert same_files(folder / "x.beton", undisturbed)
    assert "afresh" not in capfd.readouterr().err


def test_what_was_done_is_not_done_again(tmp_path, monkeypatch):
    from ffdr.data.digits import Digits

    stop_half_way(tmp_path, monkeypatch)
    original, reads = Digits.read, []
    monkeypatch.setattr(Digits, "read", lambda self, i: reads.append(i) or original(self, i))
    write_images(options(tmp_path / "x.beton"), progress=False)
    assert reads == list(range(29 * 16, 1098))


@pytest.mark.parametrize("change", [{"quality": 70}, {"split": "test"}, {"per_class": 90}, {"max_resolution": 20}])
def test_other_options_start_afresh_and_say_so(tmp_path, monkeypatch, capfd, change):
    stop_half_way(tmp_path / "a", monkeypatch)
    write_images(options(tmp_path / "a" / "x.beton", **change), progress=False)
    assert "starting afresh" in capfd.readouterr().err
    write_images(options(tmp_path / "b" / "x.beton", **change), progress=False)
    assert same_files(tmp_path / "a" / "x.beton", tmp_path / "b" / "x.beton")


def header(images, **changes):
    basic = ReinforcedHeader(
        views=5,
        topk=3,
        num_classes=10,
        num_images=images.num_images,
        fingerprint=images.fingerprint,
        mixes=True,
        policy={"mixup": 0.5},
        teachers=("one", "two"),
        resolution=32,
        seed=1,
    )
    return replace(basic, **changes)


def entries(i):
    """Deterministic views and logits of image i."""
    rng = np.random.default_rng(i)
    views = np.frombuffer(rng.bytes(5 * MIXED_DTYPE.itemsize), MIXED_DTYPE).copy()
    views["mix"]["partner"] %= 1098
    ids = np.array([rng.permutation(10)[:3] for _ in range(5)], np.uint16)
    return views, ids, -np.sort(rng.uniform(0, 9, (5, 3)), axis=1).astype(np.float16)


def write_reinforced(path, images, stop=None, **changes):
    """Write up to ``stop`` images, all if None; returns where the writer began."""
    with ReinforcedWriter(path, header(images, **changes), images) as writer:
        began = writer.done
        for i in range(began, stop or images.num_images):
            put(writer, i, *entries(i))
        if stop is None:
            writer.finish()
    return began


REINFORCE = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]!r}
from test_resume import *
partial.time = time
from ffdr.write import reinforced
reinforced.COMMIT_BYTES = 4000
write_reinforced(Path(sys.argv[2]), ImageBeton.open(sys.argv[1]))
"""


def test_killed_reinforcement_resumes(undisturbed, tmp_path):
    images = ImageBeton.open(undisturbed)
    whole, out = tmp_path / "whole.beton", tmp_path / "y.beton"
    assert write_reinforced(whole, images) == 0
    journal = tmp_path / "y.beton.partial.journal"
    for images_done in (200, 600):  # 8 bytes of journal an image
        assert kill_when(REINFORCE, [str(undisturbed), str(out)], lambda: size(journal) > 8 * images_done)  # noqa: B023
    assert 100 < write_reinforced(out, images) < 1098
    assert out.read_bytes() == whole.read_bytes()
    assert files_in(tmp_path) == ["whole.beton", "y.beton"]


@pytest.mark.parametrize("stop", [1, 64, 700, 1097, 1098])
def test_stopped_reinforcement_resumes(undisturbed, tmp_path, stop):
    images = ImageBeton.open(undisturbed)
    write_reinforced(tmp_path / "whole.beton", images)
    write_reinforced(tmp_path / "y.beton", images, stop)
    assert not (tmp_path / "y.beton").exists()
    assert write_reinforced(tmp_path / "y.beton", images) == stop
    assert (tmp_path / "y.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()
    beton = ReinforcedBeton.open(tmp_path / "y.beton", images)
    for i in (0, stop - 1, 1097):
        for found, expected in zip((beton.views(i), *beton.logits(i)), entries(i), strict=True):
            assert np.array_equal(found, expected)


def test_only_intact_reinforcements_are_kept(undisturbed, tmp_path):
    images = ImageBeton.open(undisturbed)
    write_reinforced(tmp_path / "whole.beton", images)
    unfinished = tmp_path / "y.beton.partial"
    for damage in (lambda data: data[:100_000], lambda data: data[:50_000] + bytes(999) + data[50_999:]):
        write_reinforced(tmp_path / "y.beton", images, 700)
        unfinished.write_bytes(damage(unfinished.read_bytes()))
        assert write_reinforced(tmp_path / "y.beton", images) == 0  # all 700 were one record of the journal
        assert (tmp_path / "y.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_another_reinforcement_starts_afresh(undisturbed, tmp_path, capfd):
    images = ImageBeton.open(undisturbed)
    write_reinforced(tmp_path / "y.beton", images, 500)
    assert write_reinforced(tmp_path / "y.beton", images, seed=2) == 0
    assert "starting afresh" in capfd.readouterr().err
    assert ReinforcedBeton.open(tmp_path / "y.beton").header.seed == 2


def test_a_writer_that_can_not_start_lets_go(undisturbed, tmp_path):
    """Else the lock would be held for as long as the exception is."""
    images = ImageBeton.open(undisturbed)
    with full_disk(1000), pytest.raises(WriteError, match="File too large") as refused:
        ReinforcedWriter(tmp_path / "y.beton", header(images, policy={}), images)
    assert refused.traceback
    assert write_reinforced(tmp_path / "y.beton", images) == 0


def test_unfinished_reinforcement_is_no_file(undisturbed, tmp_path):
    images = ImageBeton.open(undisturbed)
    with ReinforcedWriter(tmp_path / "y.beton", header(images), images) as writer:
        put(writer, 0, *entries(0))
        with pytest.raises(ValueError, match="only 1 of 1098"):
            writer.finish()
        with pytest.raises(UserError, match="another run"):
            ReinforcedWriter(tmp_path / "y.beton", header(images), images)
    with pytest.raises(UserError, match="no such file"):
        ReinforcedBeton.open(tmp_path / "y.beton")
    with pytest.raises(UserError, match="not a readable beton"):
        ReinforcedBeton.open(tmp_path / "y.beton.partial")
