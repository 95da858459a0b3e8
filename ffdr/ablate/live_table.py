"""The live table: a row for every run as it ends, and below it, on a terminal, those that are at work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tqdm import tqdm

from ffdr.ablate.cell import Job, Result
from ffdr.ablate.grid import Cell
from ffdr.ablate.scores import METRICS
from ffdr.ablate.workers import Callback, Outcome
from ffdr.util.errors import UserError
from ffdr.util.foreign import MOST_LOG_BYTES, parse_json, read_text
from ffdr.util.text import MOST_LINE, printable

_REFRESH = 1.0
"""Seconds between two looks at the logs of those at work."""
_SHOWN = ("top1", "ece", "corruption_top1", "images_per_second", "seconds")


class LiveTable(Callback):
    """Shows what happens to the cells."""

    def __init__(self, cells: Sequence[Cell], jobs: Sequence[Job], kept: int, slots: int) -> None:
        """cells and jobs: those to run; kept: how many others are finished already; slots: runs at a time."""
        self.cells, self.jobs = cells, jobs
        self.failed = 0
        self._slots: list[int | None] = [None] * slots
        self._looked = 0.0
        axes = cells[0].points if cells else {}
        self._widths = {
            axis: max(map(len, (_short(axis), *(printable(c.points[axis]) for c in cells)))) for axis in axes
        }
        self._all = tqdm(total=len(cells) + kept, initial=kept, desc="runs", unit="run", disable=None)
        self._bars = [
            tqdm(position=1 + slot, leave=False, disable=None, bar_format="  {desc}") for slot in range(slots)
        ]
        if cells:
            heads = [METRICS[key].heading for key in _SHOWN]
            self._row("", {axis: _short(axis) for axis in axes}, heads)

    def started(self, number: int) -> None:
        """A run takes a free line."""
        self._slots[self._slots.index(None)] = number
        self._look()

    def ended(self, number: int, outcome: Outcome) -> None:
        """A run's line becomes a row of the table."""
        slot = self._slots.index(number)
        self._slots[slot] = None
        self._bars[slot].set_description_str("")
        cell = self.cells[number]
        if outcome.error:
            self.failed += 1
            self._all.set_postfix_str(f"{self.failed} failed")
            self._row("failed", cell.points, [outcome.error])
        else:
            self._row("done", cell.points, _scores(outcome.value))
        self._all.update()

    def tick(self) -> None:
        """Show how far those at work are."""
        if time.monotonic() - self._looked > _REFRESH:
            self._look()

    def close(self) -> None:
        """Leave the terminal to others."""
        for bar in (*self._bars, self._all):
            bar.close()

    def _look(self) -> None:
        self._looked = time.monotonic()
        for bar, number in zip(self._bars, self._slots, strict=True):
            if number is not None and not bar.disable:
                bar.set_description_str(f"{printable(self.cells[number].name)}: {_progress(self.jobs[number])}")

    def _row(self, state: str, points: Mapping[str, str], texts: Sequence[str]) -> None:
        labels = [printable(points[axis]).ljust(width) for axis, width in self._widths.items()]
        cells = [text.rjust(len(METRICS[key].heading)) for text, key in zip(texts, _SHOWN, strict=False)]
        line = "  ".join([state.ljust(6), *labels, *(cells if len(texts) > 1 else texts)])
        self._all.write(printable(line.rstrip(), MOST_LINE))


def _short(axis: str) -> str:
    return printable(axis.rpartition(".")[2])


def _scores(result: Result) -> list[str]:
    return [f"{METRICS[key].scale * result[key]:,.{METRICS[key].digits}f}" if key in result else "-" for key in _SHOWN]


def _progress(job: Job) -> str:
    """Epoch and last validation of a run at work, by its log."""
    path, epochs = job.folder / "log.jsonl", job.recipe.train.epochs
    lines = read_text(path, MOST_LOG_BYTES).splitlines() if path.exists() else []
    if job.test and len(lines) == epochs:
        return "evaluation"
    said = f"epoch {len(lines)}/{epochs}"
    for line in reversed(lines):
        with suppress(UserError, KeyError, TypeError):  # the line that is being written, or an epoch without validation
            return f"{said}, val top-1 {parse_json(line, path)['val_top1']:.2%}"
    return said
