"""Words for figures."""

from pathlib import Path

import pytest

from ffdr.text import RCFG, byte_size, command, duration, ending, join_list, shown, split_list, table_lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (150, "2 min"), (7500, "2 h 5 min"), (277_200, "3 d 5 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(812, "812 bytes"), (1024, "1.0 KiB"), (2_202_010, "2.1 MiB"), (1_293_322_000_000, "1,204.5 GiB")],
)
def test_sizes(count, text):
    assert byte_size(count) == text


def test_how_verbs_end():
    """The command can be pasted, whatever the names."""
    then = command("reinforce", "--images=my photos.beton", "--teacher.models=NAME:CHECKPOINT")
    assert then == "ffdr reinforce '--images=my photos.beton' --teacher.models=NAME:CHECKPOINT"
    made = [(Path("a"), "3 images", True), (Path("b"), "4 images", False)]
    assert ending(made, "ffdr x") == "a: already complete (3 images); nothing to do; b: 4 images; next: ffdr x"


def test_lists_keep_commas_within_their_parts():
    assert join_list(["a", "b"]) == "a,b"
    for parts in (["a,b/x", "c"], ["a:w,", ",b"], ["alone"]):
        assert split_list(join_list(parts)) == parts


def test_a_path_is_shown_as_the_shorter_one(monkeypatch):
    monkeypatch.chdir(RCFG.parent)
    assert shown(RCFG / "eval" / "imagenet.yaml") == "rcfg/eval/imagenet.yaml"
    monkeypatch.chdir("/usr/share")
    assert shown(Path("/tmp/x")) == "/tmp/x"


def test_a_markdown_table():
    assert table_lines(["", "long"], [["12", "3"]]) == ["|  | long |", "|---|---|", "| 12 | 3 |"]
    assert table_lines(["", "long"], [["12", "3"], ["4", "5"]], padded=True) == [
        "|    | long |",
        "|----|------|",
        "| 12 | 3    |",
        "| 4  | 5    |",
    ]
