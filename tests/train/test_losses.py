"""The sparse loss against a dense oracle in NumPy: value, gradient, duplicates, unused slots, autocast."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ffdr.beton.header import UNUSED
from ffdr.config.choices import RESIDUALS
from ffdr.loader.targets import SparseTargets
from ffdr.train.update.losses import SparseTargetLoss


def densify(ids, probs, C, residual):
    """The slow twin of SparseTargets.dense, one row at a time."""
    rows = []
    for row_ids, row_probs in zip(ids, probs, strict=True):
        row, named = np.zeros(C), set()
        for c, p in zip(row_ids, row_probs, strict=True):
            if p > 0:
                row[c] += p
                named.add(int(c))
        if residual in ("top1", "hard"):
            best, kept = row.argmax(), row.max()
            row = np.full(C, (1 - kept) / (C - 1) if residual == "top1" else 0.0)
            row[best] = kept
        rest = 1 - row.sum()
        others = [c for c in range(C) if c not in named]
        if residual == "smooth" and rest > 1e-12 and others:
            row[others] = rest / len(others)
        rows.append(row / row.sum())
    return np.stack(rows)


def oracle(logits, dense, temperature, smoothing):
    """t^2 KL(tempered, smoothed dense target || softmax(logits / t)), batch mean; differentiable in logits."""
    q = torch.from_numpy(dense) * (1 - smoothing) + smoothing / dense.shape[1]
    q = q ** (1 / temperature)
    q = q / q.sum(1, keepdim=True)
    log_s = F.log_softmax(logits / temperature, dim=1)
    return (torch.special.xlogy(q, q) - q * log_s).sum(1).mean() * temperature**2


def random_case(B, T, C, seed, kind):
    """ids, probs: distinct top-T; "duplicates" repeats classes; "unused" blanks the last half of the slots."""
    rng = np.random.default_rng(seed)
    full = rng.dirichlet(np.full(C, 0.5), size=B) + 1e-12
    full /= full.sum(1, keepdims=True)
    ids = np.argsort(-full, axis=1)[:, :T].copy()
    probs = np.take_along_axis(full, ids, axis=1)
    if kind == "duplicates":
        ids[:, T // 2 :] = ids[:, : T - T // 2]
    if kind == "unused":
        ids[:, (T + 1) // 2 :], probs[:, (T + 1) // 2 :] = 0, 0
    return ids, probs


def as_targets(ids, probs, dtype=torch.float64):
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(probs), UNUSED)
    return SparseTargets(torch.from_numpy(ids), torch.from_numpy(logs).to(dtype), torch.from_numpy(ids[:, 0]))


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("kind", ["distinct", "duplicates", "unused"])
def test_equals_the_dense_divergence(kind, temperature, smoothing, residual):
    C, B = 7, 5
    for T in range(1, C + 1):
        ids, probs = random_case(B, T, C, T, kind)
        logits = torch.randn(B, C, dtype=torch.float64, generator=torch.Generator().manual_seed(T)) * 3
        ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        loss = SparseTargetLoss(C, temperature, residual, smoothing)(ours, as_targets(ids, probs))
        expected = oracle(theirs, densify(ids, probs, C, residual), temperature, smoothing)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
        grad, expected_grad = torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, theirs)[0]
        torch.testing.assert_close(grad, expected_grad, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_gradcheck(residual):
    ids, probs = random_case(4, 3, 6, 0, "distinct")
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    loss = SparseTargetLoss(6, 2.0, residual, 0.1)
    assert torch.autograd.gradcheck(lambda z: loss(z, as_targets(ids, probs)), (logits,))


def test_agrees_with_the_dense_form_of_the_targets():
    """The product's two forms agree with each other: float16 storage, 1000 classes, rows that round beyond 1."""
    ids, probs = random_case(8, 10, 1000, 3, "distinct")
    probs[0] = np.array([0.9] + [0.1005 / 9] * 9)
    targets = as_targets(ids, probs, torch.float16)
    logits = torch.randn(8, 1000, dtype=torch.float64) * 5
    wide = SparseTargets(targets.ids, targets.log_probs.double(), targets.label)
    for residual in RESIDUALS:
        dense = wide.dense(1000, residual)
        expected = F.kl_div(F.log_softmax(logits, 1), dense, reduction="batchmean")
        assert SparseTargetLoss(1000, residual=residual)(logits, wide).item() == pytest.approx(
            expected.item(), abs=1e-6
        )
        assert SparseTargetLoss(1000, residual=residual)(logits.float(), targets).item() == pytest.approx(
            expected.item(), abs=1e-4
        )


def test_hard_labels_give_cross_entropy():
    labels = torch.tensor([1, 4, 0])
    targets = SparseTargets(labels[:, None], torch.zeros(3, 1), labels)
    logits = torch.randn(3, 5)
    assert SparseTargetLoss(5)(logits, targets).item() == pytest.approx(
        F.cross_entropy(logits, labels).item(), abs=1e-6
    )


def test_label_smoothing_is_that_of_torch_up_to_the_entropy():
    labels, eps, C = torch.tensor([1, 4, 0]), 0.1, 5
    targets = SparseTargets(labels[:, None], torch.zeros(3, 1), labels)
    logits = torch.randn(3, C)
    top = 1 - eps + eps / C
    entropy = -(top * math.log(top) + (C - 1) * eps / C * math.log(eps / C))
    expected = F.cross_entropy(logits, labels, label_smoothing=eps).item() - entropy
    assert SparseTargetLoss(C, label_smoothing=eps)(logits, targets).item() == pytest.approx(expected, abs=1e-6)


def test_a_perfect_student_has_no_loss():
    ids, probs = random_case(4, 3, 6, 1, "distinct")
    dense = densify(ids, probs, 6, "smooth")
    for temperature in (1.0, 3.0):
        loss = SparseTargetLoss(6, temperature)(torch.from_numpy(np.log(dense)), as_targets(ids, probs))
        assert abs(loss.item()) < 1e-12


def test_mixing_an_image_with_its_own_class_is_a_plain_label():
    label = torch.tensor([2])
    logits = torch.randn(1, 5)
    for share in (1.0, 0.4):
        logs = torch.tensor([[math.log(share), math.log(1 - share) if share < 1 else UNUSED]])
        targets = SparseTargets(torch.tensor([[2, 2]]), logs, label)
        assert SparseTargetLoss(5)(logits, targets).item() == pytest.approx(
            F.cross_entropy(logits, label).item(), abs=1e-6
        )


def test_low_precision_logits_are_computed_in_float32():
    ids, probs = random_case(6, 4, 50, 2, "distinct")
    targets = as_targets(ids, probs, torch.float16)
    logits = (torch.randn(6, 50) * 8).bfloat16().requires_grad_()
    loss_fn = SparseTargetLoss(50, 2.0, label_smoothing=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_fn(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loss_fn(logits.double(), targets).item(), rel=1e-5)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_large_logits_stay_finite():
    targets = SparseTargets(torch.tensor([[1, 0]]), torch.tensor([[0.0, UNUSED]]), torch.tensor([1]))
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = SparseTargetLoss(3, 10.0)(logits, targets)
    assert loss.isfinite() and torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_the_step_never_waits_for_the_values():
    """Meta tensors have no values: anything that looked at one would raise."""
    targets = SparseTargets(
        torch.zeros(4, 3, dtype=torch.int32, device="meta"),
        torch.zeros(4, 3, device="meta"),
        torch.zeros(4, device="meta"),
    )
    loss = SparseTargetLoss(9, 2.0, label_smoothing=0.1)(torch.zeros(4, 9, device="meta"), targets)
    assert loss.shape == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 3, "temperature": 0.0}, "temperature"),
        ({"num_classes": 3, "residual": "drop"}, "residual"),
        ({"num_classes": 3, "label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SparseTargetLoss(**settings)


def test_logits_of_another_size_are_refused():
    targets = SparseTargets(torch.tensor([[1]]), torch.zeros(1, 1), torch.tensor([1]))
    with pytest.raises(ValueError, match="5 classes"):
        SparseTargetLoss(5)(torch.zeros(1, 4), targets)
