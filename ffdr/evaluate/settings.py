"""The settings of an evaluation, which decide a model's scores beside its weights and the images. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json

INTERPOLATION = "bilinear"
"""Of the evaluation view, always with antialiasing."""
KEYS = ("resolution", "center", "interpolation", "precision", "flip_average", "averaged")
"""Their names in reports. averaged: whether the weights are (``train.ema``), None or missing where unknown."""

_WEIGHTS = ("model.safetensors", "best.safetensors")
"""What a run of ``ffdr train`` leaves beside its ``options.json``."""


def settings_text(report: Mapping[str, Any]) -> str:
    """As text, what is unknown left out: ``224 px, crop 0.875, bilinear, float32, no mirror images, raw weights``."""
    parts = []
    if report.get("resolution"):
        parts.append(f"{report['resolution']} px")
    if report.get("center"):
        parts.append(f"crop {report['center']:g}")
    parts += [report[key] for key in ("interpolation", "precision") if report.get(key)]
    switches = {
        "flip_average": ("no mirror images", "with mirror images"),
        "averaged": ("raw weights", "averaged weights"),
    }
    parts += [words[report[key]] for key, words in switches.items() if report.get(key) is not None]
    return ", ".join(parts)


def validation_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the validations of a run of ``ffdr train``, by its ``options.json``; older ones may lack some."""
    train, data, resolved = (_section(options, name) for name in ("train", "data", "resolved"))
    found = {
        "resolution": train.get("eval_resolution") or train.get("resolution"),
        "center": data.get("center"),
        "interpolation": INTERPOLATION,
        "precision": resolved.get("precision"),
        "flip_average": train.get("flip_average"),
        "averaged": train["ema"] > 0 if isinstance(train.get("ema"), int | float) else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _section(options: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = options.get(name)
    return section if isinstance(section, Mapping) else {}


def run_of(weights: Path) -> Path | None:
    """The folder of the run of ``ffdr train`` that left this file; None for other files."""
    if weights.name in _WEIGHTS:
        return weights.parent
    return weights.parent.parent if weights.suffix == ".pt" and weights.parent.name == "checkpoints" else None


def run_options(folder: Path) -> dict[str, Any]:
    """``options.json`` of the run whose folder this is; empty where there is none that can be read."""
    try:
        options = read_json(folder / "options.json")
    except UserError:
        return {}
    known = isinstance(options, dict) and all(isinstance(section, dict) for section in options.values())
    return options if known else {}
