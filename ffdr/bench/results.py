"""What every bench leaves: its setting, tables and a summary of ratios, on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from ffdr.bench.statistics import Estimate
from ffdr.config.measuring import BenchOptions
from ffdr.util.atomic import atomic_write
from ffdr.util.environment import environment
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final
from ffdr.util.text import table_lines

Summary = Mapping[str, Estimate | None]
"""The figures that a bench is for, by name; mostly ratios, "ours : theirs". None: not measured."""


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
class Report:
    """The outcome of one measurement."""

    title: str
    setting: Sequence[str]
    """what was measured, and how, line by line"""
    tables: Sequence[Table]
    summary: Summary
    figures: Mapping[str, Any]
    """everything else for the JSON, by key"""
    pictures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """what draws each picture, by the ending of its name"""

    def __str__(self) -> str:
        tables = self.tables
        if self.summary:
            rows = [(name, _shown(figure)) for name, figure in self.summary.items()]
            tables = [*tables, Table("Summary", ("", "median [95 % interval]"), rows)]
        return "\n\n".join([f"# {self.title}", "\n".join(f"- {line}" for line in self.setting), *map(str, tables)])

    def publish(self, file: str, then: str) -> None:
        """Print the tables; with a ``file`` (.json) store them and draw the pictures. then: the next command."""
        print(self, end="\n\n")
        if not file:
            print(f"nothing was stored (--json=FILE.json does); next: {then}")
            return
        self.store(file)
        for ending, draw in self.pictures.items():
            draw(Path(file.removesuffix(".json") + ending))
        print(f"{file}, {Path(file).with_suffix('.md')}: figures and tables; next: {then}")

    def store(self, file: str) -> None:
        """Write the figures to a ``file`` (.json) and the tables beside it (.md); either is whole at any time."""
        origin = environment()
        summary = {name: figure and figure.json() for name, figure in self.summary.items()}
        content = {"setting": list(self.setting), **self.figures, "summary": summary, "environment": origin}
        foot = "Measured with " + ", ".join(f"{key} {value}" for key, value in origin.items()) + "."
        atomic_write(Path(file), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        atomic_write(Path(file).with_suffix(".md"), f"{self}\n\n{foot}\n")


def _shown(figure: Estimate | None) -> str:
    if figure is None:
        return "not measured"
    size = abs(figure.median)
    return figure.text(3 if size < 2 else 2 if size < 1000 else 0)


def bench(then: str) -> Callable[[Callable[[BenchOptions, Path], Report]], Callable[[BenchOptions], None]]:
    """Turn a function that measures, with a folder of its own for files, into a command that reports.

    The command raises UserError for a report that could not be written, before anything is measured. then: the command
    that its last line names.
    """

    def decorate(measure: Callable[[BenchOptions, Path], Report]) -> Callable[[BenchOptions], None]:
        @wraps(measure)
        def command(options: BenchOptions) -> None:
            check_report(options.json)
            with tempfile.TemporaryDirectory() as folder:
                report = measure(options, Path(folder))
            report.publish(options.json, then)

        return command

    return decorate


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


def rounds(options: BenchOptions, what: str) -> str:
    """How often everything was timed, and what the tables show of it."""
    return (
        f"{options.repeats} rounds, each {what} once per round; median [95 % interval]; ratios compare the same round"
    )


def device_name(device: torch.device) -> str:
    """As the driver calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
