"""The teacher: models averaged in probability space.

Shapes: M members, B images, H and W pixels, C classes.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ffdr.beton.read import ImageBeton
from ffdr.config.learning import TeacherOptions
from ffdr.config.model_names import FORMS, TIMM, TORCHVISION, is_from_hub, split_checkpoint, split_prefix
from ffdr.evaluate.classes import check_classes
from ffdr.loader.order import rank_and_world_size
from ffdr.models.build import ModelInfo, autocast_dtype, load_named
from ffdr.models.catalog import config_of
from ffdr.models.compiling import FixedBatch, float32_of, pays, set_backends, why_not
from ffdr.models.modules import import_modules
from ffdr.models.timm_names import eval_size
from ffdr.reinforce.functions import without_functions
from ffdr.reinforce.member_options import options_of_members
from ffdr.util.errors import UserError
from ffdr.util.text import warn

_COMMA = "a comma within a path is written \\,"


@dataclass(frozen=True)
class Member:
    """One model of the ensemble and how it wants to be fed."""

    name: str
    model: nn.Module
    resolution: int
    """pixels per side; 0: as the images come"""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = ""
    """as it was given, NAME[:CHECKPOINT]"""
    options: tuple[str, ...] = ()
    """of timm's model, NAME=VALUE, beyond what a checkpoint says"""
    digest: str = ""
    """what tells it from others of its name; empty: its weights"""
    is_traceable: bool = True
    """whether autocast and torch.compile are put around it"""


class Teacher:
    """Labels images with the average of its members' probabilities.

    Members see every image at their own resolution and with their own normalisation; they may differ in both.
    """

    def __init__(
        self,
        members: Sequence[Member],
        num_classes: int,
        device: torch.device | str,
        batch_size: int = 256,
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        """Move the members to the device, in evaluation mode.

        batch_size: images per forward pass. compile: run the members through torch.compile, once each.
        """
        self.device = torch.device(device)
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.members = tuple(members)
        self._dtype = autocast_dtype(precision, self.device, "teacher.precision")
        for member in self.members:
            member.model.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self._compile = compile
        self._forward = functools.cache(self._new_forward)
        if any(member.is_traceable for member in self.members):
            set_backends(self.device, self._dtype)

    @classmethod
    def from_options(
        cls,
        options: TeacherOptions,
        num_classes: int,
        device: torch.device | str,
        batches: int = 0,
        images: ImageBeton | None = None,
        functions: Sequence[Member] = (),
    ) -> Teacher:
        """Load ``NAME[:CHECKPOINT],…``. batches: how many it will label, and images: which, as far as known.

        functions: the members for which the list has labels, see ``function_members``.

        Raises UserError for an empty or malformed list, weights that can't be had, a member with another number of
        classes than the data, with both numbers, or with other class names than ``images``.
        """
        import_modules(options.module, "teacher.module")
        options = replace(options, models=without_functions(options.models, [member.source for member in functions]))
        members = []
        parsed = parse_models(options.models) if options.models or not functions else []
        given = options_of_members([name for name, _ in parsed], options.options)
        for number, (name, checkpoint) in enumerate(parsed):
            if checkpoint and not Path(checkpoint).exists():
                raise UserError(f"{_quoted(options.models, number)}: {checkpoint}: no such file; {_COMMA}")
            model, info = load_named(
                name, checkpoint, None, options.resolution, "teacher.models", given[number], "teacher.resolution",
                "teacher.options",
            )  # fmt: skip
            if info.num_classes != num_classes:
                raise UserError(
                    f"teacher.models: {checkpoint or name} has {info.num_classes} classes, but the data has "
                    f"{num_classes}"
                )
            if images is not None and options.classes == "same":
                where = f"teacher.models: {checkpoint or name}: not for {images.path}"
                check_classes(info, images.class_names, where, "teacher.classes")
            if not options.resolution and not info.classes and not is_from_hub(name):
                _warn_of_eval_size(info)
            members.append(
                Member(
                    info.name if is_from_hub(name) else name,
                    model,
                    info.resolution,
                    info.mean,
                    info.std,
                    options.models[number],
                    given[number],
                )
            )
        device = torch.device(device)
        compile = options.compile == "on" or (options.compile == "auto" and _compiling_pays(device, batches))
        return cls([*members, *functions], num_classes, device, options.batch_size, options.precision, compile)

    @property
    def names(self) -> tuple[str, ...]:
        """The members' model names."""
        return tuple(member.name for member in self.members)

    def identity(self) -> str:
        """Everything about the teacher that may change a bit of its predictions."""
        members = [(m.resolution, m.mean, m.std, *([m.options] if m.options else [])) for m in self.members]
        return repr((self.signatures(), members, self._dtype, self.batch_size, self.device.type, self._compile))

    def signatures(self) -> tuple[str, ...]:
        """``NAME@DIGEST`` of each member: eight hexadecimal digits that change with any weight."""
        return tuple(f"{member.name}@{member.digest or weights_digest(member.model)}" for member in self.members)

    def log_probs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Log of the averaged probabilities, (B, C) float32 on the teacher's device.

        pixels: uint8, (B, H, W, 3) or (B, 3, H, W), on any device. Raises ValueError for any other array.
        """
        return self.log_probs_at({0: pixels})

    def log_probs_at(self, pixels: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The same for images that come at several sizes: each member takes its own, without interpolation.

        pixels: resolution → uint8 images as above; key 0 serves the members whose resolution is not among the keys.
        """
        return self._in_chunks(self._average, _channels_first(pixels), (0.0,) * 3, (1 / 255,) * 3)

    def member_log_probs_at(self, pixels: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """(M, B, C): the log-probabilities of each member by itself, of which ``log_probs_at`` gives the average."""
        return self._in_chunks(self._members, _channels_first(pixels), (0.0,) * 3, (1 / 255,) * 3)

    def log_probs_normalised(self, images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
        """The same for images (B, 3, H, W) that a loader normalised with mean and std, in units of [0, 1].

        Undoing the loader's normalisation and applying a member's is one multiplication and one addition, and none
        where both agree.
        """
        return self._in_chunks(self._average, {0: images}, mean, std)

    @torch.inference_mode()
    def _in_chunks(
        self,
        predict: Callable[..., torch.Tensor],
        sizes: Mapping[int, torch.Tensor],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> torch.Tensor:
        """Predictions (…, B, C), made ``batch_size`` images at a time. images * std + mean are pixels in [0, 1]."""
        parts = zip(*(images.split(self.batch_size) for images in sizes.values()), strict=True)
        chunks = [
            predict({side: self._moved(x) for side, x in zip(sizes, part, strict=True)}, mean, std) for part in parts
        ]
        # A plain copy: an inference tensor could not be saved for a student's backward pass.
        with torch.inference_mode(False):
            return torch.cat(chunks, dim=-2) if len(chunks) > 1 else chunks[0].clone()

    @torch.inference_mode(False)
    def _moved(self, x: torch.Tensor) -> torch.Tensor:
        """x on the device. An inference tensor, which a copy would be, has a graph apart from what is there already."""
        return x.to(self.device)

    def _average(self, sizes: Mapping[int, torch.Tensor], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
        return averaged(self._members(sizes, mean, std))

    def _members(self, sizes: Mapping[int, torch.Tensor], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
        """(M, B, C) of a chunk."""
        logs = []
        for number, member in enumerate(self.members):
            images = sizes[member.resolution if member.resolution in sizes else 0]
            # In KD the student's precision is at work around this.
            with float32_of(self.device, self._dtype) if member.is_traceable else nullcontext():
                logs.append(self._forward(number, tuple(mean), tuple(std))(images))
        return torch.stack(logs)

    def _new_forward(
        self, number: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """A member's log-probabilities (B, C) float32 of images (B, 3, H, W); images * std + mean are in [0, 1].

        Copies nothing from the host, which would wait for all that the device has to do.
        """
        member = self.members[number]
        affine = None if (mean, std) == (member.mean, member.std) else _affine(mean, std, member, self.device)
        size = (member.resolution, member.resolution)
        is_cast = self._dtype is not None and member.is_traceable

        def forward(images: torch.Tensor) -> torch.Tensor:
            x = images.float()
            if affine is not None:
                x = torch.addcmul(affine[0], x, affine[1])
            if member.resolution and tuple(x.shape[2:]) != size:
                x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, self._dtype, enabled=is_cast):
                logits = member.model(x)
            return logits.float().log_softmax(1)

        is_compiled = self._compile and member.is_traceable
        return FixedBatch(forward, "teacher.compile", self.batch_size, required=True) if is_compiled else forward


def averaged(log_probs: torch.Tensor) -> torch.Tensor:
    """Log of the mean of M members' probabilities, (M, B, C) → (B, C): log-sum-exp less log of their number."""
    return log_probs.logsumexp(0) - math.log(len(log_probs)) if len(log_probs) > 1 else log_probs[0]


def _channels_first(pixels: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    for x in pixels.values():
        if x.dtype != torch.uint8 or x.ndim != 4 or 3 not in (x.shape[1], x.shape[3]):
            raise ValueError(f"pixels: {x.dtype} {tuple(x.shape)}, but uint8 (B, H, W, 3) is needed")
    return {side: x.permute(0, 3, 1, 2) if x.shape[3] == 3 else x for side, x in pixels.items()}


def parse_models(models: Sequence[str]) -> list[tuple[str, str]]:
    """Name and checkpoint, empty for timm's own weights, of each model, given as ``NAME[:CHECKPOINT]``.

    Raises UserError for an empty or malformed list.
    """
    if not models:
        raise UserError(f"teacher.models: give NAME[:CHECKPOINT],… with NAME {FORMS}")
    parsed = [split_checkpoint(model) for model in models]
    for number, (name, _) in enumerate(parsed):
        prefix, rest = split_prefix(name)
        if not rest or (prefix in (TIMM, TORCHVISION) and "/" in rest):
            said = _quoted(models, number)
            raise UserError(f"{said}: give NAME[:CHECKPOINT],… with NAME {FORMS}; {_COMMA}")
    return parsed


def _quoted(models: Sequence[str], number: int) -> str:
    """How one of the models was read, for messages."""
    return f"teacher.models: {models[number]!r}" + (f", one of {len(models)}" if len(models) > 1 else "")


def _warn_of_eval_size(info: ModelInfo) -> None:
    """A line on standard error, from rank 0, where timm's weights are at their best on larger images than those that
    they were trained on."""
    config = config_of(info.name)
    height, width = eval_size(config)
    fed_as_trained = (info.resolution, info.resolution) == tuple(config.input_size[1:])
    if fed_as_trained and height == width != info.resolution and rank_and_world_size(None, None)[0] == 0:
        warn(
            f"teacher.resolution: timm evaluates {info.name} at {height} px; it sees {info.resolution} px here, as in "
            f"its training; teacher.resolution={height} takes timm's size"
        )


def _compiling_pays(device: torch.device, batches: int) -> bool:
    """Whether to compile where that is left open. Decided beforehand, for predictions differ by rounding."""
    if not pays(device, batches):
        return False
    reason = why_not(device)
    if reason:
        warn(f"teacher.compile: torch.compile does not work here ({reason}); going on without it")
    return not reason


def weights_digest(model: nn.Module) -> str:
    """Eight hexadecimal digits that change with any tensor of a model's state, or its name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):  # a module's own extra state
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:8]


def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], member: Member, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and scale, (3, 1, 1) each, from ((pixel - mean) / std) to ((pixel - member's mean) / member's std)."""
    scale = [s / t for s, t in zip(std, member.std, strict=True)]
    shift = [(m - n) / t for m, n, t in zip(mean, member.mean, member.std, strict=True)]
    return torch.tensor(shift, device=device)[:, None, None], torch.tensor(scale, device=device)[:, None, None]
