"""What storage costs, against sums done by hand."""

import math

import numpy as np
import pytest
import torch

from ffdr.reinforce.fidelity import fidelity, table

P = [0.5, 0.25, 0.15, 0.1]


def rounded(p):
    """A probability as its logarithm comes back from float16."""
    return math.exp(float(np.float16(math.log(p))))


def by_hand(p, k):
    """KL(file ‖ teacher) of one row sorted best first, one class at a time."""
    stored = [rounded(x) for x in p[:k]]
    if k < len(p):
        given = stored + [(1 - sum(stored)) / (len(p) - k)] * (len(p) - k)
    else:
        given = [x / sum(stored) for x in stored]
    return sum(q * math.log(q / x) for q, x in zip(given, p, strict=True))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_divergence_by_hand(k):
    other = [0.97, 0.01, 0.015, 0.005]
    measured = fidelity(torch.tensor([P, other], dtype=torch.float64).log(), k)
    ranked = sorted(other, reverse=True)
    assert measured.divergence == pytest.approx((by_hand(P, k) + by_hand(ranked, k)) / 2, abs=3e-7)
    assert measured.kept == pytest.approx((sum(P[:k]) + sum(ranked[:k])) / 2, abs=1e-6)


def test_one_kept_class_written_out():
    """Top-1 of (0.5, 0.25, 0.15, 0.1) but for rounding: 0.5 stays, three classes get a sixth each."""
    expected = sum(math.log(1 / 6 / p) / 6 for p in (0.25, 0.15, 0.1))
    assert fidelity(torch.tensor([P]).log(), 1).divergence == pytest.approx(expected, abs=1e-3)


def test_a_teacher_that_is_sure_stays_finite():
    """Its first class alone rounds to 1, which leaves the others nothing."""
    sure = torch.tensor([[30.0, 0, 0, 0], [1000.0, 0, 0, 0]]).log_softmax(1)
    for k in (1, 2, 4):
        assert abs(fidelity(sure, k).divergence) < 1e-6


def test_table_names_what_is_compared():
    log_probs = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    lines = table(log_probs, 7).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["top-1", "top-5", "top-7", "top-10", "top-20", "all"]
    assert [line for line in lines if "this file" in line] == [lines[3]]
    divergences = [float(line.split()[-4 if "this" in line else -2]) for line in lines[1:]]
    assert divergences == sorted(divergences, reverse=True) and divergences[0] > 0.1 > divergences[-1]
    many = table(torch.zeros(2, 1000).log_softmax(1), 10)
    assert "all classes" not in many and many.count("top-10") == 1
