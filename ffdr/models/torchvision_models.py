"""torchvision's classifiers: their names, options and weights, how these want to be fed, and new models of them.

Only ``torchvision.models``' own builders make them. What else must be known of an architecture (its head, its options,
whether it is built for one size) is looked up in a model on the meta device.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlsplit

import torch
import torchvision.models as zoo
from timm.models import PretrainedCfg
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings

from ffdr.config.architecture import is_no_option
from ffdr.models.timm_options import on_meta

DROP_PATH = "stochastic_depth_prob"
"""What torchvision calls the rate of stochastic depth."""
_SIZES = ("image_size", "input_size")
"""Parameters that fix the size of the images."""
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Models with classifiers beside their own while they learn, which are left out, and how their weights begin."""
_SETTLED = {"num_classes", "aux_logits", "transform_input", "init_weights", "dropout_aux", DROP_PATH, *_SIZES}
"""Parameters that other settings decide."""


@dataclass(frozen=True)
class Facts:
    """What there is to know of an architecture."""

    head: str
    """name of the layer whose outputs are the classes"""
    size: str
    """the parameter that fixes the size of the images; empty: it takes several"""
    drop_path: bool
    """whether its stochastic depth can be set"""
    parameters: Mapping[str, inspect.Parameter]
    """of the constructor, those that plain values can set"""


@functools.cache
def names() -> tuple[str, ...]:
    """All classifiers, sorted."""
    return tuple(zoo.list_models(module=zoo))


@functools.cache
def facts(name: str) -> Facts:
    """What there is to know of one of ``names``."""
    model = on_meta(lambda: zoo.get_model(name, **_plain_classifier(name)))
    layers = [key for key, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    constructor = type(model).__init__
    hints = typing.get_type_hints(constructor)
    parameters = inspect.signature(constructor).parameters
    plain = {key: parameters[key] for key, hint in hints.items() if key in parameters and _is_plain(hint)}
    size = next((key for key in _SIZES if key in parameters), "")
    drop_path = DROP_PATH in parameters and _takes(name, DROP_PATH, 0.0)  # some take any name, and ignore it
    return Facts(layers[-1], size, drop_path, plain)


@functools.cache
def options_of(name: str) -> tuple[str, ...]:
    """Options of a model's architecture, sorted: parameters that its builder hands on, and plain values can set."""
    found = facts(name).parameters.items()
    candidates = {key: p.default for key, p in found if p.default is not p.empty and not is_no_option(key)}
    return tuple(sorted(key for key in candidates.keys() - _SETTLED if _takes(name, key, candidates[key])))


def _takes(name: str, key: str, value: Any) -> bool:
    try:
        on_meta(lambda: zoo.get_model(name, **_plain_classifier(name), **{key: value}))
    except (TypeError, ValueError):  # no such parameter; one that the builder sets
        return False
    return True


def _is_plain(hint: Any) -> bool:
    """Whether a number, true, false, none or a flat list of them is of a type."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return all(map(_is_plain, typing.get_args(hint)))
    (part,) = typing.get_args(hint) if typing.get_origin(hint) is list else (hint,)
    return part in (bool, int, float, type(None))


def _plain_classifier(name: str) -> dict[str, Any]:
    """Arguments for a model that gives one tensor, in training, too."""
    return {"aux_logits": False, "init_weights": True} if name in _AUXILIARY else {}


@functools.cache
def config(name: str) -> PretrainedCfg:
    """How the default weights of a model want to be fed, as timm has it."""
    view = zoo.get_model_weights(name)["DEFAULT"].transforms()
    (crop,), (resize,) = view.crop_size, view.resize_size
    share = crop / resize
    while math.floor(crop / share) < resize:  # by rounding, a pixel less
        share = math.nextafter(share, 0)
    # Given 0.5, the images are what transform_input would make of those that are normalised by ImageNet's numbers.
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name in _AUXILIARY else (tuple(view.mean), tuple(view.std))
    known = facts(name)
    return PretrainedCfg(
        architecture=name,
        input_size=(3, crop, crop),
        fixed_input_size=bool(known.size),
        interpolation=view.interpolation.value,
        crop_pct=share,
        mean=mean,
        std=std,
        classifier=known.head,
    )


def create(name: str, num_classes: int, resolution: int, options: Mapping[str, Any]) -> nn.Module:
    """A model with new weights. options: of ``options_of``, and ``drop_path_rate``, which is 0 if it is not there.

    Raises what the builder raises, and TypeError for stochastic depth that can't be set.
    """
    known, arguments = facts(name), {**options, **_plain_classifier(name)}
    drop_path = arguments.pop("drop_path_rate", 0.0)
    if known.drop_path:
        arguments[DROP_PATH] = drop_path
    elif drop_path:
        raise TypeError("drop_path_rate")
    if known.size:
        arguments[known.size] = resolution if known.size == "image_size" else (resolution, resolution)
    model = zoo.get_model(name, num_classes=num_classes, **arguments)
    model.num_classes = num_classes
    return model


def adapted(name: str, state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The weights of a file as the model can load them: without auxiliary classifiers, a ViT's position embeddings
    resampled to its size."""
    found = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY.get(name, ()) or "\0")}
    if facts(name).size == "image_size" and "encoder.pos_embedding" in found:
        made: Any = model
        found = interpolate_embeddings(made.image_size, made.patch_size, typing.cast(Any, found))
    return found


def weights_url(name: str) -> str:
    """Where the default weights are; empty if they are in torch's cache."""
    url = zoo.get_model_weights(name)["DEFAULT"].url
    return "" if Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name).is_file() else url


def fetch_weights(name: str) -> dict[str, torch.Tensor]:
    """The default weights, from torch's cache or the network, by the names that the model itself has for them.

    Raises what urllib and torch raise.
    """
    weights = zoo.get_model_weights(name)["DEFAULT"]
    # What passes here runs no code when the builder, which knows earlier names of weights, reads it again.
    torch.hub.load_state_dict_from_url(
        weights.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
    )
    return zoo.get_model(name, weights=weights, progress=False).state_dict()
