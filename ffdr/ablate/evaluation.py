"""What all models of a study are evaluated on: a test split, clean and corrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ffdr.beton.read import ImageBeton
from ffdr.config.learning import TeacherOptions
from ffdr.evaluate.corruptions import CorruptedImages
from ffdr.evaluate.evaluator import Evaluator
from ffdr.evaluate.robustness import evaluate_corruptions
from ffdr.evaluate.run import build_evaluator, evaluate_images, evaluation_pixels
from ffdr.models.build import ModelInfo, best_device, load_model
from ffdr.reinforce.teacher import Teacher
from ffdr.util.text import split_list

Scores = dict[str, Any]


class EvaluationSuite:
    """The test split; with ``corruptions`` also corrupted, which is done once for all models that see the same view."""

    def __init__(self, images: str | Path, corruptions: bool = True, batch_size: int = 256) -> None:
        """images: image beton of the test split."""
        self.images = ImageBeton.open(images)
        self.corruptions, self.batch_size = corruptions, batch_size
        self._corrupted: dict[tuple[int, float], tuple[CorruptedImages, np.ndarray]] = {}

    def student(self, checkpoint: str | Path, flip: bool = False) -> Scores:
        """Scores of a trained model, and how it was fed. flip: predict on the mirror image, too, and average."""
        return self._scores(build_evaluator(*load_model(checkpoint), self.batch_size, flip))

    def teacher(self, models: str, resolution: int, center: float) -> Scores:
        """Scores of an ensemble (``NAME:CHECKPOINT,…``) on the evaluation view of that size and centre."""
        images = self.images
        info = ModelInfo(models, images.num_classes, resolution, images.mean, images.std, center)
        options = TeacherOptions(models=tuple(split_list(models)), precision="float32")  # as the students
        teacher = Teacher.from_options(options, info.num_classes, best_device(), images=images)
        return self._scores(build_evaluator(_Ensemble(teacher, info), info, self.batch_size))

    def _scores(self, evaluator: Evaluator) -> Scores:
        scores, info = evaluate_images(evaluator, self.images), evaluator.info
        if not self.corruptions:
            return scores
        view = (info.resolution, info.center)
        if view not in self._corrupted:
            pixels, labels = evaluation_pixels(self.images, info)
            self._corrupted[view] = CorruptedImages(pixels), labels
        return scores | evaluate_corruptions(evaluator, *self._corrupted[view])


class _Ensemble(nn.Module):
    """A teacher with the face of a model, so that it is evaluated in the same way."""

    def __init__(self, teacher: Teacher, info: ModelInfo) -> None:
        super().__init__()
        self.teacher, self.info = teacher, info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C) log-probabilities of images that are normalised as the info says."""
        return self.teacher.log_probs_normalised(images, self.info.mean, self.info.std)
