"""Texts of strangers that set a window's title, move the cursor, turn the writing round, or are endless; and what must
hold for whatever shows them."""

from __future__ import annotations

import pytest

from ffdr import cli
from ffdr.util.text import MOST_LINE

ESCAPE = "\x1b]0;pwn\x07\x9b31m"
EVIL = {
    "escape": f"a{ESCAPE}b",
    "lines": "a\nffdr train: all is well\r\nb\x0b\x0c\x85\u2028c",
    "turned": "a\u202etxt.exe\u2066\ufeff\U000e0041",
    "cell": "a|b <img src=x> [c](http://d) $x^2$ `e`",
    "endless": "e" * 10_000,
    "all": f"{ESCAPE}\n\r\u202e" + "f" * 10_000,
}
every_evil = pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)


def check(text, most=MOST_LINE):
    """Lines of printable characters, of bounded length."""
    bad = {character for character in text if character != "\n" and not character.isprintable()}
    assert not bad, (bad, text[:500])
    longest = max(text.split("\n"), key=len)
    assert len(longest) <= most, longest[:500]


def check_table(text):
    """Also, each line of a Markdown table has as many cells as the one before."""
    check(text, most=3 * MOST_LINE)  # each cell is bounded
    cells = [line.replace("\\|", "").count("|") for line in text.split("\n") if line.startswith("|")]
    assert len(set(cells)) <= 1 or "##" in text
    assert "<img" not in text.replace("\\<img", "") and "](http" not in text.replace("]\\(http", "")


def run(capsys, *words):
    """Run a verb, as from a shell, and look at all that it prints; gives the status and the text."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    check(out)
    check("\n".join(line.rsplit("\r", 1)[-1] for line in err.split("\n")))  # of a progress bar, the last
    return status, out + err


def refused(result, *parts):
    status, text = result
    assert status == 2 and text.count("\n") == 1, text
    for part in parts:
        assert part in text


def as_name(evil):
    """What a file may be called."""
    return evil.replace("/", "").encode()[:200].decode(errors="ignore")
