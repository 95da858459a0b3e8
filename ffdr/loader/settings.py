"""What a loader is asked for, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ffdr.loader.order import OrderSettings
from ffdr.loader.replay.replayer import view_side
from ffdr.util.arguments import PerChannel, per_channel, shown
from ffdr.util.errors import UserError
from ffdr.util.text import reason

_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class StreamSettings:
    """How batches are decoded."""

    order: OrderSettings
    sides: tuple[int, ...]
    """of the views, in pixels, of which each batch has one; at first, see ``BatchStream.set_resolution``"""
    threads: int
    """decoding threads"""
    batches_ahead: int = 3
    """batches decoded in advance"""
    os_cache: bool = True
    """read through the memory map; otherwise into this process's own pages"""


@dataclass(frozen=True)
class DeviceSettings:
    """How batches reach the device."""

    device: torch.device
    dtype: torch.dtype
    """of the pixels; uint8: as they are, a floating one: normalised"""
    mean: PerChannel
    std: PerChannel
    reuse_buffers: bool
    """with uint8 on the CPU, hand out the decoder's own buffer"""


def checked_sides(resolution: int, resolutions: Sequence[int]) -> tuple[int, ...]:
    """The sides that views may have: ``resolutions`` or, if that is empty, ``resolution``.

    Raises:
        UserError: one of them is no side, or comes twice; no list of them.
    """
    if not hasattr(resolutions, "__len__"):
        raise UserError(f"resolutions: {shown(resolutions)} is no list of sides, such as [128, 224]")
    sides = tuple(map(view_side, resolutions if len(resolutions) else [resolution]))
    if len({*sides}) < len(sides):
        raise UserError(f"resolutions: {shown(sides)} has a side twice; all are drawn equally often")
    return sides


def checked_dtype(dtype: torch.dtype) -> torch.dtype:
    """One that pixels may have.

    Raises:
        UserError: it is another one, or none.
    """
    if dtype not in _DTYPES:
        raise UserError(f"dtype: {shown(dtype)} is not one of {', '.join(map(str, _DTYPES))}")
    return dtype


def checked_device(device: str | torch.device) -> torch.device:
    """A device that is there. A process's current GPU stays open: "cuda" has no number.

    Raises:
        UserError: it is not.
    """
    try:
        found = torch.device(device)
        if found.type != "cuda":
            torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        usual = f"cpu, cuda and cuda:N are usual ({reason(error)})"
        raise UserError(f"device: {shown(device)} is none here; {usual}") from None
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if not 0 <= (found.index or 0) < count:  # a number beyond 127 wraps around
            raise UserError(f"device: {device}, but torch finds {count or 'no'} CUDA device{'s' * (count != 1)} here")
    return found


def channels(key: str, values: Any, usual: Sequence[float]) -> PerChannel:
    """Means or deviations that are given, else the usual ones; key: "mean" or "std".

    Raises:
        UserError: they are not three numbers that pixels in [0, 1] can have.
    """
    has_none = hasattr(values, "__len__") and getattr(values, "ndim", 1) > 0 and len(values) == 0
    return per_channel(key, usual if values is None or has_none else values)
