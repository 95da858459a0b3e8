"""Models: build them, save them with what a user of the weights must know, load them again.

A saved model is a plain safetensors file of the model's own parameter names: ``timm.create_model(name,
num_classes=..., checkpoint_path=path)`` reads it without ffdr, and so does the ``load_state_dict`` of torchvision's
models and of anyone's. The file's metadata (``ModelInfo``) says the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ffdr.config.learning import ModelOptions
from ffdr.config.model_names import is_from_hub, is_given
from ffdr.models.catalog import check_name, config_of, factory_options, fixed_size
from ffdr.models.factory import Blueprint, Classifier, check_forward, create, device_of, fetch, fill, size, with_head
from ffdr.models.files import MOST_CLASSES, ModelInfo, class_digest, read_info, read_weights
from ffdr.models.hub import architecture_of, hub_info, hub_weights, merged
from ffdr.models.modules import import_modules
from ffdr.models.tensors import check_finite, check_numbers
from ffdr.models.timm_names import eval_crop
from ffdr.models.timm_options import MOST_MODULES
from ffdr.util.atomic import atomic_path
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import byte_size, printable, reason

_MODULES_PER_TENSOR, _MODULES_BESIDES = 8, 500
"""How many layers a model may have for each tensor of its file; those of timm have three at most."""
_BYTES_BESIDES = 64 << 20
"""Of a model's values, those that its file need not hold, such as the tables of positions that follow from its size."""
_WORK_PER_VALUE, _WORK_BESIDES = 1e5, 2e10
"""Operations that one image may take for each value of a file, and beside: a ResNet-50 takes 350 at 224 px, 30,000 at
2048."""

__all__ = [
    "ModelInfo", "architecture_of", "autocast_dtype", "best_device", "build_model", "check_model", "check_name",
    "class_digest", "fixed_size", "forward_flops", "load_model", "load_named", "read_info", "save_model",
    "save_weights",
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


def check_model(options: ModelOptions) -> None:
    """Import ``model.module``, and raise UserError for a name that nothing can be built by."""
    import_modules(options.module, "model.module")
    check_name(options.name)


def build_model(options: ModelOptions, num_classes: int, resolution: int) -> nn.Module:
    """The model of a recipe, on the CPU in float32, for images of ``resolution`` pixels a side.

    With a checkpoint its weights, else pretrained ones if asked for; a head of another size is made anew. New weights
    come from torch's global generator.

    Raises:
        UserError: an unknown name, a setting the model doesn't have, or weights that aren't this model's.
    """
    check_model(options)
    given, options = options, architecture_of(options)
    blueprint = Blueprint(options.name, num_classes, resolution, factory_options(options.name, options.options))
    what = f"model.name: {given.name}"
    if options.options:
        what = f"model.options: {given.name} with {','.join(options.options)}"
        size(blueprint, what)
    if options.drop_path > 0:
        blueprint = replace(blueprint, options={**blueprint.options, "drop_path_rate": options.drop_path})
    if options.checkpoint:
        model = _load_weights(blueprint, options.checkpoint, _registered(read_info(options.checkpoint), options.name))
    elif options.pretrained and is_from_hub(given.name):
        model = _load_weights(blueprint, hub_weights(given.name), hub_info(given.name))
    elif options.pretrained:
        model = fetch(replace(blueprint, num_classes=config_of(options.name).num_classes))
    else:
        model = create(blueprint)
    if model.num_classes != num_classes:
        model = with_head(model, blueprint)
    check_forward(model, blueprint, what)
    return model.train()


def forward_flops(model: nn.Module, name: str, resolution: int) -> int:
    """Floating-point operations of one image's forward pass; a multiply-add counts as two.

    model: in evaluation mode; may lie on the meta device, where the pass costs nothing.

    Raises:
        UserError: images that it can't take.
    """
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            model(torch.zeros(1, 3, resolution, resolution, device=device_of(model)))
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


def load_model(path: str | Path, resolution: int = 0, size_key: str = "eval.resolution") -> tuple[nn.Module, ModelInfo]:
    """A model that ``save_model`` or a run's checkpoint holds, in evaluation mode; ``resolution`` other than 0 replaces
    the stored one. size_key: the option that gave it, for messages.

    Raises:
        UserError: a file that is missing, damaged or not ours.
    """
    info = read_info(path)
    if info is None:
        raise UserError(
            f"{path}: not a model written by ffdr train; to load it through timm, give its name, too: "
            f"--model.name=NAME --model.checkpoint={path}"
        )
    return _load_ours(path, info, resolution, size_key)


def load_named(
    name: str,
    checkpoint: str = "",
    num_classes: int | None = None,
    resolution: int = 0,
    key: str = "model.name",
    options: tuple[str, ...] = (),
    size_key: str = "eval.resolution",
    options_key: str = "model.options",
) -> tuple[nn.Module, ModelInfo]:
    """A trained model in evaluation mode and how to feed it.

    Args:
        name: as ``ffdr.config.model_names`` has it; may be empty if the checkpoint is ours.
        checkpoint: a file of ours, whose metadata rules; any other that timm loads (without running code from it), fed
            as the pretrained configuration of ``name`` says; or empty, for the pretrained weights of that name.
        num_classes: of the data; None: any.
        resolution: other than 0, replaces the one so found.
        key: the option that gave the name, for messages.
        options: as ``ModelOptions.options``.
        size_key: the option that gave the resolution, for messages.
        options_key: the one that gave the options, likewise.

    Raises:
        UserError: a file of another model, another number of classes than ``num_classes``, or weights that can't be
            had.
    """
    if name:
        check_name(name, key)
    info = _registered(read_info(checkpoint), name, options) if checkpoint else None
    said = hub_info(name, key) if is_from_hub(name) else None
    if info is not None:
        asked = said.name if said else name
        if asked and asked != info.name:
            raise UserError(f"{checkpoint}: holds a {info.name}, but {asked} was asked for")
        if options not in ((), info.options):
            has = printable(",".join(info.options))
            raise UserError(f"{options_key}: {checkpoint} says itself what its model has ({has})")
        model, info = _load_ours(checkpoint, info, resolution, size_key)
    elif said is not None:
        said = replace(said, options=merged(said.options, options))
        model, info = _load_ours(checkpoint or hub_weights(name, key), said, resolution, size_key)
    else:
        model, info = _load_timms(name, checkpoint, num_classes, resolution, key, options, options_key)
    if num_classes is not None and info.num_classes != num_classes:
        raise UserError(f"{checkpoint or info.name}: has {info.num_classes} classes, but the data has {num_classes}")
    return model, info


def _registered(info: ModelInfo | None, name: str, options: tuple[str, ...] = ()) -> ModelInfo | None:
    """What a file says; of a module that was given in Python, by the name under which the user has registered it."""
    return replace(info, name=name, options=options) if info is not None and name and is_given(info.name) else info


def _load_ours(path: str | Path, info: ModelInfo, resolution: int, size_key: str) -> tuple[nn.Module, ModelInfo]:
    """See ``load_model``. info: what the file says. size_key: the option that gave ``resolution``, for messages."""
    module = "--teacher.module" if size_key.startswith("teacher.") else "--model.module"
    check_name(info.name, f"{path}: name", module)
    options = factory_options(info.name, info.options, f"{path}: options")
    wanted = Blueprint(info.name, info.num_classes, resolution or info.resolution, options, at=f"{path}: ")
    model = _load_weights(wanted, path, info)
    if model.num_classes != info.num_classes:
        raise UserError(f"{path}: num_classes: {info.num_classes} by its metadata, {model.num_classes} by its weights")
    check_forward(model, wanted, f"{size_key if resolution else path}: {info.name}")
    return model, replace(info, resolution=wanted.resolution)


def _load_timms(
    name: str,
    checkpoint: str,
    num_classes: int | None,
    resolution: int,
    key: str,
    options: tuple[str, ...],
    options_key: str,
) -> tuple[nn.Module, ModelInfo]:
    """See ``load_named``: a model fed as timm's configuration of its name says."""
    config = config_of(name)
    resolution = resolution or config.input_size[-1]
    wanted = Blueprint(name, num_classes or 0, resolution, factory_options(name, options, options_key))
    if checkpoint:
        model = _load_weights(wanted, checkpoint, None)
    else:
        model = fetch(replace(wanted, num_classes=config.num_classes), key)
    mean, std, center = tuple(config.mean), tuple(config.std), eval_crop(config, resolution)
    return model.eval(), ModelInfo(name, model.num_classes, resolution, mean, std, center, options=options)


def _load_weights(wanted: Blueprint, path: str | Path, info: ModelInfo | None) -> Classifier:
    """The model with a file's weights and as many classes as the file has; where that doesn't show, ``info`` or else
    ``wanted`` has the number (0: as the configuration of the name says).

    info: what the file says. Nothing is built before it is known that its weights are as many as such a model has.
    """
    name = wanted.name
    if info is not None and info.name != name:
        raise UserError(f"{path}: holds a {info.name}, but {name} was asked for")
    state, config = read_weights(path), config_of(name)
    names: Any = config.classifier or ""  # of a model with two heads a tuple, whatever the annotation says
    classifier = names if isinstance(names, str) else names[0]
    head = state.get(f"{classifier}.weight")
    num_classes = (info.num_classes if info else wanted.num_classes) or config.num_classes
    if isinstance(head, torch.Tensor):
        if head.ndim == 0 or not 0 < len(head) <= MOST_CLASSES:
            raise UserError(f"{path}: {classifier}.weight, of shape {tuple(head.shape)}, is no weight of classes")
        num_classes = len(head)
    wanted = replace(wanted, num_classes=num_classes)
    # The file's own resolution: what a user asks for beyond it is not the file's doing.
    said = min(wanted.resolution, info.resolution if info else config.input_size[-1])
    _check_held(path, state, info, replace(wanted, resolution=said))
    try:
        model = fill(wanted, state)
    except (RuntimeError, LookupError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path}: these are not the weights of {name} ({reason(error)})") from error
    check_finite(path, model)
    return model


def _check_held(path: str | Path, state: Mapping[str, object], info: ModelInfo | None, said: Blueprint) -> None:
    """Raise UserError if a file's weights are not as many as such a model has, or of another kind of numbers; if it
    says itself what its model is, also for one that would take forever."""
    name = said.name
    held = 4 * sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor))
    found = size(said, f"{path}: {name}", min(MOST_MODULES, _MODULES_BESIDES + _MODULES_PER_TENSOR * len(state)))
    if found is None:
        if said.options:
            raise UserError(f"{path}: options: how much a {name} is with them can't be known before it is built")
        return
    if found.bytes > 2 * held + _BYTES_BESIDES:
        raise UserError(f"{path}: a {name} as it says has {byte_size(found.bytes)}, but its weights {byte_size(held)}")
    check_numbers(path, state, found.floats)
    if info is not None:
        _check_work(path, found.model, said, held)


def _check_work(path: str | Path, model: nn.Module, said: Blueprint, held: int) -> None:
    """Raise UserError if one image takes far more work than the size of a file lets expect, as patches of one pixel do.

    model: on the meta device. held: bytes of the weights.
    """
    try:
        with torch.device("meta"):
            work = forward_flops(model.eval(), said.name, said.resolution)
    except (UserError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return  # images that it can't take are refused when it is shown one
    most = _WORK_BESIDES + _WORK_PER_VALUE * held / 4
    if work > most:
        raise UserError(
            f"{path}: a {said.name} as it says takes {work:.0e} operations for an image of {said.resolution} px, but "
            f"{most:.0e} are the most of so many weights"
        )
