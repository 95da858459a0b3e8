"""``ffdr train``: from a recipe to a trained model in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ffdr.config.idle import idle_options
from ffdr.config.model_names import is_given
from ffdr.config.verbs import TrainRecipe
from ffdr.models.build import check_model
from ffdr.reinforce.functions import FunctionTeacher
from ffdr.train.build import build_trainer
from ffdr.train.tracking.build import check_installed_for
from ffdr.train.tracking.callbacks import checked_callbacks
from ffdr.train.update.optim import check_optimizer
from ffdr.util.ranks import Ranks
from ffdr.util.text import command, join_list, say, warn


def run(
    recipe: TrainRecipe,
    progress: bool | None = None,
    model: nn.Module | None = None,
    functions: Sequence[FunctionTeacher] = (),
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train; returns the last epoch's log record. The recipe, as resolved, is kept as ``recipe.yaml``.

    model: of a caller in Python, trained in place of one that is built; the recipe names it (``take_module``).

    Under torchrun every rank runs this; they train one model together.

    functions: teachers for which ``teacher.models`` has labels.
    callbacks: see ``ffdr.train.tracking.callbacks``.

    Raises:
        UserError: files or options that don't fit together, before training starts; a loss that is not finite.
        Stopped: a signal asked for it; a checkpoint is saved.
    """
    checked_callbacks(callbacks)
    check_installed_for(recipe.train)
    check_optimizer(recipe.train)
    if model is None:
        check_model(recipe.model)
    with Ranks.join(gpus=True) as ranks:
        if ranks.rank == 0:
            for line in idle_options(recipe):
                warn(line)
        if recipe.train.dry_run:
            if ranks.rank == 0:
                from ffdr.train.dry_run.summary import dry_run  # no part of a real run

                dry_run(recipe, model, functions)
            return {}
        trainer = build_trainer(recipe, progress, ranks, model, functions, callbacks)
        record = trainer.fit(recipe)
        if ranks.rank == 0 and progress is not False:
            say(closing_line(recipe, record, trainer.finished))
        return record


def closing_line(recipe: TrainRecipe, record: dict[str, Any], finished: bool) -> str:
    """What a run has made, where, its score, and the command that comes next. finished: it was so before."""
    train, epochs = recipe.train, record["epoch"]
    model = str(Path(train.out) / "model.safetensors")
    score = f", top-1 {100 * record['val_top1']:.1f} %" if "val_top1" in record else ""
    flags = [f"--eval.checkpoint={model}", f"--eval.data={recipe.data.val or 'IMAGES.beton'}"]
    if recipe.model.module:
        flags.append(f"--model.module={join_list(recipe.model.module)}")
    if train.flip_average:
        flags.append("--eval.flip_average=1")
    then = command("eval", *flags)
    if is_given(recipe.model.name):
        then = f"ffdr.evaluate(model=…, checkpoint={model!r}, data={recipe.data.val or 'IMAGES.beton'!r})"
    count = f"{epochs} epoch{'s' * (epochs != 1)}"
    made = f"{model}: {recipe.model.name}, {count}{score}; next: {then}"
    return f"{train.out}: already trained to epoch {epochs}; {made}" if finished else made
