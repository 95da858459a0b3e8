"""What a run logs of its epochs, and what that comes to. Light to import."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffdr.util.foreign import MOST_LOG_BYTES, read_bytes

Record = dict[str, Any]

_ALWAYS = ("step", "train_loss", "images_per_second", "data_wait", "seconds")
_MOST = 10**15
"""No number of a record is larger, but for an infinite loss."""


def is_record(value: Any, whole: bool = True) -> bool:
    """Whether it is what a run logs of an epoch: numbers by name. whole: with all that a report needs."""
    if not isinstance(value, dict) or type(value.get("epoch")) is not int or not all(map(_is_figure, value.values())):
        return False
    return not whole or (value.keys() >= {*_ALWAYS} and type(value["step"]) is int)


def _is_figure(value: Any) -> bool:
    """A run that diverged logs NaN and infinities."""
    return type(value) in (int, float) and not _MOST <= abs(value) < math.inf


def read_log(path: Path) -> list[Record]:
    """All whole records of a run's log; a last line that a killed run left unfinished is no record.

    Raises:
        UserError: no log of a run can be as large; what is there is no file.
    """
    if not path.exists():
        return []
    records: list[Record] = []
    for line in read_bytes(path, MOST_LOG_BYTES).splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not is_record(record, whole=False):
            break
        records.append(record)
    return records


@dataclass(frozen=True)
class Summary:
    """What the records of a run come to."""

    epochs: int
    """that have a record"""
    steps: int
    seconds: float
    """of training, without validation"""
    images_per_second: float
    data_wait: float
    """share of the seconds; NaN, like the rate, where they are 0"""
    last: Record
    """of the last epoch that was validated; empty: none was"""
    best: Record
    """of the epoch with the highest validation top-1, the first of equals"""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Summary:
        """records: at least one, each as ``is_record`` wants it whole."""
        seconds = sum(record["seconds"] for record in records)
        images = sum(record["seconds"] * record["images_per_second"] for record in records)
        waited = sum(record["seconds"] * record["data_wait"] for record in records)
        scored = [record for record in records if "val_top1" in record]
        finite = [record for record in scored if math.isfinite(record["val_top1"])]
        return cls(
            len(records),
            records[-1]["step"],
            seconds,
            images / (seconds or math.nan),
            waited / (seconds or math.nan),
            scored[-1] if scored else {},
            max(finite, key=lambda record: record["val_top1"]) if finite else {},
        )
