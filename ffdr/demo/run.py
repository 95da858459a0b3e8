"""The demo's flow: write, teach, reinforce, train students by three tasks, evaluate all on the test split."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ffdr.ablate.evaluation import EvaluationSuite
from ffdr.ablate.scores import training_time
from ffdr.config import recipe
from ffdr.config.files import WriteOptions
from ffdr.config.measuring import DemoOptions
from ffdr.demo import report
from ffdr.evaluate.settings import settings_text
from ffdr.inspect.grid import draw_views
from ffdr.loader.dataset import ReinforcedDataset
from ffdr.reinforce.generate import generate
from ffdr.train.run import run as train
from ffdr.util.environment import environment
from ffdr.util.foreign import read_json
from ffdr.util.opening import own_folder
from ffdr.util.shipped import recipes
from ffdr.util.text import command, join_list, say
from ffdr.write.images import write_images

TEACHERS = ("test_efficientnet", "test_convnext", "test_mambaout")
PER_CLASS = 10
"""Training images of each class that the students have; the teachers had the whole split."""
RESOLUTION = 32
"""Pixels of the views that the students learn from, are evaluated on, and that are drawn."""

Run = dict[str, Any]


def run_demo(options: DemoOptions) -> None:
    """Run it all and leave summary.json, table.md, plot.png and views.png in ``options.out``."""
    work, out = Path(options.work), Path(options.out)
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    betons = write_betons(work)
    models, teaching = train_teachers(work, betons["train"])
    reinforced, reinforcing = reinforce(work, betons["small"], models)
    suite = EvaluationSuite(betons["test"])
    runs = {"teacher": [teaching | suite.teacher(models, RESOLUTION, center=1.0)]}
    runs |= train_students(options, work, betons["small"], reinforced, models, suite)

    dataset = ReinforcedDataset(betons["small"], reinforced)
    lines = setting(options, dataset, runs, reinforcing)
    measured = environment()
    report.write_summary(out / "summary.json", runs, lines, measured)
    report.write_table(out / "table.md", runs, lines, measured)
    report.plot(out / "plot.png", runs)
    draw_views(out / "views.png", dataset, RESOLUTION)
    say((out / "table.md").read_text(encoding="utf-8"))
    seconds = time.perf_counter() - start
    then = command("inspect", reinforced, f"--images={betons['small']}")
    say(f"{out}: summary.json, table.md, plot.png, views.png, made in {seconds:.0f} s; next: {then}")


def write_betons(work: Path) -> dict[str, Path]:
    """The splits as image betons: train, test, and small, a part of train."""
    splits = {"train": ("train", 0), "small": ("train", PER_CLASS), "test": ("test", 0)}
    betons = {}
    for name, (split, per_class) in splits.items():
        betons[name] = work / f"{name}.beton"
        write_images(
            WriteOptions("digits", split=split, per_class=per_class, mode="raw", out=str(betons[name]), overwrite=True),
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
    return join_list(specs), {"seconds": seconds, "images_per_second": shown / seconds}


def reinforce(work: Path, images: Path, models: str) -> tuple[Path, float]:
    """The reinforced beton of the students' images, and the seconds it took."""
    out = work / "small+.beton"
    options = recipe.load(
        "reinforce",
        recipes() / "digits" / "reinforce.yaml",
        reinforce__images=str(images),
        reinforce__out=str(out),
        reinforce__overwrite=True,
        teacher__models=models,
    )
    start = time.perf_counter()
    generate(options.reinforce, options.policy, options.teacher)
    return out, time.perf_counter() - start


def train_students(
    options: DemoOptions, work: Path, images: Path, reinforced: Path, models: str, suite: EvaluationSuite
) -> dict[str, list[Run]]:
    """The same student by each task, once per seed, with its scores."""
    special: dict[str, dict[str, Any]] = {
        "erm": {},
        "kd": {"teacher__models": models},
        "dr": {"data__reinforced": str(reinforced)},
    }
    runs: dict[str, list[Run]] = {task: [] for task in special}
    with tqdm(total=options.seeds * len(special), desc="students", unit="run") as bar:
        for seed in range(options.seeds):
            for task, extra in special.items():
                out = work / f"{task}-{seed}"
                if options.epochs:
                    extra = {**extra, "train__epochs": options.epochs, "train__warmup_epochs": options.epochs / 10}
                plan = _recipe("plus" if task == "dr" else task, images, out, train__seed=seed, **extra)
                runs[task].append(_train(plan) | suite.student(out / "model.safetensors", plan.train.flip_average))
                bar.update()
    return runs


def setting(
    options: DemoOptions, dataset: ReinforcedDataset, runs: dict[str, list[Run]], reinforcing: float
) -> list[str]:
    """What a reader must know to read the table."""
    plan = read_json(Path(options.work) / "dr-0" / "options.json")
    header = dataset.reinforced.header
    return [
        f"Students: {plan['model']['name']} on {len(dataset)} training images, {plan['train']['epochs']} epochs of "
        f"{len(dataset) // plan['train']['batch_size']} steps, the same for every task; {options.seeds} seeds.",
        f"Teacher: {', '.join(TEACHERS)}, averaged; trained on the whole training split of 1,098 images, "
        "of which the students' images are a part. It has seen more data than they have, as the paper's teachers had.",
        f"Reinforced beton: {header.views} views per image, all {header.topk} probabilities; made once for all seeds "
        f"in {reinforcing:.0f} s, which the training times below don't contain.",
        f"Test: {runs['dr'][0]['images']} images, fed at {settings_text(runs['dr'][0])}; corruptions: 15 kinds × 5 "
        "severities made here, not ImageNet-C.",
        "Training times and rates count the first epoch, in which kernels may be compiled, at the rate of the others.",
        "Settings were chosen without the test split.",
    ]


def _recipe(name: str, images: Path, out: Path, **overrides: Any) -> Any:
    own_folder(out)  # what an earlier run has left there is removed
    return recipe.load(
        "train",
        recipes() / "digits" / f"{name}.yaml",
        data__train=str(images),
        train__out=str(out),
        train__resume=False,
        **overrides,
    )


def _train(plan: Any) -> Run:
    """Train in silence; how long it took."""
    train(plan, progress=False)
    return training_time(plan.train.out)
