"""What is known of a model by its name alone, whichever library builds it: whether it is there, its options, its size,
how its pretrained weights want to be fed.

A name is as ``ffdr.config.model_names`` has it. Models of a hub or a folder are described by a file, see ``hub``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, model_entrypoint

from ffdr.config.architecture import read_options
from ffdr.config.model_names import FOLDER, FORMS, GIVEN, HUB, TIMM, TORCHVISION, is_from_hub, is_given, split_prefix
from ffdr.models import timm_names, timm_options, torchvision_models
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, printable


def check_name(name: str, key: str = "model.name", module: str = "") -> None:
    """Raise UserError for a name that nothing can be built by, with the nearest one that something can.

    key: the option or file that gave it. module: the flag that registers more; empty: as the key has it.
    """
    module = module or ("--teacher.module" if key.startswith("teacher.") else "--model.module")
    prefix, rest = split_prefix(name)
    if prefix == TORCHVISION:
        known = torchvision_models.names()
        if rest not in known:
            raise UserError(f"{key}: torchvision has no classifier {brief(rest)}{nearest(rest, known)}")
    elif prefix == HUB:
        owner, _, repository = rest.partition("@")[0].partition("/")
        if not (owner and repository) or "/" in repository or rest.count("@") > 1:
            raise UserError(f"{key}: {brief(name)} is not hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION")
    elif prefix == FOLDER:
        if not rest or not os.path.isfile(Path(rest, "config.json")):  # unlike Path's, of a name too long, too
            raise UserError(
                f"{key}: {printable(name)}: there is no config.json in that folder, as save_for_hf writes it"
            )
    elif prefix == GIVEN:
        raise UserError(
            f"{key}: {printable(rest)} is a module that was given in Python, and can't be built by name: call "
            f"ffdr.train or ffdr.evaluate with model=…, or register it with timm in a file for {module}, and give the "
            "name that it has there"
        )
    elif not name or "/" in name or ":" in name:
        raise UserError(f"{key}: {brief(name)} is not {FORMS}")
    else:
        timm_names.check_name(name, key, module)


def factory_options(name: str, texts: Sequence[str], key: str = "model.options") -> dict[str, Any]:
    """NAME=VALUE texts as arguments of the model's factory. name: of ``check_name``, and not of a hub.

    Raises:
        UserError: what ``read_options`` refuses, and an option that this model's architecture has not.
    """
    prefix, rest = split_prefix(name)
    if prefix == TIMM:
        return timm_options.factory_options(name, texts, key)
    found = read_options(texts, key)
    has = torchvision_models.options_of(rest) if found else ()
    if torchvision_models.DROP_PATH in found:
        raise UserError(f"{key}: {torchvision_models.DROP_PATH} is what model.drop_path says; give that")
    timm_options.check_options(name, found, has, key)
    return found


def config_of(name: str) -> PretrainedCfg:
    """How the pretrained weights of a model want to be fed; of one without a configuration timm's defaults."""
    prefix, rest = split_prefix(name)
    return torchvision_models.config(rest) if prefix == TORCHVISION else timm_names.config_of(rest)


def fixed_size(name: str) -> bool:
    """Whether the model is built for one size of images (a ViT's position embedding), by its library's own account."""
    return not (is_given(name) or is_from_hub(name)) and bool(config_of(name).fixed_input_size)


def is_known(name: str) -> bool:
    """Whether a library builds models of that name."""
    prefix, rest = split_prefix(name)
    return rest in torchvision_models.names() if prefix == TORCHVISION else prefix == TIMM and timm.is_model(rest)


def library_of(name: str) -> str:
    """Whose the model is, for messages."""
    return "torchvision" if split_prefix(name)[0] == TORCHVISION else "timm"


def is_of_timm(name: str) -> bool:
    """Whether timm itself comes with the model; else it is another library's, or one that the user registered."""
    arch = name.partition(".")[0]
    return split_prefix(name)[0] == TIMM and model_entrypoint(arch).__module__.partition(".")[0] == timm.__name__
