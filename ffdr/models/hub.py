"""Models of the Hugging Face hub, and of folders of that kind: a ``config.json`` that says what timm is to build, and
weights. They may be a stranger's: the file is read within bounds, and the weights as any others (``files``)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import EntryNotFoundError
from timm.models import PretrainedCfg

from ffdr.config.learning import ModelOptions
from ffdr.config.model_names import FOLDER, is_from_hub, split_prefix
from ffdr.models.catalog import check_name, factory_options
from ffdr.models.factory import require_host
from ffdr.models.files import ModelInfo
from ffdr.models.timm_names import eval_crop
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json
from ffdr.util.text import brief, join_list, printable, reason

_CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""In the order in which timm looks for them."""
_MOST_CONFIG = 1 << 20
"""Bytes; those of 21,843 classes with their descriptions have 2 MB, which ffdr doesn't read."""
_MOST_ARGUMENTS = 64
_SETTLED = ("num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate", "drop_block_rate")
"""Arguments that the weights, ffdr's images or other settings decide."""


def architecture_of(options: ModelOptions) -> ModelOptions:
    """The same with the name and the options of the architecture, where the name is of a hub or a folder."""
    if not is_from_hub(options.name):
        return options
    info = hub_info(options.name)
    return replace(options, name=info.name, options=merged(info.options, options.options))


def merged(stored: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """NAME=VALUE texts of both, of which ``given`` win."""
    names = {text.partition("=")[0].strip() for text in given}
    return (*(text for text in stored if text.partition("=")[0] not in names), *given)


def hub_info(name: str, key: str = "model.name") -> ModelInfo:
    """What the ``config.json`` of a model says of it. key: the option that gave the name, for messages.

    Raises:
        UserError: it can't be had; it describes no model of timm; a value of another type or out of range.
    """
    check_name(name, key)
    path = _file(name, (_CONFIG,), key)
    content = read_json(path, _MOST_CONFIG)
    try:
        info = _described(content)
        check_name(info.name, "architecture")
        factory_options(info.name, info.options, "model_args")
    except UserError as error:
        raise UserError(f"{path}: {reason(error, 400)}") from error
    return info


def hub_weights(name: str, key: str = "model.name") -> Path:
    """The file with the weights of a model. Raises UserError where there is none that can be had."""
    return _file(name, _WEIGHTS, key)


def folder_files(name: str) -> list[Path]:
    """Of a model of a folder what decides it: its description, and its weights, if there are any; of others nothing."""
    prefix, folder = split_prefix(name)
    described, weights = (_first(folder, files) if prefix == FOLDER else None for files in ((_CONFIG,), _WEIGHTS))
    return [file for file in (described, weights) if file]


def _described(config: Any) -> ModelInfo:
    """Of a file's content, in either of timm's two layouts."""
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise UserError('it names no "architecture" of timm (models of transformers are not read)')
    fed, arguments = config.get("pretrained_cfg", config), config.get("model_args") or {}
    if not isinstance(fed, dict) or not isinstance(arguments, dict):
        raise UserError("pretrained_cfg, model_args: an object of fields is needed")
    if len(arguments) > _MOST_ARGUMENTS:
        raise UserError(f"model_args: {len(arguments):,} of them, but at most {_MOST_ARGUMENTS} are read")
    if "/" in config["architecture"] or ":" in config["architecture"]:
        raise UserError(f"architecture: {brief(config['architecture'], 80)} is not a name of timm's")
    default = PretrainedCfg()
    view: dict[str, Any] = {key: check(key, fed[key]) for key, check in _VIEW.items() if fed.get(key) is not None}
    channels, height, width = view.get("input_size", default.input_size)
    if channels != 3 or arguments.get("in_chans") not in (None, 3):
        raise UserError("input_size, in_chans: ffdr's images have 3 channels")
    if height != width:
        raise UserError(f"input_size: {height}×{width}, but ffdr's images are square")
    options = [f"{key}={_text(value)}" for key, value in arguments.items() if key not in _SETTLED and value is not None]
    return ModelInfo.from_values(
        {
            "name": config["architecture"],
            "num_classes": config.get("num_classes", fed.get("num_classes", default.num_classes)),
            "resolution": width,
            "mean": fed.get("mean", default.mean),
            "std": fed.get("std", default.std),
            "center": eval_crop(PretrainedCfg(**view), width),
            "options": options,
        }
    )


def _shape(key: str, value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(side) is int and 0 < side <= 4096 for side in value)
    ):
        raise UserError(f"{key}: {brief(value, 80)} is not channels, height and width")
    return tuple(value)


def _share(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1:
        raise UserError(f"{key}: {brief(value, 80)} is no share of an image")
    return value


_VIEW: dict[str, Callable[[str, Any], Any]] = {
    "input_size": _shape,
    "test_input_size": _shape,
    "crop_pct": _share,
    "test_crop_pct": _share,
}
"""Fields that decide the evaluation view, and what checks them."""


def _text(value: Any) -> str:
    """A JSON value as the VALUE of an option, whose reader refuses what is not plain."""
    is_word = isinstance(value, str) and value.isidentifier() and isinstance(yaml.safe_load(value), str)
    return value if is_word else json.dumps(value)


def _file(name: str, files: Sequence[str], key: str) -> Path:
    """The first of the files that a model has. Raises UserError if it has none of them, or they can't be had."""
    prefix, place = split_prefix(name)
    if prefix == FOLDER:
        found = _first(place, files)
    else:
        repository, _, revision = place.partition("@")
        try:
            found = next(filter(None, (_download(repository, file, revision or None) for file in files)), None)
        except Exception as error:  # the hub's library raises its own, those of its HTTP library, and OSError
            raise UserError(
                f"{key}: {printable(name)} can't be had from the hub ({reason(error)}); it is fetched once, over a "
                "network, and kept in HF_HOME"
            ) from error
    if found is None:
        raise UserError(f"{key}: {printable(name)}: there is no {join_list(files)} in it")
    return found


def _first(folder: str, files: Sequence[str]) -> Path | None:
    return next((path for path in (Path(folder, file) for file in files) if os.path.isfile(path)), None)


def _download(repository: str, file: str, revision: str | None) -> Path | None:
    """A file of the hub's, which may be in its cache; None if the repository has none of that name."""
    cached = try_to_load_from_cache(repository, file, revision=revision)
    try:
        require_host(constants.ENDPOINT)
    except OSError:
        if isinstance(cached, str):
            return Path(cached)
        if cached is not None:  # known to be missing
            return None
        raise
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except EntryNotFoundError:
        return None
