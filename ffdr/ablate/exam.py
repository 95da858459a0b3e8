"""The exam that all models of a study sit: a test split, clean and corrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ffdr.beton.read import ImageBeton
from ffdr.evaluate.corruptions import CorruptedImages
from ffdr.evaluate.run import evaluate_model, evaluation_pixels, robustness
from ffdr.models import ModelInfo, best_device, load_model
from ffdr.options import TeacherOptions
from ffdr.reinforce.teacher import Teacher

Scores = dict[str, Any]


class Exam:
    """The test split; with ``corruptions`` also corrupted, which is done once for all models that see the same view."""

    def __init__(self, images: str | Path, corruptions: bool = True, batch_size: int = 256) -> None:
        """images: image beton of the test split."""
        self.images = ImageBeton.open(images)
        self.corruptions, self.batch_size = corruptions, batch_size
        self._corrupted: dict[tuple[int, float], tuple[CorruptedImages, np.ndarray]] = {}

    def student(self, checkpoint: str | Path) -> Scores:
        """Scores of a trained model."""
        return self._scores(*load_model(checkpoint))

    def teacher(self, models: str, resolution: int, center: float) -> Scores:
        """Scores of an ensemble (``NAME:CHECKPOINT,…``) on the evaluation view of that size and centre."""
        images = self.images
        info = ModelInfo(models, images.num_classes, resolution, images.mean, images.std, center)
        teacher = Teacher.from_options(TeacherOptions(models=models), info.num_classes, best_device(), images=images)
        return self._scores(_Ensemble(teacher, info), info)

    def _scores(self, model: nn.Module, info: ModelInfo) -> Scores:
        scores = evaluate_model(model, info, self.images, self.batch_size)
        if not self.corruptions:
            return scores
        view = (info.resolution, info.center)
        if view not in self._corrupted:
            pixels, labels = evaluation_pixels(self.images, info)
            self._corrupted[view] = CorruptedImages(pixels), labels
        return scores | robustness(model, info, *self._corrupted[view], self.batch_size)


class _Ensemble(nn.Module):
    """A teacher with the face of a model, so that it can sit the same exam."""

    def __init__(self, teacher: Teacher, info: ModelInfo) -> None:
        super().__init__()
        self.teacher, self.info = teacher, info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C) log-probabilities of images that are normalised as the info says."""
        return self.teacher.log_probs_normalised(images, self.info.mean, self.info.std)
