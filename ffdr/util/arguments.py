"""Checks of what comes from Python code, where an argument may be anything at all.

Each raises UserError, in one line: the argument, its value, what is allowed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from ffdr.util.errors import UserError
from ffdr.util.text import brief

PerChannel = tuple[float, float, float]


def shown(value: object) -> str:
    """A value in one short line."""
    return brief(value, 60)


def integer(key: str, value: Any, low: int, high: int | None = None, note: str = "") -> int:
    """A whole number of any integer type, but no truth value; as int. note: more about what is allowed."""
    try:
        number = operator.index(value)
    except (TypeError, RuntimeError):  # RuntimeError: a tensor that is on no device
        number = None
    if number is None or _is_bool(value) or number < low or (high is not None and number > high):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{key}: {shown(value)} is not an integer {allowed}{note}")
    return number


def fraction(key: str, value: Any, low: float = 0.0) -> float:
    """A number from ``low`` to 1, as float."""
    number = _number(value)
    if number is None or not low <= number <= 1:
        raise UserError(f"{key}: {shown(value)} is not a number from {low:g} to 1")
    return number


def switch(key: str, value: Any) -> bool:
    """True or False; a text is neither."""
    if not _is_bool(value):
        raise UserError(f"{key}: {shown(value)} is neither True nor False")
    return bool(value)


def per_channel(key: str, values: Any) -> PerChannel:
    """Means or standard deviations of the three channels: a sequence, an array or a tensor.

    key: ends in "mean" or "std".
    """
    is_mean = key.endswith("mean")
    numbers = _numbers(values)
    if numbers is None:
        raise UserError(f"{key}: {shown(values)} is not a number for each channel")
    if len(numbers) != 3:
        raise UserError(f"{key}: {len(numbers)} values, but there are 3 channels")
    for number in numbers:
        if 1 < number < math.inf:
            what = "means" if is_mean else "standard deviations"
            raise UserError(f"{key}: {number:g} is above 1, but {what} are of pixels in [0, 1]; divide by 255")
        if not (number >= 0 if is_mean else number > 0) or number > 1:  # no number fails any comparison
            raise UserError(f"{key}: {number:g} is not {'from 0' if is_mean else 'above 0 and up'} to 1")
    return numbers[0], numbers[1], numbers[2]


def _numbers(values: Any) -> list[float] | None:
    """A flat list of floats, or None if there is anything else."""
    if hasattr(values, "reshape"):  # NumPy's and torch's, on whatever device and of whatever shape
        values = values.reshape(-1).tolist()
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        return None
    numbers = [_number(value) for value in values]
    good = [number for number in numbers if number is not None]
    return good if len(good) == len(numbers) else None


def _number(value: Any) -> float | None:
    if _is_bool(value) or isinstance(value, str | bytes):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
