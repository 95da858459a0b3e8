"""Words for figures."""

import pytest

from ffdr.text import duration, table_lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (150, "2 min"), (7500, "2 h 5 min"), (277_200, "3 d 5 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_markdown_table():
    assert table_lines(["", "long"], [["12", "3"]]) == ["|  | long |", "|---|---|", "| 12 | 3 |"]
    assert table_lines(["", "long"], [["12", "3"], ["4", "5"]], padded=True) == [
        "|    | long |",
        "|----|------|",
        "| 12 | 3    |",
        "| 4  | 5    |",
    ]
