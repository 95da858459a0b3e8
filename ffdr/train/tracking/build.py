"""The trackers and the display that a run's options ask for."""

from __future__ import annotations

from pathlib import Path

from ffdr.config.training import TrainOptions
from ffdr.train.tracking.live import LiveView, can_draw
from ffdr.train.tracking.progress import Bar, Display
from ffdr.train.tracking.remote import Trackio, Wandb
from ffdr.train.tracking.tensorboard import TensorBoard
from ffdr.train.tracking.tracker import Tracker, check_installed
from ffdr.util.text import warn

_KINDS: dict[str, type[Tracker]] = {kind.name: kind for kind in (TensorBoard, Wandb, Trackio)}


def check_installed_for(options: TrainOptions) -> None:
    """Raise UserError where a library that the options ask for is not installed, before anything is opened."""
    for name, option in _asked(options).items():
        check_installed(_KINDS[name].package, option)
    if options.live:
        check_installed("rich", "train.live")


def build_trackers(options: TrainOptions) -> list[Tracker]:
    """Those of ``train.trackers``, each once; ``train.tensorboard`` is another way to ask for the first.

    Raises:
        UserError: one is not installed, or can't write to the run's folder.
    """
    return [_KINDS[name](Path(options.out), option, options.project) for name, option in _asked(options).items()]


def build_display(options: TrainOptions, title: str, steps: int, progress: bool | None) -> Display:
    """What shows the run. title: of it. steps: per epoch. progress: as of ``Trainer``; False shows nothing."""
    if progress is False:
        return Display()
    if options.live and can_draw():
        return LiveView(options.epochs, steps, title)
    if options.live:
        warn("train.live: standard error is no terminal that can show it; a line per epoch instead")
    return Bar(options.epochs, steps, progress)


def _asked(options: TrainOptions) -> dict[str, str]:
    """Trackers by name, with the option that asks for each."""
    asked = {"tensorboard": "train.tensorboard"} if options.tensorboard else {}
    return dict.fromkeys(options.trackers, "train.trackers") | asked
