"""Temperature scaling against a grid, torch's own optimiser and scikit-learn's log loss."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from ffdr.evaluate import temperature
from ffdr.evaluate.temperature import LEAST, calibrate, fit_temperature, mean_nll


def overconfident(n=600, classes=7, factor=3.0, seed=0):
    """Labels that are drawn from softmax(logits / factor): that temperature is right but for chance."""
    rng = np.random.default_rng(seed)
    logits = (factor * rng.normal(size=(n, classes)) * 1.5).astype(np.float32)
    labels = (logits / factor + rng.gumbel(size=logits.shape)).argmax(1)
    return logits, labels


def softmax(logits, t):
    scaled = np.exp(logits.astype(np.float64) / t - (logits.astype(np.float64) / t).max(1, keepdims=True))
    return scaled / scaled.sum(1, keepdims=True)


def ece(probabilities, labels, bins=15):
    """Guo et al.'s equation 3, bin by bin."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    inside = [(sure >= low) & ((sure < high) | (high == 1)) for low, high in pairwise(edges)]
    return sum(abs(right[part].mean() - sure[part].mean()) * part.mean() for part in inside if part.any())


def test_the_temperature_is_that_of_a_grid_and_of_lbfgs(monkeypatch):
    logits, labels = overconfident()
    found = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(np.log(0.5), np.log(10), 4000))
    best = grid[np.argmin([log_loss(labels, softmax(logits, t), labels=range(7)) for t in grid[::10]]) * 10]
    assert found == pytest.approx(best, rel=0.01)
    log = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits).double() / log.exp(), torch.from_numpy(labels)
        )
        loss.backward()
        return loss

    optimiser.step(closure)
    assert found == pytest.approx(log.exp().item(), rel=1e-4)
    assert found == pytest.approx(3.0, rel=0.15)
    monkeypatch.setattr(temperature, "_ROWS", 7)
    assert fit_temperature(logits, labels) == pytest.approx(found, rel=1e-6)


def test_both_results_are_of_the_half_that_was_not_fitted():
    logits, labels = overconfident(n=401)
    found = calibrate(logits, labels)
    assert (found.fitted, found.judged) == (201, 200)
    assert found.temperature == fit_temperature(logits[0::2], labels[0::2])
    assert found.mistakes == (logits[0::2].argmax(1) != labels[0::2]).sum()
    odd, right = logits[1::2], labels[1::2]
    for result, t in ((found.before, 1.0), (found.after, found.temperature)):
        chances = softmax(odd, t)
        assert result.scores["nll"] == pytest.approx(log_loss(right, chances, labels=range(7)), rel=1e-5)
        assert result.scores["ece"] == pytest.approx(ece(chances, right), abs=1e-6)
        assert result.scores["top1"] == accuracy_score(right, odd.argmax(1))
    assert found.after.scores["nll"] < found.before.scores["nll"]
    assert found.after.scores["ece"] < found.before.scores["ece"] / 2


def test_the_nll_is_scikit_learns_and_has_no_trouble_with_large_or_missing_logits():
    logits, labels = overconfident()
    assert mean_nll(logits, labels, 2.5) == pytest.approx(log_loss(labels, softmax(logits, 2.5), labels=range(7)))
    wide = np.array([[3e4, -3e4, -np.inf], [0, 1, 2]], np.float32)
    assert mean_nll(wide, np.array([0, 2]), 0.5) == pytest.approx(-np.log(softmax(wide[1:], 0.5)[0, 2]) / 2)


def test_a_model_without_mistakes_has_a_small_temperature_and_tiny_sets_none():
    labels = np.arange(40) % 4
    logits = np.eye(4, dtype=np.float32)[labels]
    assert LEAST < fit_temperature(logits, labels) < 0.05
    assert calibrate(logits, labels).mistakes == 0
    assert calibrate(logits[:1], labels[:1]) is None
    assert calibrate(np.zeros((9, 1), np.float32), np.zeros(9, np.int64)) is None
    assert calibrate(logits[:2], labels[:2]).judged == 1
