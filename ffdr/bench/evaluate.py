"""``ffdr bench eval``: how fast evaluation goes, beside the bare forward pass on batches that lie on the device.

Both compute the same: same model, precision and size of batches. What evaluation adds is the loader, in which images
are decoded and copied beside the forward pass, and the scores, which wait for the device once, at the end.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ffdr.bench import loops
from ffdr.bench.corpus import make_photos, write_photos
from ffdr.bench.loops import CachedBatches, Setting
from ffdr.bench.report import Table, Target, check_report, report, target_table
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing, Work, time_in_turn
from ffdr.beton.read import ImageBeton
from ffdr.config.learning import ModelOptions
from ffdr.config.measuring import BenchOptions
from ffdr.evaluate.evaluator import Evaluator
from ffdr.evaluate.scoring import Scorer
from ffdr.loader.protocol import BatchLoader
from ffdr.models.build import ModelInfo, build_model

# Names of what is timed.
EVALUATION = "ffdr: evaluation"
LOADER = "ffdr: loader alone"
FORWARD = "forward pass, cached batches"


@dataclass(frozen=True)
class Figures:
    """What was measured of one setting."""

    setting: Setting
    timings: Mapping[str, Timing]

    def ratio(self, name: str) -> Estimate:
        """Images a second, relative to those of the forward pass."""
        return self.timings[name].rate.over(self.timings[FORWARD].rate)


def bench_eval(options: BenchOptions) -> None:
    """Measure every setting, print tables, and with ``options.json`` store them and the figures.

    Raises:
        UserError: a report that could not be written; a file, models or options that don't go together.
    """
    check_report(options.json)
    settings = loops.plan(options)
    with tempfile.TemporaryDirectory() as folder:
        images = _images(options, Path(folder), max(setting.images for setting in settings))
        results = []
        for setting in settings:
            setting = setting.within(images.num_images)
            print(f"measuring {setting.label}", file=sys.stderr)
            results.append(Figures(setting, time_in_turn(passes(setting, images), options.repeats)))
    targets = [
        Target(f"{figures.setting.label}: evaluation : forward pass on cached batches", figures.ratio(EVALUATION), 0.9)
        for figures in results
    ]
    tables = [*map(_table, results), target_table(targets)]
    content = {
        "settings": {figures.setting.label: _json(figures) for figures in results},
        "targets": {target.name: target.json() for target in targets},
    }
    report(options.json, "Evaluation", _head(options, images, results[0].setting), tables, content)


def _images(options: BenchOptions, folder: Path, count: int) -> ImageBeton:
    """The user's, or photographs made in a folder."""
    return ImageBeton.open(options.data or write_photos(make_photos(folder / "photos", count), folder / "images.beton"))


def passes(setting: Setting, images: ImageBeton) -> dict[str, Work]:
    """What is timed, by name; all passes share one model, of random weights.

    Raises:
        UserError: a model that can't take the images.
    """
    model = build_model(ModelOptions(name=setting.model), images.num_classes, setting.resolution).eval()
    info = ModelInfo(setting.model, images.num_classes, setting.resolution, images.mean, images.std)
    evaluator = Evaluator(
        model.to(setting.device, memory_format=torch.channels_last),
        info,
        setting.device,
        setting.batch_size,
        setting.dtype,
        workers=setting.workers,
    )
    loader = evaluator.loader(images)
    cached = list(islice(loader, loops.CACHED))
    again = CachedBatches(cached, setting.steps, images.num_classes)  # full ones: the last of an epoch is not reached
    return {
        EVALUATION: Work(lambda: _evaluate(evaluator, loader, images), images.num_images),
        LOADER: Work(lambda: _read(loader), images.num_images),
        FORWARD: Work(lambda: _forward(evaluator, again), again.num_images),
    }


def _evaluate(evaluator: Evaluator, loader: BatchLoader, images: ImageBeton) -> dict[str, Any]:
    """One pass over the images, as ``ffdr eval`` makes it, and what it reports."""
    scorer = Scorer(images.labels, images.class_names, evaluator.info.num_classes)
    evaluator.score(loader, {"data": scorer})
    return scorer.report()


def _read(loader: BatchLoader) -> None:
    for batch in loader:
        last = batch[0]
    loops.wait(last.device)


def _forward(evaluator: Evaluator, batches: CachedBatches) -> None:
    """The bare pass; nobody looks at the answers."""
    device, dtype = evaluator.device, evaluator.dtype
    with torch.inference_mode():
        for images, _, _ in batches:
            with torch.autocast(device.type, dtype) if dtype else nullcontext():
                evaluator.model(images)
    loops.wait(device)


def _head(options: BenchOptions, images: ImageBeton, setting: Setting) -> list[str]:
    source = options.data or "photographs made for this"
    device = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "the CPU"
    return [
        f"{images.num_images} images ({source}), from the page cache",
        f"on {device}, with {setting.threads} decoding threads; models of random weights, not compiled",
        f"{options.repeats} rounds, each pass once a round; median [95 % interval]; ratios compare the same round",
        "evaluation begins with nothing decoded and ends with all scores, so the waits for the first batch and for the "
        "device are in it",
    ]


def _table(figures: Figures) -> Table:
    setting = figures.setting
    rows = [(name, timing.rate.text(0), figures.ratio(name).text()) for name, timing in figures.timings.items()]
    note = f"Batches of {setting.batch_size}; the forward pass shows {setting.steps} of them."
    return Table(setting.label, ("", "images/s", "× forward pass"), rows, [note])


def _json(figures: Figures) -> dict[str, Any]:
    setting = figures.setting
    return {
        "batch_size": setting.batch_size,
        "steps": setting.steps,
        "device": str(setting.device),
        "evaluation_to_forward": figures.ratio(EVALUATION).json(),
        "passes": {
            name: {"images_per_second": timing.rate.json(), "seconds": timing.seconds, "images": timing.units}
            for name, timing in figures.timings.items()
        },
    }
