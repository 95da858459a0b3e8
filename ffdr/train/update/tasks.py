"""What a run learns from: labels (ERM), a live teacher (KD) or the reinforced beton (DR).

A task owns forward and loss, so that one fit loop serves all three. A live teacher runs beforehand, so that the
student's forward pass and the loss are one graph (``step.Learner``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from ffdr.config.training import TrainOptions
from ffdr.loader.targets import SparseTargets
from ffdr.train.identity import Normalisation
from ffdr.train.update.bce import SparseBceLoss, label_targets
from ffdr.train.update.losses import SparseTargetLoss
from ffdr.util.errors import UserError


class LiveTeacher(Protocol):
    """What KD needs of a teacher; see ``ffdr.reinforce.teacher.Teacher``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its models, for messages."""

    def log_probs(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C) float32 log-probabilities for uint8 images (B, 3, H, W)."""

    def log_probs_normalised(self, images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
        """(B, C) float32 log-probabilities for images normalised with mean and std."""


class Task(Protocol):
    """One way to learn: forward and loss of a batch."""

    teachers: tuple[str, ...]
    """names of the live teacher's models, for messages; empty without one"""

    def query_teacher(self, images: torch.Tensor) -> torch.Tensor | None:
        """The live teacher's log-probabilities (B, C) for images as the loader gives them; None without a teacher.

        Never compiled.
        """

    def __call__(
        self, model: nn.Module, images: torch.Tensor, targets: SparseTargets, teacher_logp: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss, a scalar with gradient, batch mean. images: normalised; teacher_logp: from ``query_teacher``."""


class ErmTask:
    """Empirical risk minimisation: labels, mixed ones too, with label smoothing."""

    teachers: tuple[str, ...] = ()

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, bce: SparseBceLoss | None = None) -> None:
        """bce: the loss, in place of the divergence with label_smoothing."""
        self.label_loss: SparseTargetLoss | SparseBceLoss = bce or SparseTargetLoss(
            num_classes, label_smoothing=label_smoothing
        )

    def query_teacher(self, images: torch.Tensor) -> None:
        """There is none."""

    def __call__(
        self, model: nn.Module, images: torch.Tensor, targets: SparseTargets, teacher_logp: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of the labels."""
        return self.label_loss(model(images), targets)


class KdTask:
    """Knowledge distillation: teacher_weight x divergence from a live teacher + the rest x the label loss of ERM."""

    def __init__(
        self,
        num_classes: int,
        teacher: LiveTeacher,
        normalisation: Normalisation,
        temperature: float = 1.0,
        teacher_weight: float = 1.0,
        label_smoothing: float = 0.0,
        bce: SparseBceLoss | None = None,
    ) -> None:
        """normalisation: the loader's, which the teacher has to undo. bce: of both parts, in place of divergences;
        it has the label_smoothing, and temperature 1."""
        self.teacher, self.normalisation = teacher, normalisation
        self.teachers = tuple(teacher.names)
        self.temperature, self.teacher_weight, self.bce = temperature, teacher_weight, bce
        self.label_loss = bce or SparseTargetLoss(num_classes, label_smoothing=label_smoothing)

    def query_teacher(self, images: torch.Tensor) -> torch.Tensor | None:
        """None if the teacher has no weight."""
        if self.teacher_weight == 0:
            return None
        if images.dtype == torch.uint8:
            return self.teacher.log_probs(images)
        return self.teacher.log_probs_normalised(images, *self.normalisation)

    def __call__(
        self, model: nn.Module, images: torch.Tensor, targets: SparseTargets, teacher_logp: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weighted sum of both losses."""
        logits = model(images)
        w = self.teacher_weight
        if teacher_logp is None:  # w is 0
            return self.label_loss(logits, targets)
        soft = w * self._soft_loss(teacher_logp, logits)
        return soft + (1 - w) * self.label_loss(logits, targets) if w < 1 else soft

    def _soft_loss(self, teacher_logp: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """t^2 KL(teacher || student), both at temperature t, in float32; or the binary cross-entropy."""
        if self.bce is not None:
            return self.bce.dense(logits, teacher_logp.exp())
        t = self.temperature
        target_BC = (teacher_logp / t).log_softmax(1)
        student_BC = (logits.float() / t).log_softmax(1)
        return F.kl_div(student_BC, target_BC, reduction="batchmean", log_target=True) * t**2


class DrTask:
    """Dataset reinforcement: teacher_weight x divergence from the stored top-k + the rest x the plain label loss.

    A mixed view has two labels, weighted by the images' shares of it. In the published archives mixup gives the first
    image, which the view is filed under, at most half.
    """

    teachers: tuple[str, ...] = ()

    def __init__(
        self,
        num_classes: int,
        temperature: float = 1.0,
        teacher_weight: float = 1.0,
        residual: str = "smooth",
        bce: SparseBceLoss | None = None,
    ) -> None:
        """bce: of both parts, in place of divergence and cross-entropy; it has the residual, and temperature 1."""
        self.teacher_weight, self.bce = teacher_weight, bce
        self.stored_loss = bce or SparseTargetLoss(num_classes, temperature, residual)

    def query_teacher(self, images: torch.Tensor) -> None:
        """There is none: the teacher's outputs are stored."""

    def __call__(
        self, model: nn.Module, images: torch.Tensor, targets: SparseTargets, teacher_logp: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weighted sum of both losses."""
        logits = model(images)
        w = self.teacher_weight
        if w == 0:
            return self._label_loss(logits, targets)
        soft = w * self.stored_loss(logits, targets)
        return soft + (1 - w) * self._label_loss(logits, targets) if w < 1 else soft

    def _label_loss(self, logits: torch.Tensor, targets: SparseTargets) -> torch.Tensor:
        if self.bce is not None:
            return self.bce(logits, label_targets(targets))
        return _label_loss(logits.float(), targets)


def _label_loss(logits: torch.Tensor, targets: SparseTargets) -> torch.Tensor:
    """Cross-entropy from the labels, batch mean; of both images where views are mixed. logits: (B, C) float32."""
    if targets.partner is None or targets.share is None:
        return F.cross_entropy(logits, targets.label)
    first_B = F.cross_entropy(logits, targets.label, reduction="none")
    second_B = F.cross_entropy(logits, targets.partner, reduction="none")
    return (targets.share * first_B + (1 - targets.share) * second_B).mean()


def build_task(
    options: TrainOptions,
    num_classes: int,
    normalisation: Normalisation | None = None,
    teacher: LiveTeacher | None = None,
) -> Task:
    """The task that the options name. normalisation, teacher: see ``KdTask``; others ignore them.

    Raises UserError for KD without a teacher.
    """
    smoothing, bce = options.label_smoothing, None
    if options.bce_loss:
        bce = SparseBceLoss(
            num_classes, smoothing, options.bce_target_thresh or None, options.bce_sum, options.residual
        )
    if options.task == "erm":
        return ErmTask(num_classes, smoothing, bce)
    if options.task == "dr":
        return DrTask(num_classes, options.temperature, options.teacher_weight, options.residual, bce)
    if teacher is None or normalisation is None:
        raise UserError("train.task: kd needs a live teacher; name it with teacher.models")
    return KdTask(num_classes, teacher, normalisation, options.temperature, options.teacher_weight, smoothing, bce)
