"""What a companion does with trackio."""

from __future__ import annotations

from typing import Any

import trackio

_run: Any = None


def begin(
    folder: str, project: str, name: str, number: str, config: dict[str, Any], records: list[dict[str, Any]]
) -> None:
    """Open the run, which is called by its folder and id; what it had is written anew.

    trackio adds a second row where an epoch comes again, as it does in a resumed run.
    """
    global _run
    called = f"{name}-{number}"
    try:
        earlier = [run for run in trackio.Api().runs(project) if run.name == called]
    except ValueError:  # there is no such project yet
        earlier = []
    for run in earlier:
        run.delete()
    _run = trackio.init(
        project=project, name=called, config=config, embed=False, auto_log_gpu=False, auto_log_cpu=False
    )
    for record in records:
        log(record)


def log(record: dict[str, Any]) -> None:
    """One step per epoch; ``step`` is a word of trackio's own, so that ours is called ``steps``."""
    renamed = {"steps" if key == "step" else key: value for key, value in record.items()}
    _run.log(renamed, step=record["epoch"])


def finish(finished: bool) -> None:
    """Write what waits to be written."""
    _run.finish()
