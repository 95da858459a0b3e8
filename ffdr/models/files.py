"""Files of weights: what they hold and how the model wants to be fed.

There are three kinds: ``model.safetensors`` of ``ffdr train``, whose metadata is a ``ModelInfo``; a checkpoint from
which a run resumes, whose identity says the same; and everything else, which timm reads.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models import clean_state_dict, load_state_dict

from ffdr.config.architecture import read_options
from ffdr.config.model_names import STORED_NAME
from ffdr.models.tensors import MOST_TENSORS, checked_weights, is_safetensors
from ffdr.models.torch_files import check_torch_file, is_zip
from ffdr.util.arguments import fraction, integer, per_channel
from ffdr.util.errors import UserError, is_out_of_memory, nearest
from ffdr.util.text import brief, readable, reason

_MARK = "ffdr_model"
"""Metadata key that marks our files; its value is the ``ModelInfo`` as JSON."""
_RUN_KEYS = {"version", "identity", "epoch", "step", "model", "ema", "optimizer"}
"""What a run's checkpoint (``train.checkpoint``) holds, unlike others' files."""
_RUN_VERSION = 2
_OF_RUN = {
    "name": "model.name", "num_classes": "data.num_classes", "mean": "data.mean", "std": "data.std",
    "center": "data.center", "classes": "data.classes", "fingerprint": "data.fingerprint", "options": "model.options",
}  # fmt: skip
"""Where a run's identity has the fields of ``ModelInfo``; the first runs had no options."""
_OF_HUB = {"name": "model.architecture", "options": "model.architecture_options"}
"""Where they are instead in runs of models that a hub or a folder names."""
_MOST_TEXT, _MOST_PARTS = 1 << 22, 64
"""Characters of a file's metadata, nearly all of which are names of classes; entries of its other lists."""
MOST_CLASSES, MOST_RESOLUTION = 1 << 16, 4096


@dataclass(frozen=True)
class ModelInfo:
    """What a saved model must be used with."""

    name: str
    """of timm or registered with it, torchvision:NAME, or module:CLASS of a module that was given in Python"""
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
    """NAME=VALUE for its factory, as ``ModelOptions.options``"""
    class_names: tuple[str, ...] = ()
    """of class 0, 1, …, of which ``classes`` is the digest; empty: unknown"""

    def __post_init__(self) -> None:
        """Raise UserError for names that are not those of ``num_classes`` and ``classes``."""
        if self.class_names and len(self.class_names) != self.num_classes:
            raise UserError(f"class_names: {len(self.class_names):,} names of {self.num_classes:,} classes")
        if self.class_names and class_digest(self.class_names) != self.classes:
            raise UserError("class_names: not those that classes is the digest of")

    def to_metadata(self) -> dict[str, str]:
        """The fields as one string: safetensors stores several in no particular order, and bytes must not vary.

        Names that are unknown, or longer than ``from_metadata`` takes, are left out.
        """
        values = {"version": 1, **asdict(replace(self, class_names=()))}
        text = json.dumps(values | {"class_names": self.class_names})
        if not self.class_names or len(text) > _MOST_TEXT:
            del values["class_names"]
            text = json.dumps(values)
        return {_MARK: text}

    @classmethod
    def from_metadata(cls, text: Mapping[str, str]) -> ModelInfo:
        """The reverse of ``to_metadata``, of a file that may be anybody's.

        Raises:
            UserError: what it did not write, or a field of another type or out of its range.
        """
        values = dict(_json(text[_MARK]))
        version = values.pop("version", None)
        if type(version) is not int or version != 1:
            raise UserError(f"layout version {brief(version, 40)}, but this ffdr reads 1")
        return cls.from_values(values)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> ModelInfo:
        """Of the fields by name, as a file says them: each is of its type and in the range that options allow it.

        Raises:
            UserError: one is not; one is missing or unknown.
        """
        known = {field.name: field for field in fields(cls)}
        for key in values:
            if key not in known:
                raise UserError(f"{brief(key, 80)} is no field of it{nearest(str(key)[:80], known)}")
        missing = [key for key, field in known.items() if field.default is MISSING and key not in values]
        if missing:
            raise UserError(f"{missing[0]} is missing")
        plain = {key: value if key == "class_names" else _plain(key, value) for key, value in values.items()}
        return cls(**{key: _CHECKS[key](key, value) for key, value in plain.items()})


def _json(text: str) -> dict[str, Any]:
    """The object that a short JSON text is, without the liberties that Python's reader takes."""
    if len(text) > _MOST_TEXT:
        raise UserError(f"{len(text):,} characters, but at most {_MOST_TEXT:,} are read")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise UserError("a field stands twice")
        return found

    def no_number(word: str) -> NoReturn:
        raise UserError(f"{word} is no number")

    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except RecursionError:
        raise UserError("nested too deep") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"not JSON: {reason(error)}") from error
    if not isinstance(found, dict):
        raise UserError("not an object of fields")
    return found


def _plain(key: str, value: Any) -> Any:
    """The same value if it is a number, a text, or a flat list of them, each of them short."""
    parts = value if isinstance(value, list | tuple) else [value]
    for part in parts if len(parts) <= _MOST_PARTS else [None]:
        short = {int: lambda x: x.bit_length() <= 64, float: math.isfinite, str: lambda x: len(x) <= 200}
        if type(part) not in short or not short[type(part)](part):
            raise UserError(f"{key}: {brief(value, 80)} is not what ffdr writes there")
    return value


def _text(pattern: str, what: str) -> Callable[[str, Any], str]:
    """The check of a text."""

    def check(key: str, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise UserError(f"{key}: {brief(value, 80)} is not {what}")
        return value

    return check


def _options(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise UserError(f"{key}: {brief(value, 80)} is not a list of NAME=VALUE")
    read_options(value, key)
    return tuple(value)


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key}: {brief(value, 80)} is not a list of names")
    try:
        class_digest(value)
    except UnicodeEncodeError as error:  # half a character that stands for no byte of a name
        raise UserError(f"{key}: {brief(error.object[error.start : error.end])} is no text") from error
    return tuple(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "name": _text(STORED_NAME, "a name of a model"),
    "num_classes": lambda key, value: integer(key, value, 1, MOST_CLASSES),
    "resolution": lambda key, value: integer(key, value, 1, MOST_RESOLUTION),
    "mean": per_channel,
    "std": per_channel,
    "center": lambda key, value: fraction(key, value, 0.1),
    "classes": _text("[0-9a-f]{0,64}", "a digest in hexadecimal digits"),
    "fingerprint": _text("[0-9a-f]{0,64}", "a digest in hexadecimal digits"),
    "options": _options,
    "class_names": _names,
}
"""What a field of a file must be; the ranges are those of the options that decide it in training."""


def class_digest(names: Iterable[str]) -> str:
    """16 hexadecimal digits that stand for the class names in order."""
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()[:16]


def read_info(path: str | Path) -> ModelInfo | None:
    """How to feed the model of a file of ours, a run's checkpoint included; None for any other file.

    Raises:
        UserError: it is missing or damaged, or what it says can't be; a file that torch can't read without harm.
    """
    _require_file(path)
    if not is_safetensors(path):
        state = _run_state(path)
        return None if state is None else _info_of_run(path, state)
    with _utf8_name(path) as name, _damage_as_user_error(path), safe_open(name, framework="pt") as file:
        text = file.metadata() or {}
        count = len(file.keys())
    if count > MOST_TENSORS:
        raise UserError(f"{path}: {count:,} tensors, but at most {MOST_TENSORS:,} are read")
    if _MARK not in text:
        return None
    try:
        return ModelInfo.from_metadata(text)
    except UserError as error:
        raise UserError(f"{path}: damaged metadata ({reason(error)})") from error


def read_weights(path: str | Path) -> Mapping[str, object]:
    """Tensors by name, on the CPU; of a run's checkpoint those that the run would export: averaged, where it averages.

    No code in the file is run, and what it unpacks to is no larger than a small multiple of it. Raises UserError for a
    file without weights.
    """
    _require_file(path)
    if is_safetensors(path):
        with _utf8_name(path) as name, _damage_as_user_error(path):
            found = clean_state_dict(load_file(name))
        return checked_weights(path, found)
    state = _run_state(path)
    if state is not None:
        return checked_weights(path, state["ema"] or state["model"])
    check_torch_file(path)
    try:
        with _utf8_name(path) as name:
            found = load_state_dict(name, weights_only=True)
    except Exception as error:  # torch's safe unpickler lets whatever a damaged file provokes pass through
        raise UserError(f"{path}: no weights could be read from it ({reason(error)})") from error
    return checked_weights(path, found)


@contextmanager
def _damage_as_user_error(path: str | Path) -> Iterator[None]:
    """Within, what safetensors finds wrong with a file becomes a UserError."""
    try:
        yield
    except (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path}: damaged safetensors file ({reason(error)})") from error


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
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file but a device or a pipe")
    if not path.is_file():
        raise UserError(f"{path}: no such file")


def _run_state(path: str | Path) -> dict[str, Any] | None:
    """What a run's checkpoint holds, its tensors still on the disk; None for any other file.

    Raises UserError for one that torch can't read without harm.
    """
    if not is_zip(path):
        return None
    check_torch_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever a foreign or damaged file provokes; ``read_weights`` says why
        return None
    return state if isinstance(state, dict) and set(state) >= _RUN_KEYS else None


def _info_of_run(path: str | Path, state: dict[str, Any]) -> ModelInfo:
    """What the run would write into its ``model.safetensors``."""
    try:
        return ModelInfo.from_values(_values_of_run(state))
    except UserError as error:
        run = Path(path).absolute().parent.parent
        raise UserError(
            f"{path}: a run's checkpoint, of which this ffdr does not know how to feed its model ({reason(error)}); "
            f"give {run / 'model.safetensors'}, or best.safetensors beside it"
        ) from error


def _values_of_run(state: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``ModelInfo`` by name, as the checkpoint says them."""
    version, identity = state["version"], state["identity"]
    if type(version) is not int or version != _RUN_VERSION:
        raise UserError(f"layout version {brief(version, 40)}, but this ffdr reads {_RUN_VERSION}")
    if not isinstance(identity, dict):
        raise UserError("no identity of a run")
    places = {field: key if key in identity else _OF_RUN[field] for field, key in (_OF_RUN | _OF_HUB).items()}
    values = {field: _plain(key, identity[key]) for field, key in places.items() if key in identity}
    sizes = (identity.get(f"train.{key}") for key in ("eval_resolution", "resolution"))
    resolution = next((size for size in sizes if not (type(size) is int and size == 0)), None)
    return values | ({} if resolution is None else {"resolution": resolution})
