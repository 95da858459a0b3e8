"""Statistics against hand computation, and times from logs."""

import json

import numpy as np
import pytest

from ffdr.ablate.scores import METRICS, Difference, as_text, half_width, sentence, training_time


def test_the_interval_is_student_t():
    # mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.3027
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)
    assert as_text([0.81, 0.82, 0.83], METRICS["top1"]) == "82.0 ± 2.5"  # 4.3027 * 1/sqrt(3)
    assert as_text([0.5], METRICS["nll"]) == "0.500"


def test_a_paired_difference_is_that_of_the_pairs():
    # 100 * (0.90 - 0.80, 0.70 - 0.62, 0.50 - 0.38) = 10, 8, 12: mean 10, standard deviation 2, t(0.975, 2) = 4.3027
    difference = Difference.of([0.90, 0.70, 0.50], [0.80, 0.62, 0.38], METRICS["top1"])
    assert difference.mean == pytest.approx(10)
    assert difference.half == pytest.approx(4.3027 * 2 / np.sqrt(3), rel=1e-4)
    assert (difference.verdict, str(difference)) == ("better", "+10.00 ± 4.97")
    # Unpaired, the spread of the runs (0.2) would hide it.
    assert half_width([90, 70, 50]) > 10


@pytest.mark.parametrize(
    ("key", "ours", "others", "verdict"),
    [
        ("top1", [0.8, 0.81], [0.9, 0.91], "worse"),
        ("ece", [0.08, 0.09], [0.1, 0.11], "better"),
        ("nll", [1.2, 1.3], [1.0, 1.1], "worse"),
        ("top1", [0.9, 0.7], [0.8, 0.8], "no clear difference"),
        ("top1", [0.9], [0.1], "no clear difference"),
    ],
)
def test_verdicts(key, ours, others, verdict):
    assert Difference.of(ours, others, METRICS[key]).verdict == verdict


def test_a_sentence_names_winners_and_draws():
    differences = {"ERM": Difference(5.0, 1.0, True), "KD": Difference(0.1, None, True)}
    assert sentence("top-1, %", "DR", differences) == (
        "top-1, %: DR is better than ERM (+5.00 ± 1.00) and no clear difference from KD (+0.10 (one pair))."
    )


def test_the_first_epoch_counts_at_the_rate_of_the_others(tmp_path):
    # The third epoch was resumed: its seconds are of its last batch alone, its rate is right.
    rates, seconds = [1.0, 50.0, 200.0], [100.0, 2.0, 0.1]
    records = [
        {"epoch": n + 1, "step": 4 * (n + 1), "images_per_second": rates[n], "seconds": seconds[n]} for n in range(3)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "options.json").write_text(json.dumps({"train": {"batch_size": 25}}))
    # 100 images an epoch: 2 s and 0.5 s, so 80 images a second, and 3 epochs take 3.75 s
    assert training_time(tmp_path) == pytest.approx({"images_per_second": 80.0, "seconds": 3.75})
