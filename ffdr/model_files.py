"""Files of weights: what they hold and how the model wants to be fed.

There are three kinds: ``model.safetensors`` of ``ffdr train``, whose metadata is a ``ModelInfo``; a checkpoint from
which a run resumes, whose identity says the same; and everything else, which timm reads.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.models import load_state_dict

from ffdr.errors import UserError
from ffdr.text import readable, reason

_MARK = "ffdr_model"
"""Metadata key that tells our files from others; its value is the ``ModelInfo`` as JSON."""
_RUN_KEYS = {"version", "identity", "epoch", "step", "model", "ema", "optimizer"}
"""What tells a run's checkpoint (``train.checkpoint``) from others' files."""
_RUN_VERSION = 2


@dataclass(frozen=True)
class ModelInfo:
    """What a saved model must be used with."""

    name: str
    """timm model"""
    num_classes: int
    resolution: int
    """pixels of the evaluation view"""
    mean: tuple[float, ...]
    """per-channel mean in [0, 1] that was subtracted"""
    std: tuple[float, ...]
    """per-channel standard deviation in [0, 1] that was divided by"""
    center: float = 0.875
    """share of the resized short side that the evaluation's centre crop keeps"""
    classes: str = ""
    """digest of the class names in order (``class_digest``); empty: unknown"""
    fingerprint: str = ""
    """fingerprint of the data that the model was trained on; empty: unknown"""
    options: tuple[str, ...] = ()
    """NAME=VALUE for timm's factory, as ``ModelOptions.options``"""

    def to_metadata(self) -> dict[str, str]:
        """The fields as one string: safetensors stores several in no particular order, and bytes must not vary."""
        return {_MARK: json.dumps({"version": 1, **asdict(self)})}

    @classmethod
    def from_metadata(cls, text: dict[str, str]) -> ModelInfo:
        """The reverse of ``to_metadata``. Raises KeyError, TypeError or ValueError for what it did not write."""
        values = dict(json.loads(text[_MARK]))
        version = values.pop("version")
        if version != 1:
            raise ValueError(f"layout version {version}, but this ffdr reads 1")
        return cls(**(values | {key: tuple(values.get(key, ())) for key in ("mean", "std", "options")}))


def class_digest(names: Iterable[str]) -> str:
    """16 hexadecimal digits that stand for the class names in order."""
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()[:16]


def read_info(path: str | Path) -> ModelInfo | None:
    """How to feed the model of a file of ours, a run's checkpoint included; None for any other file.

    Raises UserError if missing or damaged.
    """
    _require_file(path)
    try:
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
            text = file.metadata() or {}
    except SafetensorError as error:
        if Path(path).suffix == ".safetensors":
            raise UserError(f"{path}: damaged safetensors file ({error})") from error
        state = _run_state(path)
        return None if state is None else _info_of_run(path, state)
    if _MARK not in text:
        return None
    try:
        return ModelInfo.from_metadata(text)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged metadata ({error})") from error


def read_weights(path: str | Path) -> Mapping[str, torch.Tensor]:
    """Tensors by name, on the CPU; of a run's checkpoint those that the run would export: averaged, where it averages.

    No code in the file is run. Raises UserError for a file without weights.
    """
    _require_file(path)
    state = _run_state(path)
    if state is not None:
        return state["ema"] or state["model"]
    try:
        with _utf8_name(path) as name:
            return load_state_dict(name, weights_only=True)
    except Exception as error:  # torch's safe unpickler lets whatever a damaged file provokes pass through
        raise UserError(f"{path}: no weights could be read from it ({reason(error)})") from error


@contextmanager
def _utf8_name(path: str | Path) -> Iterator[str]:
    """A name of the same file that safetensors takes, which refuses one that is not UTF-8."""
    if readable(str(path)) == str(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"link{readable(Path(path).suffix)}")
        link.symlink_to(Path(path).resolve())
        yield str(link)


def _require_file(path: str | Path) -> None:
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder; name the file in it, such as {path / 'model.safetensors'}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")


def _run_state(path: str | Path) -> dict[str, Any] | None:
    """What a run's checkpoint holds, its tensors still on the disk; None for any other file."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever a foreign or damaged file provokes; who asks for its weights is told why
        return None
    return state if isinstance(state, dict) and set(state) >= _RUN_KEYS else None


def _info_of_run(path: str | Path, state: dict[str, Any]) -> ModelInfo:
    """What the run would write into its ``model.safetensors``."""
    identity = state["identity"]
    try:
        if state["version"] != _RUN_VERSION:
            raise ValueError(f"layout version {state['version']}, but this ffdr reads {_RUN_VERSION}")
        return ModelInfo(
            name=identity["model.name"],
            num_classes=identity["data.num_classes"],
            resolution=identity["train.eval_resolution"] or identity["train.resolution"],
            mean=tuple(identity["data.mean"]),
            std=tuple(identity["data.std"]),
            center=identity["data.center"],
            classes=identity["data.classes"],
            fingerprint=identity["data.fingerprint"],
            options=tuple(identity.get("model.options", ())),  # the first runs had none
        )
    except (KeyError, TypeError, ValueError) as error:
        run = Path(path).absolute().parent.parent
        raise UserError(
            f"{path}: a run's checkpoint, of which this ffdr does not know how to feed its model ({error}); give "
            f"{run / 'model.safetensors'}, or best.safetensors beside it"
        ) from error
