"""Files of strangers are read whole only if they are files, small, and what they should be."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from bounded import bounded

from ffdr.util.errors import UserError
from ffdr.util.foreign import (
    MOST_BYTES,
    open_regular,
    read_bytes,
    read_json,
    read_json_lines,
    read_text,
)

KINDS = ["folder", "pipe", "socket", "/dev/zero", "link to /dev/zero"]


@pytest.fixture
def kinds(tmp_path: Path) -> Iterator[dict[str, Path]]:
    paths = {name: tmp_path / name.replace("/", "") for name in KINDS}
    paths["folder"].mkdir()
    os.mkfifo(paths["pipe"])
    paths["/dev/zero"] = Path("/dev/zero")
    paths["link to /dev/zero"].symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(paths["socket"]))
        yield paths


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once(kinds: dict[str, Path], kind: str) -> None:
    for read in (open_regular, read_bytes, read_text, read_json):
        with bounded(seconds=2), pytest.raises(UserError) as caught:
            read(kinds[kind])
        assert str(caught.value).startswith(f"{kinds[kind]}: ")
        assert kind == "socket" or str(caught.value).endswith(": not a regular file")


def test_a_giant_is_refused_without_its_memory(tmp_path: Path) -> None:
    giant = tmp_path / "giant.json"
    with giant.open("wb") as file:
        file.truncate(64 << 30)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with bounded(seconds=2), pytest.raises(UserError, match=r"giant.json: has more than 8.0 MiB"):
        read_json(giant)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * MOST_BYTES >> 10


def test_the_limit_itself_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert read_bytes(file, 10) == b"x" * 10
    with pytest.raises(UserError, match="has more than 9 bytes"):
        read_bytes(file, 9)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": \xff}', "not text in UTF-8 \\(byte 6\\)"),
        (b"{", "not JSON \\(Expecting property name"),
        (b"[" * 1_000_000, "not JSON \\("),
        (b"9" * 5_000, "not JSON \\("),
    ],
)
def test_what_is_not_json_is_reported_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with bounded(seconds=2), pytest.raises(UserError, match=said) as found:
        read_json(file)
    assert len(str(found.value).splitlines()) == 1


def test_json_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text('{"é": [1, 2.5, null]}', encoding="utf-8")
    assert read_json(file) == {"é": [1, 2.5, None]}


def test_a_missing_file_and_a_null_character_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_text(tmp_path / "none")
    with pytest.raises(UserError, match="null"):
        read_text("a\0b")


def test_lines_of_json_are_read_and_a_bad_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"epoch": 1}\n[2, "\u2028"]\n')
    assert read_json_lines(file) == [{"epoch": 1}, [2, "\u2028"]]
    file.write_text('{"epoch": 1}\n{"epoch"')
    with pytest.raises(UserError, match=r"log\.jsonl, line 2: not JSON"):
        read_json_lines(file)
