"""The layout of the Hugging Face hub as timm reads it: ``config.json``, ``model.safetensors``, ``README.md``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import timm
from safetensors.torch import save
from timm.data import resolve_data_config
from timm.models._hub import save_config_for_hf  # its public caller writes weights, too, and fails on a full disk
from torch import nn

from ffdr.config.model_names import is_given
from ffdr.deploy.card import Card
from ffdr.deploy.deployed import Deployed
from ffdr.evaluate.settings import INTERPOLATION
from ffdr.models.build import ModelInfo
from ffdr.models.catalog import factory_options, fixed_size, is_of_timm
from ffdr.util.atomic import atomic_folder, atomic_path, atomic_write
from ffdr.util.errors import UserError
from ffdr.util.text import printable, reason

FILES = ("config.json", "model.safetensors", "README.md")
_KEPT = ("architecture", "custom_load", "fixed_input_size", "min_input_size", "first_conv", "classifier")
"""What of a model's configuration in timm is so whatever its weights are."""


def check_buildable(deployed: Deployed) -> str:
    """The name that timm itself builds the model by. Raises UserError where there is none."""
    name = deployed.info.name
    if is_given(name):  # a model of timm says itself what it is
        config = getattr(deployed.model, "pretrained_cfg", None)
        name = str(config.get("architecture")) if isinstance(config, Mapping) else ""
    if timm.is_model(name.partition(".")[0]) and is_of_timm(name):
        return name.partition(".")[0]
    raise UserError(
        f"export_model.format: hub is for models that timm builds, and {printable(deployed.info.name)} is none; use "
        "onnx or torch"
    )


def write_hub(deployed: Deployed, architecture: str, card: Card, out: Path, claim: Callable[[], None]) -> float:
    """Write the folder; equal models and runs give equal bytes.

    Args:
        deployed: the model.
        architecture: of ``check_buildable``.
        card: what its card says.
        out: the folder.
        claim: raises UserError if ``out`` is not free any more; called last.

    Returns:
        The largest difference of the answers of timm, which loads what was written.

    Raises:
        UserError: a model that timm can't build again, other answers, or another view of the images.
    """
    with atomic_folder(out) as folder:
        config = _config(deployed, folder / "config.json", architecture)
        atomic_write(folder / "config.json", json.dumps(config, indent=2) + "\n")
        state = {key: value.contiguous().clone() for key, value in deployed.model.state_dict().items()}
        with atomic_path(folder / "model.safetensors") as file:
            file.write(save(state, {"format": "pt"}))  # which transformers asks for
        atomic_write(folder / "README.md", card.text(deployed, architecture))
        found = deployed.check(lambda: _built_again(folder, deployed.info), "timm")
        claim()
    return found


def _config(deployed: Deployed, path: Path, architecture: str) -> dict[str, Any]:
    """What ``config.json`` holds. path: where timm may write its own."""
    model, info = cast(Any, deployed.model), deployed.info
    side, arguments = info.resolution, {}
    if not is_given(info.name):
        arguments = dict(factory_options(info.name, info.options))
    if fixed_size(architecture):
        arguments["img_size"] = side
    known = {key: model.pretrained_cfg[key] for key in _KEPT if key in model.pretrained_cfg}
    model.pretrained_cfg = known | {
        "architecture": architecture,
        "input_size": (3, side, side),
        "interpolation": INTERPOLATION,
        "crop_pct": info.center,
        "crop_mode": "center",
        "mean": info.mean,
        "std": info.std,
        "num_classes": info.num_classes,
    }
    try:
        save_config_for_hf(model, cast(Any, path), {"label_names": list(deployed.class_names)}, arguments)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{info.name}: timm can't describe it ({reason(error)})") from error
    config = json.loads(path.read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)  # stands beside it, and transformers gives it, too
    return config


def _built_again(folder: Path, info: ModelInfo) -> nn.Module:
    """The model as timm loads it from the folder.

    Raises UserError where timm would show it other images than those that it is evaluated on.
    """
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().requires_grad_(False)
    wanted = {
        "input_size": (3, info.resolution, info.resolution),
        "interpolation": INTERPOLATION,
        "mean": tuple(info.mean),
        "std": tuple(info.std),
        "crop_pct": info.center,
        "crop_mode": "center",
    }
    found = resolve_data_config({}, model=loaded)
    for key, value in wanted.items():
        theirs = tuple(found[key]) if isinstance(value, tuple) else found[key]
        if theirs != value:
            raise UserError(f"{info.name}: timm would feed it with {key} {theirs}, not {value}; nothing was written")
    return loaded
