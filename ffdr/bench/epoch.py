"""``ffdr bench epoch``: what an epoch of DR costs against one of ERM, with the same loader, model and policy.

The promise of dataset reinforcement is a better model at the cost of ordinary training; this measures the cost. Both
tasks replay crops, two RandAugment operations and erasing at the same rates; ERM draws its views, DR reads them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import CLASSES, make_photos, reinforce_untaught, write_photos
from ffdr.bench.report import Table, check_report, report
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Work, time_in_turn
from ffdr.config.learning import ModelOptions, TrainOptions
from ffdr.config.measuring import BenchOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import best_device, build_model
from ffdr.train.tasks import Task, build_task

BATCH = 64
MODEL = "test_efficientnet"
_VIEWS = 8


def bench_epoch(options: BenchOptions) -> None:
    """Time epochs in turn, ERM then DR, with the loader alone and with a training step; print and store the ratios.

    Raises:
        UserError: a report that could not be written.
    """
    check_report(options.json)
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder) / "photos", options.images)
        images = write_photos(photos, Path(folder) / "images.beton")
        reinforced = reinforce_untaught(images, Path(folder) / "reinforced.beton", Policy(), _VIEWS)
        shared = {"batch_size": BATCH, "resolution": options.resolution, "device": best_device()}
        loaders = {
            "erm": ReinforcedLoader(images, policy=Policy(), **shared),
            "dr": ReinforcedLoader(images, reinforced, **shared),
        }
        kinds = {
            "loader alone": {task: lambda x=x: _read(x) for task, x in loaders.items()},
            "training": {task: _training(task, x, options.resolution) for task, x in loaders.items()},
        }
        figures = {kind: _compare(epochs, options) for kind, epochs in kinds.items()}
    setting = [
        f"{options.images} photographs, {options.resolution} px, batches of {BATCH}, model {MODEL} on {best_device()}",
        f"{options.repeats} pairs of epochs; median [95 % interval] of DR : ERM",
    ]
    rows = [
        (kind, figure["ratio"].text(3), f"{figure['erm'].median:,.0f}", f"{figure['dr'].median:,.0f}")
        for kind, figure in figures.items()
    ]
    table = Table("Epoch time", ("", "DR : ERM", "ERM, images/s", "DR, images/s"), rows)
    content = {kind: {name: part.json() for name, part in figure.items()} for kind, figure in figures.items()}
    report(options.json, "Epoch", setting, [table], {"figures": content})


def _compare(epochs: Mapping[str, Callable[[], None]], options: BenchOptions) -> dict[str, Estimate]:
    """DR's epoch time over ERM's (ratio), and the images a second of either."""
    work = {task: Work(epoch, options.images // BATCH * BATCH) for task, epoch in epochs.items()}
    timings = time_in_turn(work, options.repeats)
    return {
        "ratio": timings["dr"].time.over(timings["erm"].time),
        **{task: timing.rate for task, timing in timings.items()},
    }


def _read(loader: ReinforcedLoader) -> None:
    for images, _, _ in loader:
        last = images
    _wait(last.device)


def _training(task_name: str, loader: ReinforcedLoader, resolution: int) -> Callable[[], None]:
    """A plain loop over one epoch: task, backward, step."""
    torch.manual_seed(0)
    model = build_model(ModelOptions(name=MODEL), CLASSES, resolution)
    model = model.to(best_device(), memory_format=torch.channels_last)
    task = build_task(TrainOptions(task=task_name, out="unused"), CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    return lambda: _train_epoch(model, task, optimizer, loader)


def _train_epoch(model: nn.Module, task: Task, optimizer: torch.optim.Optimizer, loader: ReinforcedLoader) -> None:
    for images, targets, _ in loader:
        loss = task(model, images, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _wait(loss.device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
