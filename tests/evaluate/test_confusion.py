"""The confusion of classes, against scikit-learn."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ranked import finish, launch
from sklearn.metrics import confusion_matrix

from ffdr.evaluate.confusion import ConfusedPair, Confusion, PairCounts, worst_pairs
from ffdr.evaluate.metrics import Scores


def made(images, classes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1.5
    return logits.to(dtype), labels


def counted(logits, labels, batch=7, classes=None):
    confusion = Confusion(classes or logits.shape[1], "cpu")
    for start in range(0, len(labels), batch):
        confusion.update(logits[start : start + batch], labels[start : start + batch])
    return confusion


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (200, 3), (500, 10), (300, 1000)])
@pytest.mark.parametrize("batch", [1, 64])
def test_the_matrix_is_scikit_learns(images, classes, batch):
    logits, labels = made(images, classes)
    found = counted(logits, labels, batch).result()
    assert found.dtype == np.int64
    expected = confusion_matrix(labels, logits.argmax(1), labels=range(classes))
    np.testing.assert_array_equal(found, expected)


def test_equal_outputs_are_predicted_as_the_scores_do():
    logits, labels = made(400, 6, dtype=torch.bfloat16)
    logits = logits.round()  # many ties
    scores = Scores(6, "cpu")
    scores.update(logits, labels)
    assert counted(logits, labels).result().trace() == round(scores.compute()["top1"] * 400)


def test_classes_by_the_ten_thousand_take_no_matrix():
    logits, labels = torch.zeros(3, 1 << 16), torch.tensor([65535, 7, 65535])
    logits[:, 65535], logits[1, 3] = 1, 2
    counts = counted(logits, labels).counts()
    assert list(zip(*counts, strict=True)) == [(7, 3, 1), (65535, 65535, 2)]
    assert worst_pairs(counts, ()) == [ConfusedPair("7", "3", 1, 1.0)]


def test_nothing_counted_is_an_empty_matrix():
    assert Confusion(3).result().tolist() == [[0] * 3] * 3
    assert worst_pairs(np.zeros((3, 3), np.int64), "abc") == []


def test_the_worst_pairs_are_the_largest_entries_beside_the_diagonal():
    matrix = np.array([[50, 3, 2, 0], [2, 1, 0, 1], [3, 2, 90, 0], [0, 0, 0, 0]])
    pairs = [
        ("a", "b", 3, 3 / 55),
        ("c", "a", 3, 3 / 95),
        ("b", "a", 2, 2 / 4),
        ("a", "c", 2, 2 / 55),
        ("c", "b", 2, 2 / 95),
    ]
    assert worst_pairs(matrix, ["a", "b", "c", "d"], 5) == pairs
    assert worst_pairs(matrix, ["a"], 1) == [("a", "1", 3, 3 / 55)]
    assert len(worst_pairs(matrix, "abcd")) == 6
    assert worst_pairs(PairCounts.of(*np.nonzero(matrix), matrix[matrix > 0]), "abcd", 5) == pairs


SCRIPT = """
import sys, numpy as np
sys.path.insert(0, {folder!r})
from test_confusion import counted, made
from ffdr.util.ranks import Ranks
logits, labels = made(101, 8)
with Ranks.join() as ranks:
    np.save({out!r} + f"/{{ranks.rank}}", counted(logits[ranks.rank::2], labels[ranks.rank::2]).result())
"""


def test_two_ranks_count_what_one_process_does(tmp_path):
    script = SCRIPT.format(folder=str(Path(__file__).parent), out=str(tmp_path))
    statuses, errors = finish(launch(2, ["-c", script], stdout=sys.stderr))
    assert statuses == [0, 0], errors
    for rank in (0, 1):
        np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npy"), counted(*made(101, 8)).result())
