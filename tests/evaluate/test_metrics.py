"""Scores by hand, against torchmetrics and scikit-learn, over uneven batches."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_calibration_error

from ffdr.evaluate.metrics import Scores, predict
from ffdr.loader.targets import SparseTargets
from ffdr.util.errors import UserError


class Given:
    """A loader whose "images" are the logits themselves."""

    def __init__(self, logits, labels, sizes):
        self.parts = list(zip(logits.split(sizes), labels.split(sizes), strict=True))
        self.num_images, self.num_classes = len(logits), logits.shape[1]
        self.epochs = []

    def __len__(self):
        return len(self.parts)

    def __iter__(self):
        for logits, labels in self.parts:
            yield logits, SparseTargets(labels[:, None], torch.zeros(len(labels), 1), labels), torch.arange(len(labels))

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def given(n=101, C=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, C, (n,), generator=generator)
    logits = torch.randn(n, C, generator=generator) * 2
    logits[torch.arange(n), labels] += 1.5
    return logits, labels


def test_by_hand():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]])
    labels = torch.tensor([0, 0, 1, 1])
    scores = Scores(3)
    scores.update(probs.log()[:3], labels[:3])
    scores.update(probs.log()[3:], labels[3:])
    result = scores.compute()
    assert result["top1"] == 0.5 and result["top5"] == 1.0 and result["images"] == 4
    assert result["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.8) + math.log(0.05)) / 4)
    assert result["brier"] == pytest.approx(
        ((0.09 + 0.04 + 0.01) + (0.49 + 0.09 + 0.16) + (0.01 + 0.04 + 0.01) + (0.0025 + 0.9025 + 0.81)) / 4, abs=1e-6
    )
    # Four images in four bins: |correct - confidence| each.
    assert result["ece"] == pytest.approx((0.3 + 0.4 + 0.2 + 0.9) / 4, abs=1e-6)


def test_bins_are_fifteenths():
    """0.41 and 0.45 share the bin [6/15, 7/15), where right and wrong cancel; 0.48 lies in the next."""
    probs = torch.tensor([[0.41, 0.3, 0.29], [0.45, 0.3, 0.25], [0.48, 0.3, 0.22]])
    scores = Scores(3)
    scores.update(probs.log(), torch.tensor([0, 1, 0]))
    assert scores.compute()["ece"] == pytest.approx(2 / 3 * abs(0.43 - 0.5) + 1 / 3 * 0.52, abs=1e-6)


def evaluate(model, loader, **how):
    """Scores of one pass."""
    scores = Scores(loader.num_classes)
    predict(model, loader, lambda logits, targets, _: scores.update(logits, targets.label), **how)
    return scores.compute()


@pytest.mark.parametrize("sizes", [[101], [32, 32, 32, 5], [100, 1]])
def test_agrees_with_scikit_learn_and_torchmetrics(sizes):
    logits, labels = given()
    loader = Given(logits, labels, sizes)
    result = evaluate(torch.nn.Identity(), loader)
    probs = logits.softmax(1)
    assert loader.epochs == [0]
    assert result["top1"] == accuracy_score(labels, logits.argmax(1))
    assert result["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5), abs=1e-6)
    assert result["nll"] == pytest.approx(log_loss(labels, logits.double().softmax(1), labels=range(10)), abs=1e-6)
    one_hot = np.eye(10)[labels]
    assert result["brier"] == pytest.approx(((probs.numpy() - one_hot) ** 2).sum(1).mean(), abs=1e-6)
    expected = multiclass_calibration_error(probs, labels, 10, n_bins=15, norm="l1")
    assert result["ece"] == pytest.approx(expected.item(), abs=1e-6)


def test_top5_of_fewer_classes_is_certain():
    logits, labels = given(C=3)
    assert evaluate(torch.nn.Identity(), Given(logits, labels, 50))["top5"] == 1.0


def test_confident_mistakes_have_finite_scores():
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    result = evaluate(torch.nn.Identity(), Given(logits, torch.tensor([1, 1]), 2))
    assert result["nll"] == pytest.approx(5000) and result["brier"] == pytest.approx(1)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_comes_back(training):
    model = torch.nn.Dropout(0.5).train(training)
    logits, labels = given()
    result = evaluate(model, Given(logits, labels, 50))
    assert model.training is training
    assert result == evaluate(torch.nn.Identity(), Given(logits, labels, 50))


class Keeper(torch.nn.Linear):
    """Keeps what it computes of its weights as earlier timm's LeViT does: until it is put in training mode."""

    kept = None

    def train(self, mode=True):
        if mode:
            self.kept = None
        return super().train(mode)

    def forward(self, x):
        self.kept = self.weight * 2 if self.kept is None else self.kept
        return x @ self.kept.T


def test_weights_that_change_in_evaluation_mode_are_evaluated_as_they_are():
    """Averaged weights never leave it."""
    model, seen = Keeper(10, 10).eval(), []
    logits, labels = given()
    for _ in range(2):
        predict(model, Given(logits, labels, 50), lambda logits, *_: seen.append(logits))
        model.weight.data += 1
    assert torch.allclose(seen[3], seen[0] + 2 * logits[:50].sum(1, keepdim=True), atol=1e-3)


def test_low_precision_is_close():
    logits, labels = given()
    model = torch.nn.Linear(10, 10)
    torch.nn.init.eye_(model.weight)
    full = evaluate(model, Given(logits, labels, 50))
    low = evaluate(model, Given(logits, labels, 50), dtype=torch.bfloat16)
    assert low["nll"] == pytest.approx(full["nll"], rel=0.02) and low["nll"] != full["nll"]


def test_answers_that_are_no_numbers_are_told():
    with pytest.raises(UserError, match="not finite"):
        evaluate(torch.nn.Identity(), Given(torch.full((2, 3), torch.nan), torch.tensor([0, 1]), 2))


def test_no_images_is_an_error():
    loader = Given(*given(), 50)
    loader.parts = []
    with pytest.raises(UserError, match="no images"):
        evaluate(torch.nn.Identity(), loader)


def test_bins_and_classes_add_up():
    logits, labels = given()
    scores = Scores(10)
    for part in range(0, 101, 30):
        scores.update(logits[part : part + 30], labels[part : part + 30])
    result = scores.result()
    confidence, predicted = logits.softmax(1).max(1)
    right = predicted == labels
    for number, (images, sure, correct) in enumerate(result.bins):
        inside = (confidence >= number / 15) & (confidence < (number + 1) / 15)
        assert (images, correct) == (inside.sum(), right[inside].sum())
        assert sure == pytest.approx(confidence[inside].sum().item(), abs=1e-5)
    assert result.classes.tolist() == [[(labels == c).sum(), right[labels == c].sum()] for c in range(10)]


def test_certainty_falls_into_the_last_bin():
    scores = Scores(2)
    scores.update(torch.tensor([[200.0, 0.0], [200.0, 0.0]]), torch.tensor([0, 1]))
    result = scores.result()
    assert result.bins[14].tolist() == [2, 2, 1] and result.scores["ece"] == 0.5


def test_any_of_several_labels_is_right():
    logits = torch.tensor([[4.0, 3, 2, 1, 0, -1, -2]]).repeat(4, 1)
    scores = Scores(7)
    scores.update(logits, torch.tensor([[3, 0, -1], [1, -1, -1], [6, 5, 4], [6, 5, -1]]))
    result = scores.compute()
    assert (result["top1"], result["top5"]) == (0.25, 0.75)


def test_flip_averages_the_answers_for_both_views():
    class Left(torch.nn.Module):
        def forward(self, images):
            return images[:, 0, 0]

    images = torch.tensor([[[[0.0, 4.0, 0.0]]], [[[1.0, 0.0, 3.0]]]])
    loader = Given(images, torch.tensor([1, 0]), 1)
    loader.num_classes = 3
    assert evaluate(Left(), loader)["top1"] == 0.5
    assert evaluate(Left(), loader, flip=True)["nll"] == pytest.approx(
        (math.log(1 + 2 * math.exp(-4)) + math.log(2 + math.exp(-2))) / 2
    )
