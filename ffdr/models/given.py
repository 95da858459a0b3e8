"""Modules that a caller in Python gives: any ``torch.nn.Module`` that maps images to logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from timm.models import clean_state_dict
from torch import nn
from torch.nn.parameter import is_lazy

from ffdr.models.factory import Blueprint, check_forward, device_of
from ffdr.models.files import ModelInfo, read_info, read_weights
from ffdr.models.tensors import check_finite
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import printable, reason


def check_given(module: nn.Module, name: str, num_classes: int, resolution: int) -> None:
    """See that a module can be trained: (B, 3, H, W) float32 → (B, num_classes) logits, in training mode, too.

    Its weights, buffers and mode stay as they are. name: see ``given_name``.

    Raises:
        UserError: it has nothing to train, or a state that can't be stored; other outputs; images that it can't take.
    """
    what = f"model: {printable(name)}"
    values = [*module.parameters(), *module.buffers()]
    if any(is_lazy(value) or value.is_meta for value in values):
        raise UserError(f"{what} has parameters without values yet; call it once, or fill it, before it is trained")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UserError(f"{what} has no parameter that requires a gradient")
    strange = [key for key, value in module.state_dict().items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise UserError(f"{what} has a state besides tensors, which weights can't hold: {printable(strange[0])}")
    training, buffers = module.training, [buffer.clone() for buffer in module.buffers()]
    try:
        check_forward(module, Blueprint(name, num_classes, resolution), what)
        _check_training(module, num_classes, resolution, what)
    finally:
        module.train(training)
        for buffer, kept in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(kept)


def _check_training(module: nn.Module, num_classes: int, resolution: int, what: str) -> None:
    """Raise UserError where the outputs in training mode are others, such as those of auxiliary classifiers, too."""
    state = torch.get_rng_state()
    try:
        with torch.no_grad():
            output = module.train()(torch.zeros(2, 3, resolution, resolution, device=device_of(module)))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{what} can't take images of {resolution} px in training mode ({reason(error)})") from error
    finally:
        torch.set_rng_state(state)
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != (2, num_classes):
        asked = f"instead of {num_classes} classes of each"
        raise UserError(f"{what} gives {_shape(output)} for 2 images in training mode {asked}")


class Feeding(Protocol):
    """What says how images are normalised: a manifest's beton, or a library's configuration of a model."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Per-channel mean in [0, 1] that is subtracted."""

    @property
    def std(self) -> tuple[float, ...]:
        """Per-channel standard deviation in [0, 1] that is divided by."""


def describe_given(
    module: nn.Module, name: str, checkpoint: str | Path, resolution: int, fed: Feeding, key: str
) -> ModelInfo:
    """How to feed a module, which gets the weights of ``checkpoint``, if there is one, and is left in evaluation mode.

    Args:
        module: of a caller in Python.
        name: see ``given_name``.
        checkpoint: a file of weights, or empty.
        resolution: pixels; 0: what the checkpoint says.
        fed: the normalisation where no file of ours says it.
        key: the option that gave the resolution, for messages.

    Raises:
        UserError: weights that aren't the module's; no size; outputs that are no logits.
    """
    info = read_info(checkpoint) if checkpoint else None
    side = resolution or (info.resolution if info else 0)
    if not side:
        raise UserError(f"{key}: give the size of the images, in pixels; a module does not say it")
    if checkpoint:
        load_into(module, checkpoint, name)
    count = class_count(module, name, side, key)
    if info is not None:
        names = info.class_names if count == info.num_classes else ()
        return replace(info, name=name, num_classes=count, resolution=side, options=(), class_names=names)
    return ModelInfo(name, count, side, tuple(fed.mean), tuple(fed.std))


def class_count(module: nn.Module, name: str, resolution: int, key: str) -> int:
    """How many classes a module tells apart. Raises UserError where it does not give (1, C) logits for an image.

    key: the option that gave the resolution, for messages.
    """
    what = f"model: {printable(name)}"
    try:
        with torch.inference_mode():
            output = module.eval()(torch.zeros(1, 3, resolution, resolution, device=device_of(module)))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{key}: {what} can't take images of {resolution} px ({reason(error)})") from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != 1:
        raise UserError(f"{what} gives {_shape(output)} for an image instead of (1, classes)")
    return output.shape[1]


def _shape(output: object) -> object:
    """Of outputs, for messages."""
    return tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__


def load_into(module: nn.Module, path: str | Path, name: str) -> None:
    """Fill a module with the weights of a file, which fit it one to one. name: see ``given_name``.

    Raises:
        UserError: they don't; the file can't be read, or holds numbers that are not finite.
    """
    state = read_weights(path)
    own = module.state_dict()
    # Reading has dropped beginnings such as "module.", which a module may have itself.
    theirs = clean_state_dict({key: key for key in own})
    try:
        module.load_state_dict({key if key in own else theirs.get(key, key): value for key, value in state.items()})
    except (RuntimeError, AttributeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path}: these are not the weights of {printable(name)} ({reason(error)})") from error
    check_finite(path, module)
