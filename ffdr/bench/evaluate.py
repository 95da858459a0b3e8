"""``ffdr bench eval``: how fast evaluation goes, beside the bare forward pass on batches that lie on the device.

Both compute the same: same model, precision and size of batches. What evaluation adds is the loader, in which images
are decoded and copied beside the forward pass, and the scores, which wait for the device once, at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ffdr.bench import loops, settings
from ffdr.bench.corpus import make_photos, write_photos
from ffdr.bench.loops import CachedBatches
from ffdr.bench.results import Report, Summary, Table, bench, device_name, rounds
from ffdr.bench.settings import Setting
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing, Workload, read_all, time_in_turn
from ffdr.beton.read import ImageBeton
from ffdr.config.learning import ModelOptions
from ffdr.config.measuring import BenchOptions
from ffdr.evaluate.evaluator import Evaluator
from ffdr.evaluate.metrics import EvaluationLoader
from ffdr.evaluate.scoring import Scorer
from ffdr.models.build import ModelInfo, build_model
from ffdr.train.stopwatch import wait

# Names of what is timed.
EVALUATION = "ffdr: evaluation"
LOADER = "ffdr: loader alone"
FORWARD = "forward pass, cached batches"


@dataclass(frozen=True)
class EvaluationTimes:
    """What was measured of one setting."""

    setting: Setting
    timings: Mapping[str, Timing]

    def ratio(self, name: str) -> Estimate:
        """Images/s, relative to those of the forward pass."""
        return self.timings[name].rate.over(self.timings[FORWARD].rate)


@bench(then="ffdr bench doctor")
def bench_eval(options: BenchOptions, folder: Path) -> Report:
    """Measure every setting.

    Raises:
        UserError: a file, models or options that don't go together.
    """
    planned = settings.plan(options)
    count = max(setting.images for setting in planned)
    made = options.data or write_photos(make_photos(folder / "photos", count), folder / "images.beton")
    images = ImageBeton.open(made)
    results = []
    for setting in planned:
        setting = setting.within(images.num_images)
        print(f"measuring {setting.label}", file=sys.stderr)
        results.append(EvaluationTimes(setting, time_in_turn(passes(setting, images), options.repeats)))
    first = planned[0]
    head = [
        f"{images.num_images} images ({settings.source(options)}), from the page cache",
        f"on {device_name(first.device)}, with {first.threads} decoding threads; random weights, not compiled",
        rounds(options, "pass"),
        "evaluation begins with nothing decoded and ends with all scores, so the waits for the first batch and for the "
        "device are in it",
    ]
    figures = {"settings": {result.setting.label: _json(result) for result in results}}
    return Report("Evaluation", head, [*map(_table, results)], summary(results), figures)


def passes(setting: Setting, images: ImageBeton) -> dict[str, Workload]:
    """What is timed, by name; all passes share one model, of random weights.

    Raises:
        UserError: a model that can't take the images.
    """
    model = build_model(ModelOptions(name=setting.model), images.num_classes, setting.resolution).eval()
    info = ModelInfo(setting.model, images.num_classes, setting.resolution, images.mean, images.std)
    model = model.to(setting.device).to(memory_format=torch.channels_last)
    evaluator = Evaluator(model, info, setting.device, setting.batch_size, setting.dtype, workers=setting.workers)
    loader = evaluator.loader(images)
    cached = list(islice(loader, loops.CACHED))
    again = CachedBatches(cached, setting.steps, images.num_classes)  # full ones: the last of an epoch is not reached
    return {
        EVALUATION: Workload(partial(_evaluate, evaluator, loader, images), images.num_images),
        LOADER: Workload(partial(read_all, loader), images.num_images),
        FORWARD: Workload(partial(_forward, evaluator, again), again.num_images),
    }


def _evaluate(evaluator: Evaluator, loader: EvaluationLoader, images: ImageBeton) -> dict[str, Any]:
    """One pass over the images, as ``ffdr eval`` makes it, and what it reports."""
    scorer = Scorer(images.labels, images.class_names, evaluator.info.num_classes)
    evaluator.score(loader, {"data": scorer})
    return scorer.report()


def _forward(evaluator: Evaluator, batches: CachedBatches) -> None:
    """The bare pass; nobody looks at the outputs."""
    device, dtype = evaluator.device, evaluator.dtype
    with torch.inference_mode():
        for images, _, _ in batches:
            with torch.autocast(device.type, dtype) if dtype else nullcontext():
                evaluator.model(images)
    wait(device)


def summary(results: Sequence[EvaluationTimes]) -> Summary:
    """Evaluation beside the forward pass, of each setting."""
    return {
        f"{result.setting.label}: evaluation : forward pass on cached batches": result.ratio(EVALUATION)
        for result in results
    }


def _table(result: EvaluationTimes) -> Table:
    setting = result.setting
    rows = [(name, timing.rate.text(0), result.ratio(name).text()) for name, timing in result.timings.items()]
    note = f"Batches of {setting.batch_size}; the forward pass shows {setting.steps} of them."
    return Table(setting.label, ("", "images/s", "× forward pass"), rows, [note])


def _json(result: EvaluationTimes) -> dict[str, Any]:
    setting = result.setting
    return {
        "batch_size": setting.batch_size,
        "steps": setting.steps,
        "device": str(setting.device),
        "evaluation_to_forward": result.ratio(EVALUATION).json(),
        "passes": {name: timing.json() for name, timing in result.timings.items()},
    }
