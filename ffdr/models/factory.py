"""The libraries' factories: what may be asked of them, how much that would be, and their errors as the user's."""

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

from ffdr.config.model_names import TORCHVISION, split_prefix
from ffdr.models import torchvision_models
from ffdr.models.catalog import config_of, fixed_size, is_of_timm
from ffdr.models.timm_options import MOST_MODULES, Size, TooManyError, check_memory, size_of
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import reason

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm asks the hub for."""


class Classifier(nn.Module):
    """What every model has that is made here, for type checkers: a forward pass (B, 3, H, W) → (B, num_classes)."""

    num_classes: int


class TimmModel(Classifier):
    """What every classifier of timm has besides."""

    pretrained_cfg: dict[str, Any]
    reset_classifier: Callable[[int], None]


@dataclass(frozen=True)
class Blueprint:
    """What a model is to be built as."""

    name: str
    """as ``ffdr.config.model_names`` has it, but of no hub"""
    num_classes: int
    resolution: int
    """pixels of a side of its images"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """further arguments of its library's factory"""
    at: str = "model."
    """what the settings' names begin with, for messages"""


def create(blueprint: Blueprint, **pretrained: Any) -> Classifier:
    """The model, with new weights from torch's global generator. pretrained: timm's arguments of that name.

    Raises:
        UserError: a size or an option that this model can't be built with.
    """
    name, at = blueprint.name, blueprint.at
    has_options = bool(blueprint.options.keys() - {"drop_path_rate"})
    try:
        made = _create(blueprint, pretrained)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise UserError(f"{at}drop_path: {name} has no stochastic depth; leave it at 0") from error
        raise UserError(f"{at}options: {name} can't be built with them ({reason(error)})") from error
    except (AssertionError, ValueError) as error:
        raise UserError(f"{at}name: {name} can't be built for {blueprint.resolution} px ({reason(error)})") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        # What the meta device can't do (``size``) says nothing about the options.
        of_meta = isinstance(error, NotImplementedError) or "meta tensor" in str(error)
        if not has_options or pretrained or is_out_of_memory(error) or of_meta:
            raise
        raise UserError(f"{at}options: {name} can't be built with them ({reason(error)})") from error
    if not isinstance(getattr(made, "num_classes", None), int):  # registered by a user
        made.num_classes = blueprint.num_classes
    return made


def _create(blueprint: Blueprint, pretrained: Mapping[str, Any]) -> Classifier:
    prefix, name = split_prefix(blueprint.name)
    if prefix == TORCHVISION:
        made = torchvision_models.create(name, blueprint.num_classes, blueprint.resolution, blueprint.options)
        return cast(Classifier, made)
    arguments: dict[str, Any] = {**blueprint.options, **pretrained, "num_classes": blueprint.num_classes}
    if fixed_size(name):
        arguments["img_size"] = blueprint.resolution
    return cast(Classifier, timm.create_model(name, **arguments))


def with_head(model: Classifier, blueprint: Blueprint) -> Classifier:
    """The model with a new head for the blueprint's number of classes; the other weights stay as they are."""
    if hasattr(model, "reset_classifier"):
        cast(TimmModel, model).reset_classifier(blueprint.num_classes)
        return model
    fresh, old = create(blueprint), model.state_dict()
    state = fresh.state_dict()
    for key, value in state.items():
        if value.shape == old[key].shape:
            state[key] = old[key]
    fresh.load_state_dict(state)
    return fresh


def size(blueprint: Blueprint, where: str, modules: int = MOST_MODULES) -> Size | None:
    """How much a model would be; None if it must be built to know, as some that users register.

    where: what asks for it, for messages.

    Raises:
        UserError: what timm can't build; more layers than ``modules``; more than this machine can hold.
    """
    try:
        config_of(blueprint.name)  # looks a model of torchvision up, which must not count
        found = size_of(lambda: create(blueprint), modules, not is_of_timm(blueprint.name))
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


def fetch(blueprint: Blueprint, key: str = "model.name") -> Classifier:
    """The model with its library's pretrained weights, from a cache or the network. key: the option, for messages.

    Raises:
        UserError: there are none, or they can't be had.
    """
    prefix, name = split_prefix(blueprint.name)
    try:
        if prefix == TORCHVISION:
            url = torchvision_models.weights_url(name)
            if url:
                require_host(url)
            return fill(blueprint, torchvision_models.fetch_weights(name))
        _check_reachable(config_of(name))
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
    require_host(constants.ENDPOINT)


def require_host(url: str) -> None:
    """Raise OSError for an address on a host whose name nobody knows here."""
    host = urlsplit(url).hostname
    if not getproxies().keys() - {"no"}:  # else only the proxy need know it
        try:
            socket.getaddrinfo(host, None)
        except socket.gaierror as error:
            raise OSError(f"{host}: {error.strerror}") from error


def fill(blueprint: Blueprint, state: Mapping[str, Any]) -> Classifier:
    """The model with weights of the same number of classes. state: tensors by name.

    Raises what torch and timm raise where the weights are others'.
    """
    prefix, name = split_prefix(blueprint.name)
    if prefix == TORCHVISION:
        model = create(blueprint)
        model.load_state_dict(torchvision_models.adapted(name, state, model))
        return model
    if not is_of_timm(name):  # an entry point that a user registered may pay no heed to what timm hands it
        model = create(blueprint)
        wanted = {key: value.shape for key, value in model.state_dict().items()}
        if not hasattr(model, "pretrained_cfg") or wanted == {key: value.shape for key, value in state.items()}:
            model.load_state_dict(state)
            return model
    # Through timm's pretrained path, because it resamples position embeddings to the resolution and renames old keys.
    overlay = {"state_dict": state, "num_classes": blueprint.num_classes, "label_offset": 0, "custom_load": False}
    model = create(blueprint, pretrained=True, pretrained_cfg_overlay=overlay)
    if cast(TimmModel, model).pretrained_cfg.pop("state_dict", None) is None:  # a second copy of the weights
        raise RuntimeError("its entry point does not hand pretrained_cfg_overlay on")
    return model


def device_of(model: nn.Module) -> torch.device | None:
    """Where a model lies; None if it has no parameters."""
    return next((parameter.device for parameter in model.parameters()), None)


def check_forward(model: nn.Module, blueprint: Blueprint, what: str) -> None:
    """Show the model one black image, and leave it in evaluation mode. what: it is, for messages.

    Raises:
        UserError: a size that it can't take, which is known now and not at the first batch; options that make it
            something else than a classifier.
    """
    side = blueprint.resolution
    try:
        with torch.inference_mode():
            output = model.eval()(torch.zeros(1, 3, side, side, device=device_of(model)))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{what} can't take images of {side} px ({reason(error)})") from error
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != (1, blueprint.num_classes):
        raise UserError(f"{what} gives {shape} for an image instead of {blueprint.num_classes} classes")
