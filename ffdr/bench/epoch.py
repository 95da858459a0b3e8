"""``ffdr bench epoch``: what an epoch of DR costs against one of ERM, with the same loader, model and policy.

The promise of dataset reinforcement is a better model at the cost of ordinary training; this measures the cost. Both
tasks replay crops, two RandAugment operations and erasing at the same rates; ERM draws its views, DR reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import CLASSES, make_photos, reinforce_untaught, write_photos
from ffdr.bench.results import Report, Table, bench
from ffdr.bench.timing import Workload, read_all, time_in_turn
from ffdr.config.learning import ModelOptions
from ffdr.config.measuring import BenchOptions
from ffdr.config.training import TrainOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import best_device, build_model
from ffdr.train.stopwatch import wait
from ffdr.train.update.tasks import build_task

BATCH = 64
MODEL = "test_efficientnet"
_VIEWS = 8


@bench(then="ffdr bench doctor")
def bench_epoch(options: BenchOptions, folder: Path) -> Report:
    """Time epochs in turn, ERM then DR, with the loader alone and with a training step."""
    photos = make_photos(folder / "photos", options.images)
    images = write_photos(photos, folder / "images.beton")
    reinforced = reinforce_untaught(images, folder / "reinforced.beton", Policy(), _VIEWS)
    load = partial(ReinforcedLoader, images, batch_size=BATCH, resolution=options.resolution, device=best_device())
    loaders = {"erm": load(policy=Policy()), "dr": load(reinforced)}
    kinds: dict[str, dict[str, Callable[[], None]]] = {
        "loader alone": {task: partial(read_all, loader) for task, loader in loaders.items()},
        "training": {task: _training(task, loader, options.resolution) for task, loader in loaders.items()},
    }
    ratios, rows, figures = {}, [], {}
    for kind, epochs in kinds.items():
        work = {task: Workload(epoch, options.images // BATCH * BATCH) for task, epoch in epochs.items()}
        timings = time_in_turn(work, options.repeats)
        ratio, erm, dr = timings["dr"].time.over(timings["erm"].time), timings["erm"].rate, timings["dr"].rate
        ratios[f"DR : ERM, {kind}"] = ratio
        rows.append((kind, ratio.text(3), f"{erm.median:,.0f}", f"{dr.median:,.0f}"))
        figures[kind] = {"ratio": ratio.json(), "erm": erm.json(), "dr": dr.json()}
    setting = [
        f"{options.images} photographs, {options.resolution} px, batches of {BATCH}, model {MODEL} on {best_device()}",
        f"{options.repeats} pairs of epochs; median [95 % interval] of DR : ERM",
    ]
    table = Table("Epoch time", ("", "DR : ERM", "ERM, images/s", "DR, images/s"), rows)
    return Report("Epoch", setting, [table], ratios, {"figures": figures})


def _training(task_name: str, loader: ReinforcedLoader, resolution: int) -> Callable[[], None]:
    """A plain loop over one epoch: task, backward, step."""
    torch.manual_seed(0)
    model = build_model(ModelOptions(name=MODEL), CLASSES, resolution)
    model = model.to(best_device()).to(memory_format=torch.channels_last)
    task = build_task(TrainOptions(task=task_name, out="unused"), CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def epoch() -> None:
        for images, targets, _ in loader:
            loss = task(model, images, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait(loader.device)

    return epoch
