"""Binary cross-entropy on sparse targets against timm's on dense ones, alone and in the three tasks."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy

from ffdr import SparseBceLoss
from ffdr.beton.header import UNUSED
from ffdr.config.choices import RESIDUALS
from ffdr.config.training import TrainOptions
from ffdr.loader.targets import SparseTargets
from ffdr.train.identity import Normalisation
from ffdr.train.update.tasks import build_task
from ffdr.util.errors import UserError

B, C = 6, 7
LABEL = torch.tensor([0, 1, 2, 3, 4, 0])
PARTNER = torch.tensor([3, 1, 0, 3, 6, 5])
SHARE = torch.tensor([0.1, 0.3, 0.5, 1.0, 0.0, 0.25])


def logits(dtype=torch.float64, seed=0):
    return (3 * torch.randn(B, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def stored(entries, kind):
    """Targets of a teacher's best classes; "duplicates" name classes twice, "unused" blanks half of the slots."""
    full = torch.randn(B, C, generator=torch.Generator().manual_seed(entries), dtype=torch.float64).softmax(1)
    probs, ids = full.sort(1, descending=True)
    probs, ids = probs[:, :entries].clone(), ids[:, :entries].clone()
    if kind == "duplicates":
        ids[:, entries // 2 :] = ids[:, : entries - entries // 2]
    if kind == "unused":
        ids[:, (entries + 1) // 2 :], probs[:, (entries + 1) // 2 :] = 0, 0
    return SparseTargets(ids, probs.log().clamp_min(UNUSED), ids[:, 0])


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("smoothing, threshold", [(0.0, None), (0.1, None), (0.0, 0.2), (0.3, 0.04), (0.0, 0.0)])
@pytest.mark.parametrize("kind", ["distinct", "duplicates", "unused"])
def test_equals_timms_on_dense_targets(kind, smoothing, threshold, residual):
    for entries in range(1, C + 1):
        targets = stored(entries, kind)
        dense = targets.dense(C, residual) * (1 - smoothing) + smoothing / C
        for summed in (False, True):
            ours, theirs = logits().requires_grad_(), logits().requires_grad_()
            loss = SparseBceLoss(C, smoothing, threshold, summed, residual)(ours, targets)
            expected = BinaryCrossEntropy(target_threshold=threshold, sum_classes=summed)(theirs, dense)
            assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
            ours, theirs = torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, theirs)[0]
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-6)


def labels(mixed=True):
    """As a loader has them for task erm."""
    if not mixed:
        return SparseTargets(LABEL[:, None], torch.zeros(B, 1), LABEL)
    shares = torch.stack([SHARE, 1 - SHARE], 1).log().clamp_min(UNUSED)
    return SparseTargets(torch.stack([LABEL, PARTNER], 1), shares, LABEL, PARTNER, SHARE)


def task_loss(task, targets, teacher=None, **options):
    """What the task of these options makes of ``logits``."""
    train = TrainOptions(out="run", task=task, bce_loss=True, **options)
    built = build_task(train, C, Normalisation((0.1,) * 3, (0.2,) * 3), teacher)
    images = torch.zeros(B, 3, 4, 4)
    return built(lambda _: logits(), images, targets, built.query_teacher(images)).item()


def test_erm_equals_timms_with_its_smoothing_and_its_mixed_targets():
    plain = task_loss("erm", labels(mixed=False), label_smoothing=0.1)
    assert plain == pytest.approx(BinaryCrossEntropy(smoothing=0.1)(logits(), LABEL).item(), abs=1e-6)
    for share, row in zip(SHARE.tolist(), range(B), strict=True):  # timm mixes an image with its mirror in the batch
        pair = mixup_target(torch.stack([LABEL[row], PARTNER[row]]), C, lam=share, smoothing=0.1)[:1]
        z = logits()[row : row + 1]
        expected = BinaryCrossEntropy(target_threshold=0.2, sum_classes=True)(z, pair.double()).item()
        loss = SparseBceLoss(C, 0.1, 0.2, sum_classes=True)(z, labels()[row : row + 1])
        assert loss.item() == pytest.approx(expected, abs=1e-6)


class Teacher:
    names = ("fake",)
    probs = torch.randn(B, C, generator=torch.Generator().manual_seed(3)).softmax(1)

    def log_probs_normalised(self, images, mean, std):
        return self.probs.log()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_kd_and_dr_learn_both_parts_by_it(weight, threshold):
    loss = BinaryCrossEntropy(target_threshold=threshold or None, sum_classes=True)
    options = {"teacher_weight": weight, "bce_sum": True, "bce_target_thresh": threshold}
    first, second = F.one_hot(LABEL, C), F.one_hot(PARTNER, C)
    hard = (SHARE[:, None] * first + (1 - SHARE[:, None]) * second).double()
    smooth = hard * 0.9 + 0.1 / C
    soft = loss(logits(), Teacher.probs.double()).item()
    found = task_loss("kd", labels(), Teacher(), label_smoothing=0.1, **options)
    assert found == pytest.approx(weight * soft + (1 - weight) * loss(logits(), smooth).item(), rel=1e-6)
    targets = stored(3, "distinct")
    soft = loss(logits(), targets.dense(C, "renormalise")).item()
    mixed = SparseTargets(targets.ids, targets.log_probs, LABEL, PARTNER, SHARE)
    found = task_loss("dr", mixed, residual="renormalise", **options)
    assert found == pytest.approx(weight * soft + (1 - weight) * loss(logits(), hard).item(), rel=1e-6)
    plain = SparseTargets(targets.ids, targets.log_probs, LABEL)
    found = task_loss("dr", plain, residual="renormalise", **options)
    assert found == pytest.approx(weight * soft + (1 - weight) * loss(logits(), first.double()).item(), rel=1e-6)


def test_is_float32_under_autocast_and_builds_no_dense_target():
    many = 50_000
    z = torch.randn(4, many, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    targets = SparseTargets(torch.arange(8).view(4, 2), torch.full((4, 2), math.log(0.5)), torch.arange(4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = SparseBceLoss(many)(z, targets)
        kd = SparseBceLoss(many).dense(z, torch.full((4, many), 1 / many))
    assert loss.dtype == kd.dtype == torch.float32
    expected = F.binary_cross_entropy_with_logits(z.double(), targets.dense(many).double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    shapes = {tuple(part.shape) for part in SparseBceLoss(many)._target(targets)}
    assert shapes == {(4, 2), (4,)}


def test_is_one_graph():
    loss = SparseBceLoss(C, 0.1, 0.2)
    whole = torch.compile(lambda z, ids, logp: loss(z, SparseTargets(ids, logp, ids[:, 0])), fullgraph=True)
    targets = labels()
    found = whole(logits(torch.float32), targets.ids, targets.log_probs)
    torch.testing.assert_close(found, loss(logits(torch.float32), targets))


def test_refuses_what_means_nothing():
    with pytest.raises(UserError, match=r"^train.temperature: 2 softens a softmax, and train.bce_loss has none"):
        TrainOptions(out="x", task="dr", bce_loss=True, temperature=2.0)
    with pytest.raises(UserError, match="bce_target_thresh: 1"):
        TrainOptions(out="x", bce_loss=True, bce_target_thresh=1.0)
    with pytest.raises(ValueError, match="target_thresh: 1 is not in"):
        SparseBceLoss(C, target_thresh=1)
    with pytest.raises(ValueError, match="shape"):
        SparseBceLoss(C)(torch.zeros(B, C + 1), labels())
    assert "label_smoothing=0.1" in repr(SparseBceLoss(C, 0.1))
