"""A live view of a run in the terminal, by rich: how far it is, how it goes, and its last epochs.

It is drawn anew when the device is looked at, at most once a second in between, and at the end of each epoch; what is
printed meanwhile comes above it. It has no thread, and waits for nothing.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ffdr.train.tracking.progress import Display, Reading, epoch_line
from ffdr.util.text import duration, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_COLUMNS = (
    ("epoch", "epoch", "{:d}"),
    ("train_loss", "loss", "{:.4f}"),
    ("val_top1", "val top-1", "{:.2%}"),
    ("images_per_second", "images/s", "{:,.0f}"),
    ("data_wait", "data wait", "{:.0%}"),
    ("seconds", "seconds", "{:,.1f}"),
    ("lr", "learning rate", "{:.3g}"),
)
"""Log keys, their headings and formats, the most important first: those that a narrow terminal has room for."""
_ROWS, _OTHER_LINES = 8, 13
"""Epochs in the table at most; lines of the view beside them."""
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
_WIDEST_CURVE, _NARROWEST_CURVE = 60, 8
_EVERY = 1.0
"""Seconds between two drawings that only show later steps."""


def can_draw() -> bool:
    """Whether standard error is a terminal whose cursor moves."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


class LiveView(Display):
    """Draws on standard error. Where standard output is no terminal, it gets a line per epoch, as without a view."""

    def __init__(self, epochs: int, steps: int, title: str) -> None:
        """steps: per epoch."""
        self._epochs, self._steps, self._title = epochs, steps, printable(title)
        self._records: list[dict[str, Any]] = []
        self._reading: Reading | None = None
        self._first = self._step = 0
        self._epoch, self._phase = 1, ""
        self._began = self._drawn = 0.0
        self._live: Live | None = None
        self._lines = not sys.stdout.isatty()

    @property
    def looks(self) -> bool:
        """It does."""
        return True

    @contextmanager
    def running(self, step: int, records: Sequence[dict[str, Any]] = ()) -> Iterator[None]:
        """The view is there within; its last state stays on the screen."""
        from rich.console import Console
        from rich.live import Live

        self._records, self._first, self._step = list(records), step, step
        self._began = time.monotonic()
        console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        with Live(
            console=console,
            get_renderable=lambda: self._render(console),
            auto_refresh=False,
            redirect_stdout=not self._lines,
            vertical_overflow="crop",
        ) as self._live:
            yield

    def begin_epoch(self, epoch: int) -> None:
        """Its bar is empty."""
        self._epoch, self._phase = epoch, "training"
        self._draw()

    def advance(self) -> None:
        """The bars move, but not at every step."""
        self._step += 1
        if time.monotonic() - self._drawn >= _EVERY:
            self._draw()

    def read(self, reading: Reading) -> None:
        """The numbers of now."""
        self._reading = reading
        self._draw()

    def validate(self, epoch: int) -> None:
        """It says so."""
        self._epoch, self._phase = epoch, "validating"
        self._draw()

    def end_epoch(self, record: dict[str, Any]) -> None:
        """A row of the table, and a point of the curves."""
        self._records.append(record)
        self._phase = ""
        if self._lines:
            print(epoch_line(record, self._epochs), flush=True)
        self._draw()

    def say(self, line: str) -> None:
        """Above the view."""
        print(line)

    def _draw(self) -> None:
        if self._live is not None:
            self._drawn = time.monotonic()
            self._live.refresh()

    def _render(self, console: Console) -> RenderableType:
        """All of it, for the terminal as wide and high as it is now."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        plain, width = not console.encoding.lower().startswith("utf"), max(1, console.width - 4)
        curves = [
            *self._curve("loss", "train_loss", "{:.4f}", min, width, plain),
            *self._curve("val top-1", "val_top1", "{:.2%}", max, width, plain),
        ]
        rows = max(1, min(_ROWS, console.height - _OTHER_LINES))
        parts = [self._progress(), Text(self._now(width), no_wrap=True, overflow="crop"), *curves]
        if self._records:
            parts.append(_table(self._records[-rows:], width))
        title = self._title.encode(console.encoding, "backslashreplace").decode(console.encoding)
        return Panel(Group(*parts), title=Text(title, no_wrap=True, overflow="crop"), title_align="left")

    def _progress(self) -> RenderableType:
        """Two bars: of the epoch, and of the run."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        total = self._epochs * self._steps
        done = min(self._step - (self._epoch - 1) * self._steps, self._steps)
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True, overflow="crop")
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, overflow="crop", justify="right")
        grid.add_row(
            f"epoch {self._epoch}/{self._epochs}", ProgressBar(self._steps, done), f"{done}/{self._steps} steps"
        )
        grid.add_row("run", ProgressBar(total, self._step), f"{self._step / total:.0%}")
        return grid

    def _now(self, width: int) -> str:
        """The numbers of now that there is room for, and the time left: at this process's pace, validation and all."""
        done, left = self._step - self._first, self._epochs * self._steps - self._step
        parts = [self._phase] if self._phase else []
        if done and left:
            parts.append(f"{duration((time.monotonic() - self._began) / done * left)} left")
        if self._reading is not None:
            now = self._reading
            parts += [
                f"loss {now.loss:.4f}",
                f"{now.images_per_second:,.0f} images/s",
                f"data wait {now.data_wait:.0%}",
                f"learning rate {now.lr:.3g}",
            ]
        while len(parts) > 1 and len("  ".join(parts)) > width:
            parts.pop()
        return "  ".join(parts) or "starting"

    def _curve(self, label: str, key: str, form: str, best: Any, width: int, plain: bool) -> list[RenderableType]:
        """A line with a value's curve over the epochs, its last and its best value; nothing without values."""
        from rich.text import Text

        points = [(record["epoch"], record[key]) for record in self._records if key in record]
        finite = [(epoch, value) for epoch, value in points if math.isfinite(value)]
        if not points:
            return []
        said = f"now {form.format(points[-1][1])}"
        if finite:
            value = best(value for _, value in finite)
            epoch = next(epoch for epoch, found in finite if found == value)
            said += f", best {form.format(value)} (epoch {epoch})"
        room = min(_WIDEST_CURVE, width - 12 - len(said))
        drawn = sparkline([value for _, value in points], room, plain) if room >= _NARROWEST_CURVE else ""
        line = Text(f"{label:<10}", no_wrap=True, overflow="crop")
        line.append(drawn, style="cyan")
        line.append(f"{'  ' if drawn else ''}{said}")
        return [line]


def sparkline(values: Sequence[float], width: int, plain: bool = False) -> str:
    """A curve of one line: a character per value, or per group of values where there are more than ``width``.

    Lowest and highest stand for the least and greatest finite value. plain: in ASCII. What is not finite is a blank.
    """
    bars = _ASCII_BARS if plain else _BARS
    count = min(len(values), width)
    groups = [values[len(values) * i // count : len(values) * (i + 1) // count] for i in range(count)]
    means = [sum(group) / len(group) for group in groups]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return " " * count
    low, high = min(finite), max(finite)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((mean - low) * scale)] if math.isfinite(mean) else " " for mean in means)


def _table(records: Sequence[dict[str, Any]], width: int) -> RenderableType:
    """A row per epoch, with as many columns as there is room for."""
    from rich.table import Table

    shown, used = [], 0
    for key, heading, form in _COLUMNS:
        cells = [form.format(record[key]) if key in record else "" for record in records]
        if any(cells):
            used += 2 + max(len(heading), *map(len, cells))
            if used > width + 2:
                break
            shown.append((heading, cells))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading, _ in shown:
        table.add_column(heading, justify="right", no_wrap=True, overflow="crop")
    for row in zip(*(cells for _, cells in shown), strict=True):
        table.add_row(*row)
    return table
