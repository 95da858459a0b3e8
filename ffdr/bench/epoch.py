"""``ffdr bench epoch``: what an epoch of DR costs against one of ERM, with the same loader, model and policy.

The promise of dataset reinforcement is a better model at the cost of ordinary training; this measures the cost. Both
tasks replay crops, two RandAugment operations and erasing at the same rates; ERM draws its views, DR reads them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import CLASSES, make_photos
from ffdr.bench.environment import environment
from ffdr.bench.statistics import median_interval
from ffdr.beton.write import write_images
from ffdr.errors import UserError
from ffdr.loader import ReinforcedLoader
from ffdr.models import ModelInfo, best_device, build_model, save_model
from ffdr.options import BenchOptions, ModelOptions, ReinforceOptions, TeacherOptions, TrainOptions, WriteOptions
from ffdr.reinforce.generate import generate
from ffdr.train.tasks import Task, build_task

RESOLUTION = 128
BATCH = 64
MODEL = "test_efficientnet"


def bench_epoch(options: BenchOptions) -> None:
    """Time epochs in turn, ERM then DR, with the loader alone and with a training step; print and store the ratios."""
    if options.json and not Path(options.json).parent.is_dir():
        raise UserError(f"bench.json: there is no folder {Path(options.json).parent}")
    with tempfile.TemporaryDirectory() as folder:
        images, reinforced = _make_data(Path(folder), options.images)
        shared = {"batch_size": BATCH, "resolution": RESOLUTION, "device": best_device()}
        loaders = {
            "erm": ReinforcedLoader(images, policy=Policy(), **shared),
            "dr": ReinforcedLoader(images, reinforced, **shared),
        }
        rows = {
            "loader alone": _ratios({task: lambda x=x: _read(x) for task, x in loaders.items()}, options.repeats),
            "training": _ratios(
                {task: _training(task, loader) for task, loader in loaders.items()}, options.repeats
            ),
        }
    print(f"epoch time, DR : ERM ({options.images} images, {RESOLUTION} px, {options.repeats} pairs)")
    for name, row in rows.items():
        low, high = row["interval"]
        rate = options.images / np.median(row["seconds"]["erm"])
        print(f"  {name:13s} {row['median']:.3f} [{low:.3f}, {high:.3f}]   ERM {rate:,.0f} images/s")
    if options.json:
        content = {"ratios": rows, "model": MODEL, "environment": environment()}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def _make_data(folder: Path, count: int) -> tuple[Path, Path]:
    """A photo corpus and its reinforcement by an untrained teacher: what the labels say does not change the time."""
    make_photos(folder / "photos", count)
    images, reinforced, teacher = (folder / name for name in ("images.beton", "reinforced.beton", "t.safetensors"))
    write_images(WriteOptions(source="imagefolder", path=str(folder / "photos"), split="", out=str(images)))
    torch.manual_seed(0)
    info = ModelInfo(MODEL, CLASSES, 32, (0.5,) * 3, (0.25,) * 3)
    save_model(teacher, build_model(ModelOptions(name=MODEL), CLASSES, 32), info)
    plan = ReinforceOptions(images=str(images), out=str(reinforced), views=8, topk=CLASSES)
    generate(plan, Policy(), TeacherOptions(models=f"{MODEL}:{teacher}"))
    return images, reinforced


def _read(loader: ReinforcedLoader) -> None:
    for images, _, _ in loader:
        last = images
    _wait(last.device)


def _training(task_name: str, loader: ReinforcedLoader) -> Callable[[], None]:
    """A plain loop over one epoch: task, backward, step."""
    torch.manual_seed(0)
    model = build_model(ModelOptions(name=MODEL), CLASSES, RESOLUTION)
    model = model.to(best_device(), memory_format=torch.channels_last)
    task = build_task(TrainOptions(task=task_name, out="unused"), CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    return lambda: _train_epoch(model, task, optimizer, loader)


def _train_epoch(model: nn.Module, task: Task, optimizer: torch.optim.Optimizer, loader: ReinforcedLoader) -> None:
    for images, targets, _ in loader:
        loss, _ = task(model, images, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _wait(loss.device)


def _ratios(epochs: dict[str, Callable[[], None]], repeats: int) -> dict:
    """Ratios of epoch times, DR to ERM, of neighbours in time; one uncounted epoch of each goes first."""
    for epoch in epochs.values():
        epoch()
    seconds = {name: [] for name in epochs}
    for repeat in range(repeats):
        order = list(epochs) if repeat % 2 == 0 else list(reversed(epochs))  # so that drift favours neither
        for name in order:
            start = time.perf_counter()
            epochs[name]()
            seconds[name].append(time.perf_counter() - start)
    ratios = np.divide(seconds["dr"], seconds["erm"])
    median, interval = median_interval(ratios)
    return {"median": median, "interval": interval, "ratios": ratios.tolist(), "seconds": seconds}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
