"""``ffdr eval``: a report on one model and one image beton."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ffdr.beton.read import ImageBeton
from ffdr.errors import UserError
from ffdr.evaluate.corruptions import CorruptedImages
from ffdr.evaluate.metrics import evaluate
from ffdr.evaluate.robustness import evaluate_corruptions
from ffdr.loader import ReinforcedLoader
from ffdr.models import ModelInfo, best_device, class_digest, load_model, load_named
from ffdr.options import EvalOptions, ModelOptions

Report = dict[str, Any]


def run(options: EvalOptions, model_options: ModelOptions) -> Report:
    """Evaluate as the options say; prints the report and writes it as JSON if asked.

    Raises:
        UserError: a model and data that don't fit together.
    """
    images = ImageBeton.open(options.data)
    if options.json and not Path(options.json).parent.is_dir():
        raise UserError(f"eval.json: there is no folder {Path(options.json).parent}")
    if options.checkpoint:
        model, info = load_model(options.checkpoint, options.resolution)
    else:
        model, info = load_named(model_options.name, model_options.checkpoint, resolution=options.resolution)
    report = evaluate_model(model, info, images, options.batch_size)
    if options.corruptions:
        pixels, labels = evaluation_pixels(images, info)
        report |= robustness(model, info, CorruptedImages(pixels), labels, options.batch_size)
    print(as_text(report))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    return report


def evaluate_model(model: nn.Module, info: ModelInfo, images: ImageBeton, batch_size: int) -> Report:
    """Accuracy and calibration on the evaluation view, fed as the model's info says."""
    _check_classes(info, images)
    device = best_device()
    loader = ReinforcedLoader(
        images,
        batch_size=min(batch_size, images.num_images),
        resolution=info.resolution,
        center=info.center,
        mean=info.mean,
        std=info.std,
        device=device,
    )
    model = model.to(device, memory_format=torch.channels_last)
    scores = evaluate(model, loader, info.num_classes)
    return {"model": info.name, "data": str(images.path), "resolution": info.resolution, **scores}


def evaluation_pixels(images: ImageBeton, info: ModelInfo) -> tuple[np.ndarray, np.ndarray]:
    """All evaluation views (N, H, W, 3) uint8 and their labels (N,), for corrupting; they must fit in memory."""
    view = {"resolution": info.resolution, "center": info.center, "dtype": torch.uint8}
    loader = ReinforcedLoader(images, batch_size=min(256, images.num_images), **view)
    pixels = np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch, _, _ in loader])
    return pixels, images.labels.copy()


def robustness(
    model: nn.Module, info: ModelInfo, corrupted: CorruptedImages, labels: np.ndarray, batch_size: int
) -> Report:
    """Accuracy under each corruption and severity, and ``corruption_top1``, the mean over all of them."""
    by_name = evaluate_corruptions(model, corrupted, labels, info.mean, info.std, batch_size, best_device())
    return {"corruption_top1": by_name.pop("mean"), "corruptions": by_name}


def as_text(report: Report) -> str:
    """The report as lines for a terminal."""
    lines = [f"{report['model']} on {report['data']}, {report['images']} images at {report['resolution']} px"]
    for key in ("top1", "top5", "ece", "corruption_top1"):
        if key in report:
            lines.append(f"  {key:18s} {report[key]:8.2%}")
    lines += [f"  {key:18s} {report[key]:8.4f}" for key in ("nll", "brier")]
    if "corruptions" in report:
        lines.append("  top-1 under corruptions made here (not ImageNet-C), severities 1 to 5:")
        for name, values in report["corruptions"].items():
            lines.append(f"    {name:18s}" + "".join(f"{value:8.1%}" for value in values))
    return "\n".join(lines)


def _check_classes(info: ModelInfo, images: ImageBeton) -> None:
    if info.num_classes != images.num_classes and (images.manifest or info.num_classes < images.num_classes):
        raise UserError(f"{images.path}: {images.num_classes} classes, but the model has {info.num_classes}")
    if info.classes and info.classes != class_digest(images.class_names):
        raise UserError(f"{images.path}: its class names are not those that the model was trained with")
