"""Where weights come from: what the folder of their run says of its recipe, its data and its scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffdr.evaluate.settings import run_of, run_options, validation_settings
from ffdr.models.build import ModelInfo
from ffdr.train.run_folder import JsonLog
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json

_FOLDERS = re.compile(r"(^|(?<=[:,=]))[~/](?:[^/,]*/)*")
"""The folders of an absolute path, or of one in a text such as NAME:CHECKPOINT."""
_NOT_OF_THE_MODEL = ("out", "resume", "dry_run")
"""Options of training that say nothing of what was trained."""


@dataclass(frozen=True)
class Origin:
    """What is known of the run that made some weights; empty where nothing is."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """``options.json``"""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """``recipe.json``, what was asked for, by section: without what is empty, and without this machine's folders"""
    record: Mapping[str, Any] = field(default_factory=dict)
    """the log's record of the epoch that the weights are of, if they were validated then"""

    def value(self, section: str, key: str) -> Any:
        """One of the options as resolved; None where it is unknown."""
        return self.options.get(section, {}).get(key)

    @property
    def validated_on(self) -> str:
        """What the data that ``record`` is of may be called."""
        return Path(str(self.recipe.get("data", {}).get("val", ""))).stem or "validation"

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the validation that ``record`` is of, as reports name them."""
        return validation_settings(self.options)


def origin_of(weights: str, info: ModelInfo) -> Origin:
    """Where a file of weights comes from. info: what it says itself; a folder of another run than it says counts for
    nothing, and so do files in it that can't be read."""
    folder = run_of(Path(weights)) if weights else None
    options = run_options(folder) if folder else {}
    data = options.get("data", {})
    if folder is None or not info.fingerprint or data.get("fingerprint") != info.fingerprint:
        return Origin()
    try:
        records = JsonLog(folder / "log.jsonl").records()
    except UserError:
        records = []
    return Origin(options, _recipe(folder), _record(Path(weights), records))


def _record(weights: Path, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the epoch whose weights a file holds: the last one, the best one, or that of a checkpoint's step."""
    scored = [record for record in records if "val_top1" in record]
    if weights.name == "best.safetensors":
        return max(scored, key=lambda record: record["val_top1"], default={})
    if weights.suffix == ".pt":
        return next((record for record in scored if str(record["step"]) == weights.stem.lstrip("0")), {})
    return scored[-1] if scored and scored[-1] is records[-1] else {}


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        recipe = read_json(folder / "recipe.json")
    except UserError:
        return {}
    if not isinstance(recipe, dict) or not all(isinstance(section, dict) for section in recipe.values()):
        return {}
    sections = {name: _said(section) for name, section in recipe.items()}
    for key in _NOT_OF_THE_MODEL:
        sections.get("train", {}).pop(key, None)
    return {name: section for name, section in sections.items() if section}


def _said(section: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a section that are not empty."""
    return {key: _without_folders(value) for key, value in section.items() if value not in ("", [], None)}


def _without_folders(value: Any) -> Any:
    """An option without the folders of absolute paths in it, which are nobody else's business."""
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value
