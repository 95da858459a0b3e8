"""How numbers, names and lists are written."""

from pathlib import Path

import pytest

from ffdr.util.text import (
    brief,
    byte_size,
    command,
    duration,
    ending,
    join_list,
    printable,
    reason,
    split_list,
    table_lines,
)


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


def test_a_markdown_table():
    assert table_lines(["", "long"], [["12", "3"]]) == ["|  | long |", "|---|---|", "| 12 | 3 |"]
    assert table_lines(["", "long"], [["12", "3"], ["4", "5"]], padded=True) == [
        "|    | long |",
        "|----|------|",
        "| 12 | 3    |",
        "| 4  | 5    |",
    ]


def test_texts_of_strangers_are_shown_printable_and_short():
    """What a terminal obeys, what has no glyph and what turns the writing round; letters of any script stay."""
    assert printable("\x1b]0;title\x07 \x9b31m a\r\nb\t\0") == r"\x1b]0;title\x07 \x9b31m a\r\nb\t\x00"
    assert printable("a\u202eb\u2066\ufeff\u2028\u00a0\U000e0041") == r"a\u202eb\u2066\ufeff\u2028\xa0\U000e0041"
    assert printable("Größe 猫 é") == "Größe 猫 é"
    assert printable(b"caf\xe9".decode(errors="surrogateescape")) == r"caf\xe9"
    assert printable("\ud800") == r"\ud800"
    assert printable("x" * 200) == "x" * 200
    for long in ("x" * 201, "\x1b" * 201, "x" * 10_000_000):
        assert len(printable(long)) == 200 and printable(long).endswith("…")
    assert printable("abcdef", 4) == "abc…"


def test_values_of_strangers_are_shown_short_and_soon():
    bomb = []
    for _ in range(60):
        bomb = [bomb] * 10
    loop = {}
    loop["self"] = loop
    wide = {i: [bomb] for i in range(10**5)}
    for value in (bomb, loop, wide, 10**100_000, -(10**100_000), "x" * 10**7, b"x" * 10**7):
        assert 1 < len(brief(value)) <= 200
    assert brief([1, "a\x1b", None, 2.5]) == r"[1, 'a\x1b', None, 2.5]"
    assert brief({"size": (224, 224)}) == "{'size': (224, 224)}"
    assert brief("x" * 190) == f"'{'x' * 190}'" and brief([[[[1]]]]) == "[[[[...]]]]"
    assert brief(10**20) == "100000000000000000000" and brief(1 << 300) == "a number of 301 bits"


def test_errors_are_shown_in_one_line():
    assert reason(ValueError("no\nsuch \x1b[31mthing")) == r"no such \x1b[31mthing"
    assert reason(KeyError()) == "KeyError"
    assert len(reason(OSError("x" * 1000))) == 200
