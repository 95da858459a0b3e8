"""Functions and modules in Python as members of a teacher: fed as they want, tried, and told from each other.

Shapes: B images, R pixels per side, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ffdr.beton.read import ImageBeton
from ffdr.config.learning import TeacherOptions
from ffdr.reinforce.functions import FunctionTeacher
from ffdr.reinforce.teacher import Member, Teacher, weights_digest
from ffdr.util.arguments import shown
from ffdr.util.errors import UserError

RESOLUTION = 224
"""Pixels per side at which a function sees views where nothing else is said: it has none of its own."""
_PIXELS = (0.0,) * 3, (1 / 255,) * 3
"""Mean and std by which an image in [0, 1] becomes its pixels' values, 0 to 255."""
_PROBES, _SUMS = 6, 8
"""Images by whose answers a function is known, and weighted sums of each answer."""
_STEP = 1 / 16
"""Nats to which the sums are rounded: far above the differences between machines and numbers of threads (1e-5), far
below those between two teachers."""
_SAME = 1e-2
"""Nats by which two answers to the same image may differ."""
_LEAST = -50.0
"""A log-probability below counts as this one; there may be classes with none."""


class FunctionModel(nn.Module):
    """A caller's function with the face of a model, its answers checked."""

    def __init__(self, function: FunctionTeacher, num_classes: int, is_normalised: bool) -> None:
        super().__init__()
        self.function, self.num_classes, self.is_normalised = function, num_classes, is_normalised
        self.predict = function.predict  # a module so becomes part of this one

    def requires_grad_(self, requires_grad: bool = True) -> FunctionModel:
        """Leave that as it is: the caller may train the module later, and passes here record no gradients anyway."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C) logits of (B, 3, R, R) float32 images, channels last in memory: normalised, or pixels' values.

        Raises:
            UserError: an answer of another kind or shape.
        """
        images = x if self.is_normalised else x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return self._logits(self.predict(images), len(x)).to(x.device)

    def _logits(self, answer: Any, count: int) -> torch.Tensor:
        """The logits in an answer for so many images, as a tensor."""
        logits, who = getattr(answer, "logits", answer), f"teacher: {self.function.name} answers"
        wanted = f"({count}, {self.num_classes})"
        if not isinstance(logits, torch.Tensor | np.ndarray):
            raise UserError(
                f"{who} {shown(logits)}, but logits {wanted} are wanted, in a tensor of torch or an array of NumPy"
            )
        if tuple(logits.shape) != (count, self.num_classes):
            raise UserError(
                f"{who} {tuple(logits.shape)} for {count} images, but logits {wanted} are wanted: the data has "
                f"{self.num_classes} classes"
            )
        if not str(logits.dtype).removeprefix("torch.").startswith(("float", "bfloat")):
            raise UserError(f"{who} {logits.dtype}, but logits of a floating dtype are wanted")
        return torch.from_numpy(np.array(logits, np.float32)) if isinstance(logits, np.ndarray) else logits


def function_members(
    functions: Sequence[FunctionTeacher],
    options: TeacherOptions,
    images: ImageBeton,
    device: torch.device,
    resolution: int = RESOLUTION,
) -> list[Member]:
    """Members of a teacher for these images, each tried on a few fixed images.

    resolution: where neither the options nor the function have one.

    Raises:
        UserError: options that no function has; answers of another kind, shape or number of classes, that are no
            numbers, or that differ when the same is asked twice.
    """
    members = [_member(function, options, images, resolution) for function in functions]
    if members and not any(member.is_traceable for member in members) and len(functions) == len(options.models):
        for key, other in (("precision", ("auto", "float32")), ("compile", ("auto", "off"))):
            value = getattr(options, key)
            if value not in other:
                raise UserError(f"teacher.{key}: {value}: a function computes as it does by itself; leave it out")
    return [
        replace(member, digest=_digest(function, member, options.batch_size, images.num_classes, device))
        for function, member in zip(functions, members, strict=True)
    ]


def _member(function: FunctionTeacher, options: TeacherOptions, images: ImageBeton, resolution: int) -> Member:
    is_module = isinstance(function.predict, nn.Module)
    is_normalised = function.normalised
    if is_normalised is None:
        is_normalised = is_module or function.mean is not None
    mean, std = (function.mean or images.mean, function.std or images.std) if is_normalised else _PIXELS
    model = FunctionModel(function, images.num_classes, is_normalised)
    side = options.resolution or function.resolution or resolution
    return Member(function.name, model, side, tuple(mean), tuple(std), function.label, is_traceable=is_module)


def _digest(function: FunctionTeacher, member: Member, batch_size: int, num_classes: int, device: torch.device) -> str:
    """Eight hexadecimal digits that change with the function's version, or else with its answers and a module's
    weights. The function is tried in any case."""
    teacher = Teacher([member], num_classes, device, batch_size, "float32")
    probes = _probes(member.resolution)
    once, again = teacher.log_probs(probes).cpu(), teacher.log_probs(probes).cpu()
    if bool(once.isnan().any()):
        raise UserError(
            f"teacher: {member.name} answers what is not a number for some of {len(probes)} images, the first of which "
            "is black; finite logits are wanted"
        )
    difference = float((once.clamp_min(_LEAST) - again.clamp_min(_LEAST)).abs().max())
    if not difference <= _SAME:
        raise UserError(
            f"teacher: {member.name}, asked twice about the same images, gives log-probabilities that differ by up to "
            f"{difference:.2g}; a teacher answers the same each time: without dropout, without chance"
        )
    digest = hashlib.sha256(f"version {function.version}".encode() if function.version else _rounded(once))
    if isinstance(function.predict, nn.Module) and not function.version:
        digest.update(weights_digest(function.predict).encode())
    return digest.hexdigest()[:8]


def _probes(side: int) -> torch.Tensor:
    """Some fixed images, (_PROBES, side, side, 3) uint8: black, then waves of growing frequency, phases by channel."""
    n, y, x, c = np.ogrid[:_PROBES, :side, :side, :3]
    waves = np.sin((2 * np.pi / side) * (n * x + (n % 3 + 1) * y) + 2.1 * c + n)
    pixels = np.round(127.5 + 127.5 * waves * (0.4 + 0.1 * n)).astype(np.uint8)
    pixels[0] = 0
    return torch.from_numpy(pixels)


def _rounded(log_probs: torch.Tensor) -> bytes:
    """Sums of log-probabilities (B, C) with fixed weights, each class with its own, in steps of ``_STEP``."""
    number = torch.arange(log_probs.shape[1], dtype=torch.float64)
    weights = torch.cos(torch.outer(number, torch.arange(1, _SUMS + 1).double()) + number[:, None] ** 2)
    sums = log_probs.double().clamp_min(_LEAST) @ weights / len(number) ** 0.5
    return (sums / _STEP).round().to(torch.int32).numpy().tobytes()
