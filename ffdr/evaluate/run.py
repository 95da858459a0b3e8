"""``ffdr eval``: a report on one model, on one data set or on a suite of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ffdr.beton.read import ImageBeton
from ffdr.config.evaluation import EvalOptions, SuiteOptions
from ffdr.config.learning import ModelOptions
from ffdr.config.model_names import GIVEN, is_from_hub
from ffdr.evaluate.classes import check_classes, synsets
from ffdr.evaluate.corruptions import NAMES, SEVERITIES
from ffdr.evaluate.evaluator import Evaluator, Images, open_images
from ffdr.evaluate.report import Report, as_text, plot, write_csv
from ffdr.evaluate.results.folder import ResultsFolder
from ffdr.evaluate.robustness import evaluate_corruptions
from ffdr.evaluate.scoring import Scorer
from ffdr.evaluate.settings import INTERPOLATION, KEYS, run_of, run_options, validation_settings
from ffdr.evaluate.suite import OpenedSuite, check_model, open_suite, run_suite
from ffdr.models.build import ModelInfo, autocast_dtype, best_device, load_model, load_named
from ffdr.models.catalog import config_of, library_of
from ffdr.models.compiling import pays, set_backends
from ffdr.models.given import describe_given
from ffdr.models.modules import import_modules
from ffdr.models.timm_names import eval_size
from ffdr.util.atomic import atomic_write
from ffdr.util.errors import UserError
from ffdr.util.machine import machine_memory
from ffdr.util.opening import check_final
from ffdr.util.ranks import Ranks
from ffdr.util.text import byte_size, command, join_list, say, warn


def run(
    options: EvalOptions,
    model_options: ModelOptions,
    suite: SuiteOptions | None = None,
    given: nn.Module | None = None,
) -> Report:
    """Evaluate as the options say; prints the report and writes it as JSON, CSV and plot if asked.

    suite: the sets to evaluate on, if ``options`` name no data. given: the module of a caller in Python, evaluated in
    place of one that is built; ``model_options`` name it (``take_module``).

    Under torchrun the ranks share the images; every rank returns the report, and the first one prints and writes it.

    Raises:
        UserError: a model and data that don't fit together; files that can't be written or read.
    """
    suite = suite or SuiteOptions()
    import_modules(model_options.module, "model.module")
    for key in ("json", "csv", "plot"):
        file = getattr(options, key)
        if file and not Path(file).parent.is_dir():
            raise UserError(f"eval.{key}: there is no folder {Path(file).parent}")
        if file:
            check_final(Path(file))
    results = ResultsFolder(options.results, options.paths) if options.results else None
    with Ranks.join() as ranks:
        opened = open_images(options.data, "eval.data") if options.data else open_suite(suite)
        if results:
            results.check(opened)
        if isinstance(opened, OpenedSuite):
            count = opened.num_images
            for remark in opened.remarks() if ranks.rank == 0 else ():
                warn(f"ffdr eval: {remark}")
        else:
            count = len(opened.labels)
        count *= 1 + len(NAMES) * len(SEVERITIES) * options.corruptions
        if given is None:
            loaded = _load(options, model_options)
        else:
            images = None if isinstance(opened, OpenedSuite) else opened
            loaded = given, _describe_given(given, model_options.name, options, images)
        evaluator = _make_evaluator(options, *loaded, ranks, count)
        described = is_from_hub(model_options.name) or given is not None  # by itself, not by its library
        if ranks.rank == 0 and not evaluator.info.classes and not described:
            _warn_of_other_view(evaluator.info)
        if isinstance(opened, OpenedSuite):
            check_model(evaluator.info, any_names=options.classes == "any")
            if results:
                results.watch_suite(opened)
            scores = run_suite(evaluator, opened)
        else:
            scores = {"data": options.data, **_on_data(evaluator, opened, options, ranks.rank, results)}
        lines = results.write(evaluator, ranks.rank) if results else []
        report = _settings(evaluator, options.checkpoint or model_options.checkpoint) | scores
        if ranks.rank == 0:
            say("\n".join([as_text(report), *lines]))
            written = []
            if options.json:
                atomic_write(Path(options.json), json.dumps(report, indent=2) + "\n")
                written.append(options.json)
            if options.csv:
                write_csv(Path(options.csv), report)
                written.append(options.csv)
            if options.results:
                written.append(options.results)
            if options.plot and plot(Path(options.plot), report):
                written.append(options.plot)
            say(_closing(report, written, options, model_options, suite))
        return report


def _load(options: EvalOptions, model_options: ModelOptions) -> tuple[nn.Module, ModelInfo]:
    """The model that the options name."""
    if options.checkpoint:
        return load_model(options.checkpoint, options.resolution)
    name, weights = model_options.name, model_options.checkpoint
    return load_named(name, weights, resolution=options.resolution, options=model_options.options)


def _describe_given(given: nn.Module, name: str, options: EvalOptions, images: Images | None) -> ModelInfo:
    """How to feed a module that a caller gave, which gets the weights of ``eval.checkpoint``, if there is one.

    What no file of ours says is the normalisation of the images' manifest, or ImageNet's, where there is none.

    Raises:
        UserError: weights that aren't the module's; no size; outputs that are no logits.
    """
    fed = images if isinstance(images, ImageBeton) else config_of("")
    return describe_given(given, name, options.checkpoint, options.resolution, fed, "eval.resolution")


def _make_evaluator(
    options: EvalOptions, model: nn.Module, info: ModelInfo, ranks: Ranks, num_images: int
) -> Evaluator:
    """The model in its place, with its settings. num_images: that it will be shown."""
    device = ranks.device()
    dtype = autocast_dtype(options.precision, device, "eval.precision")
    set_backends(device, dtype)
    batches = num_images // (options.batch_size * ranks.size)
    _check_batch(min(options.batch_size, max(1, num_images)), info.resolution)
    return Evaluator(
        model.to(device).to(memory_format=torch.channels_last),
        info,
        device,
        options.batch_size,
        dtype,
        options.flip_average,
        ranks.threads(options.workers),
        progress=ranks.rank == 0,
        compile=options.compile == "on" or (options.compile == "auto" and pays(device, batches)),
    )


def _check_batch(images: int, resolution: int) -> None:
    """Raise UserError for a batch that leaves no memory for the model's maps, whoever asks for its size."""
    size, has = images * resolution**2 * 3 * 5, machine_memory()  # as bytes, and as float32
    if size > has / 2:
        raise UserError(
            f"eval.batch_size: {images} images of {resolution} px are {byte_size(size)}, but this machine has "
            f"{byte_size(has)} of memory; lower it, or give eval.resolution"
        )


def _warn_of_other_view(info: ModelInfo) -> None:
    config = config_of(info.name)
    height, width = eval_size(config)
    other_size = (height, width) != (info.resolution, info.resolution)
    theirs = {"interpolation": (config.interpolation, INTERPOLATION), "crop_mode": (config.crop_mode, "center")}
    said = [f"at {height} px" if height == width else f"at {height}×{width} px"] if other_size else []
    said += [f"with {key} {value}" for key, (value, ours) in theirs.items() if value != ours]
    if said:
        library = library_of(info.name)
        remedy = f"; --eval.resolution={height} takes {library}'s size" if other_size and height == width else ""
        warn(
            f"ffdr eval: {library} evaluates {info.name} {', '.join(said)}; ffdr's view is {INTERPOLATION}, "
            f"centre-cropped, of {info.resolution} px: expect another accuracy{remedy}"
        )


def _on_data(
    evaluator: Evaluator, images: Images, options: EvalOptions, rank: int, results: ResultsFolder | None
) -> Report:
    """Scores on one data set of the model's own classes, and under corruptions made of it if asked for."""
    info = evaluator.info
    _check_classes(info, images, options.data, any_names=options.classes == "any")
    scorer = Scorer(images.labels, images.class_names, info.num_classes)
    if results:
        has_names = images.manifest is not None if isinstance(images, ImageBeton) else True
        results.watch("", images, scorer, images.class_names if has_names else info.class_names)
    evaluator.score(evaluator.loader(images), {"data": scorer}, Path(options.data).name)
    report = scorer.report()
    if options.corruptions and rank == 0:  # small sets, in memory: not worth sharing
        report |= evaluate_corruptions(evaluator, *evaluation_pixels(images, info, evaluator.workers))
    return report


def _settings(evaluator: Evaluator, weights: str | Path = "") -> Report:
    """What a report says before the scores. weights: their file, whose run says whether they are averaged."""
    info, folder = evaluator.info, run_of(Path(weights))
    run = validation_settings(run_options(folder)) if folder else {}
    return {
        "model": info.name,
        "resolution": info.resolution,
        "center": info.center,
        "interpolation": INTERPOLATION,
        "precision": str(evaluator.dtype or torch.float32).removeprefix("torch."),
        "flip_average": evaluator.flip,
        "averaged": run.get("averaged"),
        "compiled": evaluator.compile,
        "parameters": sum(parameter.numel() for parameter in evaluator.model.parameters()),
    }


def _closing(
    report: Report, written: Sequence[str], options: EvalOptions, model: ModelOptions, suite: SuiteOptions
) -> str:
    """What was written where, and the command that comes next."""
    said = f"{', '.join(written)}: scores of {report['model']}" if written else "nothing was written"
    if not options.json:
        then = _again(replace(options, json="REPORT.json"), model, suite)
    elif "sets" in report or report.get("per_class", {}).keys() == set(synsets()):
        then = command("report", options.json)
    elif not options.corruptions:
        then = _again(replace(options, corruptions=True), model, suite)
    elif Path(options.data).is_dir():
        then = command("write", "--source=imagefolder", f"--path={options.data}", "--split=", "--out=IMAGES.beton")
    else:
        then = command("inspect", options.data)
    return f"{said}; next: {then}"


def _again(options: EvalOptions, model: ModelOptions, suite: SuiteOptions) -> str:
    """The evaluation with these options: a command, or a call where only a caller in Python has the model."""
    if model.name.startswith(GIVEN):
        changed = {field.name: getattr(options, field.name) for field in fields(options)}
        said = (f"{name}={value!r}" for name, value in changed.items() if value != getattr(EvalOptions(), name))
        return f"ffdr.evaluate({', '.join(('model=…', *said, *(() if suite == SuiteOptions() else ('suite=…',))))})"
    return command("eval", *_flags("", options), *_flags("model.", model), *_flags("suite.", suite))


def _flags(section: str, options: Any) -> Iterator[str]:
    """Those of options that differ from their defaults."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value is True:
            yield f"--{section}{field.name}"
        elif value != field.default:
            yield f"--{section}{field.name}={join_list(value) if isinstance(value, tuple) else value}"


def build_evaluator(model: nn.Module, info: ModelInfo, batch_size: int = 256, flip: bool = False) -> Evaluator:
    """Runs the model in float32 on the best device, on the evaluation view that its info says."""
    device = best_device()
    model = model.to(device).to(memory_format=torch.channels_last)
    return Evaluator(model, info, device, batch_size, flip=flip)


def evaluate_images(evaluator: Evaluator, images: ImageBeton) -> Report:
    """Accuracy and calibration (``metrics.Scores``), and the settings."""
    info = evaluator.info
    _check_classes(info, images, images.path)
    scorer = Scorer(images.labels, images.class_names, info.num_classes)
    evaluator.score(evaluator.loader(images), {"data": scorer})
    scores = {key: value for key, value in scorer.report().items() if isinstance(value, int | float)}
    settings = {key: value for key, value in _settings(evaluator).items() if key in ("model", *KEYS)}
    return {**settings, "data": str(images.path), **scores}


def evaluation_pixels(images: Images, info: ModelInfo, workers: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All evaluation views (N, H, W, 3) uint8 and their labels (N,), for corrupting; they must fit in memory."""
    viewer = Evaluator(nn.Identity(), info, torch.device("cpu"), workers=workers, shared=False)
    batches = viewer.loader(images, dtype=torch.uint8)
    pixels = np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch, _, _ in batches])
    return pixels, images.labels.copy()


def _check_classes(info: ModelInfo, images: Images, where: object, any_names: bool = False) -> None:
    count = len(images.class_names)
    written = not isinstance(images, ImageBeton) or images.manifest
    if info.num_classes != count and (written or info.num_classes < count):
        raise UserError(
            f"{where}: {count} classes, but the model has {info.num_classes} (ImageNet's other sets go in a suite)"
        )
    if not any_names:
        check_classes(info, images.class_names, where, "eval.classes", "ImageNetV2 goes in a suite (suite.v2)")
