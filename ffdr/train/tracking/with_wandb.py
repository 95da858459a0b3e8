"""What a companion does with Weights & Biases."""

from __future__ import annotations

from typing import Any

import wandb

_run: Any = None
_best = -1.0

_SETTINGS: dict[str, Any] = {
    "console": "off", "silent": True, "quiet": True,
    # Nothing of the machine, its code and its user goes into a run, but the recipe.
    "disable_git": True, "save_code": False, "disable_job_creation": True, "x_disable_meta": True,
    "x_disable_machine_info": True, "x_disable_stats": True, "x_save_requirements": False,
}  # fmt: skip


def begin(
    folder: str, project: str, name: str, number: str, config: dict[str, Any], records: list[dict[str, Any]]
) -> None:
    """Open the run in ``folder/wandb``, or go on with it.

    A resumed run offline leaves a further file, which has the earlier epochs, too: each can be synchronised alone.
    """
    global _run
    known = {key: value for key, value in _SETTINGS.items() if key in wandb.Settings.model_fields}
    _run = wandb.init(
        project=project,
        name=name,
        id=number,
        resume="allow",
        dir=folder,
        config=config,
        settings=wandb.Settings(**known),
    )
    _run.define_metric("epoch", hidden=True)
    _run.define_metric("*", step_metric="epoch")
    for record in records:
        log(record)


def log(record: dict[str, Any]) -> None:
    """One step per epoch; the summary has the best validation top-1 and its epoch."""
    global _best
    _run.log(record, step=record["epoch"])
    if record.get("val_top1", -1.0) > _best:
        _best = record["val_top1"]
        _run.summary.update({"best_val_top1": _best, "best_epoch": record["epoch"]})


def finish(finished: bool) -> None:
    """Close the run; one that was stopped counts as failed until it goes on."""
    _run.finish(exit_code=0 if finished else 1)
