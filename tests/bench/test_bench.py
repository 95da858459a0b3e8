"""Measurements: the corpus is the same every time, the statistics are right, the bench runs and stores what it says."""

import json

import numpy as np
import pytest
from PIL import Image

from ffdr.augment.policy import Policy
from ffdr.bench.corpus import SIZES, make_photos, reinforce_untaught
from ffdr.bench.epoch import bench_epoch
from ffdr.bench.statistics import Estimate, median_interval
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.measuring import BenchOptions


def test_the_corpus_is_seeded_and_varied(tmp_path):
    once, again = (make_photos(tmp_path / name, 12, seed=3) for name in ("a", "b"))
    files = sorted(path.relative_to(once) for path in once.rglob("*.jpg"))
    assert len(files) == 12
    assert all((once / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert len({(once / file).read_bytes() for file in files}) == 12
    sizes = {Image.open(once / file).size for file in files}
    assert len(sizes) > 1
    assert sizes <= set(SIZES)
    fixed = make_photos(tmp_path / "fixed", 3, width=61, height=83)
    assert {Image.open(path).size for path in fixed.rglob("*.jpg")} == {(61, 83)}


def test_a_reinforcement_without_teacher_holds_the_policy_s_views(photos, tmp_path):
    images = ImageBeton.open(photos)
    for policy in (Policy(randaugment=0.0, erase=0.0), Policy(mixup=1.0, cutmix=0.5)):
        path = reinforce_untaught(photos, tmp_path / f"{policy.mixes}.beton", policy, 5)
        reinforced = ReinforcedBeton.open(path, images)
        records = np.stack([reinforced.views(i) for i in range(len(images))])
        assert records.shape == (24, 5)
        views = records["first"] if policy.mixes else records
        assert (views["op0"].any() and views["erase_h"].any()) == bool(policy.erase)
        assert len(np.unique(views["crop_w"])) > 60
        if policy.mixes:
            assert (records["mix"]["partner"] != np.arange(24)[:, None]).mean() > 0.9


def test_the_median_has_its_order_statistics_interval():
    median, (low, high) = median_interval(np.arange(1.0, 12.0))
    # For 11 values the 95 % interval of the median is from the 2nd to the 10th: P(Bin(11, 1/2) <= 1) = 0.6 %.
    assert (median, low, high) == (6.0, 2.0, 10.0)
    assert median_interval(np.array([3.0, 1.0, 2.0])) == (2.0, (1.0, 3.0))


def test_an_estimate_compares_neighbours_in_time():
    slow, fast = Estimate.of([10.0, 20.0, 10.0]), Estimate.of([5.0, 8.0, 2.0])
    assert (slow.median, slow.low, slow.high) == (10.0, 10.0, 20.0)
    ratio = slow.over(fast)
    assert ratio.values == (2.0, 2.5, 5.0)
    assert (ratio.median, ratio.low, ratio.high) == (2.5, 2.0, 5.0)  # not 10 / 5
    assert ratio.text(1) == "2.5 [2.0, 5.0]"
    assert Estimate.of([1234.5678]).text() == "1,234.57"
    seven = Estimate.of(np.arange(7.0))  # P(Bin(7, 1/2) <= 0) = 0.8 %: the whole range
    assert (seven.low, seven.high) == (0.0, 6.0)


def test_the_epoch_bench_stores_its_ratios(tmp_path, capsys):
    bench_epoch(BenchOptions(images=64, repeats=3, resolution=64, json=str(tmp_path / "epoch.json")))
    assert "training" in capsys.readouterr().out
    stored = json.loads((tmp_path / "epoch.json").read_text())
    row = stored["figures"]["training"]
    ratios = np.divide(row["erm"]["values"], row["dr"]["values"])  # of rates: the inverse of the times
    assert row["ratio"]["median"] == pytest.approx(np.median(ratios))
    assert stored["summary"]["DR : ERM, training"] == row["ratio"]
    assert stored["environment"]["numba"]
    assert "DR : ERM" in (tmp_path / "epoch.md").read_text()
