"""What a measurement leaves behind: tables on the terminal, the same as Markdown, and the figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffdr.bench.statistics import Estimate
from ffdr.util.atomic import atomic_write
from ffdr.util.environment import environment
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final
from ffdr.util.text import table_lines


@dataclass(frozen=True)
class Table:
    """A table as Markdown, padded so that it reads well as it is."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        lines = table_lines(self.headings, self.rows, padded=True)
        return "\n\n".join([f"## {self.title}", "\n".join(lines), *self.notes])


@dataclass(frozen=True)
class Target:
    """A figure that is promised."""

    name: str
    reached: Estimate | None
    """None: not measured."""
    bound: float
    at_most: bool = False
    """The bound is an upper one."""

    @property
    def verdict(self) -> str:
        """met, missed, or not measured."""
        if self.reached is None:
            return "not measured"
        met = self.reached.median <= self.bound if self.at_most else self.reached.median >= self.bound
        return "met" if met else "missed"

    def json(self) -> dict[str, Any]:
        """Plain data."""
        reached = self.reached and self.reached.json()
        return {"bound": self.bound, "at_most": self.at_most, "reached": reached, "verdict": self.verdict}


def target_table(targets: Sequence[Target]) -> Table:
    """What is promised against what was reached."""
    rows = [
        (
            target.name,
            f"{'≤' if target.at_most else '≥'} {target.bound:g}",
            target.reached.text(3 if target.bound < 2 else 2) if target.reached else "—",
            target.verdict,
        )
        for target in targets
    ]
    return Table("Targets", ("", "to reach", "reached", ""), rows)


def check_report(file: str) -> None:
    """Refuse a report that could not be written, before anything is measured.

    Raises:
        UserError: no .json file, or no such folder.
    """
    if file and not file.endswith(".json"):
        raise UserError(f"bench.json: {file} does not end in .json")
    if file and not Path(file).parent.is_dir():
        raise UserError(f"bench.json: there is no folder {Path(file).parent}")
    if file:
        check_final(Path(file))
    environment()  # what it can't find out must come up now, not when everything is measured


def report(
    file: str,
    title: str,
    setting: Sequence[str],
    tables: Sequence[Table],
    figures: Mapping[str, Any],
    then: str = "ffdr bench doctor",
) -> None:
    """Print the tables; with a ``file`` (.json) store the figures there and the tables beside it (.md). then: the
    command that comes next."""
    print(_text(title, setting, tables), end="\n\n")
    if file:
        store(file, title, setting, tables, figures)
        print(f"{file}, {Path(file).with_suffix('.md')}: figures and tables; next: {then}")
    else:
        print(f"nothing was stored (--json=FILE.json does); next: {then}")


def store(file: str, title: str, setting: Sequence[str], tables: Sequence[Table], figures: Mapping[str, Any]) -> None:
    """Write the figures to a ``file`` (.json) and the tables beside it (.md); either is whole at any time."""
    origin = environment()
    foot = "Measured with " + ", ".join(f"{key} {value}" for key, value in origin.items()) + "."
    content = {"setting": list(setting), **figures, "environment": origin}
    atomic_write(Path(file), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    atomic_write(Path(file).with_suffix(".md"), f"{_text(title, setting, tables)}\n\n{foot}\n")


def _text(title: str, setting: Sequence[str], tables: Sequence[Table]) -> str:
    heads = [f"# {title}", "\n".join(f"- {line}" for line in setting)]
    return "\n\n".join([*heads, *map(str, tables)])
