"""How long a run will take on this device: measured on a few of its own steps, on noise, and on its own reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from ffdr.beton.read import ImageBeton
from ffdr.config.model_names import FOLDER, split_prefix
from ffdr.config.training import TrainOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.loader.loader import ReinforcedLoader
from ffdr.loader.targets import SparseTargets
from ffdr.models.build import autocast_dtype
from ffdr.reinforce.functions import FunctionTeacher, without_functions
from ffdr.reinforce.teacher import Teacher, parse_models
from ffdr.train.build import build_loader, build_teacher, build_val_loader, open_data
from ffdr.train.identity import Normalisation
from ffdr.train.plan import EpochPlan, all_sides, view_sides
from ffdr.train.stopwatch import wait
from ffdr.train.update.freezing import set_training
from ffdr.train.update.optim import check_optimizer
from ffdr.train.update.step import Step
from ffdr.train.update.tasks import ErmTask, Task, build_task
from ffdr.util.errors import UserError
from ffdr.util.machine import machine_memory
from ffdr.util.ranks import Ranks

_SECONDS = 1.5
"""For each thing that is timed, but no less than one call after a first one."""
_CALLS = 20
"""Calls that a thing is timed by at most."""
_FIRST, _GROWTH = 4, 4
"""Images of the first attempt at a batch, and times as many in each next one."""
_MEMORY = 0.25
"""Share of the machine's memory that the activations of a measured batch may take."""
_READ = 128
"""Views per batch at most where reading is timed, or those of one image."""
_NEXT_TO_0 = 1e-30
"""A learning rate that changes no weight but those that are 0."""
_NORMALISATION = Normalisation((0.5,) * 3, (0.25,) * 3)


@dataclass(frozen=True)
class Costs:
    """Seconds that the parts of a run take, one after another."""

    train: dict[int, float]
    """forward and backward pass per image, by the resolution of the views"""
    update: float
    """per batch, of the weights and their average"""
    batch: int
    """images that went through the model at a time: a part of a batch, or as many as memory and patience allow"""
    val: float = 0.0
    """forward pass per image in validation"""
    val_images: int = 0
    """images of a validation; 0: there is none, or no file yet"""
    read: float | None = None
    """per image, from its file to a view, by all threads; None: there is no file yet"""
    with_teacher: bool = True
    """whether the live teacher, if the task has one, is included"""
    overlapped: bool = False
    """whether reading goes on during the passes, as with a GPU; else it takes the same cores"""
    optimizer_bytes: int = 0
    """that the optimiser keeps from step to step"""

    def training(self, train: TrainOptions, plan: EpochPlan) -> float:
        """Seconds of all training epochs. plan: of each."""
        images = sum(fmean(self._with_reading(self.train[side]) for side in sides) for sides in view_sides(train))
        return plan.shown * images + plan.steps * train.epochs * self.update

    def validation(self, train: TrainOptions) -> float:
        """Seconds of all validations."""
        passes = -(-train.epochs // train.eval_every)
        return passes * self.val_images * self._with_reading(self.val * (1 + train.flip_average))

    def _with_reading(self, seconds: float) -> float:
        read = self.read or 0.0
        return max(seconds, read) if self.overlapped else seconds + read


def measure(
    recipe: TrainRecipe,
    model: nn.Module,
    classes: int,
    device: torch.device,
    functions: Sequence[FunctionTeacher] = (),
) -> Costs:
    """Of the run that the recipe describes, alone on this device and not compiled, in seconds; writes nothing.

    model: the student, on the device. What has no file yet is left out: reading, validation, the live teacher.
    functions: teachers for which ``teacher.models`` has labels. Raises UserError for files that don't fit together.
    """
    train = recipe.train
    read, val_images = _time_reading(recipe, device)
    teacher = _local_teacher(recipe, device, functions)
    step = _still_step(train, model, classes, teacher, device)
    per_image: dict[int, float] = {}
    batch, update = 0, 0.0
    for side in reversed(all_sides(train)):  # what the largest allows, the others do
        batch = batch or _largest_batch(step, classes, side, -(-train.batch_size // train.accumulate))
        seconds = _timed(_training_call(step, classes, side, batch), device)
        update = _timed(lambda: _update(step), device)
        per_image[side] = max(0.0, seconds - update) / batch
    val = _timed(_validation_call(step, train.eval_resolution or train.resolution, batch), device) / batch
    with_teacher = train.task != "kd" or teacher is not None
    overlapped, held = device.type == "cuda", state_bytes(step.optimizer)
    return Costs(per_image, update, batch, val, val_images, read, with_teacher, overlapped, held)


def _time_reading(recipe: TrainRecipe, device: torch.device) -> tuple[float | None, int]:
    """Seconds per image, and how many images there are to validate with, as far as there are files."""
    train, data, ranks = recipe.train, recipe.data, Ranks()
    needed = [data.train, *([data.reinforced] if data.reinforced else [])]
    if not all(Path(path).is_file() for path in needed):
        return None, 0
    opened = open_data(recipe)
    most = max(1, _READ // train.views_per_image) * train.views_per_image
    small = replace(recipe, train=replace(train, batch_size=min(train.batch_size, most), accumulate=1))
    loader = build_loader(small, opened, device, ranks)
    val_images = build_val_loader(recipe, opened, device, ranks).num_images if Path(data.val).is_file() else 0
    return _seconds_per_image(loader), val_images


def _seconds_per_image(loader: ReinforcedLoader) -> float:
    """Over whole passes as far as time allows: each of them starts anew, as a run's epochs do."""
    for _ in loader:  # the first one loads kernels
        break
    loader.set_epoch(1)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        for _, _, index in loader:
            count += len(index)
            if time.perf_counter() - start > _SECONDS:
                break
    seconds = time.perf_counter() - start
    loader.close()
    return seconds / count


def _local_teacher(recipe: TrainRecipe, device: torch.device, functions: Sequence[FunctionTeacher]) -> Teacher | None:
    """The live teacher, if it and the images are on this machine: an estimate fetches nothing."""
    if recipe.train.task != "kd":
        return None
    named = without_functions(recipe.teacher.models, [function.label for function in functions])
    parsed = parse_models(named) if named or not functions else []
    needed = [recipe.data.train, *(checkpoint for name, checkpoint in parsed if split_prefix(name)[0] != FOLDER)]
    if not all(Path(file).is_file() for file in needed):
        return None
    return build_teacher(recipe, ImageBeton.open(recipe.data.train), 0, device, Ranks(), functions)


def _still_step(
    train: TrainOptions, model: nn.Module, classes: int, teacher: Teacher | None, device: torch.device
) -> Step:
    """The run's step, but at a rate of 0, or next to it for optimisers that take no 0: noise has nothing to teach, and
    might blow the weights up."""
    still = replace(train, lr=0.0, min_lr=0.0, warmup_lr=0.0, scheduler="cosine", accumulate=1, compile="off")
    try:
        check_optimizer(still)
    except UserError:
        still = replace(still, lr=_NEXT_TO_0)
    if train.task == "kd" and teacher is None:
        task: Task = ErmTask(classes)
    else:
        task = build_task(train, classes, _NORMALISATION, teacher)
    return Step(still, model, task, 1, _NORMALISATION, autocast_dtype(train.precision, device), Ranks())


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What an optimiser holds for its weights, counters left out."""
    values = (value for state in optimizer.state.values() for value in tree_leaves(dict(state)))
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor) and value.ndim)


def _largest_batch(step: Step, classes: int, side: int, wanted: int) -> int:
    """As many images as the run has at a time, but no more than memory and patience allow here."""
    count = min(_FIRST, wanted)
    with _activations(step.model) as held:
        _training_call(step, classes, side, count)()
    most = _MEMORY * machine_memory() * count / max(1, sum(held)) if step.device.type == "cpu" else wanted
    while count < wanted:
        larger = min(wanted, count * _GROWTH)
        seconds = _timed(_training_call(step, classes, side, count), step.device, calls=1)
        if larger > most or seconds * larger / count > _SECONDS:
            break
        try:
            _training_call(step, classes, side, larger)()
        except torch.OutOfMemoryError:
            break
        count = larger
    return count


@contextmanager
def _activations(model: nn.Module) -> Iterator[list[int]]:
    """Bytes of what is kept for a backward pass in here, each storage once and without the weights."""
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            held.append(storage.nbytes())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield held


def _training_call(step: Step, classes: int, side: int, count: int) -> Callable[[], object]:
    """A call that learns from one batch, always the same."""
    images = torch.randn(count, 3, side, side, device=step.device).to(memory_format=torch.channels_last)
    ids = torch.arange(2 * count, device=step.device).view(count, 2) % classes
    targets = SparseTargets(ids, torch.full((count, 2), -1.0, device=step.device), ids[:, 0].clone())
    set_training(step.options, step.model)
    return lambda: step(images, targets)


def _update(step: Step) -> None:
    step.optimizer.step()
    if step.ema:
        step.ema.update(step.model, step.count)


def _validation_call(step: Step, side: int, count: int) -> Callable[[], object]:
    """A forward pass of one batch, always the same."""
    images = torch.randn(count, 3, side, side, device=step.device).to(memory_format=torch.channels_last)
    dtype = autocast_dtype(step.options.precision, step.device)

    def score() -> None:
        with torch.inference_mode(), torch.autocast(step.device.type, dtype) if dtype else nullcontext():
            step.model.eval()(images)

    return score


def _timed(call: Callable[[], object], device: torch.device, calls: int = _CALLS) -> float:
    """Seconds per call, after a first one that chooses kernels and fills caches."""
    call()
    wait(device)
    start, done = time.perf_counter(), 0
    while done < calls and (done == 0 or time.perf_counter() - start < _SECONDS):
        call()
        done += 1
    wait(device)
    return (time.perf_counter() - start) / done
