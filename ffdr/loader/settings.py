"""What a loader is asked for, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ffdr.loader.order import OrderSettings
from ffdr.loader.replay.replayer import view_side
from ffdr.util.arguments import PerChannel, integer, per_channel, shown
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


def checked_views_per_image(views_per_image: int, batch_size: int, drop_last: bool, num_views: int | None) -> int:
    """How many views of an image a batch holds. num_views: of ``ViewSource``.

    Raises:
        UserError: it is no number, or none for such batches or so many different views.
    """
    count = integer("views_per_image", views_per_image, 1)
    if count == 1:
        return count
    if num_views is not None and count > num_views:
        there = f"there are {num_views} stored ones" if num_views > 1 else "there is but one"
        raise UserError(
            f"views_per_image: {count} views of an image in a batch, but {there}, and none should come twice"
        )
    if batch_size % count:
        raise UserError(f"batch_size: {batch_size} is no multiple of views_per_image, {count}")
    if not drop_last:
        raise UserError(f"drop_last=False: with {count} views_per_image all batches are full; leave it out")
    return count


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
