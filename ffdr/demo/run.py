"""The demo's flow: write, teach, reinforce, train students by three tasks, evaluate all on the test split."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ffdr import recipe
from ffdr.bench.environment import environment
from ffdr.beton.read import ImageBeton
from ffdr.beton.write import write_images
from ffdr.demo import report
from ffdr.errors import UserError
from ffdr.evaluate.corruptions import CorruptedImages
from ffdr.evaluate.run import evaluate_model, evaluation_pixels, robustness
from ffdr.inspect.grid import draw_views
from ffdr.loader import ReinforcedDataset
from ffdr.models import ModelInfo, best_device, load_model
from ffdr.options import DemoOptions, TeacherOptions, WriteOptions
from ffdr.reinforce.generate import generate
from ffdr.reinforce.teacher import Teacher
from ffdr.train.run import run as train

RCFG = Path(__file__).parents[2] / "rcfg" / "digits"
TEACHERS = ("test_efficientnet", "test_convnext", "test_mambaout")
PER_CLASS = 10
"""Training images of each class that the students have; the teachers had the whole split."""
EVAL_BATCH = 250

Run = dict[str, Any]


def run_demo(options: DemoOptions) -> None:
    """Run it all and leave summary.json, table.md, plot.png and views.png in ``options.out``.

    Raises:
        UserError: the recipes are not there.
    """
    if not RCFG.is_dir():
        raise UserError(f"{RCFG}: the demo's recipes are missing; run it from a checkout")
    work, out = Path(options.work), Path(options.out)
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    betons = write_betons(work)
    models, teaching = train_teachers(work, betons["train"])
    reinforced, reinforcing = reinforce(work, betons["small"], models)
    exam = Exam(betons["test"])
    runs = {"teacher": [teaching | exam.teacher(models)]}
    runs |= train_students(options, work, betons["small"], reinforced, models, exam)

    dataset = ReinforcedDataset(betons["small"], reinforced)
    lines = setting(options, dataset, runs, reinforcing)
    measured = environment()
    report.write_summary(out / "summary.json", runs, lines, measured)
    report.write_table(out / "table.md", runs, lines, measured)
    report.plot(out / "plot.png", runs)
    draw_views(out / "views.png", dataset, exam.info.resolution)
    print((out / "table.md").read_text())
    print(f"{time.perf_counter() - start:.0f} s in all; table, plot and picture are in {out}")


def write_betons(work: Path) -> dict[str, Path]:
    """The splits as image betons: train, test, and small, a part of train."""
    splits = {"train": ("train", 0), "small": ("train", PER_CLASS), "test": ("test", 0)}
    betons = {}
    for name, (split, per_class) in splits.items():
        betons[name] = work / f"{name}.beton"
        write_images(
            WriteOptions(source="digits", split=split, per_class=per_class, mode="raw", out=str(betons[name])),
            progress=False,
        )
    return betons


def train_teachers(work: Path, images: Path) -> tuple[str, Run]:
    """The ensemble as ``NAME:CHECKPOINT,…``, and what training its members took together."""
    specs, timings = [], []
    for name in tqdm(TEACHERS, desc="teachers", unit="run"):
        out = work / f"teacher-{name}"
        timings.append(_train(_recipe("teacher", images, out, model__name=name)))
        specs.append(f"{name}:{out / 'model.safetensors'}")
    seconds = sum(timing["seconds"] for timing in timings)
    shown = sum(timing["seconds"] * timing["images_per_second"] for timing in timings)
    return ",".join(specs), {"seconds": seconds, "images_per_second": shown / seconds}


def reinforce(work: Path, images: Path, models: str) -> tuple[Path, float]:
    """The reinforced beton of the students' images, and the seconds it took."""
    out = work / "small+.beton"
    options = recipe.load(
        "reinforce",
        RCFG / "reinforce.yaml",
        reinforce__images=str(images),
        reinforce__out=str(out),
        teacher__models=models,
    )
    start = time.perf_counter()
    generate(options.reinforce, options.policy, options.teacher)
    return out, time.perf_counter() - start


def train_students(
    options: DemoOptions, work: Path, images: Path, reinforced: Path, models: str, exam: Exam
) -> dict[str, list[Run]]:
    """The same student by each task, once a seed, examined."""
    special = {"erm": {}, "kd": {"teacher__models": models}, "dr": {"data__reinforced": str(reinforced)}}
    runs: dict[str, list[Run]] = {task: [] for task in special}
    with tqdm(total=options.seeds * len(special), desc="students", unit="run") as bar:
        for seed in range(options.seeds):
            for task, extra in special.items():
                out = work / f"{task}-{seed}"
                if options.epochs:
                    extra = {**extra, "train__epochs": options.epochs, "train__warmup_epochs": options.epochs / 10}
                plan = _recipe("plus" if task == "dr" else task, images, out, train__seed=seed, **extra)
                runs[task].append(_train(plan) | exam.student(out / "model.safetensors"))
                bar.update()
    return runs


class Exam:
    """The test split, clean and corrupted; the corruptions are made once for all models."""

    def __init__(self, images: Path) -> None:
        self.images = ImageBeton.open(images)
        self.info = ModelInfo("", self.images.num_classes, 32, self.images.mean, self.images.std, center=1.0)
        pixels, self.labels = evaluation_pixels(self.images, self.info)
        self.corrupted = CorruptedImages(pixels)

    def student(self, checkpoint: Path) -> Run:
        """Scores of a trained model."""
        return self._scores(*load_model(checkpoint))

    def teacher(self, models: str) -> Run:
        """Scores of the ensemble."""
        teacher = Teacher.from_options(TeacherOptions(models=models), self.info.num_classes, best_device())
        return self._scores(_Ensemble(teacher, self.info), replace(self.info, name=models))

    def _scores(self, model: nn.Module, info: ModelInfo) -> Run:
        scores = evaluate_model(model, info, self.images, EVAL_BATCH)
        return scores | robustness(model, info, self.corrupted, self.labels, EVAL_BATCH)


class _Ensemble(nn.Module):
    """A teacher with the face of a model, so that it can sit the same exam."""

    def __init__(self, teacher: Teacher, info: ModelInfo) -> None:
        super().__init__()
        self.teacher, self.info = teacher, info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C) log-probabilities of images that are normalised as the info says."""
        return self.teacher.log_probs_normalised(images, self.info.mean, self.info.std)


def setting(
    options: DemoOptions, dataset: ReinforcedDataset, runs: dict[str, list[Run]], reinforcing: float
) -> list[str]:
    """What a reader must know to read the table."""
    plan = json.loads((Path(options.work) / "dr-0" / "options.json").read_text())
    header = dataset.reinforced.header
    return [
        f"Students: {plan['model']['name']} on {len(dataset)} training images, {plan['train']['epochs']} epochs of "
        f"{len(dataset) // plan['train']['batch_size']} steps, the same for every task; {options.seeds} seeds.",
        f"Teacher: {', '.join(TEACHERS)}, averaged; trained on the whole training split of 1,098 images, "
        "of which the students' images are a part. It has seen more data than they have, as the paper's teachers had.",
        f"Reinforced beton: {header.views} views an image, all {header.topk} probabilities; made once for all seeds in "
        f"{reinforcing:.0f} s, which the training times below don't contain.",
        f"Test: {runs['dr'][0]['images']} images; corruptions: 15 kinds × 5 severities made here, not ImageNet-C.",
        "Training times and rates leave out the first epoch of each run, in which kernels may be compiled.",
        "Settings were chosen without the test split.",
    ]


def _recipe(name: str, images: Path, out: Path, **overrides: Any) -> Any:
    return recipe.load(
        "train", RCFG / f"{name}.yaml", data__train=str(images), train__out=str(out), train__resume=False, **overrides
    )


def _train(plan: Any) -> Run:
    """Train in silence; seconds in all and images/s, the first epoch (which waits for compilation) left out."""
    train(plan, progress=False)
    lines = (Path(plan.train.out) / "log.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines][1:]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    images = sum(epoch["seconds"] * epoch["images_per_second"] for epoch in epochs)
    return {"seconds": seconds, "images_per_second": images / seconds}
