"""ERM, KD and DR: which losses with which weights."""

import math

import pytest
import torch
import torch.nn.functional as F

from ffdr.config.training import TrainOptions
from ffdr.loader.targets import SparseTargets
from ffdr.train.identity import Normalisation
from ffdr.train.update.losses import SparseTargetLoss
from ffdr.train.update.tasks import build_task
from ffdr.util.errors import UserError

B, C = 6, 5
LOGITS = torch.randn(B, C, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(B, 3, 4, 4, generator=torch.Generator().manual_seed(1))
LABEL = torch.tensor([0, 1, 2, 3, 4, 0])
MIXED = SparseTargets(
    torch.stack([LABEL, (LABEL + 1) % C], 1), torch.tensor([math.log(0.7), math.log(0.3)]).expand(B, 2), LABEL
)


class Teacher:
    """Answers by a fixed table."""

    answer = torch.randn(B, C, generator=torch.Generator().manual_seed(2)).log_softmax(1)

    def __init__(self):
        self.asked = 0

    names = ("fake",)

    def log_probs_normalised(self, images, mean, std):
        assert images is IMAGES and (mean, std) == ((0.1,) * 3, (0.2,) * 3)
        self.asked += 1
        return self.answer


def run(teacher=None, **options):
    task = build_task(TrainOptions(out="run", **options), C, Normalisation((0.1,) * 3, (0.2,) * 3), teacher)
    return task(lambda images: LOGITS if images is IMAGES else None, IMAGES, MIXED, task.query_teacher(IMAGES)).item()


def divergence(log_target, t):
    target, student = (log_target / t).softmax(1), (LOGITS / t).softmax(1)
    return ((target * (target / student).log()).sum(1).mean() * t**2).item()


def test_erm_is_the_label_loss():
    assert run(label_smoothing=0.1) == pytest.approx(SparseTargetLoss(C, label_smoothing=0.1)(LOGITS, MIXED).item())


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kd_weighs_the_live_teacher_and_the_labels(weight, temperature):
    teacher = Teacher()
    soft = divergence(teacher.answer, temperature)
    hard = SparseTargetLoss(C, label_smoothing=0.1)(LOGITS, MIXED).item()
    loss = run(teacher, task="kd", teacher_weight=weight, temperature=temperature, label_smoothing=0.1)
    assert loss == pytest.approx(weight * soft + (1 - weight) * hard, rel=1e-5)
    assert teacher.asked == (weight > 0)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_dr_weighs_the_stored_teacher_and_the_plain_labels(weight):
    soft = SparseTargetLoss(C, 2.0, "renormalise")(LOGITS, MIXED).item()
    hard = F.cross_entropy(LOGITS, LABEL).item()
    loss = run(task="dr", teacher_weight=weight, temperature=2.0, residual="renormalise")
    assert loss == pytest.approx(weight * soft + (1 - weight) * hard, rel=1e-5)


def test_dr_weighs_both_labels_of_a_mixed_view_by_their_shares():
    """In published archives mixup leaves the first image at most half: its label alone would name the minority."""
    share = torch.tensor([0.1, 0.3, 0.5, 1.0, 0.0, 0.25])
    mixed = SparseTargets(MIXED.ids, MIXED.log_probs, LABEL, (LABEL + 2) % C, share)
    dense = share[:, None] * F.one_hot(LABEL, C) + (1 - share[:, None]) * F.one_hot((LABEL + 2) % C, C)
    soft, hard = SparseTargetLoss(C)(LOGITS, mixed).item(), F.cross_entropy(LOGITS, dense).item()
    for weight in (0.0, 0.4):
        task = build_task(TrainOptions(out="run", task="dr", teacher_weight=weight), C)
        loss = task(lambda _: LOGITS, IMAGES, mixed).item()
        assert loss == pytest.approx(weight * soft + (1 - weight) * hard, rel=1e-5)
        parts = [task(lambda _, p=p: LOGITS[p], IMAGES[p], mixed[p]).item() for p in (slice(0, 3), slice(3, 6))]
        assert sum(parts) / 2 == pytest.approx(loss, rel=1e-5)  # as gradient accumulation sees it


def test_dr_on_a_whole_distribution_is_kd():
    """Storing every class loses nothing: the two tasks then have one loss."""
    ids = torch.arange(C).expand(B, C)
    stored = SparseTargets(ids, Teacher.answer, LABEL)
    task = build_task(TrainOptions(out="run", task="dr", temperature=2.0), C)
    loss = task(lambda _: LOGITS, IMAGES, stored)
    assert loss.item() == pytest.approx(run(Teacher(), task="kd", temperature=2.0), rel=1e-5)


def test_kd_without_a_teacher_is_refused():
    with pytest.raises(UserError, match=r"teacher\.models"):
        run(task="kd")
