"""Models by timm: build them, save them with what a user of the weights must know, load them again.

A saved model is a plain safetensors file of the model's own parameter names: ``timm.create_model(name,
num_classes=..., checkpoint_path=path)`` reads it without ffdr. The file's metadata (``ModelInfo``) says the rest.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors.torch import save
from timm.models import PretrainedCfg
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ffdr.config.learning import ModelOptions
from ffdr.models.files import (
    MOST_CLASSES,
    ModelInfo,
    class_digest,
    read_info,
    read_weights,
)
from ffdr.models.tensors import check_finite, check_numbers
from ffdr.models.timm_names import (
    check_name,
    config_of,
    eval_crop,
    fixed_size,
)
from ffdr.models.timm_options import (
    MOST_MODULES,
    Size,
    TooManyError,
    check_memory,
    factory_options,
    size_of,
)
from ffdr.util.atomic import atomic_path
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import byte_size, printable, reason

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm asks the hub for."""
_MODULES_PER_TENSOR, _MODULES_BESIDES = 8, 500
"""How many layers a model may have for each tensor of its file; those of timm have three at most."""
_BYTES_BESIDES = 64 << 20
"""Of a model's values, those that its file need not hold, such as the tables of positions that follow from its size."""
_WORK_PER_VALUE, _WORK_BESIDES = 1e5, 2e10
"""Operations that one image may take for each value of a file, and beside: a ResNet-50 takes 350 at 224 px, 30,000 at
2048."""

__all__ = [
    "ModelInfo", "autocast_dtype", "best_device", "build_model", "check_name", "class_digest", "fixed_size",
    "forward_flops", "load_model", "load_named", "read_info", "save_model", "save_weights",
]  # fmt: skip


def best_device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(precision: str, device: torch.device, key: str = "train.precision") -> torch.dtype | None:
    """The dtype to autocast to, or None for plain float32.

    auto is bfloat16 where a GPU has it in hardware, else float32. Raises UserError for float16 on a CPU, whose range
    needs a scaler and whose speed rewards nobody.
    """
    if precision == "float16" and device.type == "cpu":
        raise UserError(f"{key}: float16 needs a GPU; use auto, float32 or bfloat16")
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def build_model(options: ModelOptions, num_classes: int, resolution: int) -> nn.Module:
    """The model of a recipe, on the CPU in float32, for images of ``resolution`` pixels a side.

    With a checkpoint its weights, else pretrained ones if asked for; a head of another size is made anew. New weights
    come from torch's global generator.
    Raises UserError for an unknown name, a setting the model doesn't have, or weights that aren't this model's.
    """
    check_name(options.name)
    extra = factory_options(options.name, options.options)
    asked = f"{options.name} with {','.join(options.options)}" if options.options else options.name
    key = "model.options" if options.options else "model.name"
    if options.options:
        _size(f"{key}: {asked}", options.name, num_classes, resolution, **extra)
    if options.drop_path > 0:
        extra["drop_path_rate"] = options.drop_path
    if options.checkpoint:
        info = read_info(options.checkpoint)
        model = _load_weights(options.name, options.checkpoint, info, num_classes, resolution, **extra)
    elif options.pretrained:
        model = _fetch(options.name, resolution, **extra)
    else:
        model = _create(options.name, num_classes, resolution, **extra)
    if model.num_classes != num_classes:
        model.reset_classifier(num_classes)
    _probe(model, f"{key}: {asked}", num_classes, resolution)
    return model.train()


def forward_flops(model: nn.Module, name: str, resolution: int) -> int:
    """Floating-point operations of one image's forward pass; a multiply-add counts as two.

    model: in evaluation mode; may lie on the meta device, where the pass costs nothing.
    Raises UserError for images that it can't take.
    """
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            model(torch.zeros(1, 3, resolution, resolution))
    except (AssertionError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"model.name: {name} can't take images of {resolution} px, which the recipe has") from error
    return counter.get_total_flops()


def save_model(path: str | Path, model: nn.Module, info: ModelInfo) -> None:
    """Write weights and metadata as safetensors, under a partial name first."""
    save_weights(path, model.state_dict(), info)


def save_weights(path: str | Path, state: Mapping[str, torch.Tensor], info: ModelInfo) -> None:
    """The same for a model's ``state_dict``, on any device."""
    # Clones: the format takes neither other memory layouts nor tensors that share storage.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with atomic_path(path) as file:
        file.write(save(state, info.to_metadata()))


def load_model(path: str | Path, resolution: int = 0) -> tuple[nn.Module, ModelInfo]:
    """A model that ``save_model`` or a run's checkpoint holds, in evaluation mode; ``resolution`` other than 0 replaces
    the stored one.

    Raises UserError for a file that is missing, damaged or not ours.
    """
    info = read_info(path)
    if info is None:
        raise UserError(
            f"{path}: not a model written by ffdr train; to load it through timm, give its name, too: "
            f"--model.name=NAME --model.checkpoint={path}"
        )
    return _load_ours(path, info, resolution, "eval.resolution")


def _load_ours(path: str | Path, info: ModelInfo, resolution: int, size_key: str) -> tuple[nn.Module, ModelInfo]:
    """See ``load_model``. info: what the file says. size_key: the option that gave ``resolution``, for messages."""
    check_name(info.name, f"{path}: name")
    extra = factory_options(info.name, info.options, f"{path}: options")
    size = resolution or info.resolution
    model = _load_weights(info.name, path, info, info.num_classes, size, at=f"{path}: ", **extra)
    if model.num_classes != info.num_classes:
        raise UserError(f"{path}: num_classes: {info.num_classes} by its metadata, {model.num_classes} by its weights")
    info = replace(info, resolution=size)
    _probe(model, f"{size_key if resolution else path}: {info.name}", info.num_classes, info.resolution)
    return model, info


def load_named(
    name: str,
    checkpoint: str = "",
    num_classes: int | None = None,
    resolution: int = 0,
    key: str = "model.name",
    options: tuple[str, ...] = (),
    size_key: str = "eval.resolution",
) -> tuple[nn.Module, ModelInfo]:
    """A trained model in evaluation mode and how to feed it.

    checkpoint: a file of ours, whose metadata rules; any other that timm loads (without running code from it), fed as
    timm's pretrained configuration of ``name`` says; or empty, for the pretrained weights that timm fetches.
    resolution other than 0 replaces the one so found. key: the option that gave the name, for messages; size_key: that
    of the resolution. options: of timm's model, as ``ModelOptions.options``.
    Raises UserError for a file of another model, another number of classes than ``num_classes``, or weights that can't
    be had.
    """
    info = read_info(checkpoint) if checkpoint else None
    if info is not None:
        if name and name != info.name:
            raise UserError(f"{checkpoint}: holds a {info.name}, but {name} was asked for")
        if options not in ((), info.options):
            has = printable(",".join(info.options))
            raise UserError(f"model.options: {checkpoint} says itself what its model has ({has})")
        model, info = _load_ours(checkpoint, info, resolution, size_key)
    else:
        check_name(name, key)
        info, extra = _info_of_timm(name, resolution), factory_options(name, options)
        if checkpoint:
            model = _load_weights(name, checkpoint, None, num_classes, info.resolution, **extra).eval()
        else:
            model = _fetch(name, info.resolution, key, **extra).eval()
        info = replace(info, num_classes=model.num_classes, options=options)
    if num_classes is not None and info.num_classes != num_classes:
        raise UserError(f"{checkpoint or info.name}: has {info.num_classes} classes, but the data has {num_classes}")
    return model, info


def _create(name: str, num_classes: int, resolution: int, at: str = "model.", **extra: Any) -> nn.Module:
    """timm's factory with what this model takes, its errors told as the user's. at: what its settings' names begin
    with, for messages."""
    asked = extra.keys() - {"pretrained", "pretrained_cfg_overlay", "drop_path_rate"}
    if fixed_size(name):
        extra["img_size"] = resolution
    try:
        return timm.create_model(name, num_classes=num_classes, **extra)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise UserError(f"{at}drop_path: {name} has no stochastic depth; leave it at 0") from error
        raise UserError(f"{at}options: {name} can't be built with them ({reason(error)})") from error
    except (AssertionError, ValueError) as error:
        raise UserError(f"{at}name: {name} can't be built for {resolution} px ({reason(error)})") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        # NotImplementedError: of the meta device (``_size``), which tells nothing of the options.
        if not asked or "pretrained" in extra or is_out_of_memory(error) or isinstance(error, NotImplementedError):
            raise
        raise UserError(f"{at}options: {name} can't be built with them ({reason(error)})") from error


def _probe(model: nn.Module, asked: str, num_classes: int, resolution: int) -> None:
    """Show the model one black image: a size that it can't take is told now, not at the first batch, and so are options
    that make it something else than a classifier. Leaves it in evaluation mode. asked: what it is, for messages."""
    try:
        with torch.inference_mode():
            answer = model.eval()(torch.zeros(1, 3, resolution, resolution))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{asked} can't take images of {resolution} px ({reason(error)})") from error
    shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if shape != (1, num_classes):
        raise UserError(f"{asked} gives {shape} for an image instead of {num_classes} classes")


def _load_weights(
    name: str, path: str | Path, info: ModelInfo | None, num_classes: int | None, resolution: int, **extra: Any
) -> nn.Module:
    """The model with a file's weights and as many classes as the file has (``num_classes`` if it doesn't show).

    info: what the file says. Nothing is built before it is known that its weights are as many as such a model has.
    """
    if info is not None and info.name != name:
        raise UserError(f"{path}: holds a {info.name}, but {name} was asked for")
    state, config = read_weights(path), config_of(name)
    classifier = config.classifier if isinstance(config.classifier, str) else (config.classifier or [""])[0]
    head = state.get(f"{classifier}.weight")
    if isinstance(head, torch.Tensor):
        if head.ndim == 0 or not 0 < len(head) <= MOST_CLASSES:
            raise UserError(f"{path}: {classifier}.weight, of shape {tuple(head.shape)}, is no weight of classes")
        num_classes = len(head)
    num_classes = num_classes or config.num_classes
    # The file's own resolution: what a user asks for beyond it is not the file's doing.
    said = min(resolution, info.resolution if info else config.input_size[-1])
    _check_held(path, state, info, name, num_classes, said, **extra)
    # Through timm's pretrained path, because it resamples position embeddings to the resolution and renames old keys.
    overlay = {"state_dict": state, "num_classes": num_classes, "label_offset": 0, "custom_load": False}
    try:
        model = _create(name, num_classes, resolution, pretrained=True, pretrained_cfg_overlay=overlay, **extra)
    except (RuntimeError, LookupError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path}: these are not the weights of {name} ({reason(error)})") from error
    model.pretrained_cfg.pop("state_dict", None)  # it would keep a second copy of the weights alive
    check_finite(path, model)
    return model


def _check_held(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    info: ModelInfo | None,
    name: str,
    num_classes: int,
    resolution: int,
    **extra: Any,
) -> None:
    """Raise UserError if a file's weights are not as many as such a model has, or of another kind of numbers; if it
    says itself what its model is, also for one that would take forever."""
    held = 4 * sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor))
    modules = min(MOST_MODULES, _MODULES_BESIDES + _MODULES_PER_TENSOR * len(state))
    size = _size(f"{path}: {name}", name, num_classes, resolution, modules, **extra)
    if size is None:
        if extra.keys() - {"at"}:
            raise UserError(f"{path}: options: how much a {name} is with them can't be known before it is built")
        return
    if size.bytes > 2 * held + _BYTES_BESIDES:
        raise UserError(f"{path}: a {name} as it says has {byte_size(size.bytes)}, but its weights {byte_size(held)}")
    check_numbers(path, state, size.floats)
    if info is not None:
        _check_work(path, size.model, name, resolution, held)


def _check_work(path: str | Path, model: nn.Module, name: str, resolution: int, held: int) -> None:
    """Raise UserError if one image takes far more work than the size of a file lets expect, as patches of one pixel do.

    model: on the meta device. held: bytes of the weights.
    """
    try:
        with torch.device("meta"):
            work = forward_flops(model.eval(), name, resolution)
    except (UserError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return  # images that it can't take are told of when it is shown one
    most = _WORK_BESIDES + _WORK_PER_VALUE * held / 4
    if work > most:
        said = f"{work:.0e} operations for an image of {resolution} px, but {most:.0e} are the most of so many weights"
        raise UserError(f"{path}: a {name} as it says takes {said}")


def _size(
    where: str, name: str, num_classes: int, resolution: int, modules: int = MOST_MODULES, **extra: Any
) -> Size | None:
    """How much a model would be; None if only building it can tell, as of some that users register.

    Raises UserError for what timm can't build, for more layers than ``modules``, and for more than this machine can
    hold. where: what asks for it.
    """
    try:
        size = size_of(lambda: _create(name, num_classes, resolution, **extra), modules)
    except TooManyError as error:
        raise UserError(f"{where}: it would have {error}") from error
    except RuntimeError:
        return None
    except UserError:
        if extra.keys() - {"at"}:
            raise
        return None  # building it says the same, or it is one that looks at numbers
    check_memory(size, where)
    return size


def _fetch(name: str, resolution: int, key: str = "model.name", **extra: Any) -> nn.Module:
    """The model with the pretrained weights of timm, from its cache or the network. key: the option, for messages."""
    config = config_of(name)
    try:
        _check_reachable(config)
        return _create(name, config.num_classes, resolution, pretrained=True, **extra)
    except (OSError, RuntimeError) as error:  # what urllib, requests, the hub and timm raise
        raise UserError(
            f"{key}: no pretrained weights for {name} ({reason(error)}); give a checkpoint, or a network to fetch "
            "them with"
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


def _info_of_timm(name: str, resolution: int) -> ModelInfo:
    """How timm's pretrained weights of a model want to be fed."""
    config = config_of(name)
    resolution = resolution or config.input_size[-1]
    return ModelInfo(
        name=name,
        num_classes=config.num_classes,
        resolution=resolution,
        mean=tuple(config.mean),
        std=tuple(config.std),
        center=eval_crop(config, resolution),
    )
