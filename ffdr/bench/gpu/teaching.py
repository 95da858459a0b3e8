"""Passes without gradients: the teacher's labelling and the evaluation, each beside the bare forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice

import torch

from ffdr.augment.policy import Policy
from ffdr.bench import loops
from ffdr.bench.evaluate import passes
from ffdr.bench.gpu.site import Ready, Site
from ffdr.bench.loops import CachedBatches
from ffdr.bench.timing import Workload
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import ModelOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import build_model
from ffdr.reinforce.labelling import Labeller
from ffdr.reinforce.teacher import Member, Teacher
from ffdr.train.stopwatch import wait
from ffdr.util.machine import thread_count

LABELLING, FORWARD = "labelling", "forward pass"
EAGER, COMPILED = "eager", "compiled"
_VIEWS = 2
"""Labelled of each image."""
_SHARD = 1024
"""Images; a large data set has shards of some thousand views."""

Forward = Callable[[torch.Tensor], torch.Tensor]


def prepare_teacher(site: Site) -> Ready:
    """One teacher eager and one compiled, and the same for the bare model."""
    images = ImageBeton.open(site.images)
    batches = _batches(site, images)
    parts = [range(n, min(n + _SHARD, len(images))) for n in range(0, len(images), _SHARD)]
    work = {}
    for how in (EAGER, COMPILED):
        labeller = _labeller(site, images, compile=how == COMPILED)
        forward = _forward(site, labeller.teacher.members[0], compile=how == COMPILED)
        work[f"{LABELLING}, {how}"] = Workload(partial(_label, labeller, parts), len(images) * _VIEWS)
        work[f"{FORWARD}, {how}"] = Workload(partial(_predict, forward, batches), batches.num_images)
        if how == COMPILED:
            _label(labeller, parts[:1])
            _predict(forward, CachedBatches(list(batches)[:1], 2, batches.num_classes))
    return Ready(partial(site.rows, work))


def _batches(site: Site, images: ImageBeton) -> CachedBatches:
    """Pixels as the labeller gives them, on the device; as many as are labelled, but for the last few."""
    size = site.sizes
    loader = ReinforcedLoader(
        images, site.reinforced, batch_size=size.batch_size, resolution=size.resolution, dtype=torch.uint8,
        device=site.device,
    )  # fmt: skip
    kept = list(islice(loader, loops.CACHED))
    loader.close()
    return CachedBatches(kept, len(images) * _VIEWS // size.batch_size, images.num_classes)


def _labeller(site: Site, images: ImageBeton, compile: bool) -> Labeller:
    name, side = site.sizes.model, site.sizes.resolution
    torch.manual_seed(0)
    model = build_model(ModelOptions(name=name), images.num_classes, side)
    member = Member(name, model, side, images.mean, images.std)
    teacher = Teacher([member], images.num_classes, site.device, site.sizes.batch_size, "auto", compile)
    header = ReinforcedBeton.open(site.reinforced, images).header
    views = replace(header, views=_VIEWS, teachers=teacher.names, resolution=side)
    return Labeller(images, Policy(), views, teacher, thread_count(0, gpu=site.device.type == "cuda"))


def _label(labeller: Labeller, parts: list[range]) -> None:
    for _ in labeller.label(parts):
        pass


def _forward(site: Site, member: Member, compile: bool) -> Forward:
    """Normalisation and model, as one writes it by hand; compiled as one graph of fixed shapes."""
    dtype, model = site.setting().dtype, member.model
    mean, std = loops.pixel_scale(member.mean, site.device), loops.pixel_scale(member.std, site.device)

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, dtype) if dtype else nullcontext():
            return model(((images - mean) / std).to(dtype or torch.float32))

    return torch.compile(forward, dynamic=False) if compile else forward


def _predict(forward: Forward, batches: CachedBatches) -> None:
    with torch.inference_mode():
        for images, _, _ in batches:
            forward(images)
    wait(images.device)


def prepare_evaluation(site: Site) -> Ready:
    """As ``ffdr bench eval`` measures it."""
    return Ready(partial(site.rows, passes(site.setting(), ImageBeton.open(site.images))))
