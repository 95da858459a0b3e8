"""How figures are said: times as a person would, tables as Markdown. How lists are written in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def duration(seconds: float) -> str:
    """As a person would say it: 3 d 4 h, 2 h 5 min, 40 s."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)} d {hours % 24:.0f} h"
    if hours >= 1:
        return f"{int(hours)} h {minutes % 60:.0f} min"
    return f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.1f} s"


def table_lines(headings: Sequence[str], rows: Iterable[Sequence[str]], padded: bool = False) -> list[str]:
    """A Markdown table. padded: with columns as wide as their longest cell, to be read as it is."""
    lines = [headings, *rows]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    rule = "|" + "|".join("-" * max(width + 2, 3) for width in widths) + "|"
    heading, *body = (
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
    return [heading, rule, *body]


def split_list(text: str) -> list[str]:
    """The parts between commas; ``\\,`` is a comma within a part."""
    return [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text)]
