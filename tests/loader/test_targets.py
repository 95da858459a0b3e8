"""Sparse targets: mass is conserved, duplicates add up, damage is refused."""

import math

import numpy as np
import pytest
import torch

from ffdr.beton.header import UNUSED
from ffdr.loader.targets import RESIDUAL_TOLERANCE, SparseTargets, merge


def sparse(ids, probs, dtype=torch.float32):
    logs = [[math.log(p) if p > 0 else UNUSED for p in row] for row in probs]
    return SparseTargets(torch.tensor(ids), torch.tensor(logs, dtype=dtype), torch.tensor([row[0] for row in ids]))


def test_smooth_keeps_the_entries_and_spreads_the_rest():
    dense = sparse([[3, 7]], [[0.90, 0.05]]).dense(1000)
    assert dense.shape == (1, 1000) and dense.dtype == torch.float32
    assert dense[0, 3].item() == pytest.approx(0.90, abs=1e-6)
    assert dense[0, 7].item() == pytest.approx(0.05, abs=1e-6)
    assert dense[0, 5].item() == pytest.approx(0.05 / 998, rel=1e-4)
    assert dense.sum().item() == pytest.approx(1, abs=1e-6)


def test_renormalise_scales_the_entries_to_one():
    dense = sparse([[3, 7]], [[0.6, 0.2]]).dense(10, "renormalise")
    expected = np.zeros(10)
    expected[[3, 7]] = 0.75, 0.25
    np.testing.assert_allclose(dense[0], expected, atol=1e-6)


def test_top1_spreads_all_but_the_best():
    dense = sparse([[7, 3]], [[0.2, 0.6]]).dense(10, "top1")
    expected = np.full(10, 0.4 / 9)
    expected[3] = 0.6
    np.testing.assert_allclose(dense[0], expected, atol=1e-6)


def test_hard_is_the_best_class_alone():
    dense = sparse([[7, 3], [5, 5], [2, 1]], [[0.2, 0.6], [0.1, 0.1], [0.3, 0.3]]).dense(10, "hard")
    np.testing.assert_allclose(dense, np.eye(10)[[3, 5, 1]], atol=1e-6)


@pytest.mark.parametrize("second", [0.0, 0.3])
@pytest.mark.parametrize("residual", ["smooth", "renormalise", "top1", "hard"])
def test_a_class_named_twice_has_the_sum(second, residual):
    dense = sparse([[3, 3]], [[0.7, second]]).dense(4, residual)
    kept = 0.7 + second if residual in ("smooth", "top1") else 1.0
    expected = np.full(4, (1 - kept) / 3)
    expected[3] = kept
    np.testing.assert_allclose(dense[0], expected, atol=1e-6)


def test_an_unused_slot_names_no_class():
    dense = sparse([[3, 0, 0]], [[0.8, 0, 0]]).dense(5)
    np.testing.assert_allclose(dense[0], [0.05, 0.05, 0.05, 0.8, 0.05], atol=1e-6)


def test_infinite_log_probability_counts_as_unused():
    targets = SparseTargets(torch.tensor([[1, 2]]), torch.tensor([[0.0, -math.inf]]), torch.tensor([1]))
    np.testing.assert_allclose(targets.dense(4)[0], [0, 1, 0, 0])


def test_rounding_beyond_one_is_scaled_away():
    dense = sparse([[0, 1]], [[0.8, 0.2 + RESIDUAL_TOLERANCE / 2]]).dense(3)
    assert dense.sum().item() == pytest.approx(1, abs=1e-6)
    assert dense[0, 2].item() == 0


def test_every_class_named_leaves_nobody_to_spread_to():
    dense = sparse([[1, 0, 2]], [[0.5, 0.3, 0.19]]).dense(3)
    np.testing.assert_allclose(dense[0] * 0.99, [0.3, 0.5, 0.19], atol=1e-6)


def test_float16_rounding_of_any_teacher_stays_within_the_tolerance():
    """The flattest row is the worst: entropy ln T."""
    for T in (10, 1000, 65535):
        logp_T = np.full(T, -math.log(T)).astype(np.float16).astype(np.float64)
        assert abs(np.exp(logp_T).sum() - 1) <= RESIDUAL_TOLERANCE
    rng = np.random.default_rng(0)
    for T in (5, 100, 5000):
        p_T = rng.dirichlet(np.full(T, 0.3))
        logp_T = np.log(np.maximum(p_T, 1e-30)).astype(np.float16).astype(np.float64)
        assert abs(np.exp(logp_T).sum() - 1) <= RESIDUAL_TOLERANCE


@pytest.mark.parametrize(
    ("targets", "residual", "message"),
    [
        (sparse([[3, 1]], [[0.9, 0.2]]), "smooth", "row 0 sums to 1.1000"),
        (sparse([[3, 10]], [[0.9, 0.1]]), "smooth", "class 10 is not one of 10 classes"),
        (sparse([[-1, 1]], [[0.9, 0.1]]), "smooth", "class -1"),
        (sparse([[0, 0]], [[0.0, 0.0]]), "renormalise", "no entry"),
        (sparse([[0, 0]], [[0.0, 0.0]]), "hard", "no entry"),
        (sparse([[3]], [[1.0]]), "zeros", "not one of smooth, renormalise"),
        (SparseTargets(torch.tensor([[1]]), torch.tensor([[math.nan]]), torch.tensor([1])), "smooth", "not a number"),
    ],
)
def test_what_is_no_distribution_is_refused(targets, residual, message):
    with pytest.raises(ValueError, match=message):
        targets.dense(10, residual)


def test_merge_keeps_the_precision_of_tiny_probabilities():
    """exp(-200) is 0 in float32; its logarithm must survive for a later temperature."""
    targets = SparseTargets(torch.tensor([[4, 2, 2]]), torch.tensor([[-0.1, -200.0, -200.0]]), torch.tensor([4]))
    merged = merge(targets, 10)
    assert merged.ids[0].tolist() == [2, 4, 10]
    assert merged.used[0].tolist() == [True, True, False]
    np.testing.assert_allclose(merged.logp[0, :2], [-200 + math.log(2), -0.1], rtol=1e-6)


def test_to_moves_every_part():
    moved = sparse([[3, 7]], [[0.9, 0.1]]).to("meta")
    assert {moved.ids.device.type, moved.log_probs.device.type, moved.label.device.type} == {"meta"}
