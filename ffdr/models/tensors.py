"""Tensors of strangers' files: those that can be weights, and no more of them than the file has bytes for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ffdr.util.errors import UserError
from ffdr.util.text import brief, byte_size, printable

MOST_TENSORS = 30_000
"""In one file; no model of timm has 3,000."""
_MOST_HEADER = 8 << 20
_MOST_NAME = 200
_COPIES = 4
"""How often the bytes of a file may serve, for weights that layers share."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def is_safetensors(path: str | Path) -> bool:
    """Whether a file is read as safetensors: by its name, or by how it begins.

    Raises UserError for a header that no such file has need of.
    """
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], "little")
    named = Path(path).suffix == ".safetensors"
    if not named and not (start[8:] == b"{" and header <= size - 8):
        return False
    if header > _MOST_HEADER:
        raise UserError(
            f"{path}: damaged safetensors file (a header of {header:,} bytes, but at most {_MOST_HEADER:,} are read)"
        )
    return True


def checked_weights(path: str | Path, state: Any) -> Mapping[str, object]:
    """What a file gave as weights, if it can be that: tensors by name, whose bytes are those of the file.

    Values other than tensors are left in. Raises UserError.
    """
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: it holds no tensors by name")
    if len(state) > MOST_TENSORS:
        raise UserError(f"{path}: {len(state):,} tensors, but at most {MOST_TENSORS:,} are read")
    total, size = 0, os.stat(path).st_size
    for name, value in state.items():
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME or not name.isprintable():
            raise UserError(f"{path}: {brief(name, 80)} is not the name of a tensor")
        if isinstance(value, torch.Tensor):
            total += _check_tensor(path, name, value)
    if total > _COPIES * size:
        raise UserError(f"{path}: its tensors have {byte_size(total)}, the file {byte_size(size)}")
    return state


def _check_tensor(path: str | Path, name: str, value: torch.Tensor) -> int:
    """Bytes of a tensor that holds plain numbers."""
    where = f"{path}: {printable(name)}"
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.dtype not in _FLOATS + _INTEGERS:
        kind = str(value.dtype if plain else value.layout if value.layout != torch.strided else value.device)
        raise UserError(f"{where} is {kind.removeprefix('torch.')}; weights are float16, bfloat16, float32 or float64")
    count = value.numel() * value.element_size()
    if count > value.untyped_storage().nbytes():
        raise UserError(f"{where} has {byte_size(count)} by its shape, but less is stored")
    return count


def check_numbers(path: str | Path, state: Mapping[str, object], floats: frozenset[str]) -> None:
    """Raise UserError where a model wants numbers with fractions and the file has none. floats: names of such."""
    for name in floats & state.keys():
        value = state[name]
        if isinstance(value, torch.Tensor) and value.dtype not in _FLOATS:
            raise UserError(f"{path}: {name} is {str(value.dtype).removeprefix('torch.')}; this weight is no integer")


def check_finite(path: str | Path, model: nn.Module) -> None:
    """Raise UserError for a model with a weight that is infinite or no number. path: where it comes from."""
    statistics = {name: value for name, value in model.named_buffers() if ".running_" in f".{name}"}
    for name, value in {**dict(model.named_parameters()), **statistics}.items():
        if not value.detach().sum().isfinite():
            raise UserError(f"{path}: {name} holds values that are infinite or no numbers")
