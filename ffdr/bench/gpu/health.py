"""What must not happen in a long run: waits for the GPU in a step, memory that grows, compilations again and again."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import torch

from ffdr.bench import loops
from ffdr.bench.gpu.site import Ready, Row, Site
from ffdr.train.fit import Trainer
from ffdr.train.stopwatch import wait

WAITS, MEMORY, COMPILATIONS, BREAKS = "waits", "reserved memory", "compilations per size", "graph breaks"
_STEPS = 3


def prepare(site: Site) -> Ready:
    """The small model's trainer, whose views grow; each size is compiled here, and counted."""
    from torch._dynamo.utils import counters  # slow to import

    counters.clear()
    setting = site.setting(compile="auto" if site.device.type == "cuda" else "default", small=True)
    trainer = loops.new_trainer(setting, site.training_files("dr"), site.folder / "health")
    for side in site.sizes.growing:
        trainer.loader.set_resolution(side)
        loops.step_through(trainer, _few(trainer))
    graphs, breaks = counters["stats"]["unique_graphs"], dict(counters["graph_break"])
    compiled = trainer.step.compiled
    return Ready(lambda: _measure(site, trainer, compiled, graphs, breaks))


def _few(trainer: Trainer) -> loops.CachedBatches:
    batches = loops.read_last(trainer.loader, 2)
    return loops.CachedBatches(batches, _STEPS, trainer.loader.num_classes)


def _measure(site: Site, trainer: Trainer, compiled: str, graphs: int, breaks: dict[str, int]) -> Iterator[Row]:
    sizes = len(site.sizes.growing)
    if compiled == "off":
        for name in (COMPILATIONS, BREAKS):
            yield {"name": name, "value": None, "detail": "torch.compile did not work"}
    else:
        yield {"name": COMPILATIONS, "value": graphs / sizes, "detail": f"{graphs} graphs for {sizes} sizes"}
        yield {"name": BREAKS, "value": sum(breaks.values()), "detail": "; ".join(breaks)[:500]}
    if site.device.type != "cuda":
        for name in (MEMORY, WAITS):
            yield {"name": name, "value": None, "detail": "needs a GPU"}
        return
    yield _memory(trainer, site.sizes.health_epochs)
    yield _waits(trainer)


def _memory(trainer: Trainer, epochs: int) -> Row:
    """How many times as much is reserved after the last epoch as after the second."""
    reserved = []
    for _ in range(epochs):
        loops.train_on_last(trainer, min(4, len(trainer.loader)))
        reserved.append(torch.cuda.memory_reserved(trainer.device))
    text = ", ".join(f"{size / 2**20:,.0f}" for size in reserved)
    return {"name": MEMORY, "value": reserved[-1] / reserved[1], "bytes": reserved, "detail": f"{text} MiB"}


def _waits(trainer: Trainer) -> Row:
    """Steps, of three, in which the host waited for the GPU, and where."""
    batches = _few(trainer)
    loops.step_through(trainer, batches)
    places = []
    for images, targets, _ in batches:
        wait(trainer.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.step(images, targets)
        except RuntimeError as error:
            places.append("".join(traceback.format_exception(error))[-3000:])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    detail = " ".join(places[0].split())[-300:] if places else f"none in {_STEPS} steps"
    return {"name": WAITS, "value": len(places), "detail": detail, "tracebacks": places}
