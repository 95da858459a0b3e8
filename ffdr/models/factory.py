"""timm's factory: what may be asked of it, how much that would be, and its errors as the user's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import PretrainedCfg
from torch import nn

from ffdr.models.timm_names import config_of, fixed_size
from ffdr.models.timm_options import MOST_MODULES, Size, TooManyError, check_memory, size_of
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import reason

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm asks the hub for."""


class TimmModel(nn.Module):
    """What every classifier of timm has, for type checkers."""

    num_classes: int
    pretrained_cfg: dict[str, Any]
    reset_classifier: Callable[[int], None]


@dataclass(frozen=True)
class Blueprint:
    """What a model is to be built as."""

    name: str
    """timm model"""
    num_classes: int
    resolution: int
    """pixels of a side of its images"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """further arguments of timm's factory"""
    at: str = "model."
    """what the settings' names begin with, for messages"""


def create(blueprint: Blueprint, **pretrained: Any) -> TimmModel:
    """The model, with new weights from torch's global generator. pretrained: timm's arguments of that name.

    Raises:
        UserError: a size or an option that this model can't be built with.
    """
    name, at = blueprint.name, blueprint.at
    arguments: dict[str, Any] = {**blueprint.options, **pretrained, "num_classes": blueprint.num_classes}
    if fixed_size(name):
        arguments["img_size"] = blueprint.resolution
    try:
        made = timm.create_model(name, **arguments)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise UserError(f"{at}drop_path: {name} has no stochastic depth; leave it at 0") from error
        raise UserError(f"{at}options: {name} can't be built with them ({reason(error)})") from error
    except (AssertionError, ValueError) as error:
        raise UserError(f"{at}name: {name} can't be built for {blueprint.resolution} px ({reason(error)})") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        has_options = bool(blueprint.options.keys() - {"drop_path_rate"})
        # NotImplementedError: of the meta device (``size``), which says nothing about the options.
        if not has_options or pretrained or is_out_of_memory(error) or isinstance(error, NotImplementedError):
            raise
        raise UserError(f"{at}options: {name} can't be built with them ({reason(error)})") from error
    return cast(TimmModel, made)


def size(blueprint: Blueprint, where: str, modules: int = MOST_MODULES) -> Size | None:
    """How much a model would be; None if it must be built to know, as some that users register.

    where: what asks for it, for messages.

    Raises:
        UserError: what timm can't build; more layers than ``modules``; more than this machine can hold.
    """
    try:
        found = size_of(lambda: create(blueprint), modules)
    except TooManyError as error:
        raise UserError(f"{where}: it would have {error}") from error
    except RuntimeError:
        return None
    except UserError:
        if blueprint.options:
            raise
        return None  # building it says the same, or it is one that looks at numbers
    check_memory(found, where)
    return found


def fetch(blueprint: Blueprint, key: str = "model.name") -> TimmModel:
    """The model with timm's pretrained weights, from its cache or the network. key: the option, for messages.

    Raises:
        UserError: there are none, or they can't be had.
    """
    try:
        _check_reachable(config_of(blueprint.name))
        return create(blueprint, pretrained=True)
    except (OSError, RuntimeError) as error:  # what urllib, requests, the hub and timm raise
        raise UserError(
            f"{key}: no pretrained weights for {blueprint.name} ({reason(error)}); give a checkpoint, or a network to "
            "fetch them with"
        ) from error


def _check_reachable(config: PretrainedCfg) -> None:
    """Raise OSError if the weights would come from the hub, whose name nobody knows here: it retries for a minute."""
    names = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
    if not config.hf_hub_id or any(try_to_load_from_cache(config.hf_hub_id, name) for name in names):
        return
    host = urlsplit(constants.ENDPOINT).hostname
    if not getproxies().keys() - {"no"}:  # else only the proxy need know it
        try:
            socket.getaddrinfo(host, None)
        except socket.gaierror as error:
            raise OSError(f"{host}: {error.strerror}") from error


def check_forward(model: nn.Module, blueprint: Blueprint, what: str) -> None:
    """Show the model one black image, and leave it in evaluation mode. what: it is, for messages.

    Raises:
        UserError: a size that it can't take, which is known now and not at the first batch; options that make it
            something else than a classifier.
    """
    side = blueprint.resolution
    try:
        with torch.inference_mode():
            output = model.eval()(torch.zeros(1, 3, side, side))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{what} can't take images of {side} px ({reason(error)})") from error
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != (1, blueprint.num_classes):
        raise UserError(f"{what} gives {shape} for an image instead of {blueprint.num_classes} classes")
