"""What a run shows on the terminal: a bar and a line per epoch, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Reading:
    """What a look at the device found in the middle of an epoch."""

    loss: float
    """mean over the epoch's images so far"""
    images_per_second: float
    data_wait: float
    """share of the time in which training waited for data"""
    lr: float


class Display:
    """Shows nothing; the others show what they are told."""

    @property
    def looks(self) -> bool:
        """Whether readings are shown: each waits for the device."""
        return False

    @contextmanager
    def running(self, step: int, records: Sequence[dict[str, Any]] = ()) -> Iterator[None]:
        """Within, the run goes on after so many steps; however it ends, the terminal is as it was before.

        records: of the epochs before.
        """
        yield

    def begin_epoch(self, epoch: int) -> None:
        """An epoch begins, counted from 1."""

    def advance(self) -> None:
        """One more step is done, as far as the host knows."""

    def read(self, reading: Reading) -> None:
        """What the device says, every ``READ_EVERY`` steps."""

    def validate(self, epoch: int) -> None:
        """An epoch is trained, and will be validated."""

    def end_epoch(self, record: dict[str, Any]) -> None:
        """An epoch is over and logged so."""

    def say(self, line: str) -> None:
        """A line for the user, above what is shown all the time."""


class Bar(Display):
    """tqdm's bar on standard error, and a line per epoch on standard output."""

    def __init__(self, epochs: int, steps: int, progress: bool | None = None) -> None:
        """steps: per epoch. progress: True shows the bar; None does so on a terminal, and lines alone elsewhere."""
        self._epochs, self._total = epochs, epochs * steps
        self._hidden = None if progress is None else not progress  # None is tqdm's word for: unless on a terminal
        self._bar = tqdm(disable=True)

    @property
    def looks(self) -> bool:
        """Whether the bar is seen."""
        return not self._bar.disable

    @contextmanager
    def running(self, step: int, records: Sequence[dict[str, Any]] = ()) -> Iterator[None]:
        """The bar is there within."""
        with tqdm(total=self._total, initial=step, unit="step", disable=self._hidden, dynamic_ncols=True) as self._bar:
            yield

    def begin_epoch(self, epoch: int) -> None:
        """Its number stands before the bar."""
        self._bar.set_description(f"epoch {epoch}/{self._epochs}")

    def advance(self) -> None:
        """The bar draws itself now and then."""
        self._bar.update()

    def read(self, reading: Reading) -> None:
        """Behind the bar."""
        rate = f"{reading.images_per_second:,.0f} images/s"
        self._bar.set_postfix_str(f"{rate}, data wait {reading.data_wait:.0%}, loss {reading.loss:.4f}")

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Its line."""
        self.say(epoch_line(record, self._epochs))

    def say(self, line: str) -> None:
        """On standard output, above the bar."""
        self._bar.write(line)


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """What is printed of an epoch's log record."""
    parts = [
        f"epoch {record['epoch']}/{epochs}",
        f"loss {record['train_loss']:.4f}",
        *([f"val top-1 {record['val_top1']:.2%}"] if "val_top1" in record else []),
        f"{record['images_per_second']:,.0f} images/s",
        f"data wait {record['data_wait']:.0%}",
    ]
    return "  ".join(parts)
