"""What a trainer must know of its data beyond the batches, and what identifies a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ffdr.config.learning import ModelOptions
from ffdr.config.training import TrainOptions
from ffdr.loader.protocol import BatchLoader
from ffdr.models.build import ModelInfo

_FREE = (
    "out", "resume", "eval_every", "checkpoint_every", "keep", "tensorboard", "trackers", "project", "live", "compile",
    "dry_run",
)  # fmt: skip
"""Options that a resumed run may change, because they leave the weights alone (``compile``: but for rounding)."""


class Normalisation(NamedTuple):
    """Per-channel statistics of pixels in [0, 1]: an image is normalised as (pixels - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class DataInfo:
    """What the trainer must know of the data beyond its batches."""

    mean: tuple[float, ...]
    """per-channel mean in [0, 1] that the loaders subtract"""
    std: tuple[float, ...]
    """per-channel standard deviation in [0, 1] that they divide by"""
    center: float = 0.875
    """share of the resized short side that the evaluation view keeps"""
    classes: str = ""
    """digest of the class names (``ffdr.models.build.class_digest``)"""
    fingerprint: str = ""
    """of the images"""
    supervision: str = ""
    """what is learned of them: the reinforcement, the policy, the live teacher; see ``build.supervision_id``"""
    class_names: tuple[str, ...] = ()
    """of the images' manifest, for the weights' metadata; empty: unknown. ``classes`` stands for them in identities"""

    @property
    def normalisation(self) -> Normalisation:
        """What the loaders subtract and divide by."""
        return Normalisation(self.mean, self.std)

    def model_info(self, architecture: ModelOptions, num_classes: int, resolution: int) -> ModelInfo:
        """What a model's evaluation needs beside its weights. architecture: as ``Student`` has it; resolution: pixels
        of the evaluation view."""
        return ModelInfo(
            name=architecture.name,
            num_classes=num_classes,
            resolution=resolution,
            mean=self.mean,
            std=self.std,
            center=self.center,
            classes=self.classes,
            fingerprint=self.fingerprint,
            options=architecture.options,
            class_names=self.class_names,
        )

    def stored(self) -> dict[str, Any]:
        """By the keys of checkpoints and ``options.json``, where ``supervision`` is called ``lessons``; no names."""
        values = asdict(replace(self, class_names=()))
        del values["class_names"]
        return {{"supervision": "lessons"}.get(key, key): value for key, value in values.items()}


def run_identity(
    options: TrainOptions,
    model: ModelOptions,
    architecture: ModelOptions,
    data: DataInfo,
    loader: BatchLoader,
    steps: int,
) -> dict[str, Any]:
    """All that makes a run this run and no other, by option name; a checkpoint with anything else is refused.

    architecture: as ``Student`` has it; stored where the model's own name is not the one that its weights go by. steps:
    per epoch.
    """
    free = _free(options)
    found = {f"train.{key}": value for key, value in options.identity().items() if key not in free}
    found |= {f"model.{key}": value for key, value in model.identity().items() if key != "module"}
    if architecture.name != model.name:
        found |= {"model.architecture": architecture.name, "model.architecture_options": architecture.options}
    found |= {f"data.{key}": value for key, value in data.stored().items()}
    return found | {"data.num_classes": loader.num_classes, "data.batches": steps}


def identity_defaults(options: TrainOptions, model: ModelOptions) -> dict[str, Any]:
    """What the options are of which ``run_identity`` says nothing, since it leaves out defaults of later versions."""
    free, parts = _free(options), (("train", options.added_defaults()), ("model", model.added_defaults()))
    return {f"{section}.{key}": value for section, part in parts for key, value in part.items() if key not in free}


def _free(options: TrainOptions) -> list[str]:
    """Options that a resumed run may change."""
    return [key for key in _FREE if (options.scheduler, key) != ("plateau", "eval_every")]  # which heeds validations
