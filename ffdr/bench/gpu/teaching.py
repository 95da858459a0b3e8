"""Passes without gradients: the teacher's labelling and the evaluation, each beside the bare forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch

from ffdr.augment.policy import Policy
from ffdr.bench import loops
from ffdr.bench.evaluate import passes
from ffdr.bench.gpu.place import Place, Ready, Row, timed
from ffdr.bench.loops import CachedBatches
from ffdr.bench.timing import Work, time_in_turn
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import ModelOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import build_model
from ffdr.reinforce.labelling import Labeller
from ffdr.reinforce.teacher import Member, Teacher
from ffdr.util.cores import thread_count

LABELLING, FORWARD = "labelling", "forward pass"
EAGER, COMPILED = "eager", "compiled"
_VIEWS = 2
"""Labelled of each image."""
_SHARD = 1024
"""Images; a large data set has shards of some thousand views."""


def prepare_teacher(place: Place) -> Ready:
    """One teacher eager and one compiled, and the same for the bare model."""
    images = ImageBeton.open(place.images)
    batches = _batches(place, images)
    work = {}
    for how in (EAGER, COMPILED):
        labeller = _labeller(place, images, compile=how == COMPILED)
        parts = [range(n, min(n + _SHARD, len(images))) for n in range(0, len(images), _SHARD)]
        forward = _forward(place, labeller.teacher.members[0], compile=how == COMPILED)
        work[f"{LABELLING}, {how}"] = Work(lambda x=labeller, y=parts: _label(x, y), len(images) * _VIEWS)
        work[f"{FORWARD}, {how}"] = Work(lambda x=forward: _answer(x, batches), batches.num_images)
        if how == COMPILED:
            _label(labeller, parts[:1])
            _answer(forward, CachedBatches(list(batches)[:1], 2, batches.num_classes))

    def measure() -> Iterator[Row]:
        for name, timing in time_in_turn(work, place.sizes.repeats).items():
            yield timed(name, timing)

    return Ready(measure)


def _batches(place: Place, images: ImageBeton) -> CachedBatches:
    """Pixels as the labeller gives them, on the device; as many as are labelled, but for the last few."""
    size = place.sizes
    loader = ReinforcedLoader(
        images, place.reinforced, batch_size=size.batch_size, resolution=size.resolution, dtype=torch.uint8,
        device=place.device,
    )  # fmt: skip
    kept = []
    for batch in loader:
        kept.append(batch)
        if len(kept) == loops.CACHED:
            break
    loader.close()
    return CachedBatches(kept, len(images) * _VIEWS // size.batch_size, images.num_classes)


def _labeller(place: Place, images: ImageBeton, compile: bool) -> Labeller:
    name, side = place.sizes.model, place.sizes.resolution
    torch.manual_seed(0)
    model = build_model(ModelOptions(name=name), images.num_classes, side)
    member = Member(name, model, side, images.mean, images.std)
    teacher = Teacher([member], images.num_classes, place.device, place.sizes.batch_size, "auto", compile)
    header = ReinforcedBeton.open(place.reinforced, images).header
    views = type(header)(**{**header.__dict__, "views": _VIEWS, "teachers": teacher.names, "resolution": side})
    return Labeller(images, Policy(), views, teacher, thread_count(0, gpu=place.device.type == "cuda"))


def _label(labeller: Labeller, parts: list[range]) -> None:
    for _ in labeller.label(parts):
        pass


def _forward(place: Place, member: Member, compile: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Normalisation and model, as one writes it by hand; compiled as one graph of fixed shapes."""
    dtype, model = place.setting().dtype, member.model
    mean, std = (255 * torch.tensor(x, device=place.device).view(1, 3, 1, 1) for x in (member.mean, member.std))

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, dtype) if dtype else nullcontext():
            return model(((images - mean) / std).to(dtype or torch.float32))

    return torch.compile(forward, dynamic=False) if compile else forward


def _answer(forward: Callable[[torch.Tensor], torch.Tensor], batches: CachedBatches) -> None:
    with torch.inference_mode():
        for images, _, _ in batches:
            forward(images)
    loops.wait(images.device)


def prepare_evaluation(place: Place) -> Ready:
    """As ``ffdr bench eval`` measures it."""
    work = passes(place.setting(), ImageBeton.open(place.images))

    def measure() -> Iterator[Row]:
        for name, timing in time_in_turn(work, place.sizes.repeats).items():
            yield timed(name, timing)

    return Ready(measure)
