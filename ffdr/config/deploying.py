"""Options of ``ffdr export-model``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ffdr.config.choices import MODEL_FORMATS
from ffdr.config.options import OneOf, Options, Resolution
from ffdr.util.errors import UserError
from ffdr.util.text import brief

_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "hub": ""}
"""What the name of an output ends in; that of a folder in none of the others."""
_OTHERS = (".pt", ".pth", ".bin", ".safetensors", ".ts")
"""Endings of other files of weights, which nobody means to give a folder."""
_LICENSE = r"[a-z0-9][a-z0-9.+-]{0,63}"
"""Pattern of the hub's identifiers of licenses."""


@dataclass(frozen=True)
class ExportModelOptions(Options, section="export_model"):
    """``ffdr export-model``: a trained model becomes a file or a folder that other tools read."""

    checkpoint: str = ""
    """model.safetensors of a run; empty: --model.name with its pretrained or --model.checkpoint weights"""
    out: str = ""
    """what to write: FILE.onnx, FILE.pt2, or a folder for the Hugging Face hub"""
    format: Annotated[str, OneOf(MODEL_FORMATS, or_empty=True)] = ""
    """onnx (opset 18, for onnxruntime and others), torch (an archive of torch.export), or hub (a folder that timm's
    local-dir: reads, with a model card, to be uploaded as it is); empty: by the ending of out"""
    resolution: Resolution = 0
    """pixels of a side of the images; 0: what the checkpoint says"""
    pixels: bool = False
    """onnx, torch: take uint8 pixels and normalise them in the graph; without it, the model takes float32 images that
    are normalised already, (pixels / 255 − mean) / std"""
    report: str = ""
    """hub: JSON file that ffdr eval wrote (--eval.json), whose scores the model card then has, too"""
    license: str = ""
    """hub: the license of the weights, as the hub calls it (mit, apache-2.0, …); empty: the card names none"""
    overwrite: bool = False
    """replace an existing file, or a folder of an earlier export"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("out", what="give FILE.onnx, FILE.pt2, or a folder for the Hugging Face hub")
        ending = Path(self.out).suffix
        if ending in _OTHERS:
            raise UserError(
                f"export_model.out: {brief(self.out)} ends in {ending}; name a .onnx or .pt2 file, or a folder for the "
                "Hugging Face hub"
            )
        found = next((name for name, suffix in _SUFFIXES.items() if suffix == ending), "hub")
        object.__setattr__(self, "format", self.format or found)
        if self.format != found:
            wants = f"a name that ends in {_SUFFIXES[self.format]}" if self.format != "hub" else "the name of a folder"
            raise UserError(f"export_model.out: {brief(self.out)}: format {self.format} takes {wants}")
        if self.pixels and self.format == "hub":
            raise UserError(
                "export_model.pixels: models of timm take normalised images; config.json says how, and timm's "
                "transforms do it"
            )
        for name in ("report", "license"):
            if getattr(self, name) and self.format != "hub":
                raise UserError(f"export_model.{name}: only the model card of format hub has it; leave it out")
        if self.license and not re.fullmatch(_LICENSE, self.license):
            raise UserError(
                f"export_model.license: {brief(self.license)} is not one of the hub's names of licenses, such as mit, "
                "apache-2.0, cc-by-nc-4.0 or other"
            )
