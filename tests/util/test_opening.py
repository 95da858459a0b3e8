"""What is opened where ffdr keeps files of its own; journals, receipts and shards that strangers made up."""

import json
import os
import socket
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from betons import PLAIN, put

from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import PackOptions, WriteOptions
from ffdr.train.run_folder import JsonLog, sole_run
from ffdr.util.atomic import atomic_path, atomic_write
from ffdr.util.errors import UserError
from ffdr.util.opening import (
    check_final,
    open_kept,
    open_new,
    own_folder,
)
from ffdr.write import partial, reinforced
from ffdr.write.copy import copying
from ffdr.write.copy.merge import pack
from ffdr.write.images import write_images
from ffdr.write.partial import Partial, check_writable
from ffdr.write.receipt import receipt_path
from ffdr.write.reinforced import ReinforcedWriter

HUGE = 10 << 30
DEEP = b"[" * 100_000 + b"]" * 100_000


def test_what_is_no_file_of_ones_own_is_reported_by_its_kind(tmp_path):
    (tmp_path / "victim").touch()
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "dangling").symlink_to("none")
    (tmp_path / "second").hardlink_to(tmp_path / "victim")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
    kinds = {
        "link": "a symbolic link",
        "dangling": "a symbolic link",
        "second": "a file with a second name (a hard link)",
        "folder": "a folder",
        "fifo": "a FIFO",
        "socket": "a socket",
    }
    for name, kind in kinds.items():
        with pytest.raises(UserError) as refused:
            open_kept(tmp_path / name)
        line = f"{tmp_path / name}: {kind} where ffdr keeps a file of its own; remove it, or choose another output"
        assert str(refused.value) == line
    for name in {*kinds, "victim"} - {"folder"}:
        with pytest.raises(UserError, match="where ffdr keeps a folder of its own"):
            own_folder(tmp_path / name)
    assert not (tmp_path / "none").exists()


def test_another_users_file_is_not_gone_on_with(tmp_path):
    path = tmp_path / "x.partial"
    open_kept(path).close()
    open_kept(path).close()
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(path, 12345, -1)
    with pytest.raises(UserError, match="another user's file where ffdr keeps a file of its own"):
        open_kept(path)
    open_kept(path, shared=True).close()


def test_a_file_system_that_gives_all_files_to_one_owner_is_borne(tmp_path, monkeypatch):
    open_kept(tmp_path / "x.partial").close()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    open_kept(tmp_path / "x.partial").close()


def test_a_name_that_is_taken_meanwhile_is_not_published(tmp_path):
    """As by another run, which writes the same file aside; what it writes stays its own."""
    path = tmp_path / "x"
    with pytest.raises(UserError, match=r"x: another run is writing it$"), atomic_path(path) as file:
        file.write(b"first")
        with open_new(partial.partial_path(path)) as other:
            other.write(b"half")
    assert partial.partial_path(path).read_bytes() == b"half"
    assert not path.exists()


def test_a_folder_in_the_way_of_a_new_file_is_reported(tmp_path):
    (tmp_path / "x.partial").mkdir()
    with pytest.raises(UserError, match=r"x\.partial: a folder where ffdr keeps a file of its own; remove it"):
        atomic_write(tmp_path / "x", "text")


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    """A superuser could: /dev/null would be a file from then on."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in (("fifo", "a FIFO"), ("link", "a FIFO"), ("null", "a device")):
        with pytest.raises(UserError, match=rf"{name}: {kind}; give the name of a file$"):
            atomic_write(tmp_path / name, "text")
        with pytest.raises(UserError, match=rf"{name}: {kind}; give the name of a file$"):
            Partial(tmp_path / name, b"identity", lambda file, record: True)
    for name in ("null", "stdout", "new"):
        with pytest.raises(UserError, match=f"/dev/{name}: a device; give the name of a file"):
            check_final(Path("/dev") / name)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link", "null"]


def test_a_link_of_the_final_name_is_replaced(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    for target in ("victim", "none"):
        (tmp_path / "x").symlink_to(target)
        atomic_write(tmp_path / "x", "text")
        assert not (tmp_path / "x").is_symlink() and (tmp_path / "x").read_text() == "text"
        (tmp_path / "x").unlink()
    assert (tmp_path / "victim").read_bytes() == b"precious" and not (tmp_path / "none").exists()


def test_folders_that_the_user_names_may_be_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    out = tmp_path / "data" / "x.beton"
    write_images(WriteOptions("digits", out=str(out), mode="raw", per_class=2, workers=1), progress=False)
    assert sorted(os.listdir(tmp_path / "disk")) == [".x.beton.work", "x.beton", "x.json"]
    with sole_run(tmp_path / "data"):
        own_folder(tmp_path / "data" / "checkpoints")
    assert (tmp_path / "disk" / "checkpoints").is_dir() and (tmp_path / "disk" / ".lock").is_file()


def test_a_link_to_a_finished_file_is_that_file(tmp_path):
    """As where a beton was moved to a larger disk; only when it is to be replaced the link goes."""
    out, moved = tmp_path / "x.beton", tmp_path / "moved"
    given = WriteOptions("digits", out=str(out), mode="raw", per_class=2, workers=1)
    write_images(given, progress=False)
    out.rename(moved)
    out.symlink_to(moved)
    before = moved.stat().st_mtime_ns
    write_images(given, progress=False)
    assert out.is_symlink()
    write_images(WriteOptions(**vars(given) | {"overwrite": True}), progress=False)
    assert not out.is_symlink() and moved.stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["symlink_to", "hardlink_to", "fifo"])
def test_what_has_the_name_of_a_finished_files_journal_stays(tmp_path, kind):
    """It is removed only where a run has left it."""
    victim, journal = tmp_path / "victim", tmp_path / "x.beton.partial.journal"
    given = WriteOptions("digits", out=str(tmp_path / "x.beton"), mode="raw", per_class=2, workers=1)
    write_images(given, progress=False)
    journal.touch()
    write_images(given, progress=False)
    assert not journal.exists()
    victim.write_bytes(b"precious")
    os.mkfifo(journal) if kind == "fifo" else getattr(journal, kind)(victim)
    write_images(given, progress=False)
    assert os.path.lexists(journal) and victim.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["x.beton.partial", "x.beton.partial.journal"])
def test_what_is_in_the_way_is_reported_before_slow_work(tmp_path, name):
    (tmp_path / name).symlink_to("elsewhere")
    with pytest.raises(UserError, match=f"{name}: a symbolic link where ffdr keeps a file of its own"):
        check_writable(tmp_path / "x.beton")


# What strangers made up.


def record(data):
    return struct.pack("<II", len(data), zlib.crc32(data)) + data


def with_hole(path, data):
    """A file of 10 GB that takes no room."""
    path.write_bytes(data)
    os.truncate(path, HUGE)


def a_chunk(samples=b"", **facts):
    known = {"sums": [[0] * 3] * 2, "skipped": [], "how": {}}
    return record(json.dumps(known | facts).encode() + b"\n" + samples)


MADE_UP = {
    "nothing": record(b""),
    "no text": record(b"\xff" * 70 + b"\n"),
    "deep": record(DEEP + b"\n" + bytes(61)),
    "a long number": record(b'{"sums": ' + b"9" * 5000 + b"}\n"),
    "other keys": record(b"{}\n"),
    "a list": record(b"[]\n"),
    "many skipped": a_chunk(skipped=[["a", "b"]] * 9999),
    "no chunk": a_chunk(),
    "a sum too many": a_chunk(sums=[[1] * 4] * 2, skipped=[["a", "b"]]),
    "a negative sum": a_chunk(sums=[[-1] * 3] * 2, skipped=[["a", "b"]]),
    "no pair": a_chunk(skipped=["abc"]),
    "an unknown way": a_chunk(skipped=[["a", "b"]], how={"\x1b[2J": 1}),
    "a large sample": a_chunk(struct.pack("<qqqqQIHHB", 0, 9, 9, 9, 1 << 60, 0, 9, 9, 1)),
    "a sample of holes": a_chunk(struct.pack("<qqqqQIHHB", 0, 9, 9, 9, 1 << 27, 0, 9, 9, 1)),
    "an image beyond": record(np.array([(1 << 31, 0)], "<u4,<u4").tobytes()),
    "a claim": struct.pack("<II", 0xFFFFFFFF, 0) + b"x",
    "a long claim": struct.pack("<II", 1 << 25, 0) + b"x",
}


@pytest.fixture(scope="module")
def whole(reinforce, tmp_path_factory):
    """A hundred digits as JPEG, a reinforcement of them, and both in one: x, y and z."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, folder / "x.beton")
    reinforce(folder / "x.beton", PLAIN).rename(folder / "y.beton")
    put_together(folder, folder / "z.beton")
    return folder


def write(folder, out):
    write_images(WriteOptions("digits", out=str(out), per_class=10, workers=1), progress=False)


def copy_views(folder, out):
    images = ImageBeton.open(folder / "x.beton")
    views = ReinforcedBeton.open(folder / "y.beton", images)
    with ReinforcedWriter(out, views.header, images) as writer:
        for i in np.flatnonzero(~writer.written).tolist():
            put(writer, i, views.views(i), *views.logits(i))
        writer.finish()


def put_together(folder, out):
    pack(PackOptions(str(folder / "x.beton"), str(folder / "y.beton"), str(out)), progress=False)


RUNS = {"x.beton": write, "y.beton": copy_views, "z.beton": put_together}


@pytest.fixture
def small_records(monkeypatch):
    for module in (copying, reinforced):
        monkeypatch.setattr(module, "COMMIT_BYTES", 1)


def stopped_soon(monkeypatch, run, whole, out):
    """The journal of a run that was killed when it had made a part."""
    commits = []

    def commit(self, data, original=Partial.commit):
        commits.append(data)
        if len(commits) == 3:
            raise KeyboardInterrupt
        original(self, data)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Partial, "commit", commit)
        run(whole, out)
    return out.with_name(f"{out.name}.partial.journal")


class Resumed:
    """A run that goes on with what is there, and stops before it does more."""

    def __init__(self, monkeypatch, run, whole, out):
        def stop(self, *_):
            raise KeyboardInterrupt

        tracemalloc.start()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Partial, "commit", stop)
            run(whole, out)
        self.memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.journal = out.with_name(f"{out.name}.partial.journal").read_bytes()


@pytest.mark.parametrize("name", RUNS)
def test_records_that_no_run_has_written_are_not_believed(whole, tmp_path, monkeypatch, small_records, name):
    out = tmp_path / name
    journal = stopped_soon(monkeypatch, RUNS[name], whole, out)
    good = journal.read_bytes()
    assert len(good) > 100
    for what, data in MADE_UP.items():
        with_hole(journal, good + data)
        os.truncate(partial.partial_path(out), 4 << 30)
        found = Resumed(monkeypatch, RUNS[name], whole, out)
        assert found.journal == good, what
        assert found.memory < 64 << 20, what
    RUNS[name](whole, out)
    assert out.read_bytes() == (whole / name).read_bytes()


def test_a_journal_that_tells_the_same_for_ever_is_left(whole, tmp_path, monkeypatch, small_records):
    out = tmp_path / "y.beton"
    journal = stopped_soon(monkeypatch, copy_views, whole, out)
    good = journal.read_bytes()
    last = good[-16:]  # a record of one image
    assert record(last[8:]) == last
    journal.write_bytes(good + last * 100_000)
    found = Resumed(monkeypatch, copy_views, whole, out)
    assert len(good) + 15 * 100 * 16 < len(found.journal) <= len(good) + 16 * 100 * 16
    copy_views(whole, out)
    assert out.read_bytes() == (whole / "y.beton").read_bytes()


@pytest.mark.parametrize(
    "sources", [b"[]", b'{"path": 1}', b'{"path": "%s"}' % (b"x" * (2 << 20)), DEEP, b"{", b"\xff"], ids=range(6)
)
def test_sources_that_no_run_has_noted_are_other_work(whole, tmp_path, monkeypatch, capsys, sources):
    out = tmp_path / "x.beton"
    journal = stopped_soon(monkeypatch, write, whole, out)
    data = journal.read_bytes()
    length = struct.unpack_from("<I", data, 8)[0]
    first = data[16 : 16 + length]
    identity = first[: first.index(partial._SOURCES)]
    journal.write_bytes(data[:8] + record(identity + partial._SOURCES + sources) + data[16 + length :])
    write(whole, out)
    said = capsys.readouterr().err
    assert said == f"{partial.partial_path(out)}: was made with other options or images; starting afresh\n"
    assert out.read_bytes() == (whole / "x.beton").read_bytes()


def small_files(tmp_path):
    """Files that are no JSON."""
    with_hole(tmp_path / "huge", b"{}")
    (tmp_path / "deep").write_bytes(DEEP)
    (tmp_path / "cut").write_bytes(b'{"a": ')
    (tmp_path / "bytes").write_bytes(b"\xff\x00")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize("name", ["huge", "deep", "cut", "bytes", "fifo", "zero", "folder"])
def test_a_strangers_receipt_is_none(tmp_path, name):
    out = tmp_path / "x.beton"
    given = WriteOptions("digits", out=str(out), mode="raw", per_class=2, workers=1)
    write_images(given, progress=False)
    small_files(tmp_path)
    receipt_path(out).unlink()
    (tmp_path / name).rename(receipt_path(out))
    with pytest.raises(UserError, match="not known to be made by this command"):
        write_images(given, progress=False)


def test_lines_that_are_no_records_end_a_log(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl")
    log.append({"epoch": 1, "loss": 0.5})
    good = log.path.read_bytes()
    for line in (DEEP, b"[]", b"1", b'{"loss": 1}', b'{"epoch": "1"}', b"\xff", b'{"epoch": ' + b"9" * 5000 + b"}"):
        log.path.write_bytes(good + line + b"\n" + good)
        assert log.records() == [{"epoch": 1, "loss": 0.5}], line[:20]
    with_hole(log.path, good)
    with pytest.raises(UserError, match=r"log\.jsonl: has more than 64\.0 MiB, the most that is read of such a file"):
        log.keep(1)
