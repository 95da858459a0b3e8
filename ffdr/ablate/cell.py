"""What a worker does for one cell: train, evaluate, keep the result. The digest that names a cell's folder."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from ffdr.augment.policy import Policy
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.model_names import split_checkpoint
from ffdr.config.verbs import TrainRecipe
from ffdr.evaluate.settings import run_options, validation_settings
from ffdr.util.atomic import atomic_write, own_lock
from ffdr.util.errors import UserError
from ffdr.util.foreign import open_regular, read_json
from ffdr.util.opening import own_folder

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A cell that is ready to run. It pickles."""

    recipe: TrainRecipe
    """``train.out`` is the cell's folder"""
    test: str
    """image beton that models are evaluated on; empty: none"""
    corruptions: bool
    evaluation: str
    """identity of what its model is evaluated on"""

    @property
    def folder(self) -> Path:
        """Of the run and its ``result.json``."""
        return Path(self.recipe.train.out)

    def result(self) -> Result | None:
        """What is kept of an earlier run of this very cell, evaluated in the same way."""
        path = self.folder / "result.json"
        kept = read_json(path) if path.exists() else {}
        return kept["scores"] if isinstance(kept, dict) and kept.get("exam") == self.evaluation else None


def make_job(recipe: TrainRecipe, work: str | Path, test: str, corruptions: bool) -> Job:
    """Settle the folder by the digest of the resolved recipe and of the files that it names.

    Raises:
        UserError: a file that is missing or damaged; a test split of other classes; no scores to be had.
    """
    if not test and not recipe.data.val:
        raise UserError("ablate.test: name the images to evaluate on, or validate every run with data.val")
    if test and ImageBeton.open(test).class_names != ImageBeton.open(recipe.data.train).class_names:
        raise UserError(f"ablate.test: the classes of {test} are not those of {recipe.data.train}")
    identity: dict[str, Any] = {
        section.name: part.settings() if isinstance(part, Policy) else part.identity()
        for section in fields(recipe)
        for part in [getattr(recipe, section.name)]
    }
    for key in ("out", "resume"):
        del identity["train"][key]
    # What earlier studies were told apart by: one text, and no word of a check.
    identity["teacher"]["models"] = ",".join(recipe.teacher.models)
    del identity["teacher"]["classes"]
    identity["contents"] = _contents(recipe)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    out = str(Path(work) / "cells" / digest)
    evaluation = f"{_images(test)} corruptions={corruptions}" if test else "validation"
    if test and recipe.train.flip_average:
        evaluation += " flip_average=True"
    return Job(replace(recipe, train=replace(recipe.train, out=out, resume=True)), test, corruptions, evaluation)


def run_job(job: Job) -> Result:
    """The cell's scores, kept or made: train from the folder's newest checkpoint if there is one, then evaluate.

    Raises what ``ffdr.train.run.run`` raises.
    """
    with _locked(job.folder):
        result = job.result()
        if result is None:
            start = time.perf_counter()
            record = _train(job.recipe)
            trained = time.perf_counter()
            result = _scores(job, record)
            times = {"run_seconds": trained - start, "exam_seconds": time.perf_counter() - trained}
            result |= times
            kept = {"exam": job.evaluation, "scores": result}
            atomic_write(job.folder / "result.json", json.dumps(kept, indent=2) + "\n")
        return result


def _train(recipe: TrainRecipe) -> dict[str, Any]:
    """The last epoch's log record."""
    from ffdr.train.run import run  # here and below: slow imports happen once, in the worker

    if recipe.train.compile != "off":
        import torch

        torch.compiler.reset()  # it gives up on a model class after a few instances
    return run(recipe, progress=False)


def _scores(job: Job, record: dict[str, Any]) -> Result:
    """Of the test split, or of the last validation; with how the model was fed, and the times of training."""
    from ffdr.ablate.scores import training_time

    more = training_time(job.folder)
    fed = validation_settings(run_options(job.folder))
    if not job.test:
        return {key.removeprefix("val_"): value for key, value in record.items() if key.startswith("val_")} | fed | more
    suite = _suite(job.test, job.corruptions, _images(job.test))
    scores = suite.student(job.folder / "model.safetensors", job.recipe.train.flip_average)
    return scores | {"averaged": fed.get("averaged")} | more


@cache
def _suite(test: str, corruptions: bool, contents: str) -> Any:
    """One per worker; ``contents`` keeps one of a changed file apart."""
    from ffdr.ablate.evaluation import EvaluationSuite

    return EvaluationSuite(test, corruptions)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process is at work on the cell, such as a worker that outlives its parent for a moment."""
    for own in (folder.parent, folder):  # ablate.work itself is the user's
        own_folder(own)
    with own_lock(folder / "lock"):
        yield


def _contents(recipe: TrainRecipe) -> dict[str, str]:
    """What the files that a recipe names hold, by option."""
    from ffdr.models.hub import folder_files  # slow

    data = recipe.data
    contents = {key: _images(path) for key in ("train", "val") if (path := getattr(data, key))}
    if data.reinforced:
        contents["reinforced"] = _views(data.reinforced, data.train)
    weights = [recipe.model.checkpoint, *(split_checkpoint(spec)[1] for spec in recipe.teacher.models)]
    modules = [name for name in (*recipe.model.module, *recipe.teacher.module) if name.endswith(".py")]
    folders = [file for name in (recipe.model.name, *recipe.teacher.models) for file in folder_files(name)]
    return contents | {path: _bytes(path) for path in (*weights, *modules, *map(str, folders)) if path}


@cache
def _images(path: str) -> str:
    images = ImageBeton.open(path)
    return f"{images.fingerprint} {zlib.crc32(b'' if images.checksums is None else images.checksums.tobytes()):08x}"


@cache
def _views(path: str, images: str) -> str:
    reinforced = ReinforcedBeton.open(path, ImageBeton.open(images))
    return f"{zlib.crc32(reinforced.checksums.tobytes(), zlib.crc32(reinforced.header.pack())):08x}"


@cache
def _bytes(path: str) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
