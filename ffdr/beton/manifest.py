"""The manifest of an image beton: NAME.json beside NAME.beton. What is read of one is bounded and typed.

A file of that name may be another program's, which counts as none, whatever it holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ffdr.beton.opened import OpenFile
from ffdr.beton.tables import is_deep
from ffdr.util.arguments import per_channel
from ffdr.util.errors import DamagedError, UserError
from ffdr.util.text import brief, byte_size, reason

MANIFEST_FORMAT = "ffdr images 1"
MAX_CLASSES = 1 << 16
"""Class ids are stored in 16 bits."""
_MOST_BYTES = 32 << 20
"""Of a manifest: several times what the longest names of all classes there can be take."""
_MOST_VALUES = 1 << 20
"""In it, roughly: each takes a hundred bytes of memory, however short it is in the file."""
_LEVELS = 8
_HEAD = 1 << 16
"""Bytes within which a manifest says what it is."""
_TYPES = {
    "source": str, "split": str, "num_classes": int, "images_per_class": list, "jpeg_images": int, "image_bytes": int,
    "coefficients": dict, "options": dict, "versions": dict, "skipped": list,
}  # fmt: skip
"""What may be left out, but is nothing else."""
_TYPE_NAMES = {str: "a text", int: "a whole number", list: "a list", dict: "a dictionary"}


def manifest_path(path: str | Path) -> Path:
    """Where the manifest of an image beton lies: NAME.json beside NAME.beton."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".beton") + ".json")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest at ``path``, or None if there is no file of that name or it is not a manifest of ffdr.

    Raises:
        DamagedError: it can't be read, or is more than a manifest can be.
    """
    try:
        data = _bounded(path)
        if data is None:
            return None
        manifest = json.loads(data)
        if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
            return None
        if is_deep(manifest, _LEVELS):
            raise ValueError(f"its values are nested more than {_LEVELS} deep")
        if b"\\u" in data:  # half a character can stand for a byte of a name, and for nothing else
            json.dumps(manifest, ensure_ascii=False).encode(errors="surrogateescape")
        return manifest
    except FileNotFoundError:
        return None
    except OSError as error:
        text = error.strerror or reason(error)
    except UserError as error:
        text = str(error).removeprefix(f"{path}: ")
    except (ValueError, RecursionError) as error:
        text = reason(error)
    raise DamagedError(f"{path}: not a readable manifest: {text}")


def _bounded(path: Path) -> bytes | None:
    """The bytes of the file; None where it is too large and does not say that it is a manifest."""
    file, mark = OpenFile(path), MANIFEST_FORMAT.encode()
    if file.size > _MOST_BYTES:
        if mark not in file.read(0, _HEAD):
            return None
        raise ValueError(f"{byte_size(file.size)}, the most is {byte_size(_MOST_BYTES)}")
    data = file.read(0, file.size)
    if sum(map(data.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        if mark not in data:
            return None
        raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
    return data


def is_foreign(path: Path) -> bool:
    """Whether there is a file of that name that does not say that it is a manifest of ffdr."""
    if not path.exists():
        return False
    try:
        return MANIFEST_FORMAT.encode() not in OpenFile(path).read(0, _MOST_BYTES)
    except UserError:
        return True


def check_manifest(path: Path, manifest: dict[str, Any], count: int, found: str) -> None:
    """Refuse a manifest that is not that of the beton ``path``, of ``count`` images with the fingerprint ``found``."""
    text = _disagreement(path, manifest, count, found)
    for key, kind in _TYPES.items():
        if not text and key in manifest and type(manifest[key]) is not kind:
            text = f"{key} must be {_TYPE_NAMES[kind]}, not {brief(manifest[key], 60)}"
    text = text or _trouble_with_normalisation(manifest)
    if text:
        raise DamagedError(f"{manifest_path(path)}: not the manifest of this beton: {text}")


def _disagreement(path: Path, manifest: dict[str, Any], count: int, found: str) -> str:
    images, fingerprint, names = (manifest.get(key) for key in ("num_images", "fingerprint", "class_names"))
    if type(images) is not int or images != count or fingerprint != found:
        said = fingerprint if isinstance(fingerprint, str) and fingerprint.isalnum() else brief(fingerprint)
        return f"it describes {brief(images)} images with fingerprint {said[:40]}, {path.name} has {count} with {found}"
    if not (isinstance(names, list) and 0 < len(names) <= MAX_CLASSES and all(isinstance(n, str) for n in names)):
        return "class_names must be a list of names"
    if manifest.get("num_classes", len(names)) != len(names):
        return f"it says {brief(manifest['num_classes'])} classes, but names {len(names)}"
    return ""


def _trouble_with_normalisation(manifest: dict[str, Any]) -> str:
    """What is wrong with the manifest's mean or std; empty: nothing."""
    try:
        for key in ("mean", "std"):
            value = manifest.get(key)
            if isinstance(value, list | str) and len(value) > 3:
                return f"{key}: {len(value)} values, but there are 3 channels"
            per_channel(key, value)
    except UserError as error:
        return str(error)
    return ""
